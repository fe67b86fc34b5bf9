package pins

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/spec"
)

// replace removes a pin and inserts another in one transaction. The old DAG is kept until the new one is held, at
// most for retain, so that blocks both share are never let go in between. It goes on to count and to cost.
func (s *store) replace(ctx context.Context, account Account, id ID, r spec.Request, decided Decision, retain time.Duration, claim bool) (a *addition, orphans []int64, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) (err error) {
		orphans = nil
		old, err := s.removePin(tx, account, id)
		if err != nil {
			return err
		}
		a = newAddition(account, r, decided, claim)
		if err := s.insert(tx, []*addition{a}); err != nil {
			return err
		}
		// After the new pin is there, which may want the same. A DAG that is kept for its successor is not kept cold.
		if err := s.unwant(tx, old.root, old.terms); err != nil {
			return err
		}
		kept := false
		if a.root.Hot == HotHeld {
			// Nothing to wait for: what the old pin, and those it had replaced, kept back may go.
			if orphans, err = s.dropAllRetained(tx, `successor = ?`, id); err != nil {
				return err
			}
		} else {
			err = tx.Exec(`UPDATE retained SET successor = ?, successor_root = ? WHERE successor = ?`, a.pin.ID, a.root.id, id).Error
			if err == nil && !old.lapsed {
				kept, err = s.retain(tx, old, a, s.now().Add(retain).UnixMilli())
			}
			if err != nil {
				return err
			}
		}
		if kept {
			return nil
		}
		gone, err := s.letGo(tx, old.root)
		if gone {
			orphans = append(orphans, old.root)
		}
		return errors.Join(err, s.endHolding(tx, id))
	})
	if err == nil {
		s.counter.meet([]*addition{a})
	}
	return a, orphans, err
}

// remove deletes a pin and returns the roots that nothing wants any more.
func (s *store) remove(ctx context.Context, account Account, id ID) (orphans []int64, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		old, err := s.removePin(tx, account, id)
		if err == nil {
			err = s.endHolding(tx, id)
		}
		if err != nil {
			return err
		}
		if err := s.unwant(tx, old.root, old.terms); err != nil {
			return err
		}
		if orphans, err = s.dropAllRetained(tx, `successor = ?`, id); err != nil {
			return err
		}
		gone, err := s.letGo(tx, old.root)
		if gone {
			orphans = append(orphans, old.root)
		}
		return err
	})
	return orphans, err
}

// some returns ids of pins of an account, as long as it has any.
func (s *store) some(ctx context.Context, account Account) (ids []ID, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		ids = nil
		return query(tx, func(r row) error {
			var id ID
			err := r.Scan(&id)
			ids = append(ids, id)
			return err
		}, `SELECT id FROM pins WHERE account = ? LIMIT 500`, account)
	})
	return ids, err
}

func (s *store) get(ctx context.Context, account Account, id ID) (p Pin, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		found := false
		err := query(tx, func(r row) (err error) {
			p, err = scanPin(r, account)
			found = true
			return err
		}, `SELECT `+pinColumns+` FROM pins p JOIN roots r ON r.id = p.root_id WHERE p.id = ? AND p.account = ?`, id, account)
		if err == nil && !found {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		one := []Pin{p}
		if err := addRefusals(tx, account, one); err != nil {
			return err
		}
		err = s.addStandings(tx, one)
		p = one[0]
		return err
	})
	return p, err
}

// A removed is a pin that was just deleted. Its holding goes on until endHolding.
type removed struct {
	id     ID
	root   int64
	terms  deals.TermsID
	lapsed bool
}

// removePin deletes the row of a pin.
func (s *store) removePin(tx *gorm.DB, account Account, id ID) (removed, error) {
	p := removed{id: id}
	var createdMS int64
	var meta sql.NullString
	var wished, lapsed sql.NullInt64
	err := tx.Raw(`DELETE FROM pins WHERE id = ? AND account = ? RETURNING root_id, created_ms, meta, terms, lapsed_ms`, id, account).
		Row().Scan(&p.root, &createdMS, &meta, &wished, &lapsed)
	if errors.Is(err, sql.ErrNoRows) {
		return removed{}, ErrNotFound
	}
	p.terms, p.lapsed = termsOf(wished), lapsed.Valid
	if err == nil {
		err = s.depart(tx, account, id, p.root, p.terms, createdMS)
	}
	if err != nil || !meta.Valid {
		return p, err
	}
	var kv map[string]string
	if err := fromJSON(meta, &kv); err != nil {
		return p, err
	}
	keys := make(rowsOf, 0, len(kv))
	for k, v := range kv {
		keys = append(keys, []any{metaKey(k, v)})
	}
	return p, keys.each(func(values string, args []any) error {
		return exec(tx, `DELETE FROM pin_meta WHERE account = ? AND created_ms = ? AND kv IN (`+values+`)`, append([]any{account, createdMS}, args...))
	})
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
	wanted, err := isWanted(tx, id)
	if err != nil || wanted || before.Hot == HotReleasing {
		return false, err
	}
	return true, s.saveRoot(tx, before, Unwanted(before, s.now()), holder)
}

// isWanted tells whether a root is here for anybody: a pin that was not let go, or one that is being replaced. The root is
// locked.
func isWanted(tx *gorm.DB, root int64) (wanted bool, err error) {
	err = tx.Raw(`SELECT EXISTS (SELECT 1 FROM pins WHERE root_id = ? AND lapsed_ms IS NULL) OR EXISTS (SELECT 1 FROM retained WHERE root_id = ?)`,
		root, root).Row().Scan(&wanted)
	return wanted, err
}
