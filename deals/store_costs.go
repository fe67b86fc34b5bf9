package deals

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/google/uuid"
	"gorm.io/gorm"
)

// reckon writes what an observation means for the cost of a deal.
func (s *store) reckon(tx *gorm.DB, before, after Attempt, o Observation) error {
	id := int64(after.ID)
	enter := func() error {
		return tx.Exec(`INSERT INTO deal_costs (attempt_id, charged, ends, seen, doubt, over) VALUES (?, ?, ?, 0, 0, 0) ON CONFLICT DO NOTHING`,
			id, int64(after.Start), int64(after.End)).Error
	}
	// What was handed over is never more than what was proven, so that an end before it is a mistake.
	switch reckon(before, after, o) {
	case begins:
		return enter()
	case lapses:
		return tx.Exec(`UPDATE deal_costs SET over = 1, ends = CASE WHEN doubt = 0 THEN ends WHEN charged > seen THEN charged ELSE seen END
			WHERE attempt_id = ?`, id).Error
	case stops:
		return tx.Exec(`UPDATE deal_costs SET over = 1, ends = CASE WHEN charged > seen THEN charged ELSE seen END WHERE attempt_id = ?`, id).Error
	case slashed:
		if err := enter(); err != nil { // it may never have been seen active
			return err
		}
		at := int64(min(o.Deal.SlashEpoch, after.End))
		return tx.Exec(`UPDATE deal_costs SET over = 1, ends = CASE WHEN charged > ? THEN charged ELSE ? END WHERE attempt_id = ?`, at, at, id).Error
	case unchanged:
	}
	return nil
}

// doubtCosts records, of active deals that a final tipset did not show before their end, up to when it is certain that they
// were active. It is called before they leave the snapshot.
func doubtCosts(tx *gorm.DB, ids []abi.DealID, at Epoch) error {
	err := tx.Exec(`UPDATE deal_costs SET seen = (SELECT height FROM market_snapshot WHERE id = 1)
		WHERE attempt_id IN (SELECT id FROM attempts WHERE state = 'active' AND in_snapshot = 1 AND deal_id IN ?)
		AND seen < (SELECT height FROM market_snapshot WHERE id = 1)`, numbersOf(ids)).Error
	if err != nil {
		return err
	}
	return tx.Exec(`UPDATE deal_costs SET doubt = 1
		WHERE attempt_id IN (SELECT id FROM attempts WHERE state = 'active' AND deal_id IN ?) AND ends > ?`, numbersOf(ids), int64(at)).Error
}

// proveCosts records that a final tipset has shown the deals of attempts active.
func proveCosts(tx *gorm.DB, ids []AttemptID, at Epoch) error {
	return tx.Exec(`UPDATE deal_costs SET doubt = 0, seen = CASE WHEN seen > ? THEN seen ELSE ? END WHERE over = 0 AND attempt_id IN ?`,
		int64(at), int64(at), numbersOf(ids)).Error
}

const billQuery = `SELECT c.attempt_id, a.uuid, a.root, ar.terms_id, a.piece_id, a.price, c.charged, c.ends, c.over
	FROM deal_costs c JOIN attempts a ON a.id = c.attempt_id JOIN archives ar ON ar.id = a.archive_id `

// bills returns deals with costs to hand over: those that are over, and those that have cost something up to the morning of
// the day on which they were last active for certain: in the snapshot or, where there is none, in the last comparison.
func bills(tx *gorm.DB, c calendar, compared Epoch, limit int) (all []bill, err error) {
	var proven Epoch
	scan := func(r row) error {
		var b bill
		var id string
		err := r.Scan(&b.attempt, &id, intoCID{&b.wish.Root}, &b.wish.Terms, &b.piece, intoAmount{&b.price}, &b.charged, &b.ends, &b.over)
		b.proven = proven
		if err == nil {
			b.deal, err = uuid.Parse(id)
		}
		all = append(all, b)
		return err
	}
	err = query(tx, scan, billQuery+`WHERE c.over = 1 AND c.charged < c.ends ORDER BY c.charged LIMIT ?`, limit)
	if err != nil || len(all) == limit {
		return all, err
	}
	last, err := snapshotOf(tx)
	if err != nil {
		return nil, err
	}
	active := billQuery + `WHERE c.over = 0 AND c.charged < ? AND c.charged < c.ends AND a.state = 'active' AND a.in_snapshot = `
	proven = last.Height
	err = query(tx, scan, active+`1 ORDER BY c.charged LIMIT ?`, int64(c.morning(proven)-jitter), limit-len(all))
	if err != nil || len(all) == limit {
		return all, err
	}
	proven = c.morning(compared)
	err = query(tx, scan, active+`0 AND c.doubt = 0 AND c.seen >= ? ORDER BY c.charged LIMIT ?`, int64(proven-jitter), int64(proven), limit-len(all))
	return all, err
}

// partsOf are the roots in the piece of a bill, wanted under the terms of its deal.
func partsOf(tx *gorm.DB, b bill) (all []part, err error) {
	err = query(tx, func(r row) error {
		p := part{wish: Wish{Terms: b.wish.Terms}}
		err := r.Scan(intoCID{&p.wish.Root}, &p.length)
		all = append(all, p)
		return err
	}, `SELECT root, length FROM piece_roots WHERE piece_id = ? ORDER BY root`, b.piece)
	if len(all) == 0 {
		all = []part{{wish: b.wish, length: 1}}
	}
	return all, err
}

// billSome hands over costs of at most so many deals, up to a day of each, and returns of how many there were some.
func (s *store) billSome(ctx context.Context, c calendar, compared Epoch, limit int) (n int, err error) {
	err = s.work(ctx, func(tx *gorm.DB) error {
		due, err := bills(tx, c, compared, limit)
		n = len(due)
		if err != nil || n == 0 {
			return err
		}
		var costs []Cost
		until := make([]Epoch, n)
		for i, b := range due {
			until[i] = b.next(c)
			parts, err := partsOf(tx, b)
			if err != nil {
				return fmt.Errorf("adding up the cost of deal %s: %w", b.deal, err)
			}
			costs = append(costs, b.costs(until[i], parts, c)...)
		}
		if err := s.bill(tx.Statement.Context, costs); err != nil { // first: it locks balances before others do
			return err
		}
		for i, b := range due {
			if err := tx.Exec(`UPDATE deal_costs SET charged = ? WHERE attempt_id = ?`, int64(until[i]), int64(b.attempt)).Error; err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}

// oldestCost is the first epoch whose cost is not handed over of any deal that is not paid to its end.
func (s *store) oldestCost(ctx context.Context) (oldest Epoch, some bool, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		oldest, some = 0, false
		for _, q := range []string{
			`SELECT min(charged) FROM deal_costs WHERE over = 0`,
			`SELECT min(charged) FROM deal_costs WHERE over = 1 AND charged < ends`,
		} {
			var first sql.NullInt64
			if err := tx.Raw(q).Row().Scan(&first); err != nil {
				return err
			}
			if first.Valid && (!some || Epoch(first.Int64) < oldest) {
				oldest, some = Epoch(first.Int64), true
			}
		}
		return nil
	})
	return oldest, some, err
}
