package pins

import (
	"context"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/spec"
)

// accountCounts returns the number of pins of an account per status, of all four.
func (s *store) accountCounts(ctx context.Context, account Account) (counts map[spec.Status]int64, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		counts = map[spec.Status]int64{spec.Queued: 0, spec.Pinning: 0, spec.Pinned: 0, spec.Failed: 0}
		return query(tx, func(r row) error {
			var status spec.Status
			var n int64
			if err := r.Scan(&status, &n); err != nil {
				return err
			}
			counts[status] += n
			return nil
		}, `SELECT status, n FROM pin_counts WHERE account = ? AND level = 3`, account)
	})
	return counts, err
}

// heldBytes adds up what is held for an account. It reads all its pins.
func (s *store) heldBytes(ctx context.Context, account Account) (bytes int64, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		return query(tx, func(r row) error { return r.Scan(&bytes) },
			`SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM roots
			WHERE hot = ? AND id IN (SELECT root_id FROM pins WHERE account = ?)`, HotHeld, account)
	})
	return bytes, err
}
