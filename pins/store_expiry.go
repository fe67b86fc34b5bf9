package pins

import (
	"context"
	"database/sql"
	"time"

	"gorm.io/gorm"
)

// An ownedID names a pin of an account.
type ownedID struct {
	account Account
	id      ID
}

// expired returns pins whose time has come, at most so many, those first that have waited longest.
func (s *store) expired(ctx context.Context, most int) (due []ownedID, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		due = nil
		return query(tx, func(r row) error {
			var p ownedID
			err := r.Scan(&p.account, &p.id)
			due = append(due, p)
			return err
		}, `SELECT account, id FROM pins WHERE expires_ms <= ? ORDER BY expires_ms LIMIT ?`, s.now().UnixMilli(), most)
	})
	return due, err
}

// expiresColumn stores no end as NULL, which keeps the pin out of the index.
func expiresColumn(end time.Time) sql.NullInt64 {
	if end.IsZero() {
		return sql.NullInt64{}
	}
	return sql.NullInt64{Int64: end.UnixMilli(), Valid: true}
}
