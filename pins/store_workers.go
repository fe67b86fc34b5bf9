package pins

import (
	"context"
	"database/sql"
	"time"

	"gorm.io/gorm"
)

func nullString(s string) sql.NullString { return sql.NullString{String: s, Valid: true} }

// clock is the database's own time in Unix milliseconds: claims of several servers are compared by one clock.
func clock(tx *gorm.DB) string {
	if tx.Name() == "sqlite" {
		return `CAST(unixepoch('subsec') * 1000 AS BIGINT)`
	}
	return `CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)`
}

// enter reports this process as alive for the first time. The claims of an earlier process of the same instance are
// void at once: an instance is a data directory, and only one process can hold its lock.
func (s *store) enter(ctx context.Context, instance string) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return firstError(
			tx.Exec(`UPDATE roots SET claimed_by = '' WHERE claimed_by <> '' AND claimed_by NOT IN (SELECT id FROM workers WHERE instance <> ?)`, instance),
			tx.Exec(`DELETE FROM workers WHERE instance = ?`, instance),
			tx.Exec(`INSERT INTO workers (id, instance, seen_ms) VALUES (?, ?, `+clock(tx)+`)`, s.me, instance),
		)
	})
}

// beat reports this process as alive and takes the claims of processes away that were silent for longer than ttl.
// It returns false when the others have done that to this one: whatever it holds is no longer its own.
func (s *store) beat(ctx context.Context, ttl time.Duration) (alive bool, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		seen := tx.Exec(`UPDATE workers SET seen_ms = `+clock(tx)+` WHERE id = ?`, s.me)
		if seen.Error != nil {
			return seen.Error
		}
		alive = seen.RowsAffected > 0
		dead := clock(tx) + ` - ?`
		return firstError(
			tx.Exec(`UPDATE roots SET claimed_by = '' WHERE claimed_by IN (SELECT id FROM workers WHERE seen_ms < `+dead+`)`, ttl.Milliseconds()),
			tx.Exec(`DELETE FROM workers WHERE seen_ms < `+dead, ttl.Milliseconds()),
			// A request that was still being answered while its process left may have claimed a root after that.
			tx.Exec(`UPDATE roots SET claimed_by = '' WHERE claimed_by <> '' AND claimed_by NOT IN (SELECT id FROM workers)`),
		)
	})
	return alive, err
}

// mine returns the roots that this process has claimed.
func (s *store) mine(ctx context.Context) (ids []int64, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		ids = nil
		return query(tx, func(r row) error {
			var id int64
			err := r.Scan(&id)
			ids = append(ids, id)
			return err
		}, `SELECT id FROM roots WHERE claimed_by = ? AND claimed_by <> ''`, s.me)
	})
	return ids, err
}

// leave gives everything back that this process has claimed.
func (s *store) leave(ctx context.Context) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return firstError(
			tx.Exec(`UPDATE roots SET claimed_by = '' WHERE claimed_by = ?`, s.me),
			tx.Exec(`DELETE FROM workers WHERE id = ?`, s.me),
		)
	})
}

func firstError(done ...*gorm.DB) error {
	for _, d := range done {
		if d.Error != nil {
			return d.Error
		}
	}
	return nil
}
