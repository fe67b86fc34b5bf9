package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

type sponsored struct {
	*sponsor
	db *database.DB
}

func eachSponsor(t *testing.T, limits auth.Limits, fn func(t *testing.T, s *sponsored, account pins.Account)) {
	t.Helper()
	databasetest.Each(t, slices.Concat(auth.Migrations(), ledger.Migrations(), pins.Migrations()), func(t *testing.T, db *database.DB) {
		log := slog.New(slog.DiscardHandler)
		accounts := auth.New(db, time.Now)
		if err := accounts.SetPlan(t.Context(), auth.Operator(), "small", limits); err != nil {
			t.Fatal(err)
		}
		a, err := accounts.CreateAccount(t.Context(), auth.Operator(), "ann", "small")
		if err != nil {
			t.Fatal(err)
		}
		service := pins.New(pins.Config{FindSlice: time.Second, Slots: 1, FindRoots: 1}, db, pinstest.NewTier(), log, time.Now)
		who := newSponsor(accounts, newLedger(db, accounts, time.Now, log), func() *pins.Service { return service }, time.Now)
		fn(t, &sponsored{who, db}, pins.Account(a.ID))
	})
}

func TestDAGsStayWithinThePlan(t *testing.T) {
	eachSponsor(t, auth.Limits{DAGBytes: 1000, DAGBlocks: 10, Bytes: 900}, func(t *testing.T, s *sponsored, account pins.Account) {
		for _, c := range []struct {
			known pins.Extent
			want  string
		}{
			{pins.Extent{Blocks: 10, Bytes: 900}, ""},
			{pins.Extent{Blocks: 11, Bytes: 10}, "QUOTA_EXCEEDED: it has more than the 10 blocks"},
			{pins.Extent{Blocks: 1, Bytes: 1001}, "QUOTA_EXCEEDED: it has more than the 1000 bytes"},
			{pins.Extent{Blocks: 1, Bytes: 901}, "QUOTA_EXCEEDED: 0 bytes are held"},
		} {
			err := s.Carry(t.Context(), account, "pin", c.known, 0)
			var short *pins.ShortError
			if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &short) || !strings.HasPrefix(err.Error(), c.want)) {
				t.Errorf("%+v: %v, want %q", c.known, err, c.want)
			}
		}
	})
}

func TestWhatIsBeingFetchedIsSetAsideUntilItIsSettled(t *testing.T) {
	limits := auth.Limits{Prices: map[string]string{"hot_gib_month": "1024"}} // a credit for a MiB
	eachSponsor(t, limits, func(t *testing.T, s *sponsored, account pins.Account) {
		if _, _, err := s.books.Credit(t.Context(), int64(account), 100*ledger.Credit, "in", ""); err != nil {
			t.Fatal(err)
		}
		carry := func(pin pins.ID, mib int64) error {
			return s.Carry(t.Context(), account, pin, pins.Extent{Blocks: 1, Bytes: mib << 20}, 0)
		}
		holds := func(want ledger.Amount) {
			t.Helper()
			if b, err := s.books.Balance(t.Context(), int64(account)); err != nil || b.Holds != want*ledger.Credit {
				t.Errorf("%s is set aside, want %d: %v", b.Holds, want, err)
			}
		}
		if err := errors.Join(carry("a", 10), carry("a", 60), carry("b", 40)); err != nil {
			t.Fatal(err)
		}
		holds(100)
		var short *pins.ShortError
		if err := carry("b", 41); !errors.As(err, &short) || short.Reason != "INSUFFICIENT_FUNDS" {
			t.Errorf("more than there is: %v", err)
		}
		if err := s.Settle(t.Context(), []pins.ID{"a", "never"}); err != nil {
			t.Fatal(err)
		}
		holds(40)
		s.settleRest(t.Context(), slog.New(slog.DiscardHandler)) // no pin waits
		holds(0)
	})
}

// Sixty-four DAGs grow at once, on two servers, and share a balance that does not carry them all.
func TestWhatGrowsAtOnceIsNeverPromisedMoreThanThereIs(t *testing.T) {
	limits := auth.Limits{Prices: map[string]string{"hot_gib_month": "1024"}} // a credit for a MiB
	eachSponsor(t, limits, func(t *testing.T, s *sponsored, account pins.Account) {
		const have, floor = 100 * ledger.Credit, -20 * ledger.Credit
		if _, _, err := s.books.Credit(t.Context(), int64(account), have, "in", ""); err != nil {
			t.Fatal(err)
		}
		if err := s.books.SetFloor(t.Context(), int64(account), floor); err != nil {
			t.Fatal(err)
		}
		other := newSponsor(auth.New(s.db, time.Now), newLedger(s.db, s.accounts, time.Now, slog.New(slog.DiscardHandler)), s.pins, time.Now)
		var granted atomic.Int64 // MiB
		var writers sync.WaitGroup
		for i := range 64 {
			server := []*sponsor{s.sponsor, other}[i%2]
			writers.Go(func() {
				for mib := range int64(5) {
					err := server.Carry(t.Context(), account, pins.ID(fmt.Sprint("p", i)), pins.Extent{Blocks: 1, Bytes: (mib + 1) << 20}, 0)
					var short *pins.ShortError
					switch {
					case err == nil:
						granted.Add(1)
					case !errors.As(err, &short):
						t.Errorf("pin %d: %v", i, err)
					}
					b, err := s.books.Balance(t.Context(), int64(account))
					if err != nil || b.Available() < 0 {
						t.Errorf("%s of %s are promised: %v", b.Holds, b.Balance-b.Floor, err)
					}
				}
			})
		}
		writers.Wait()
		b, err := s.books.Balance(t.Context(), int64(account))
		if err != nil || granted.Load() != 120 || b.Holds != have-floor {
			t.Errorf("%d MiB were granted and %s is held, want 120: %v", granted.Load(), b.Holds, err)
		}
	})
}

func TestReadersAreSentWhatThePlanAllowsInAMonth(t *testing.T) {
	eachSponsor(t, auth.Limits{EgressBytes: 1000}, func(t *testing.T, s *sponsored, account pins.Account) {
		sent := func(kind ledger.Kind, bytes int64, at time.Time, key string) {
			t.Helper()
			err := s.books.Charge(t.Context(), ledger.Charge{Account: int64(account), Kind: kind, Qty: big.NewInt(bytes), At: at, Key: key})
			if err != nil {
				t.Fatal(err)
			}
		}
		sent(ledger.EgressHot, 5000, time.Now().AddDate(0, 0, -40), "long ago")
		sent(ledger.EgressHot, 500, time.Now(), "hot")
		sent(ledger.EgressCold, 499, time.Now(), "cold")
		if err := s.MayRead(t.Context(), account); err != nil {
			t.Errorf("999 of 1000 bytes: %v", err)
		}
		sent(ledger.EgressCold, 1, time.Now(), "the last")
		var over *pins.QuotaError
		if err := s.MayRead(t.Context(), account); !errors.As(err, &over) || !strings.Contains(over.Problem, "1000") {
			t.Errorf("1000 of 1000 bytes: %v", err)
		}
	})
}

func TestDealsAreForWhoeverHasAnythingLeft(t *testing.T) {
	eachSponsor(t, auth.Limits{Prices: map[string]string{"cold_gib_month": "1"}}, func(t *testing.T, s *sponsored, account pins.Account) {
		d := pinstest.Leaf("it")
		wish := deals.Wish{Root: d.Root, Terms: 7}
		wants := func(account pins.Account) {
			t.Helper()
			if _, err := s.pins().Add(t.Context(), account, spec.Request{CID: d.Root.String(), Root: d.Root}, pins.Decision{}); err != nil {
				t.Fatal(err)
			}
			err := s.db.Write(t.Context(), func(tx *gorm.DB) error { return tx.Exec(`UPDATE pins SET terms = 7`).Error })
			if err != nil {
				t.Fatal(err)
			}
		}
		pays := func(want bool) {
			t.Helper()
			if paid, err := s.Pays(t.Context(), wish); err != nil || paid != want {
				t.Errorf("somebody pays: %v, want %v: %v", paid, want, err)
			}
		}
		pays(true) // nobody is known to want it: nobody is short of anything
		wants(account)
		pays(false)
		if _, _, err := s.books.Credit(t.Context(), int64(account), 1, "in", ""); err != nil {
			t.Fatal(err)
		}
		pays(true)
		if _, _, err := s.books.Adjust(t.Context(), int64(account), -1, "out", ""); err != nil {
			t.Fatal(err)
		}
		pays(false)
		free, err := s.accounts.CreateAccount(t.Context(), auth.Operator(), "ben", auth.Trusted)
		if err != nil {
			t.Fatal(err)
		}
		wants(pins.Account(free.ID))
		pays(true)

		// A newer server has set a plan that this one cannot read, and an account is gone: of these nothing is known.
		err = s.db.Write(t.Context(), func(tx *gorm.DB) error {
			return tx.Exec(`UPDATE plans SET limits = '{' WHERE name = 'small'`).Error
		})
		if err != nil {
			t.Fatal(err)
		}
		wants(pins.Account(free.ID + 1))
		s.limits.Purge()
		pays(true)
		err = s.db.Write(t.Context(), func(tx *gorm.DB) error {
			return tx.Exec(`DELETE FROM pins WHERE account = ?`, free.ID).Error
		})
		if err != nil {
			t.Fatal(err)
		}
		pays(false)
	})
}
