package ledger

import (
	"context"
	"database/sql"
	"errors"

	"gorm.io/gorm"
)

func (s *Service) saveMood(ctx context.Context, account int64, mood Mood) (changed bool, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		before := Fine
		err := tx.Raw(`SELECT state FROM notices WHERE account = ?`+forUpdate(tx), account).Row().Scan(&before)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if changed = before != mood; !changed {
			return nil
		}
		return tx.Exec(`INSERT INTO notices (account, state) VALUES (?, ?) ON CONFLICT (account) DO UPDATE SET state = excluded.state`,
			account, string(mood)).Error
	})
	return changed && err == nil, err
}

func (s *Service) selectAccounts(ctx context.Context, after int64, limit int) (list []int64, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		return query(tx, func(r row) error {
			var account int64
			err := r.Scan(&account)
			list = append(list, account)
			return err
		}, `SELECT account FROM balances WHERE account > ? ORDER BY account LIMIT ?`, after, limit)
	})
	return list, err
}
