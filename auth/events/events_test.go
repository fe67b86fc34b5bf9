package events_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/auth/events"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

var moment = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// A pin is what model knows of one.
type pin struct {
	account int64
	root    string
	part    int64
	id      string
	made    time.Time
}

// model is a Pins that keeps everything in a slice.
type model []pin

func (m model) Named(_ context.Context, account int64, roots []string) (map[string]bool, error) {
	named := map[string]bool{}
	for _, p := range m {
		named[p.root] = named[p.root] || p.account == account && slices.Contains(roots, p.root)
	}
	return named, nil
}

func (m model) Naming(_ context.Context, account int64, of events.Naming, after string, limit int) ([]events.Pin, error) {
	var found []events.Pin
	for _, p := range m {
		if p.account == account && p.root == of.Root && (of.Part == 0 || p.part == of.Part) && p.id > after && !p.made.After(of.By) {
			found = append(found, events.Pin{ID: p.id, CID: p.root})
		}
	}
	slices.SortFunc(found, func(a, b events.Pin) int { return cmp.Compare(a.ID, b.ID) })
	return found[:min(limit, len(found))], nil
}

func each(t *testing.T, pins model, fn func(t *testing.T, s *events.Service, db *database.DB)) {
	t.Helper()
	databasetest.Each(t, events.Migrations(), func(t *testing.T, db *database.DB) {
		fn(t, events.New(db, pins, slog.New(slog.DiscardHandler), func() time.Time { return moment }), db)
	})
}

func record(t *testing.T, s *events.Service, changes ...events.Change) {
	t.Helper()
	for _, c := range changes {
		if err := s.Record(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
}

func number(t *testing.T, s *events.Service) {
	t.Helper()
	if err := s.Number(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// told reads all events of an account after a position, in pages of limit, as "id kind".
func told(t *testing.T, s *events.Service, account int64, after events.Position, limit int) (list []string) {
	t.Helper()
	for {
		page, err := s.Page(t.Context(), account, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Events) > limit {
			t.Fatalf("a page of %d has %d events", limit, len(page.Events))
		}
		for _, e := range page.Events {
			list = append(list, e.At.String()+" "+e.Kind)
		}
		if after = page.Next; !page.More {
			return list
		}
	}
}

var shared = model{
	{1, "root", 0, "a1", moment},
	{1, "root", 7, "a2", moment},
	{1, "root", 0, "a3", moment.Add(time.Hour)},
	{2, "root", 7, "b1", moment},
	{2, "other", 0, "b2", moment},
}

func TestEveryPinOfARootIsToldAndNobodyElse(t *testing.T) {
	each(t, shared, func(t *testing.T, s *events.Service, _ *database.DB) {
		record(t, s,
			events.Change{Root: "root", Kind: "pin.pinning"},
			events.Change{Account: 1, Kind: "account.quota"},
			events.Change{Root: "other", Kind: "pin.failed"},
			events.Change{Root: "unknown", Kind: "pin.pinned"},
			events.Change{Root: "root", Part: 7, Kind: "deals.changed"},
		)
		number(t, s)
		for account, want := range map[int64][]string{
			1: {"1-a1 pin.pinning", "1-a2 pin.pinning", "2 account.quota", "5-a2 deals.changed"},
			2: {"1-b1 pin.pinning", "3-b2 pin.failed", "5-b1 deals.changed"},
			3: nil,
		} {
			for limit := 1; limit <= 5; limit++ {
				if got := told(t, s, account, events.Position{}, limit); !slices.Equal(got, want) {
					t.Errorf("account %d, pages of %d: %q, want %q", account, limit, got, want)
				}
			}
		}
	})
}

func TestHistoryIsWhatConcernsThePinSinceItWasMade(t *testing.T) {
	each(t, shared, func(t *testing.T, s *events.Service, _ *database.DB) {
		record(t, s,
			events.Change{Root: "root", Kind: "pin.pinning"},
			events.Change{Account: 1, Kind: "account.quota"},
			events.Change{Root: "other", Kind: "pin.failed"},
			events.Change{Root: "root", Part: 7, Kind: "deals.changed"},
			events.Change{Root: "root", Part: 8, Kind: "deals.stored"},
			events.Change{Root: "root", Kind: "pin.pinned"},
		)
		number(t, s)
		record(t, s, events.Change{Root: "root", Kind: "pin.lost"}) // which nobody is told yet
		for _, c := range []struct {
			part  int64
			made  time.Time
			limit int
			want  []string
		}{
			{7, moment, 10, []string{"6-a2 pin.pinned", "4-a2 deals.changed", "1-a2 pin.pinning"}},
			{7, moment, 2, []string{"6-a2 pin.pinned", "4-a2 deals.changed"}},
			{0, moment, 10, []string{"6-a2 pin.pinned", "1-a2 pin.pinning"}},
			{7, moment.Add(time.Hour), 10, nil},
		} {
			list, err := s.History(t.Context(), 1, events.Pin{ID: "a2"}, "root", c.part, c.made, c.limit)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range list {
				got = append(got, e.At.String()+" "+e.Kind)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("part %d, %d since %s: %q, want %q", c.part, c.limit, c.made, got, c.want)
			}
		}
	})
}

func TestWhatConcernsOneAccountsPinsIsToldToNobodyElse(t *testing.T) {
	each(t, shared, func(t *testing.T, s *events.Service, _ *database.DB) {
		record(t, s, events.Change{Account: 1, Root: "root", Kind: "pin.failed"}, events.Change{Root: "root", Kind: "pin.pinned"})
		number(t, s)
		for account, want := range map[int64][]string{
			1: {"1-a1 pin.failed", "1-a2 pin.failed", "2-a1 pin.pinned", "2-a2 pin.pinned"},
			2: {"2-b1 pin.pinned"},
		} {
			if got := told(t, s, account, events.Position{}, 10); !slices.Equal(got, want) {
				t.Errorf("account %d: %q, want %q", account, got, want)
			}
			history, err := s.History(t.Context(), account, events.Pin{ID: "it"}, "root", 0, moment, 10)
			if want := map[int64]int{1: 2, 2: 1}[account]; len(history) != want || err != nil {
				t.Errorf("account %d has a history of %d, want %d: %v", account, len(history), want, err)
			}
		}
	})
}

func TestReadingGoesOnAfterAnyEvent(t *testing.T) {
	each(t, shared, func(t *testing.T, s *events.Service, _ *database.DB) {
		record(t, s, events.Change{Root: "root", Kind: "x"}, events.Change{Account: 1, Kind: "y"}, events.Change{Root: "root", Kind: "z"})
		number(t, s)
		all := []string{"1-a1 x", "1-a2 x", "2 y", "3-a1 z", "3-a2 z"}
		for i, id := range []string{"1-a1", "1-a2", "2", "3-a1", "3-a2"} {
			after, err := events.ParsePosition(id)
			if err != nil {
				t.Fatal(err)
			}
			if got := told(t, s, 1, after, 2); !slices.Equal(got, all[i+1:]) {
				t.Errorf("after %s: %q, want %q", id, got, all[i+1:])
			}
		}
	})
}

func TestAnEventIsThereWhenItsChangeIs(t *testing.T) {
	each(t, nil, func(t *testing.T, s *events.Service, db *database.DB) {
		failed := errors.New("the change fails")
		err := db.Write(t.Context(), func(tx *gorm.DB) error {
			if err := s.Record(tx.Statement.Context, events.Change{Account: 1, Kind: "x"}); err != nil {
				return err
			}
			return failed
		})
		if !errors.Is(err, failed) {
			t.Fatal(err)
		}
		number(t, s)
		if got := told(t, s, 1, events.Position{}, 10); got != nil {
			t.Errorf("told %q of a change that was rolled back", got)
		}
	})
}

// TestASlowTransactionIsNotSkipped has a reader go past an event whose transaction began earlier and ends later.
func TestASlowTransactionIsNotSkipped(t *testing.T) {
	each(t, nil, func(t *testing.T, s *events.Service, db *database.DB) {
		if db.Dialect() != database.Postgres {
			return // one transaction runs at a time there: none can be overtaken, and waiting for that would be for ever
		}
		written, finish, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			done <- db.Write(context.Background(), func(tx *gorm.DB) error {
				err := s.Record(tx.Statement.Context, events.Change{Account: 1, Kind: "slow"})
				close(written)
				<-finish
				return err
			})
		}()
		<-written
		record(t, s, events.Change{Account: 1, Kind: "fast"})
		number(t, s)
		page, err := s.Page(t.Context(), 1, events.Position{}, 10)
		if err != nil || len(page.Events) != 1 || page.Events[0].Kind != "fast" {
			t.Fatalf("while the other is not committed: %+v, %v", page, err)
		}
		close(finish)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		number(t, s)
		if got := told(t, s, 1, page.Next, 10); !slices.Equal(got, []string{"2 slow"}) {
			t.Errorf("after the fast one: %q, want the slow one", got)
		}
	})
}

// TestNothingIsLostOrDoubledUnderWriters reads while several write and several give numbers.
func TestNothingIsLostOrDoubledUnderWriters(t *testing.T) {
	const writers, writes = 4, 50
	each(t, model{{1, "root", 0, "a", moment}, {1, "root", 0, "b", moment}}, func(t *testing.T, s *events.Service, _ *database.DB) {
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range writes {
					if err := s.Record(t.Context(), events.Change{Root: "root", Kind: fmt.Sprint(w, "/", i)}); err != nil {
						t.Error(err)
					}
					if err := s.Number(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		seen := map[string]int{}
		var at events.Position
		for len(seen) < 2*writers*writes && !t.Failed() {
			changed := s.Changed()
			page, err := s.Page(t.Context(), 1, at, 3)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page.Events {
				seen[e.Kind+e.Pin.ID]++
			}
			if at = page.Next; !page.More && len(page.Events) == 0 && len(seen) < 2*writers*writes {
				<-changed
			}
		}
		wg.Wait()
		for what, n := range seen {
			if n != 1 {
				t.Errorf("%s was told %d times", what, n)
			}
		}
	})
}

func TestOldEventsAreSweptAndNumbersGoOn(t *testing.T) {
	databasetest.Each(t, events.Migrations(), func(t *testing.T, db *database.DB) {
		now := moment
		s := events.New(db, model(nil), slog.New(slog.DiscardHandler), func() time.Time { return now })
		record(t, s, events.Change{Account: 1, Kind: "old"})
		number(t, s)
		now = now.Add(31 * 24 * time.Hour)
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		record(t, s, events.Change{Account: 1, Kind: "new"})
		number(t, s)
		if got := told(t, s, 1, events.Position{}, 10); !slices.Equal(got, []string{"2 new"}) {
			t.Errorf("told %q", got)
		}
	})
}

// TestAPageLooksAtSoMuch asserts that an account with few events among many reads in steps that end.
func TestAPageLooksAtSoMuch(t *testing.T) {
	each(t, nil, func(t *testing.T, s *events.Service, db *database.DB) {
		err := db.Write(t.Context(), func(tx *gorm.DB) error {
			for range 4500 {
				if err := s.Record(tx.Statement.Context, events.Change{Root: "strange", Kind: "x"}); err != nil {
					return err
				}
			}
			return s.Record(tx.Statement.Context, events.Change{Account: 1, Kind: "mine"})
		})
		if err != nil {
			t.Fatal(err)
		}
		number(t, s)
		page, err := s.Page(t.Context(), 1, events.Position{}, 10)
		if err != nil || !page.More || len(page.Events) != 0 {
			t.Fatalf("the first page: %+v, %v", page, err)
		}
		if got := told(t, s, 1, events.Position{}, 10); !slices.Equal(got, []string{"4501 mine"}) {
			t.Errorf("told %q", got)
		}
	})
}

func TestWhatIsNoPositionIsRefused(t *testing.T) {
	for _, text := range []string{"", "-", "-a", "x", "-1", "+1", "01", "1-", "1- a", "1-\n", "9223372036854775808", "1-" + string(make([]byte, 100))} {
		if p, err := events.ParsePosition(text); !errors.Is(err, events.ErrPosition) {
			t.Errorf("%q is %v, %v", text, p, err)
		}
	}
}

func FuzzPositionReadsWhatItWrites(f *testing.F) {
	f.Add("0")
	f.Add("12-0193a5c5-6b7e-7c0e")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := events.ParsePosition(text)
		if err == nil && p.String() != text {
			t.Errorf("%q became %q", text, p)
		}
	})
}
