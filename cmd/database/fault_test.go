package database_test

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
)

func TestFullDiskIsUnavailableForAllAndOverWhenThereIsRoom(t *testing.T) {
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), schema()...); err != nil {
		t.Fatal(err)
	}
	// SQLite itself pretends that the disk is full beyond so many pages. The writing connection remembers it.
	limit := func(pages string) {
		t.Helper()
		err := db.Write(t.Context(), func(tx *gorm.DB) error { return tx.Exec("PRAGMA max_page_count = " + pages).Error })
		if err != nil {
			t.Fatal(err)
		}
	}
	big := func(id int64) error {
		return db.Write(t.Context(), func(tx *gorm.DB) error {
			return tx.Create(&item{ID: id, Name: strings.Repeat("x", 100_000) + string(rune('a'+id))}).Error
		})
	}
	limit("1") // below the present size: no page more
	var wg sync.WaitGroup
	for id := range int64(16) {
		wg.Go(func() {
			if err := big(id); !errors.Is(err, database.ErrUnavailable) || !errors.Is(err, database.ErrFull) {
				t.Errorf("writer %d on a full disk: got %v, want %v", id, err, database.ErrFull)
			}
		})
	}
	wg.Wait()
	if got := count(t, db); got != 0 {
		t.Errorf("%d rows that were refused are there", got)
	}
	limit("1000000")
	if err := big(1); err != nil {
		t.Errorf("after the disk has room again: %v", err)
	}
}

func TestLostTransactionIsReportedToEverybodyInIt(t *testing.T) {
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), schema()...); err != nil {
		t.Fatal(err)
	}
	blocked, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	var innocent error
	wg.Go(func() {
		innocent = db.Write(t.Context(), func(tx *gorm.DB) error {
			close(blocked)
			<-release
			return insert(tx, 1)
		})
	})
	<-blocked
	culprit := make(chan error, 1)
	queued := make(chan struct{})
	go func() {
		close(queued)
		culprit <- db.Write(t.Context(), func(tx *gorm.DB) error {
			if err := insert(tx, 2); err != nil {
				return err
			}
			// As SQLite does by itself after some errors.
			return tx.Exec("INSERT OR ROLLBACK INTO items (id, name) VALUES (2, 'again')").Error
		})
	}()
	<-queued
	close(release)
	wg.Wait()
	if err := <-culprit; err == nil {
		t.Error("the culprit was acknowledged")
	}
	// Whether the two shared a transaction is up to the scheduler: the answer and the table must agree in any case.
	t.Logf("the other one got: %v", innocent)
	want := int64(1)
	if innocent != nil {
		want = 0
		if !errors.Is(innocent, database.ErrUnavailable) {
			t.Errorf("the other one got %v, want %v", innocent, database.ErrUnavailable)
		}
	}
	if got := count(t, db); got != want {
		t.Errorf("%d rows although the answer was %v", got, innocent)
	}
	if err := db.Write(t.Context(), func(tx *gorm.DB) error { return insert(tx, 3) }); err != nil {
		t.Errorf("the next write: %v", err)
	}
}

// The first write of a group has no savepoint of its own to go back to.
func TestFirstOfAGroupFailsOrLosesTheTransactionAndTheOthersAreAnsweredTruly(t *testing.T) {
	mine := errors.New("on purpose")
	for name, end := range map[string]func(tx *gorm.DB) error{
		"fails": func(*gorm.DB) error { return mine },
		"fails silently": func(tx *gorm.DB) error {
			_ = tx.Exec("INSERT OR ROLLBACK INTO items (id, name) VALUES (1, 'again')").Error
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := databasetest.Open(t)
			if err := db.Migrate(t.Context(), schema()...); err != nil {
				t.Fatal(err)
			}
			blocked, release := make(chan struct{}), make(chan struct{})
			first := make(chan error, 1)
			go func() {
				first <- db.Write(t.Context(), func(tx *gorm.DB) error {
					if err := insert(tx, 1); err != nil {
						return err
					}
					close(blocked)
					<-release
					return end(tx)
				})
			}()
			<-blocked
			const others = 16
			var queued, wg sync.WaitGroup
			var acknowledged atomic.Int64
			queued.Add(others)
			for id := range int64(others) {
				wg.Go(func() {
					queued.Done()
					if db.Write(t.Context(), func(tx *gorm.DB) error { return insert(tx, 10+id) }) == nil {
						acknowledged.Add(1)
					}
				})
			}
			queued.Wait()
			close(release)
			err := <-first
			wg.Wait()
			if name == "fails" && (!errors.Is(err, mine) || errors.Is(err, database.ErrUnavailable) || acknowledged.Load() != others) {
				t.Errorf("the first got %v, and %d of %d others were acknowledged", err, acknowledged.Load(), others)
			}
			if name != "fails" && !errors.Is(err, database.ErrUnavailable) {
				t.Errorf("the first got %v, want %v", err, database.ErrUnavailable)
			}
			if got := count(t, db); got != acknowledged.Load() {
				t.Errorf("%d rows, want the %d that were acknowledged", got, acknowledged.Load())
			}
		})
	}
}

// openPostgres opens a migrated database there, or ends the test where there is none.
func openPostgres(t *testing.T) *database.DB {
	t.Helper()
	databasetest.NeedPostgres(t)
	db := databasetest.Open(t, database.Postgres)
	if err := db.Migrate(t.Context(), schema()...); err != nil {
		t.Fatal(err)
	}
	return db
}

func TestDeadlockedWritesBothSucceed(t *testing.T) {
	db := openPostgres(t)
	err := db.Write(t.Context(), func(tx *gorm.DB) error { return errors.Join(insert(tx, 1), insert(tx, 2)) })
	if err != nil {
		t.Fatal(err)
	}
	touch := func(tx *gorm.DB, id int64) error {
		return tx.Model(&item{}).Where("id = ?", id).Update("name", gorm.Expr("name || 'x'")).Error
	}
	locked := []chan struct{}{make(chan struct{}), make(chan struct{})}
	var wg sync.WaitGroup
	for side := range 2 {
		wg.Go(func() {
			var once sync.Once
			err := db.Write(t.Context(), func(tx *gorm.DB) error {
				if err := touch(tx, int64(1+side)); err != nil {
					return err
				}
				once.Do(func() { close(locked[side]) })
				<-locked[1-side] // both hold one row and want the other's
				return touch(tx, int64(2-side))
			})
			if err != nil {
				t.Errorf("side %d: %v", side, err)
			}
		})
	}
	wg.Wait()
	var names []string
	err = db.Read(t.Context(), func(tx *gorm.DB) error { return tx.Model(&item{}).Order("id").Pluck("name", &names).Error })
	if err != nil || !slices.Equal(names, []string{"item 1xx", "item 2xx"}) {
		t.Errorf("got %v, %v: each must have been touched twice", names, err)
	}
}

func TestBrokenConnectionIsReplacedUnnoticed(t *testing.T) {
	db := openPostgres(t)
	other, err := database.Open(t.Context(), databasetest.DSN(t, database.Postgres), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	}()
	for id := range int64(5) {
		runs := 0
		err := db.Write(t.Context(), func(tx *gorm.DB) error {
			if runs++; runs == 1 { // in the middle of the transaction
				var pid int
				if err := tx.Raw("SELECT pg_backend_pid()").Scan(&pid).Error; err != nil {
					return err
				}
				err := other.Write(t.Context(), func(tx *gorm.DB) error {
					return tx.Exec("SELECT pg_terminate_backend(?, 5000)", pid).Error
				})
				if err != nil {
					return err
				}
			}
			return insert(tx, id)
		})
		if err != nil {
			t.Errorf("write %d: %v", id, err)
		}
	}
	if got := count(t, db); got != 5 {
		t.Errorf("%d rows, want 5", got)
	}
}
