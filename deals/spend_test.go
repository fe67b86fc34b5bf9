package deals_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/filecoin-project/go-state-types/abi"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
)

// eachMoney runs fn on each database.
func eachMoney(t *testing.T, now func() time.Time, fn func(t *testing.T, m *deals.Money, db *database.DB)) {
	t.Helper()
	databasetest.Each(t, deals.Migrations(), func(t *testing.T, db *database.DB) {
		m, err := deals.NewMoney(t.Context(), db, now)
		if err != nil {
			t.Fatal(err)
		}
		fn(t, m, db)
	})
}

func at(when time.Time) func() time.Time { return func() time.Time { return when } }

func TestBudgetsHoldToTheLastAttoFIL(t *testing.T) {
	caps := deals.Caps{PerDeal: atto(60), PerDay: atto(100), PerMonth: atto(150)}
	eachMoney(t, at(noon), func(t *testing.T, m *deals.Money, db *database.DB) {
		for i, c := range []struct {
			day  string
			cost int64
			cap  string
		}{
			{"2026-11-22", 61, "deal"},
			{"2026-11-22", 60, ""},
			{"2026-11-22", 41, "day"},
			{"2026-11-22", 40, ""},
			{"2026-11-22", 1, "day"},
			{"2026-11-22", 0, ""},
			{"2026-11-30", 51, "month"},
			{"2026-11-30", 50, ""},
			{"2026-11-01", 1, "month"},
			{"2026-12-01", 60, ""},
			{"2027-11-01", 60, ""},
		} {
			err := m.Charge(t.Context(), c.day, atto(c.cost), caps)
			broken := new(deals.CapError)
			if c.cap == "" && err != nil || c.cap != "" && (!errors.As(err, &broken) || broken.Cap != c.cap) {
				t.Errorf("%d: charging %d to %s: %v, want %q", i, c.cost, c.day, err, c.cap)
			}
		}
		if err := m.Refund(t.Context(), "2026-11-22", atto(40)); err != nil {
			t.Fatal(err)
		}
		if err := m.Charge(t.Context(), "2026-11-22", atto(40), caps); err != nil {
			t.Errorf("what was refunded cannot be spent: %v", err)
		}
		if err := m.Refund(t.Context(), "2026-11-22", atto(101)); err == nil {
			t.Error("more was refunded than was charged")
		}
		books, err := deals.NewTreasury(db, at(noon)).Books(t.Context(), 5)
		if err != nil || !books.Today.Deals.Equals(atto(100)) || !books.Month.Deals.Equals(atto(150)) {
			t.Errorf("got %+v, %v", books, err)
		}
	})
}

func TestWithoutABudgetOnlyWhatIsFreeIsCharged(t *testing.T) {
	eachMoney(t, at(noon), func(t *testing.T, m *deals.Money, _ *database.DB) {
		if err := m.Charge(t.Context(), "2026-11-22", atto(1), deals.Caps{PerDeal: atto(1)}); err == nil || !strings.Contains(err.Error(), "today") {
			t.Errorf("got %v", err)
		}
		if err := m.Charge(t.Context(), "2026-11-22", abi.TokenAmount{}, deals.Caps{}); err != nil {
			t.Errorf("what is free was refused: %v", err)
		}
		for _, cost := range []int64{-1} {
			if err := m.Charge(t.Context(), "2026-11-22", atto(cost), deals.Caps{PerDeal: atto(9), PerDay: atto(9), PerMonth: atto(9)}); err == nil {
				t.Errorf("%d was charged", cost)
			}
		}
		if err := m.Charge(t.Context(), "today", atto(1), deals.Caps{PerDeal: atto(9)}); err == nil {
			t.Error("a day that is none was charged")
		}
	})
}

func TestThoseWhoSpendAtOnceStayWithinTheBudgetTogether(t *testing.T) {
	caps := deals.Caps{PerDeal: atto(10), PerDay: atto(100), PerMonth: atto(1000)}
	eachMoney(t, at(noon), func(t *testing.T, m *deals.Money, db *database.DB) {
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				err := m.Charge(t.Context(), "2026-11-22", atto(10), caps)
				if broken := new(deals.CapError); err != nil && !errors.As(err, &broken) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		books, err := deals.NewTreasury(db, at(noon)).Books(t.Context(), 5)
		if err != nil || !books.Today.Deals.Equals(atto(100)) {
			t.Errorf("spent %s, %v", books.Today.Deals, err)
		}
	})
}
