package ledger

import (
	"context"

	"gorm.io/gorm"
)

// toppedUp notes that an account has something to pay with, if so.
func (b *book) toppedUp(tx *gorm.DB) error {
	if !b.Pays() {
		return nil
	}
	return tx.Exec(`INSERT INTO top_ups (account) VALUES (?)`, b.Account).Error
}

func (s *Service) selectTopUps(ctx context.Context, after int64, limit int) (list []TopUp, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		return query(tx, func(r row) error {
			var t TopUp
			err := r.Scan(&t.ID, &t.Account)
			list = append(list, t)
			return err
		}, `SELECT id, account FROM top_ups WHERE id > ? ORDER BY id LIMIT ?`, after, limit)
	})
	return list, err
}

func (s *Service) deleteTopUps(ctx context.Context, list []TopUp) error {
	ids := make([]int64, len(list))
	for i, t := range list {
		ids[i] = t.ID
	}
	return s.write(ctx, func(tx *gorm.DB) error { return tx.Exec(`DELETE FROM top_ups WHERE id IN ?`, ids).Error })
}
