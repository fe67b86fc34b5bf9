package database_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-gormigrate/gormigrate/v2"
	"go.uber.org/goleak"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
)

func TestMain(m *testing.M) {
	if os.Getenv(writerVariable) != "" {
		os.Exit(writeUntilKilled(os.Getenv(writerVariable)))
	}
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// An item is one row of the tests' own table.
type item struct {
	ID   int64 `gorm:"autoIncrement:false"`
	Name string
}

func schema() []*gormigrate.Migration {
	return []*gormigrate.Migration{{
		ID: "20200101_01_items",
		Migrate: func(tx *gorm.DB) error {
			return tx.Exec("CREATE TABLE items (id BIGINT PRIMARY KEY, name TEXT NOT NULL UNIQUE)").Error
		},
	}}
}

func insert(tx *gorm.DB, id int64) error {
	return tx.Create(&item{ID: id, Name: fmt.Sprint("item ", id)}).Error
}

func count(t *testing.T, db *database.DB) int64 {
	t.Helper()
	var n int64
	err := db.Read(t.Context(), func(tx *gorm.DB) error { return tx.Model(&item{}).Count(&n).Error })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWriteIsSeenByTheNextRead(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		for id := range int64(5) {
			if err := db.Write(t.Context(), func(tx *gorm.DB) error { return insert(tx, id) }); err != nil {
				t.Fatal(err)
			}
			if got := count(t, db); got != id+1 {
				t.Fatalf("after %d writes a read counts %d rows", id+1, got)
			}
		}
	})
}

func TestFailedWriteLeavesNothing(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		mine := errors.New("mine")
		err := db.Write(t.Context(), func(tx *gorm.DB) error {
			if err := insert(tx, 1); err != nil {
				return err
			}
			return mine
		})
		if !errors.Is(err, mine) || errors.Is(err, database.ErrUnavailable) {
			t.Errorf("got %v, want the function's own error", err)
		}
		if got := count(t, db); got != 0 {
			t.Errorf("%d rows remain", got)
		}
	})
}

func TestPanicIsTheErrorOfThatWriteOnly(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		err := db.Write(t.Context(), func(tx *gorm.DB) error {
			if err := insert(tx, 1); err != nil {
				return err
			}
			panic("boom")
		})
		if panicked, ok := errors.AsType[*database.PanicError](err); !ok || panicked.Value != "boom" {
			t.Fatalf("got %v, want the panic", err)
		}
		if err := db.Write(t.Context(), func(tx *gorm.DB) error { return insert(tx, 1) }); err != nil {
			t.Errorf("writing after a panic: %v", err)
		}
	})
}

func TestGoroutineThatEndsInsideAWriteDoesNotStopTheOthers(t *testing.T) {
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), schema()...); err != nil {
		t.Fatal(err)
	}
	err := db.Write(t.Context(), func(*gorm.DB) error { (&testing.T{}).FailNow(); return nil })
	if err == nil {
		t.Error("a write whose function never returned was acknowledged")
	}
	if err := db.Write(t.Context(), func(tx *gorm.DB) error { return insert(tx, 1) }); err != nil {
		t.Error(err)
	}
}

func TestConstraintsAreReportedAlikeOnBothDatabases(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		for _, want := range []error{nil, gorm.ErrDuplicatedKey} {
			err := db.Write(t.Context(), func(tx *gorm.DB) error { return insert(tx, 1) })
			if !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		}
		err := db.Read(t.Context(), func(tx *gorm.DB) error { return tx.First(&item{}, 99).Error })
		if !errors.Is(err, gorm.ErrRecordNotFound) {
			t.Errorf("got %v, want %v", err, gorm.ErrRecordNotFound)
		}
	})
}

func TestFailingMemberOfAGroupLeavesTheOthersAlone(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		const writers = 64
		blocked, release := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { // holds the writer until everybody queues behind it, so that they become one group
			err := db.Write(t.Context(), func(tx *gorm.DB) error {
				if db.Dialect() == database.SQLite {
					close(blocked)
					<-release
				}
				return insert(tx, 1000)
			})
			if err != nil {
				t.Error(err)
			}
		})
		if db.Dialect() == database.SQLite {
			<-blocked
		}
		for id := range int64(writers) {
			wg.Go(func() {
				err := db.Write(t.Context(), func(tx *gorm.DB) error {
					if err := insert(tx, id); err != nil {
						return err
					}
					switch id % 4 {
					case 1:
						return errors.New("on purpose")
					case 2:
						panic("on purpose")
					case 3:
						return insert(tx, id) // a constraint fails inside the member
					}
					return nil
				})
				if (err == nil) != (id%4 == 0) {
					t.Errorf("writer %d got %v", id, err)
				}
			})
		}
		if db.Dialect() == database.SQLite {
			close(release)
		}
		wg.Wait()
		if got := count(t, db); got != writers/4+1 {
			t.Errorf("%d rows, want the %d that were acknowledged", got, writers/4+1)
		}
	})
}

func TestManyWritersLoseNothing(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		const writers, each = 64, 20
		var wg sync.WaitGroup
		for writer := range int64(writers) {
			wg.Go(func() {
				for n := range int64(each) {
					if err := db.Write(t.Context(), func(tx *gorm.DB) error { return insert(tx, writer*each+n) }); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if got := count(t, db); got != writers*each {
			t.Errorf("%d rows, want %d", got, writers*each)
		}
	})
}

func TestWriteWhoseCallerGaveUpDoesNotRun(t *testing.T) {
	db := databasetest.Open(t)
	blocked, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = db.Write(t.Context(), func(*gorm.DB) error { close(blocked); <-release; return nil })
	})
	<-blocked
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error)
	ran := false
	go func() { gaveUp <- db.Write(ctx, func(*gorm.DB) error { ran = true; return nil }) }()
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	close(release)
	wg.Wait()
	if err := db.Write(t.Context(), func(*gorm.DB) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if ran {
		t.Error("the write ran after its caller had been told that it would not")
	}
}

func TestCancelledCallerDoesNotRollBackTheGroup(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		ctx, cancel := context.WithCancel(t.Context())
		err := db.Write(ctx, func(tx *gorm.DB) error {
			cancel()
			return insert(tx, 1)
		})
		if err != nil || count(t, db) != 1 {
			t.Errorf("got %v and %d rows: a write that has begun runs to its end", err, count(t, db))
		}
	})
}

func TestEverythingAfterCloseIsErrClosed(t *testing.T) {
	for _, dialect := range databasetest.Dialects(t) {
		t.Run(dialect, func(t *testing.T) {
			db := databasetest.Open(t, dialect)
			var wg sync.WaitGroup
			for range 32 { // some before, some during, some after
				wg.Go(func() {
					err := db.Write(t.Context(), func(*gorm.DB) error { return nil })
					if err != nil && !errors.Is(err, database.ErrClosed) {
						t.Errorf("during close: %v", err)
					}
				})
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
			nothing := func(*gorm.DB) error { return nil }
			for name, err := range map[string]error{
				"write": db.Write(t.Context(), nothing),
				"read":  db.Read(t.Context(), nothing),
				"ping":  db.Ping(t.Context()),
			} {
				if !errors.Is(err, database.ErrClosed) {
					t.Errorf("%s: got %v", name, err)
				}
			}
		})
	}
}

func TestSQLiteKeepsItsPromisesAboutTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "with ? and # and % in it", "test.db")
	db, err := database.Open(t.Context(), path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	check := func(tx *gorm.DB) error {
		for pragma, want := range map[string]string{
			"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "temp_store": "2", "mmap_size": "0",
		} {
			var got string
			if err := tx.Raw("PRAGMA " + pragma).Scan(&got).Error; err != nil {
				return err
			}
			if got != want {
				t.Errorf("PRAGMA %s is %s, want %s", pragma, got, want)
			}
		}
		return nil
	}
	if err := errors.Join(db.Write(t.Context(), check), db.Read(t.Context(), check)); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", info.Name(), info.Mode())
		}
	}
}

func TestSeveralStatementsInOneTextAllRun(t *testing.T) {
	db := databasetest.Open(t)
	err := db.Write(t.Context(), func(tx *gorm.DB) error {
		return tx.Exec("CREATE TABLE a (x INTEGER); CREATE TABLE b (x INTEGER)").Error
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Read(t.Context(), func(tx *gorm.DB) error { return tx.Exec("SELECT * FROM b").Error }); err != nil {
		t.Error(err)
	}
}

func TestAnotherProcessGetsItsTurnAtABusySQLiteFile(t *testing.T) {
	dsn := databasetest.DSN(t)
	open := func() *database.DB {
		db, err := database.Open(t.Context(), dsn, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	server, command := open(), open()
	if err := server.Migrate(t.Context(), schema()...); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	busy := make(chan struct{}, 1)
	for worker := range int64(64) {
		wg.Go(func() {
			for n := int64(1000); ctx.Err() == nil; n++ {
				err := server.Write(ctx, func(tx *gorm.DB) error { return insert(tx, n*64+worker) })
				if err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				if n == 1020 {
					select {
					case busy <- struct{}{}:
					default:
					}
				}
			}
		})
	}
	<-busy
	started := time.Now()
	for id := range int64(5) {
		if err := command.Write(t.Context(), func(tx *gorm.DB) error { return insert(tx, id) }); err != nil {
			t.Errorf("write %d: %v", id, err)
		}
	}
	t.Logf("5 writes beside a busy server took %v", time.Since(started))
	stop()
	wg.Wait()
}

func TestWrongAddressIsNamedWithoutItsPassword(t *testing.T) {
	for _, dsn := range []string{
		"", ":memory:", "file:x.db", "mysql://user:hunter2@host/db", "postgres://user:hunter2@host:port/db",
		"postgres://user:hunter2@host/db?synchronous_commit=off",
	} {
		_, err := database.Open(t.Context(), dsn, slog.New(slog.DiscardHandler))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: got %v", dsn, err)
		}
	}
}

func TestDatabaseThatDoesNotAnswerIsUnavailable(t *testing.T) {
	_, err := database.Open(t.Context(), "postgres://user:hunter2@127.0.0.1:1/db", slog.New(slog.DiscardHandler))
	if !errors.Is(err, database.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, database.ErrUnavailable)
	}
	if err != nil && strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error tells the password: %v", err)
	}
	_, err = database.Open(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
	if !errors.Is(err, database.ErrUnavailable) {
		t.Errorf("a directory in place of the file: got %v, want %v", err, database.ErrUnavailable)
	}
}

func TestTextThatPostgresCannotStoreIsToldApart(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		for _, text := range []string{"a\x00b", "\xff"} {
			read := db.Read(t.Context(), func(tx *gorm.DB) error { return tx.Exec(`SELECT 1 WHERE ? = 'a'`, text).Error })
			write := db.Write(t.Context(), func(tx *gorm.DB) error { return tx.Exec(`DELETE FROM items WHERE CAST(id AS TEXT) = ?`, text).Error })
			for what, err := range map[string]error{"reading": read, "writing": write} {
				if want := db.Dialect() == database.Postgres; errors.Is(err, database.ErrText) != want || !want && err != nil {
					t.Errorf("%s with %q: %v", what, text, err)
				}
			}
		}
	})
}

// Whoever reads for long gives its statements a context that ends; nothing of it may be left to whoever reads next.
func TestAReadIsInterruptedByTheContextOfItsStatements(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		for _, endless := range []string{
			`WITH RECURSIVE k (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k) SELECT count(*) FROM k`,
			`WITH RECURSIVE k (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k) SELECT i FROM k`,
		} {
			for range 8 { // more often than there are connections
				err := db.Read(t.Context(), func(tx *gorm.DB) error {
					ctx, cancel := context.WithTimeout(tx.Statement.Context, 10*time.Millisecond)
					defer cancel()
					var i []int64
					return tx.WithContext(ctx).Raw(endless).Scan(&i).Error
				})
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("got %v, want %v", err, context.DeadlineExceeded)
				}
			}
		}
		if err := db.Write(t.Context(), func(tx *gorm.DB) error { return insert(tx, 1) }); err != nil {
			t.Fatal(err)
		}
		for range 8 {
			if n := count(t, db); n != 1 {
				t.Fatalf("%d rows after reads that were interrupted, want 1", n)
			}
		}
	})
}
