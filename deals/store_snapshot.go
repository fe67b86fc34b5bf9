package deals

import (
	"context"
	"slices"

	"github.com/filecoin-project/go-state-types/abi"
	"gorm.io/gorm"
)

// snapshotBatch is how many attempts are marked in one transaction.
const snapshotBatch = 512

// snapshot returns the snapshot with which active deals were compared last; zero when there was none.
func (s *store) snapshot(ctx context.Context) (last Snapshot, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		last, err = snapshotOf(tx)
		return err
	})
	return last, err
}

func snapshotOf(tx *gorm.DB) (last Snapshot, err error) {
	err = query(tx, func(r row) error { return r.Scan(&last.Height, intoCID{&last.State}) },
		`SELECT height, state FROM market_snapshot WHERE id = 1`)
	return last, err
}

// keepSnapshot records what active deals were compared with.
func (s *store) keepSnapshot(ctx context.Context, now Snapshot) error {
	return s.work(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`INSERT INTO market_snapshot (id, height, state) VALUES (1, ?, ?)
			ON CONFLICT (id) DO UPDATE SET height = excluded.height, state = excluded.state`, int64(now.Height), text(now.State)).Error
	})
}

// inSnapshot returns a page of the active deals that were so in the snapshot: their ids, ascending, above one.
func (s *store) inSnapshot(ctx context.Context, above abi.DealID, limit int) (ids []abi.DealID, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		ids = make([]abi.DealID, 0, limit)
		return query(tx, func(r row) error {
			var id abi.DealID
			err := r.Scan(&id)
			ids = append(ids, id)
			return err
		}, `SELECT deal_id FROM attempts WHERE state = 'active' AND in_snapshot = 1 AND deal_id > ? ORDER BY deal_id LIMIT ?`,
			int64(above), limit) //nolint:gosec // a deal's number fits
	})
	return ids, err
}

// A newcomer is an active attempt of which it is not known that its deal was active in the snapshot.
type newcomer struct {
	attempt AttemptID
	deal    abi.DealID
}

// newcomers returns those that were seen active before a height, by ascending deal.
func (s *store) newcomers(ctx context.Context, before Epoch) (all []newcomer, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		all = nil
		return query(tx, func(r row) error {
			var n newcomer
			err := r.Scan(&n.attempt, &n.deal)
			all = append(all, n)
			return err
		}, `SELECT id, deal_id FROM attempts WHERE state = 'active' AND in_snapshot = 0 AND height < ? ORDER BY deal_id`, int64(before))
	})
	return all, err
}

// leaveSnapshot records that deals, which a final tipset did not show as active, have to be looked up whatever they are
// compared with.
func (s *store) leaveSnapshot(ctx context.Context, ids []abi.DealID, at Epoch) error {
	for some := range slices.Chunk(ids, snapshotBatch) {
		err := s.work(ctx, func(tx *gorm.DB) error {
			if err := doubtCosts(tx, some, at); err != nil {
				return err
			}
			return tx.Exec(`UPDATE attempts SET in_snapshot = 0 WHERE state = 'active' AND in_snapshot = 1 AND deal_id IN ?`, numbersOf(some)).Error
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// joinSnapshot records that the deals of attempts were active in the snapshot that is stored.
func (s *store) joinSnapshot(ctx context.Context, ids []AttemptID) error {
	for some := range slices.Chunk(ids, snapshotBatch) {
		err := s.work(ctx, func(tx *gorm.DB) error {
			return tx.Exec(`UPDATE attempts SET in_snapshot = 1 WHERE state = 'active' AND id IN ?`, numbersOf(some)).Error
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// prove records that a final tipset has shown the deals of attempts active.
func (s *store) prove(ctx context.Context, ids []AttemptID, at Epoch) error {
	for some := range slices.Chunk(ids, snapshotBatch) {
		if err := s.work(ctx, func(tx *gorm.DB) error { return proveCosts(tx, some, at) }); err != nil {
			return err
		}
	}
	return nil
}

// numbersOf are ids as a database takes them.
func numbersOf[ID ~int64 | ~uint64](ids []ID) []int64 {
	out := make([]int64, len(ids))
	for i, id := range ids {
		out[i] = int64(id) //nolint:gosec // the numbers of deals and providers fit
	}
	return out
}
