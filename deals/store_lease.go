package deals

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"gorm.io/gorm"
)

// seize takes the lease if nobody holds it. Another process of the same instance is a dead predecessor: an instance is
// a data directory, and only one process can hold its lock.
func (s *store) seize(ctx context.Context, ttl time.Duration) (held bool, err error) {
	instance := s.me[:strings.LastIndex(s.me, "/")+1]
	return s.lease(ctx, ttl, `holder = ? OR until_ms < CLOCK OR substr(holder, 1, ?) = ?`, s.me, len([]rune(instance)), instance)
}

// renew prolongs the lease while it is ours, also when it has run out and nobody has taken it.
func (s *store) renew(ctx context.Context, ttl time.Duration) (held bool, err error) {
	return s.lease(ctx, ttl, `holder = ?`, s.me)
}

func (s *store) lease(ctx context.Context, ttl time.Duration, mayTake string, args ...any) (held bool, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		if err := tx.Exec(`INSERT INTO maker (id, holder, until_ms) VALUES (1, '', 0) ON CONFLICT DO NOTHING`).Error; err != nil {
			return err
		}
		update := `UPDATE maker SET holder = ?, until_ms = ` + clock(tx) + ` + ? WHERE id = 1 AND (` + strings.ReplaceAll(mayTake, "CLOCK", clock(tx)) + `)`
		done := tx.Exec(update, append([]any{s.me, ttl.Milliseconds()}, args...)...)
		held = done.RowsAffected > 0
		return done.Error
	})
	return held, err
}

// leave gives the lease back.
func (s *store) leave(ctx context.Context) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`UPDATE maker SET holder = '', until_ms = 0 WHERE id = 1 AND holder = ?`, s.me).Error
	})
}

// mine returns errLease unless this process holds the lease. Until the transaction ends nobody can take it.
func (s *store) mine(tx *gorm.DB) error {
	q := `SELECT id FROM maker WHERE id = 1 AND holder = ? AND until_ms >= ` + clock(tx)
	if tx.Name() == "postgres" {
		q += ` FOR SHARE`
	}
	var id int64
	err := tx.Raw(q, s.me).Row().Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return errLease
	}
	return err
}

// work runs fn in a transaction that writes nothing unless this process holds the lease.
func (s *store) work(ctx context.Context, fn func(tx *gorm.DB) error) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		if err := s.mine(tx); err != nil {
			return err
		}
		return fn(tx)
	})
}
