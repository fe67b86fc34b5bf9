package pins

import (
	"context"

	"gorm.io/gorm"
)

func (s *store) names(ctx context.Context, account Account, roots []string) (named map[string]bool, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		named = make(map[string]bool, len(roots))
		return query(tx, func(from row) error {
			var root string
			err := from.Scan(&root)
			named[root] = true
			return err
		}, `SELECT r.cid FROM roots r WHERE r.cid IN ? AND EXISTS (SELECT 1 FROM pins p WHERE p.root_id = r.id AND p.account = ?)`,
			roots, account)
	})
	return named, err
}

func (s *store) naming(ctx context.Context, account Account, n Naming) (list []Pin, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		return query(tx, func(from row) error {
			p := Pin{Account: account}
			err := from.Scan(&p.ID, &p.CID, &p.Name)
			list = append(list, p)
			return err
		}, `SELECT p.id, p.cid, p.name FROM roots r JOIN pins p ON p.root_id = r.id
			WHERE r.cid = ? AND p.account = ? AND p.id > ? AND p.created_ms <= ? AND (p.terms = ? OR CAST(? AS BIGINT) = 0)
			AND (p.lapsed_ms IS NULL OR p.lapsed_ms >= ?)
			ORDER BY p.id LIMIT ?`, n.Root, account, n.After, n.By.UnixMilli(), n.Terms, n.Terms, n.By.Add(-lapseSkew).UnixMilli(), n.Limit)
	})
	return list, err
}
