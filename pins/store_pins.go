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
// most for retain, so that blocks both share are never let go in between.
func (s *store) replace(ctx context.Context, account Account, id ID, r spec.Request, decided Decision, retain time.Duration, claim bool) (a *addition, orphans []int64, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) (err error) {
		orphans = nil
		old, wished, err := s.removePin(tx, account, id)
		if err != nil {
			return err
		}
		a = newAddition(account, r, decided, claim)
		if err := s.insert(tx, []*addition{a}); err != nil {
			return err
		}
		// After the new pin is there, which may want the same. A DAG that is kept for its successor is not kept cold.
		if err := s.unwant(tx, old, wished); err != nil {
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
	if err == nil {
		s.counter.meet([]*addition{a})
	}
	return a, orphans, err
}

// remove deletes a pin and returns the roots that nothing wants any more.
func (s *store) remove(ctx context.Context, account Account, id ID) (orphans []int64, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		root, wished, err := s.removePin(tx, account, id)
		if err != nil {
			return err
		}
		if err := s.unwant(tx, root, wished); err != nil {
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
		err = s.addStandings(tx, one)
		p = one[0]
		return err
	})
	return p, err
}

// removePin deletes the row of a pin and returns its root and its terms.
func (s *store) removePin(tx *gorm.DB, account Account, id ID) (root int64, terms deals.TermsID, err error) {
	var createdMS int64
	var meta sql.NullString
	var wished sql.NullInt64
	err = tx.Raw(`DELETE FROM pins WHERE id = ? AND account = ? RETURNING root_id, created_ms, meta, terms`, id, account).
		Row().Scan(&root, &createdMS, &meta, &wished)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, Undecided, ErrNotFound
	}
	terms = termsOf(wished)
	if err == nil {
		err = errors.Join(s.endHolding(tx, id), s.depart(tx, account, id, root, terms, createdMS))
	}
	if err != nil || !meta.Valid {
		return root, terms, err
	}
	var kv map[string]string
	if err := fromJSON(meta, &kv); err != nil {
		return 0, terms, err
	}
	keys := make(rowsOf, 0, len(kv))
	for k, v := range kv {
		keys = append(keys, []any{metaKey(k, v)})
	}
	err = keys.each(func(values string, args []any) error {
		return exec(tx, `DELETE FROM pin_meta WHERE account = ? AND created_ms = ? AND kv IN (`+values+`)`, append([]any{account, createdMS}, args...))
	})
	if err != nil {
		return 0, terms, err
	}
	return root, terms, nil
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
