package pins

import (
	"context"

	"github.com/ipfs/go-cid"
	"gorm.io/gorm"
)

// known tells whether a pin names a DAG: one of an account, or any where account is 0.
func (s *store) known(ctx context.Context, root cid.Cid, account Account) (found bool, err error) {
	named := `EXISTS (SELECT 1 FROM pins p WHERE p.root_id = r.id`
	args := []any{root.String()}
	if account != 0 {
		named += ` AND p.account = ?`
		args = append(args, account)
	}
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		found = false
		return query(tx, func(r row) error {
			var id int64
			err := r.Scan(&id)
			found = true
			return err
		}, `SELECT r.id FROM roots r WHERE r.cid = ? AND `+named+`)`, args...)
	})
	return found, err
}
