package ledger

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"time"

	"gorm.io/gorm"
)

// forgetAfter is how long what a process has booked is remembered for the case that it, or another, tries again: they do
// so within seconds.
const forgetAfter = 7 * 24 * time.Hour

// insertEgress books a batch of a process unless it is booked. The number, not the keys, tells: accounts that are not
// billed have no entries.
func (s *Service) insertEgress(ctx context.Context, source string, seq int64, charges []Charge, plans map[int64]terms) error {
	return s.write(ctx, func(tx *gorm.DB) error {
		books, err := lock(tx, slices.Collect(maps.Keys(plans)))
		if err != nil {
			return err
		}
		var last int64
		err = tx.Raw(`SELECT seq FROM egress_flushes WHERE source = ?`, source).Row().Scan(&last)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if last >= seq {
			return nil
		}
		if seq == 1 {
			err := tx.Exec(`DELETE FROM egress_flushes WHERE at_ms < ?`, s.now().Add(-forgetAfter).UnixMilli()).Error
			if err != nil {
				return err
			}
		}
		err = tx.Exec(`INSERT INTO egress_flushes (source, seq, at_ms) VALUES (?, ?, ?)
			ON CONFLICT (source) DO UPDATE SET seq = excluded.seq, at_ms = excluded.at_ms`, source, seq, s.now().UnixMilli()).Error
		if err != nil {
			return err
		}
		return s.bookCharges(tx, books, charges, plans, true)
	})
}
