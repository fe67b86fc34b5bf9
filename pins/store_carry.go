package pins

import (
	"context"
	"database/sql"
	"maps"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/deals"
)

// A wanting is a place among the accounts that want a root: first one of them, then the others from the highest down.
type wanting struct {
	root     Root
	first    Account
	below    Account
	begun    bool
	done     bool
	wantedAt time.Time // of the root when it was begun: whoever has asked by then is among them
}

// wanters returns the newest pin of each of the next accounts, of which only id, account, root, terms and standing are
// known. Each account is one jump in the index, however many pins it has.
func (s *store) wanters(ctx context.Context, w wanting, most int) (list []Pin, next wanting, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list, next = nil, w
		if !w.begun {
			next.begun = true
			var ms int64
			err := query(tx, func(r row) error { return r.Scan(&ms) }, `SELECT wanted_ms FROM roots WHERE id = ?`, w.root.id)
			if err != nil {
				return err
			}
			next.wantedAt = fromMS(ms)
			p, wants, err := newestOf(tx, w.root, `p.account = ?`, w.first)
			if err != nil {
				return err
			}
			if wants {
				list = append(list, p)
			}
		}
		for n := 0; n < most && !next.done; n++ {
			p, wants, err := newestOf(tx, w.root, `p.account < ?`, next.below)
			if err != nil {
				return err
			}
			next.below, next.done = p.Account, p.ID == ""
			if wants && p.Account != w.first {
				list = append(list, p)
			}
		}
		return s.addStandings(tx, list)
	})
	return list, next, err
}

// newestOf returns the newest pin that the highest account under a condition has of a root; without an ID if there is
// none. wants is false for one that was let go: its account wants none of the others then.
func newestOf(tx *gorm.DB, root Root, condition string, account Account) (p Pin, wants bool, err error) {
	var terms, lapsed sql.NullInt64
	err = query(tx, func(r row) error { return r.Scan(&p.ID, &p.Account, &terms, &lapsed) },
		`SELECT p.id, p.account, p.terms, p.lapsed_ms FROM pins p WHERE p.root_id = ? AND `+condition+`
		ORDER BY p.account DESC, p.created_ms DESC LIMIT 1`, root.id, account)
	p.Root, p.Terms = root.CID, termsOf(terms)
	return p, p.ID != "" && !lapsed.Valid, err
}

// awaited tells whether a root may be about to have a pin of somebody who was not asked: it was wanted again since a time,
// or an upload holds it.
func (s *store) awaited(ctx context.Context, root Root, since time.Time) (awaited bool, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		return tx.Raw(`SELECT EXISTS (SELECT 1 FROM roots WHERE id = ? AND wanted_ms <> ?) OR EXISTS (SELECT 1 FROM pin_upload_holds WHERE root = ?)`,
			root.id, since.UnixMilli(), root.CID.String()).Row().Scan(&awaited)
	})
	return awaited, err
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
