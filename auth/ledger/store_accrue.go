package ledger

import (
	"context"
	"maps"
	"slices"
	"time"

	"gorm.io/gorm"
)

// dueSince tells of whom there is anything to book, and from when on. Between two midnights there seldom is, and asking keeps
// nobody from writing.
func (s *Service) dueSince(ctx context.Context, batch []Holding, now time.Time) (since map[int64]time.Time, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		since = make(map[int64]time.Time)
		accrued, err := accruedUntil(tx, batch)
		for _, h := range batch {
			for _, i := range plan(h, accrued[h.Pin], now, 1, nil) {
				if from := time.Unix(i.from, 0); since[h.Account].IsZero() || from.Before(since[h.Account]) {
					since[h.Account] = from
				}
			}
		}
		return err
	})
	return since, err
}

// insertAccruals books as many intervals as one transaction should; more says that there are others.
func (s *Service) insertAccruals(ctx context.Context, batch []Holding, plans map[int64]terms, now time.Time) (more bool, err error) {
	err = s.write(ctx, func(tx *gorm.DB) error {
		more = false
		books, err := lock(tx, slices.Collect(maps.Keys(plans)))
		if err != nil {
			return err
		}
		accrued, err := accruedUntil(tx, batch)
		if err != nil {
			return err
		}
		var charges []Charge
		moved, room := make(map[string]int64), accrualIntervals
		for _, h := range batch {
			t, known := plans[h.Account]
			if !known {
				continue // nothing of it was due
			}
			due := plan(h, accrued[h.Pin], now, room+1, t.past)
			if len(due) > room {
				more, due = true, due[:room]
			}
			for _, i := range due {
				charges = append(charges, h.charges(i)...)
				accrued[h.Pin], moved[h.Pin] = i.to, i.to
			}
			if room -= len(due); more {
				break // what follows of the same pin begins later
			}
		}
		if err := s.bookCharges(tx, books, charges, plans, true); err != nil {
			return err
		}
		for pin, until := range moved {
			err := tx.Exec(`INSERT INTO accruals (pin, until_s, removed_ms) VALUES (?, ?, 0)
				ON CONFLICT (pin) DO UPDATE SET until_s = excluded.until_s`, pin, until).Error
			if err != nil {
				return err
			}
		}
		return nil
	})
	return more, err
}

// accruedUntil reads up to when the pins are accrued. The lock on their accounts covers the rows.
func accruedUntil(tx *gorm.DB, batch []Holding) (map[string]int64, error) {
	pins := make([]string, len(batch))
	for i, h := range batch {
		pins[i] = h.Pin
	}
	accrued := make(map[string]int64, len(pins))
	if len(pins) == 0 {
		return accrued, nil
	}
	err := query(tx, func(r row) error {
		var pin string
		var until int64
		err := r.Scan(&pin, &until)
		accrued[pin] = until
		return err
	}, `SELECT pin, until_s FROM accruals WHERE pin IN ?`, pins)
	return accrued, err
}

// retireAccruals lets go of pins that were removed and forgotten, a week later: another process may have asked the source
// before it forgot them.
func (s *Service) retireAccruals(ctx context.Context, pins []string) error {
	if len(pins) == 0 {
		return nil
	}
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		now := s.now()
		if err := tx.Exec(`UPDATE accruals SET removed_ms = ? WHERE pin IN ?`, now.UnixMilli(), pins).Error; err != nil {
			return err
		}
		return tx.Exec(`DELETE FROM accruals WHERE removed_ms > 0 AND removed_ms < ?`, now.Add(-forgetAfter).UnixMilli()).Error
	})
}
