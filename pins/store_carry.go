package pins

import (
	"context"
	"database/sql"
	"maps"
	"slices"

	"github.com/ipfs/go-cid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/deals"
)

// wantedBy returns pins of a root, and those that were replaced and for which it is kept, of which only ids, accounts, roots and
// standings are known.
func (s *store) wantedBy(ctx context.Context, root Root, most int) (list []Pin, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		err := query(tx, func(r row) error {
			var p Pin
			var terms sql.NullInt64
			err := r.Scan(&p.ID, &p.Account, &terms)
			p.Root, p.Terms = root.CID, termsOf(terms)
			list = append(list, p)
			return err
		}, `SELECT p.id, p.account, p.terms FROM pins p WHERE p.root_id = ? AND p.lapsed_ms IS NULL
			UNION ALL SELECT pin, account, NULL FROM retained WHERE root_id = ? AND pin <> '' LIMIT ?`, root.id, root.id, most)
		if err != nil {
			return err
		}
		return s.addStandings(tx, list)
	})
	return list, err
}

// waiting returns those of the pins that wait for their data.
func (s *store) waiting(ctx context.Context, pins []ID) (waiting []ID, err error) {
	ids := make([]string, len(pins))
	for i, id := range pins {
		ids[i] = string(id)
	}
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		waiting = nil
		return query(tx, func(r row) error {
			var id ID
			err := r.Scan(&id)
			waiting = append(waiting, id)
			return err
		}, `SELECT id FROM pins WHERE id IN ? AND status IN ('queued', 'pinning')`, ids)
	})
	return waiting, err
}

// wishers returns accounts whose pins have a wish, at most so many.
func (s *store) wishers(ctx context.Context, w deals.Wish, most int) (list []Account, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		return query(tx, func(r row) error {
			var a Account
			err := r.Scan(&a)
			list = append(list, a)
			return err
		}, `SELECT DISTINCT p.account FROM roots r JOIN pins p ON p.root_id = r.id WHERE r.cid = ? AND p.terms = ? LIMIT ?`,
			w.Root.String(), int64(w.Terms), most)
	})
	return list, err
}

// named returns those of roots that pins of any of the accounts name.
func (s *store) named(ctx context.Context, accounts []Account, roots []cid.Cid) (list []cid.Cid, err error) {
	byKey := make(map[string]cid.Cid, len(roots))
	for _, root := range roots {
		byKey[root.String()] = root
	}
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		return query(tx, func(r row) error {
			var key string
			err := r.Scan(&key)
			list = append(list, byKey[key])
			return err
		}, `SELECT r.cid FROM roots r WHERE r.cid IN ? AND EXISTS (SELECT 1 FROM pins p WHERE p.root_id = r.id AND p.account IN ?)`,
			slices.Collect(maps.Keys(byKey)), accounts)
	})
	return list, err
}
