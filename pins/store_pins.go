package pins

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"time"

	"github.com/google/uuid"
	"golang.org/x/text/cases"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/spec"
)

// An added pin is one just inserted, with its root. claimed says that the root waits and is now this process's.
type added struct {
	pin     Pin
	root    Root
	claimed bool
}

// add inserts a pin. With claim it also claims the root for this process if it waits and nobody has it.
func (s *store) add(ctx context.Context, account Account, r spec.Request, claim bool) (a added, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) (err error) {
		a, err = s.insert(tx, account, r, claim)
		return err
	})
	return a, err
}

// replace removes a pin and inserts another in one transaction. The old DAG is kept until the new one is held, at
// most for retain, so that blocks both share are never let go in between.
func (s *store) replace(ctx context.Context, account Account, id ID, r spec.Request, retain time.Duration, claim bool) (a added, orphans []int64, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) (err error) {
		orphans = nil
		old, err := removePin(tx, account, id)
		if err != nil {
			return err
		}
		if a, err = s.insert(tx, account, r, claim); err != nil {
			return err
		}
		if a.root.Hot == HotHeld {
			// Nothing to wait for: what the old pin, and those it had replaced, kept back may go.
			if orphans, err = s.dropRetained(tx, `successor = ?`, id); err != nil {
				return err
			}
		} else {
			err = tx.Exec(`UPDATE retained SET successor = ?, successor_root = ? WHERE successor = ?`, a.pin.ID, a.root.id, id).Error
			if err == nil && old != a.root.id {
				err = tx.Exec(`INSERT INTO retained (root_id, successor, successor_root, until_ms) VALUES (?, ?, ?, ?)
					ON CONFLICT (root_id, successor) DO UPDATE SET until_ms = excluded.until_ms`,
					old, a.pin.ID, a.root.id, s.now().Add(retain).UnixMilli()).Error
			}
			if err != nil {
				return err
			}
		}
		gone, err := s.letGo(tx, old)
		if gone {
			orphans = append(orphans, old)
		}
		return err
	})
	return a, orphans, err
}

// remove deletes a pin and returns the roots that nothing wants any more.
func (s *store) remove(ctx context.Context, account Account, id ID) (orphans []int64, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		root, err := removePin(tx, account, id)
		if err != nil {
			return err
		}
		if orphans, err = s.dropRetained(tx, `successor = ?`, id); err != nil {
			return err
		}
		gone, err := s.letGo(tx, root)
		if gone {
			orphans = append(orphans, root)
		}
		return err
	})
	return orphans, err
}

func (s *store) get(ctx context.Context, account Account, id ID) (p Pin, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) (err error) {
		p, err = scanPin(tx.Raw(`SELECT `+pinColumns+` FROM pins p JOIN roots r ON r.id = p.root_id
			WHERE p.id = ? AND p.account = ?`, id, account).Row())
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		}
		return err
	})
	return p, err
}

// insert writes one pin with everything that hangs on it.
func (s *store) insert(tx *gorm.DB, account Account, r spec.Request, claim bool) (a added, err error) {
	now := s.now()
	// The row of the account is locked from here on: created is handed out in the order of commits, also when the
	// clock stands still or steps back.
	var createdMS int64
	err = tx.Raw(`INSERT INTO pin_accounts (account, last_ms) VALUES (?, ?) ON CONFLICT (account) DO UPDATE SET last_ms =
		CASE WHEN pin_accounts.last_ms >= excluded.last_ms THEN pin_accounts.last_ms + 1 ELSE excluded.last_ms END
		RETURNING last_ms`, account, now.UnixMilli()).Row().Scan(&createdMS)
	if err != nil {
		return added{}, err
	}
	a.root, a.claimed, err = s.want(tx, account, r, claim, now)
	if err != nil {
		return added{}, err
	}
	origins, err := toJSON(r.Origins)
	if err != nil {
		return added{}, err
	}
	meta, err := toJSON(r.Meta)
	if err != nil {
		return added{}, err
	}
	a.pin = Pin{ID: newID(createdMS), Account: account, Request: r, Created: fromMS(createdMS), DAG: a.root.DAG}
	err = tx.Exec(`INSERT INTO pins (account, created_ms, id, root_id, status, cid, name, name_folded, origins, dropped, meta)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		account, createdMS, a.pin.ID, a.root.id, a.pin.Status(), r.CID, r.Name, foldedName(r.Name), origins, r.Dropped, meta).Error
	if err != nil {
		return added{}, err
	}
	for k, v := range r.Meta {
		err := tx.Exec(`INSERT INTO pin_meta (account, kv, created_ms) VALUES (?, ?, ?)`, account, metaKey(k, v), createdMS).Error
		if err != nil {
			return added{}, err
		}
	}
	return a, nil
}

// want finds or inserts the root of a request.
func (s *store) want(tx *gorm.DB, account Account, r spec.Request, claim bool, now time.Time) (_ Root, claimed bool, err error) {
	fresh := Root{CID: r.Root, Account: account, WantedAt: now, DAG: DAG{Hot: HotQueued, NextAt: now}}
	claimedBy := ""
	if claim {
		claimedBy = s.me
	}
	var id sql.NullInt64
	err = tx.Raw(`INSERT INTO roots (cid, hot, account, attempts, wanted_ms, next_ms, claimed_by, blocks, bytes, reason)
		VALUES (?, ?, ?, 0, ?, ?, ?, 0, 0, '') ON CONFLICT (cid) DO NOTHING RETURNING id`,
		r.Root.String(), fresh.Hot, account, now.UnixMilli(), now.UnixMilli(), claimedBy).Row().Scan(&id)
	if err == nil {
		fresh.id = id.Int64
		return fresh, claim, nil
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return Root{}, false, err
	}
	before, holder, err := lockRoot(tx, `r.cid = ?`, r.Root.String())
	if err != nil {
		return Root{}, false, err
	}
	after := Wanted(before, account, now)
	if after == before {
		return after, false, nil
	}
	if holder == "" && claim && after.Hot == HotQueued {
		holder, claimed = s.me, true
	}
	return after, claimed, saveRoot(tx, before, after, holder)
}

// removePin deletes the row of a pin and returns its root.
func removePin(tx *gorm.DB, account Account, id ID) (root int64, err error) {
	var createdMS int64
	var meta sql.NullString
	err = tx.Raw(`DELETE FROM pins WHERE id = ? AND account = ? RETURNING root_id, created_ms, meta`, id, account).
		Row().Scan(&root, &createdMS, &meta)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, ErrNotFound
	}
	if err != nil || !meta.Valid {
		return root, err
	}
	var kv map[string]string
	if err := fromJSON(meta, &kv); err != nil {
		return 0, err
	}
	for k, v := range kv {
		err := tx.Exec(`DELETE FROM pin_meta WHERE account = ? AND kv = ? AND created_ms = ?`, account, metaKey(k, v), createdMS).Error
		if err != nil {
			return 0, err
		}
	}
	return root, nil
}

// letGo moves a root that nothing references any more to releasing.
func (s *store) letGo(tx *gorm.DB, id int64) (gone bool, err error) {
	before, holder, err := lockRoot(tx, `r.id = ?`, id)
	if errors.Is(err, errStale) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var wanted bool
	err = tx.Raw(`SELECT EXISTS (SELECT 1 FROM pins WHERE root_id = ?) OR EXISTS (SELECT 1 FROM retained WHERE root_id = ?)`, id, id).
		Row().Scan(&wanted)
	if err != nil || wanted || before.Hot == HotReleasing {
		return false, err
	}
	return true, saveRoot(tx, before, Unwanted(before, s.now()), holder)
}

// dropRetained forgets what was kept back under a condition and lets those roots go.
func (s *store) dropRetained(tx *gorm.DB, where string, args ...any) (orphans []int64, err error) {
	var roots []int64
	err = query(tx, func(r row) error {
		var id int64
		if err := r.Scan(&id); err != nil {
			return err
		}
		roots = append(roots, id)
		return nil
	}, `DELETE FROM retained WHERE `+where+` RETURNING root_id`, args...)
	if err != nil {
		return nil, err
	}
	for _, id := range roots {
		gone, err := s.letGo(tx, id)
		if err != nil {
			return nil, err
		}
		if gone {
			orphans = append(orphans, id)
		}
	}
	return orphans, nil
}

// newID returns a UUIDv7 that carries the pin's created time.
func newID(createdMS int64) ID {
	u := uuid.New()
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(createdMS)) //nolint:gosec // a time after 1970
	copy(u[:6], ms[2:])
	u[6] = u[6]&0x0f | 0x70
	return ID(u.String())
}

// fold makes names comparable without case. It maps each character on its own, so a part of a name folds to a part
// of the folded name.
func fold(s string) string { return cases.Fold().String(s) }

func foldedName(name *string) *string {
	if name == nil {
		return nil
	}
	f := fold(*name)
	return &f
}

// metaKey is what the index holds of one key and value: short whatever their length, and without collisions anybody
// could make.
func metaKey(k, v string) string {
	h := sha256.New()
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(k)))
	h.Write(n[:])
	h.Write([]byte(k))
	h.Write([]byte(v))
	return hex.EncodeToString(h.Sum(nil)[:16])
}
