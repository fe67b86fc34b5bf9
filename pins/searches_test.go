package pins_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// A watchedDB shows a test what becomes of its transactions.
type watchedDB struct {
	*database.DB
	read  func(ctx context.Context) // as one begins to read
	query func(ctx context.Context) // before each query
	exec  func(sql string)
}

func (db *watchedDB) Read(ctx context.Context, fn func(tx *gorm.DB) error) error {
	return db.DB.Read(ctx, func(tx *gorm.DB) error {
		if db.read != nil {
			db.read(ctx)
		}
		tx.Statement.ConnPool = &watchedPool{tx.Statement.ConnPool, db}
		return fn(tx)
	})
}

func (db *watchedDB) Write(ctx context.Context, fn func(tx *gorm.DB) error) error {
	return db.DB.Write(ctx, func(tx *gorm.DB) error {
		tx.Statement.ConnPool = &watchedPool{tx.Statement.ConnPool, db}
		return fn(tx)
	})
}

type watchedPool struct {
	gorm.ConnPool
	db *watchedDB
}

func (p *watchedPool) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if p.db.exec != nil {
		p.db.exec(query)
	}
	return p.ConnPool.ExecContext(ctx, query, args...)
}

func (p *watchedPool) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if p.db.query != nil {
		p.db.query(ctx)
	}
	return p.ConnPool.QueryContext(ctx, query, args...)
}

func byTag(k, v string) spec.Query {
	q := all()
	q.Meta = map[string]string{k: v}
	return q
}

func TestAnAccountsSearchesLeaveConnectionsToOthers(t *testing.T) {
	db := databasetest.Open(t, database.SQLite)
	if err := db.Migrate(t.Context(), pins.Migrations()...); err != nil {
		t.Fatal(err)
	}
	entered, release := make(chan struct{}, 10), make(chan struct{})
	type held struct{}
	watched := &watchedDB{DB: db, read: func(ctx context.Context) {
		entered <- struct{}{}
		if ctx.Value(held{}) != nil {
			<-release
		}
	}}
	s := pins.New(config(), watched, pinstest.NewTier(), discard(), time.Now)
	done := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := s.List(context.WithValue(t.Context(), held{}, true), alice, byTag("k", "v"))
			done <- err
		}()
		<-entered
	}
	part := "a"
	partial := all()
	partial.Name, partial.Match = &part, spec.Partial
	for what, q := range map[string]spec.Query{"meta": byTag("k", "v"), "a part of a name": partial} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := s.List(ctx, alice, q)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || len(entered) > 0 {
			t.Errorf("a third search of the account, by %s, gets %v and %d connections, want to wait for its turn", what, err, len(entered))
		}
	}
	for what, list := range map[string]func() (pins.Page, error){
		"another's search":     func() (pins.Page, error) { return s.List(t.Context(), bob, byTag("k", "v")) },
		"the account's status": func() (pins.Page, error) { return s.List(t.Context(), alice, all()) },
	} {
		if _, err := list(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		<-entered
	}
	close(release)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if _, err := s.List(t.Context(), alice, partial); err != nil {
		t.Errorf("after the others: %v", err)
	}
}

func TestASearchEndsWithItsCaller(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		ctx, cancel := context.WithCancel(t.Context())
		watched := &watchedDB{DB: db, query: func(ctx context.Context) {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("a statement of a search may take as long as it likes")
			}
			cancel()
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Second):
				t.Error("the statement goes on without its caller")
			}
		}}
		s := pins.New(config(), watched, pinstest.NewTier(), discard(), time.Now)
		if _, err := s.List(ctx, alice, byTag("k", "v")); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	})
}

func TestRemovingAPinTakesFewStatementsHoweverManyKeysItHas(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		var statements atomic.Int64
		watched := &watchedDB{DB: db, exec: func(sql string) {
			if strings.Contains(sql, `DELETE FROM pin_meta`) {
				statements.Add(1)
			}
		}}
		s := pins.New(config(), watched, pinstest.NewTier(), discard(), time.Now)
		r := request(leaf(0))
		r.Meta = map[string]string{}
		for i := range 1000 {
			r.Meta[fmt.Sprint(i)] = ""
		}
		var added []pins.Pin
		for range 3 {
			p, err := s.Add(t.Context(), alice, r, pins.Decision{Terms: pins.Undecided})
			if err != nil {
				t.Fatal(err)
			}
			added = append(added, p)
		}
		keys := func(want int) {
			t.Helper()
			var n int
			err := db.Read(t.Context(), func(tx *gorm.DB) error { return tx.Raw(`SELECT count(*) FROM pin_meta`).Row().Scan(&n) })
			if err != nil || n != want {
				t.Errorf("%d keys are left, want %d: %v", n, want, err)
			}
		}
		if err := s.Delete(t.Context(), alice, added[1].ID); err != nil {
			t.Fatal(err)
		}
		if n := statements.Load(); n > 25 {
			t.Errorf("the removal took %d statements", n)
		}
		keys(2000)
		statements.Store(0)
		if _, err := s.DeleteAll(t.Context(), alice); err != nil {
			t.Fatal(err)
		}
		if n := statements.Load(); n > 50 {
			t.Errorf("the removal of an account with two took %d statements", n)
		}
		keys(0)
	})
}
