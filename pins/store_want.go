package pins

import (
	"errors"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"
)

// wantRoots finds or inserts the roots of additions, in one order, so that two servers do not wait for each other's locks.
func (s *store) wantRoots(tx *gorm.DB, batch []*addition, now time.Time) error {
	batch = slices.SortedStableFunc(slices.Values(batch), func(a, b *addition) int {
		return strings.Compare(a.request.Root.KeyString(), b.request.Root.KeyString())
	})
	// A root that was there may be released and gone before we lock it (PostgreSQL). Then it is inserted after all.
	for waiting := batch; len(waiting) > 0; {
		if err := s.insertRoots(tx, waiting, now); err != nil {
			return err
		}
		var gone []*addition
		for _, a := range waiting {
			if a.root.id != 0 {
				continue
			}
			err := s.wantAgain(tx, a, now)
			if errors.Is(err, errStale) {
				gone = append(gone, a)
				continue
			}
			if err != nil {
				return err
			}
			a.met = true
		}
		waiting = gone
	}
	return nil
}

// insertRoots inserts the roots that are not there, and leaves the others without an id.
func (s *store) insertRoots(tx *gorm.DB, batch []*addition, now time.Time) error {
	var fresh rowsOf
	byCID := make(map[string]*addition, len(batch))
	for _, a := range batch {
		a.root, a.claimed, a.met = Root{}, false, false
		key := a.request.Root.String()
		if byCID[key] != nil {
			continue // the first of the batch inserts it
		}
		byCID[key] = a
		holder := ""
		if a.claim {
			holder = s.me
		}
		uploaded := 0
		if a.uploaded() {
			uploaded = 1
		}
		fresh = append(fresh, []any{key, HotQueued, a.account, 0, now.UnixMilli(), now.UnixMilli(), holder, 0, 0, "", uploaded})
	}
	return fresh.each(func(values string, args []any) error {
		return insertNew(tx, `INSERT INTO roots (cid, hot, account, attempts, wanted_ms, next_ms, claimed_by, blocks, bytes, reason, uploaded)
			VALUES `+values+` ON CONFLICT (cid) DO NOTHING`, args, func(id int64, key string) {
			a := byCID[key]
			a.root = Root{id: id, CID: a.request.Root, Account: a.account, WantedAt: now, Uploaded: a.uploaded(), DAG: DAG{Hot: HotQueued, NextAt: now}}
			a.claimed = a.claim
		})
	})
}

// insertNew inserts rows of roots, of which args has rootArgs each with the cid first, and tells the id and cid of those
// that were not there before.
func insertNew(tx *gorm.DB, insert string, args []any, inserted func(id int64, key string)) error {
	tell := func(r row) error {
		var id int64
		var key string
		if err := r.Scan(&id, &key); err != nil {
			return err
		}
		inserted(id, key)
		return nil
	}
	if tx.Name() != "sqlite" {
		return query(tx, tell, insert+` RETURNING id, cid`, args...)
	}
	// SQLite numbers the rows of one statement one after the other, which spares it to return them.
	result, err := tx.Statement.ConnPool.ExecContext(tx.Statement.Context, insert, args...)
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err != nil || n == 0 {
		return err
	}
	last, err := result.LastInsertId()
	if err != nil {
		return err
	}
	if rows := len(args) / rootArgs; n < int64(rows) {
		return query(tx, tell, `SELECT id, cid FROM roots WHERE id > ?`, last-n)
	}
	for i := range n {
		inserted(last-n+1+i, args[int(i)*rootArgs].(string)) //nolint:forcetypeassert // as said above
	}
	return nil
}

// rootArgs is how many values insertRoots gives of each root.
const rootArgs = 11

// wantAgain records one more request for a root that is there.
func (s *store) wantAgain(tx *gorm.DB, a *addition, now time.Time) error {
	before, holder, err := lockRoot(tx, `r.cid = ?`, a.request.Root.String())
	if err != nil {
		return err
	}
	if before.Hot == HotGaveUp || before.Hot == HotReleasing { // there may be copies that pins had which were let go
		blocked, err := isBlocked(tx, before.CID)
		if err != nil {
			return err
		}
		if blocked { // it was asked for at a server that does not know yet
			a.root = before
			return nil
		}
		if before.Cold, err = s.hasCold(tx, before); err != nil {
			return err
		}
	}
	a.root = Wanted(before, a.account, now)
	a.root.Uploaded = a.root.Hot.waits() && (a.root.Uploaded || a.uploaded())
	if a.root == before {
		return nil
	}
	if holder == "" && a.claim && (a.root.Hot == HotQueued || a.root.Hot == HotRestoring) {
		holder, a.claimed = s.me, true
	}
	return s.saveRoot(tx, before, a.root, holder)
}
