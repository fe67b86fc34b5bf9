package pins

import (
	"context"
	"errors"
	"math"
	"strings"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/spec"
)

// newestPin is a place in the order of created before which all pins are.
const newestPin = int64(math.MaxInt64)

// A lapseBatch is what one transaction has let go.
type lapseBatch struct {
	lapsed  int     // pins
	orphans []int64 // roots that nothing wants any more
	next    int64   // created of the pin to go on before, maybe as before; 0: that was all
}

// A costlyPin costs something.
type costlyPin struct{ createdMS, root int64 }

// lapse lets the next pins before a place go.
func (s *store) lapse(ctx context.Context, account Account, before int64, may func(context.Context) (*Dues, error)) (batch lapseBatch, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		batch = lapseBatch{}
		dues, err := may(tx.Statement.Context)
		if err != nil || dues == nil {
			return err
		}
		if dues.Hot { // what was replaced goes first
			var more bool
			if _, batch.orphans, more, err = s.dropRetained(tx, `account = ?`, account); err != nil {
				return err
			}
			if more {
				batch.next = before
				return nil
			}
		}
		list, err := costly(tx, account, before, *dues)
		if err != nil {
			return err
		}
		roots := make([]int64, len(list))
		for i, p := range list {
			roots[i] = p.root
		}
		if _, err := lockRoots(tx, roots); err != nil {
			return err
		}
		// Both are looked at when none of these pins can go in another way any more, which would count as still there.
		var left Stock
		owes := dues.Owes
		if owes != nil && len(list) == lapseAtOnce {
			owed, err := owedForOlder(tx, account, list[len(list)-1].createdMS, roots, owes)
			if err != nil {
				return err
			}
			if owed {
				owes = nil // whichever of these pins go
			}
		}
		if owes != nil {
			if left, err = keptStock(tx, `p.account = ?`, account); err != nil {
				return err
			}
		}
		gone := map[int64]bool{}
		for _, p := range list {
			if gone[p.root] {
				continue
			}
			if owes != nil {
				if !owes(left) {
					return nil
				}
				spared, err := keptStock(tx, `p.account = ? AND p.root_id = ?`, account, p.root)
				if err != nil {
					return err
				}
				left.Hot, left.Cold = left.Hot-spared.Hot, left.Cold-spared.Cold
			}
			gone[p.root] = true
			if err := s.lapseRoot(tx, account, p.root, &batch); err != nil {
				return err
			}
		}
		if len(list) == lapseAtOnce {
			batch.next = list[len(list)-1].createdMS
		}
		return nil
	})
	return batch, err
}

// costly returns the newest pins before a place that cost something.
func costly(tx *gorm.DB, account Account, before int64, dues Dues) (list []costlyPin, err error) {
	var costs []string
	if dues.Hot {
		costs = append(costs, `h.hot = 1`)
	}
	if dues.Cold {
		costs = append(costs, `h.copies > 0`)
	}
	if len(costs) == 0 {
		return nil, nil
	}
	err = query(tx, func(r row) error {
		var p costlyPin
		err := r.Scan(&p.createdMS, &p.root)
		list = append(list, p)
		return err
	}, `SELECT p.created_ms, p.root_id FROM pins p JOIN holdings h ON h.pin = p.id
		WHERE p.account = ? AND p.created_ms < ? AND p.lapsed_ms IS NULL AND (`+strings.Join(costs, ` OR `)+`)
		ORDER BY p.created_ms DESC LIMIT ?`, account, before, lapseAtOnce)
	return list, err
}

// owedForOlder tells whether the pins before a place cost something by themselves, without those of the roots. It begins
// with the oldest: a few are mostly enough, and adding up all of a large account for each batch takes a second.
func owedForOlder(tx *gorm.DB, account Account, before int64, roots []int64, owes func(Stock) bool) (bool, error) {
	var sum Stock
	for after := int64(-1); ; {
		n := 0
		err := query(tx, func(r row) error {
			var hot, cold int64
			err := r.Scan(&after, &hot, &cold)
			sum.Hot, sum.Cold, n = sum.Hot+hot, sum.Cold+cold, n+1
			return err
		}, `SELECT p.created_ms, h.bytes * h.hot, h.bytes * h.copies FROM pins p JOIN holdings h ON h.pin = p.id
			WHERE p.account = ? AND p.created_ms > ? AND p.created_ms < ? AND p.lapsed_ms IS NULL AND p.root_id NOT IN ?
			ORDER BY p.created_ms LIMIT ?`, account, after, before, roots, lapseAtOnce)
		if err != nil || owes(sum) {
			return err == nil, err
		}
		if n < lapseAtOnce {
			return false, nil
		}
	}
}

func (s *store) kept(ctx context.Context, account Account) (stock Stock, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		stock, err = keptStock(tx, `p.account = ?`, account)
		return err
	})
	return stock, err
}

// keptStock adds up what pins under a condition occupy that were not let go.
func keptStock(tx *gorm.DB, where string, args ...any) (stock Stock, err error) {
	err = query(tx, func(r row) error { return r.Scan(&stock.Hot, &stock.Cold) },
		`SELECT CAST(coalesce(sum(h.bytes * h.hot), 0) AS BIGINT), CAST(coalesce(sum(h.bytes * h.copies), 0) AS BIGINT)
		FROM pins p JOIN holdings h ON h.pin = p.id WHERE p.lapsed_ms IS NULL AND `+where, args...)
	return stock, err
}

// lapseRoot lets all pins go by which an account names a root: one of two alone would spare nothing.
func (s *store) lapseRoot(tx *gorm.DB, account Account, root int64, batch *lapseBatch) error {
	r, _, err := lockRoot(tx, `r.id = ?`, root)
	if errors.Is(err, errStale) {
		return nil // its last pin has gone
	}
	if err != nil {
		return err
	}
	now := s.now()
	done := tx.Exec(`UPDATE pins SET lapsed_ms = ?, status = ? WHERE root_id = ? AND account = ? AND lapsed_ms IS NULL`,
		now.UnixMilli(), spec.Failed, root, account)
	if done.Error != nil || done.RowsAffected == 0 {
		return done.Error
	}
	batch.lapsed += int(done.RowsAffected)
	if err := changeHoldings(tx, now.Unix(), `root_id = ? AND account = ? AND hot = 1`, `hot = 0`, root, account); err != nil {
		return err
	}
	if err := s.tellLapse(tx.Statement.Context, account, r, KindFailed, lapsedReason); err != nil {
		return err
	}
	gone, err := s.letGo(tx, root)
	if gone {
		batch.orphans = append(batch.orphans, root)
	}
	return err
}

// tellLapse records for one account what has become of its pins of a root.
func (s *store) tellLapse(ctx context.Context, account Account, r Root, kind, reason string) error {
	if s.journal == nil {
		return nil
	}
	data := map[string]any{"hot_status": r.Hot}
	if reason != "" {
		data["hot_status"], data["reason"] = HotGaveUp, reason
	}
	return s.journal.RecordFor(ctx, account, r.CID, kind, data)
}

// unlapse wants pins of an account again that were let go, as if it had asked for them now.
func (s *store) unlapse(ctx context.Context, account Account) (some bool, err error) {
	for {
		var roots []int64
		err := s.db.Write(ctx, func(tx *gorm.DB) error {
			roots = nil
			err := query(tx, func(r row) error {
				var id int64
				err := r.Scan(&id)
				roots = append(roots, id)
				return err
			}, `SELECT DISTINCT root_id FROM pins WHERE account = ? AND lapsed_ms IS NOT NULL ORDER BY root_id LIMIT ?`, account, retryAtOnce)
			if err != nil {
				return err
			}
			for _, id := range roots {
				if err := s.unlapseRoot(tx, account, id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(roots) == 0 {
			return some, err
		}
		some = true
	}
}

func (s *store) unlapseRoot(tx *gorm.DB, account Account, root int64) error {
	before, holder, err := lockRoot(tx, `r.id = ?`, root)
	if errors.Is(err, errStale) {
		return nil // its last pin has gone
	}
	if err != nil {
		return err
	}
	done := tx.Exec(`UPDATE pins SET lapsed_ms = NULL WHERE root_id = ? AND account = ? AND lapsed_ms IS NOT NULL`, root, account)
	if done.Error != nil || done.RowsAffected == 0 {
		return done.Error
	}
	if err := s.handOver(tx, account, []int64{root}); err != nil {
		return err
	}
	after, err := s.wantedUnlessBlocked(tx, before, account)
	if err != nil {
		return err
	}
	if err := s.saveRoot(tx, before, after, holder); err != nil {
		return err
	}
	return s.rejoin(tx, account, before, after)
}

func (s *store) wantedUnlessBlocked(tx *gorm.DB, r Root, account Account) (Root, error) {
	if r.Hot == HotGaveUp || r.Hot == HotReleasing {
		blocked, err := isBlocked(tx, r.CID)
		if err != nil {
			return r, err
		}
		if blocked {
			return GivenUp(r, blockedReason), nil
		}
		if r.Cold, err = s.hasCold(tx, r); err != nil {
			return r, err
		}
	}
	return Wanted(r, account, s.now()), nil
}

// rejoin gives pins the status and the holdings that the others of their root have already.
func (s *store) rejoin(tx *gorm.DB, account Account, before, after Root) error {
	status := hotStatus(after.Hot)
	if err := tx.Exec(`UPDATE pins SET status = ? WHERE root_id = ? AND account = ? AND status <> ? AND lapsed_ms IS NULL`,
		status, after.id, account, status).Error; err != nil {
		return err
	}
	if s.coldDecides(after.Hot) {
		if err := s.restateCold(tx, after); err != nil {
			return err
		}
	}
	if after.Hot == HotHeld {
		if err := s.hotHoldings(tx, after); err != nil {
			return err
		}
	}
	if before.Hot != after.Hot {
		return nil // saveRoot has told it
	}
	kind := "pin." + string(status)
	if after.Hot == HotHeld && !s.rule.hotOnly() {
		kind = KindHeld
	}
	reason := ""
	if after.Hot == HotGaveUp {
		reason = after.Reason
	}
	return s.tellLapse(tx.Statement.Context, account, after, kind, reason)
}

func (s *store) hasLapsed(ctx context.Context, account Account) (found bool, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		return tx.Raw(`SELECT EXISTS (SELECT 1 FROM pins WHERE account = ? AND lapsed_ms IS NOT NULL)`, account).Row().Scan(&found)
	})
	return found, err
}
