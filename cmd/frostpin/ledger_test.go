package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	fbig "github.com/filecoin-project/go-state-types/big"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// heldBy is a source of one holding of a GiB for each account, named like it.
type heldBy struct {
	accounts []int64
	since    time.Time
}

func (h heldBy) Holdings(context.Context) iter.Seq2[ledger.Holding, error] {
	return func(yield func(ledger.Holding, error) bool) {
		for _, account := range h.accounts {
			if !yield(ledger.Holding{Pin: fmt.Sprint("p", account), Account: account, Bytes: 1 << 30, Hot: true, Since: h.since}, nil) {
				return
			}
		}
	}
}

func (heldBy) Forget(context.Context, []ledger.Holding) error { return nil }

// spent is what accounts' usage has cost, by kind.
func (s *sponsored) spent(t *testing.T, account int64) map[ledger.Kind]ledger.Amount {
	t.Helper()
	entries, err := s.books.Entries(t.Context(), ledger.Filter{Account: account, Limit: ledger.MaxPage})
	if err != nil {
		t.Fatal(err)
	}
	sums := make(map[ledger.Kind]ledger.Amount)
	for _, e := range entries {
		if e.Unit != "credit" {
			sums[e.Kind] -= e.Amount
		}
	}
	return sums
}

func TestAPlanThatCannotBeReadWaitsAndKeepsNobodyElseWaiting(t *testing.T) {
	// A credit for a GiB and day, for a GiB that is read, and for a FIL.
	prices := map[string]string{"hot_gib_month": "30", "egress_hot_gib": "1", "fil": "1"}
	eachSponsor(t, auth.Limits{Prices: prices}, func(t *testing.T, s *sponsored, ann pins.Account) {
		newer := map[string]string{"hot_gib_month": "30", "tape_gib_month": "1"}
		if err := s.accounts.SetPlan(t.Context(), auth.Operator(), "newer", auth.Limits{Prices: newer}); err != nil {
			t.Fatal(err)
		}
		ben, err := s.accounts.CreateAccount(t.Context(), auth.Operator(), "ben", "newer")
		if err != nil {
			t.Fatal(err)
		}
		dag := pinstest.Leaf("it")
		for _, account := range []int64{int64(ann), ben.ID} {
			if _, _, err := s.books.Credit(t.Context(), account, 100*ledger.Credit, fmt.Sprint("in", account), ""); err != nil {
				t.Fatal(err)
			}
			if _, err := s.pins().Add(t.Context(), pins.Account(account), spec.Request{CID: dag.Root.String(), Root: dag.Root}, pins.Decision{}); err != nil {
				t.Fatal(err)
			}
		}
		err = s.db.Write(t.Context(), func(tx *gorm.DB) error {
			return tx.Exec(`UPDATE pins SET terms = 7, created_ms = created_ms - 86400000 * 3`).Error
		})
		if err != nil {
			t.Fatal(err)
		}
		egress, now := s.books.Egress(), time.Now().UTC()
		midnight := now.Truncate(24 * time.Hour)
		use := func() error {
			return s.books.Accrue(t.Context(), heldBy{[]int64{ben.ID, int64(ann)}, midnight.Add(-24 * time.Hour)})
		}
		for range 2 {
			for _, account := range []int64{int64(ann), ben.ID} {
				egress.Add(account, ledger.EgressHot, 1<<30)
			}
			if err := egress.Flush(t.Context()); err != nil {
				t.Errorf("egress: %v", err)
			}
		}
		cost := deals.Cost{
			Deal: uuid.New(), Wish: deals.Wish{Root: dag.Root, Terms: 7}, Amount: fbig.NewInt(4_000_000_000_000_000_000),
			Epoch: 1, From: now.Add(-24 * time.Hour), To: now.Add(-time.Hour),
		}
		if err := s.Take(t.Context(), []deals.Cost{cost}); err != nil {
			t.Errorf("deals: %v", err)
		}
		if err := use(); err == nil || !strings.Contains(err.Error(), `"newer"`) {
			t.Errorf("storage: %v, want the plan's name", err)
		}
		all := map[ledger.Kind]ledger.Amount{ledger.StorageHot: ledger.Credit, ledger.EgressHot: 2 * ledger.Credit, ledger.DealCost: 2 * ledger.Credit}
		if diff := cmp.Diff(all, s.spent(t, int64(ann))); diff != "" {
			t.Errorf("who is on another plan: %s", diff)
		}
		if diff := cmp.Diff(map[ledger.Kind]ledger.Amount{}, s.spent(t, ben.ID)); diff != "" {
			t.Errorf("who is on it: %s", diff)
		}
		days, err := s.books.Usage(t.Context(), ben.ID, now.AddDate(0, 0, -2), now)
		if err != nil {
			t.Fatal(err)
		}
		read := new(big.Int)
		for _, d := range days {
			if d.Kind == ledger.EgressHot {
				read.Add(read, d.Qty)
			}
		}
		if read.Int64() != 2<<30 {
			t.Errorf("%s bytes count as read", read)
		}

		one := ledger.Stock{Hot: 1}
		if _, err := s.books.Costs(t.Context(), ben.ID, ledger.Stock{}, one); !errors.Is(err, ledger.ErrPlan) {
			t.Errorf("a price: %v", err)
		}
		if err := s.books.Afford(t.Context(), ben.ID, ledger.Stock{}, one); !errors.Is(err, ledger.ErrPlan) {
			t.Errorf("a pin: %v", err)
		}
		if _, err := s.books.HoldStock(t.Context(), ben.ID, "x", ledger.Stock{}, one); !errors.Is(err, ledger.ErrPlan) {
			t.Errorf("a hold: %v", err)
		}
		if err := s.Carry(t.Context(), pins.Account(ben.ID), "x", pins.Extent{Blocks: 1, Bytes: 1}, 0); !errors.Is(err, pins.ErrUndecided) {
			t.Errorf("a dag: %v", err)
		}

		if err := s.accounts.SetPlan(t.Context(), auth.Operator(), "newer", auth.Limits{Prices: prices}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := use(); err != nil {
				t.Errorf("when it can be read: %v", err)
			}
			if diff := cmp.Diff(all, s.spent(t, ben.ID)); diff != "" {
				t.Errorf("who was on it: %s", diff)
			}
		}
	})
}

func TestWhatWasUsedIsPaidAtThePricesOfThen(t *testing.T) {
	databasetest.Each(t, slices.Concat(auth.Migrations(), ledger.Migrations()), func(t *testing.T, db *database.DB) {
		day := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
		var clock atomic.Int64
		now := func() time.Time { return time.UnixMilli(clock.Load()).UTC() }
		at := func(hour int) { clock.Store(day.Add(time.Duration(hour) * time.Hour).UnixMilli()) }
		accounts := auth.New(db, now)
		books := newLedger(db, accounts, now, slog.New(slog.DiscardHandler))
		prices := func(plan, perDay string) {
			t.Helper()
			limits := auth.Limits{Prices: map[string]string{"hot_gib_month": perDay + "0", "fil": perDay}}
			if err := accounts.SetPlan(t.Context(), auth.Operator(), plan, limits); err != nil {
				t.Fatal(err)
			}
		}
		move := func(plan string) {
			t.Helper()
			if err := accounts.SetAccountPlan(t.Context(), auth.Operator(), "ann", plan); err != nil {
				t.Fatal(err)
			}
		}
		at(-1)
		prices("a", "3")
		prices("b", "6")
		ann, err := accounts.CreateAccount(t.Context(), auth.Operator(), "ann", "a")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := books.Credit(t.Context(), ann.ID, 100*ledger.Credit, "in", ""); err != nil {
			t.Fatal(err)
		}
		source := heldBy{[]int64{ann.ID}, day}
		at(6)
		prices("a", "6")
		at(12)
		prices("b", "9") // nobody's
		move("b")
		at(15)
		if err := books.Accrue(t.Context(), source); err != nil {
			t.Error(err)
		}
		at(18)
		move(auth.Trusted)
		at(21)
		prices("b", "72")
		at(23)
		move("b")
		at(26)
		prices("b", "3")
		for range 2 {
			if err := books.Accrue(t.Context(), source); err != nil {
				t.Error(err)
			}
		}
		for _, hour := range []int{3, 20, 23} {
			err := books.Count(t.Context(), ledger.Charge{
				Account: ann.ID, Kind: ledger.DealCost, Qty: big.NewInt(1e18), At: day.Add(time.Duration(hour)*time.Hour + 1), Key: fmt.Sprint(hour),
			})
			if err != nil {
				t.Error(err)
			}
		}
		const quarter = ledger.Credit / 4
		want := map[ledger.Kind]ledger.Amount{
			ledger.StorageHot: quarter + 2*quarter + 3*quarter + 0 + ledger.Credit,
			ledger.DealCost:   3*ledger.Credit + 0 + 72*ledger.Credit,
		}
		if diff := cmp.Diff(want, (&sponsored{&sponsor{books: books}, db}).spent(t, ann.ID)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestKeysOfPaymentsAreTheSameWithBlanksBetweenThem(t *testing.T) {
	c := Config{PaymentKeys: "0123456789abcdef, fedcba9876543210"}
	keys := c.paymentKeys()
	if len(keys) != 2 || string(keys[0]) != "0123456789abcdef" || string(keys[1]) != "fedcba9876543210" {
		t.Errorf("the keys are %q", keys)
	}
}
