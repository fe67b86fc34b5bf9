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

	"github.com/ipfs/go-cid"
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
			{pins.Extent{Blocks: 1, Bytes: 901}, "QUOTA_EXCEEDED: with the 901 bytes that are known of it more would be held than the plan allows"},
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
		ids := map[string]pins.ID{"a": s.waits(t, account, "a"), "b": s.waits(t, account, "b")}
		carry := func(pin string, mib int64) error {
			return s.Carry(t.Context(), account, ids[pin], pins.Extent{Blocks: 1, Bytes: mib << 20}, 0)
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
		// Others who have pinned the DAG may read it, so it does not say what this account has.
		const told = "INSUFFICIENT_FUNDS: the balance does not carry 30 days of the 42991616 bytes that are known of it"
		if err := carry("b", 41); !errors.As(err, &short) || short.Error() != told {
			t.Errorf("more than there is: %v", err)
		}
		if err := s.Settle(t.Context(), []pins.ID{ids["a"], "never"}); err != nil {
			t.Fatal(err)
		}
		holds(40)
		s.settleRest(t.Context(), slog.New(slog.DiscardHandler))
		holds(40)
		if err := s.pins().Delete(t.Context(), account, ids["b"]); err != nil {
			t.Fatal(err)
		}
		s.settleRest(t.Context(), slog.New(slog.DiscardHandler)) // no pin waits
		holds(0)
	})
}

// What is set aside for a pin that has gone is found behind however many that wait.
func TestWhatIsSetAsideForNothingKeepsNobodyOut(t *testing.T) {
	limits := auth.Limits{Prices: map[string]string{"hot_gib_month": "1024"}} // a credit for a MiB
	eachSponsor(t, limits, func(t *testing.T, s *sponsored, account pins.Account) {
		if _, _, err := s.books.Credit(t.Context(), int64(account), 100*ledger.Credit, "in", ""); err != nil {
			t.Fatal(err)
		}
		for i := range holdsAtOnce {
			id := s.waits(t, account, fmt.Sprint("waits", i))
			if err := s.Carry(t.Context(), account, id, pins.Extent{Blocks: 1, Bytes: 1}, 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Carry(t.Context(), account, "zz gone", pins.Extent{Blocks: 1, Bytes: 90 << 20}, 0); err != nil {
			t.Fatal(err)
		}
		if err := s.Carry(t.Context(), account, s.waits(t, account, "large"), pins.Extent{Blocks: 1, Bytes: 50 << 20}, 0); err != nil {
			t.Errorf("beside what is set aside for a pin that has gone: %v", err)
		}
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
			server, id := []*sponsor{s.sponsor, other}[i%2], s.waits(t, account, fmt.Sprint("p", i))
			writers.Go(func() {
				for mib := range int64(5) {
					err := server.Carry(t.Context(), account, id, pins.Extent{Blocks: 1, Bytes: (mib + 1) << 20}, 0)
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

// holds adds a pin of a DAG that is taken for one of so many bytes.
func (s *sponsored) holds(t *testing.T, account pins.Account, root cid.Cid, bytes int64) pins.Pin {
	t.Helper()
	p, err := s.pins().Add(t.Context(), account, spec.Request{CID: root.String(), Root: root}, pins.Decision{})
	if err != nil {
		t.Fatal(err)
	}
	err = s.db.Write(t.Context(), func(tx *gorm.DB) error {
		return errors.Join(tx.Exec(`UPDATE roots SET hot = 'held', bytes = ?, claimed_by = '' WHERE cid = ?`, bytes, root.String()).Error,
			tx.Exec(`INSERT INTO holdings (pin, root_id, account, bytes, hot, copies, since_s)
				SELECT p.id, r.id, p.account, r.bytes, 1, 0, ? FROM pins p JOIN roots r ON r.id = p.root_id WHERE p.id = ?`,
				time.Now().Add(-48*time.Hour).Unix(), p.ID).Error)
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (s *sponsored) replaces(t *testing.T, old pins.Pin, root cid.Cid) pins.Pin {
	t.Helper()
	p, err := s.pins().Replace(t.Context(), old.Account, old.ID, spec.Request{CID: root.String(), Root: root}, pins.Decision{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A pin of nine tenths of the quota is replaced by another of that size again and again, as Kubo does, with nothing to pay with
// beyond the allowance.
func TestPinIsReplacedWithinQuotaAndAllowanceHoweverLargeItIs(t *testing.T) {
	limits := auth.Limits{Bytes: 10 << 20, Prices: map[string]string{"hot_gib_month": "1024", "free_hot_gib_month": "0.009765625"}} // 10 MiB
	eachSponsor(t, limits, func(t *testing.T, s *sponsored, account pins.Account) {
		carry := func(p pins.Pin, mib int64) error {
			return s.Carry(t.Context(), account, p.ID, pins.Extent{Blocks: 1, Bytes: mib << 20}, 0)
		}
		old := pinstest.Leaf("old").Root
		p := s.holds(t, account, old, 9<<20)
		for i := range 5 {
			p = s.replaces(t, p, pinstest.Leaf(fmt.Sprint("next", i)).Root)
			for mib := range int64(10) {
				if err := carry(p, mib+1); err != nil {
					t.Fatalf("%d MiB of the next: %v", mib+1, err)
				}
			}
		}
		if mine, err := s.pins().KeptFor(t.Context(), account, p.ID); mine != 9<<20 || err != nil {
			t.Errorf("%d bytes of the old one are kept: %v", mine, err)
		}
		var short *pins.ShortError
		if err := carry(p, 11); !errors.As(err, &short) {
			t.Errorf("more than the plan allows: %v", err)
		}
	})
}

// tenMiB are the ways to have no more than that with no money.
var tenMiB = map[string]auth.Limits{
	"quota":     {Bytes: 10 << 20},
	"allowance": {Prices: map[string]string{"hot_gib_month": "1024", "free_hot_gib_month": "0.009765625"}},
}

// What one pin has replaced must not keep another from its place in the quota or in the allowance, nor both be had.
func TestReplacedDAGsGiveWayToWhatIsFetched(t *testing.T) {
	for name, limits := range tenMiB {
		t.Run(name, func(t *testing.T) {
			eachSponsor(t, limits, func(t *testing.T, s *sponsored, account pins.Account) {
				s.replaces(t, s.holds(t, account, pinstest.Leaf("old").Root, 6<<20), pinstest.Leaf("nobody has it").Root)
				for _, c := range []struct{ mib, kept int64 }{{4, 6}, {5, 0}, {10, 0}} {
					if err := s.Carry(t.Context(), account, "other", pins.Extent{Blocks: 1, Bytes: c.mib << 20}, 0); err != nil {
						t.Errorf("%d MiB beside 6: %v", c.mib, err)
					}
					if others, err := s.pins().CanYield(t.Context(), account, ""); others != c.kept<<20 || err != nil {
						t.Errorf("%d bytes are kept beside %d MiB, want %d MiB: %v", others, c.mib, c.kept, err)
					}
				}
				var short *pins.ShortError
				if err := s.Carry(t.Context(), account, "other", pins.Extent{Blocks: 1, Bytes: 11 << 20}, 0); !errors.As(err, &short) {
					t.Errorf("more than the plan allows: %v", err)
				}
			})
		})
	}
}

// Neither for what is not within the plan, nor for what is and is not paid for.
func TestNothingThatWasReplacedIsLetGoForWhatCannotBeFetched(t *testing.T) {
	const dear = "1024" // a credit for a MiB
	for name, c := range map[string]struct {
		limits auth.Limits
		mib    int64
		reason string
	}{
		"quota":     {auth.Limits{Bytes: 10 << 20}, 11, spec.ReasonQuotaExceeded},
		"allowance": {auth.Limits{Prices: map[string]string{"hot_gib_month": dear, "free_hot_gib_month": "0.009765625"}}, 11, spec.ReasonInsufficientFunds},
		"price":     {auth.Limits{Bytes: 10 << 20, Prices: map[string]string{"hot_gib_month": dear}}, 6, spec.ReasonInsufficientFunds},
	} {
		t.Run(name, func(t *testing.T) {
			eachSponsor(t, c.limits, func(t *testing.T, s *sponsored, account pins.Account) {
				s.replaces(t, s.holds(t, account, pinstest.Leaf("old").Root, 6<<20), pinstest.Leaf("nobody has it").Root)
				var short *pins.ShortError
				err := s.Carry(t.Context(), account, s.waits(t, account, "other"), pins.Extent{Blocks: 1, Bytes: c.mib << 20}, 0)
				if !errors.As(err, &short) || short.Reason != c.reason {
					t.Errorf("%d MiB: %v", c.mib, err)
				}
				if kept, err := s.pins().CanYield(t.Context(), account, ""); kept != 6<<20 || err != nil {
					t.Errorf("%d bytes are kept: %v", kept, err)
				}
			})
		})
	}
}

// What has to go for the quota is counted no more where the allowance is.
func TestNoMoreOfWhatWasReplacedGoesThanMust(t *testing.T) {
	limits := auth.Limits{Bytes: 10 << 20, Prices: map[string]string{"hot_gib_month": "1024", "free_hot_gib_month": "0.009765625"}} // 10 MiB
	eachSponsor(t, limits, func(t *testing.T, s *sponsored, account pins.Account) {
		for _, name := range []string{"first", "second"} {
			s.replaces(t, s.holds(t, account, pinstest.Leaf(name).Root, 4<<20), pinstest.Leaf("instead of "+name).Root)
		}
		if err := s.Carry(t.Context(), account, s.waits(t, account, "other"), pins.Extent{Blocks: 1, Bytes: 5 << 20}, 0); err != nil {
			t.Fatal(err)
		}
		if kept, err := s.pins().CanYield(t.Context(), account, ""); kept != 4<<20 || err != nil {
			t.Errorf("%d bytes are kept: %v", kept, err)
		}
	})
}

// Another server has had the replaced DAG give way since this one has added up.
func TestPinIsNotRefusedForWhatHasGivenWayAlready(t *testing.T) {
	for name, limits := range tenMiB {
		t.Run(name, func(t *testing.T) {
			eachSponsor(t, limits, func(t *testing.T, s *sponsored, account pins.Account) {
				s.replaces(t, s.holds(t, account, pinstest.Leaf("old").Root, 6<<20), pinstest.Leaf("nobody has it").Root)
				other := pins.New(pins.Config{FindSlice: time.Second, Slots: 1, FindRoots: 1}, s.db, pinstest.NewTier(), slog.New(slog.DiscardHandler), time.Now)
				_, err := s.pins().Usage(t.Context(), account)
				_, problem := s.pins().Stock(t.Context(), account)
				freed, failed := other.GiveWay(t.Context(), account, "", pins.AllKept)
				if err := errors.Join(err, problem, failed); freed != 6<<20 || err != nil {
					t.Fatalf("%d have given way: %v", freed, err)
				}
				if err := s.Carry(t.Context(), account, "other", pins.Extent{Blocks: 1, Bytes: 9 << 20}, 0); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestReplacedDAGIsChargedWhileItIsKept(t *testing.T) {
	limits := auth.Limits{Prices: map[string]string{"hot_gib_month": "1024"}}
	eachSponsor(t, limits, func(t *testing.T, s *sponsored, account pins.Account) {
		if _, _, err := s.books.Credit(t.Context(), int64(account), 100*ledger.Credit, "in", ""); err != nil {
			t.Fatal(err)
		}
		old := s.holds(t, account, pinstest.Leaf("old").Root, 30<<20) // a credit a day
		p := s.replaces(t, old, pinstest.Leaf("nobody has it").Root)
		occupied := pins.Holding{}
		for h, err := range s.pins().Holdings(t.Context(), true) {
			if occupied = h; err != nil {
				t.Fatal(err)
			}
		}
		if occupied.Pin != old.ID || !occupied.Hot || occupied.Bytes != 30<<20 || !occupied.Until.IsZero() {
			t.Errorf("while it is kept there is %+v", occupied)
		}
		if err := s.pins().Delete(t.Context(), account, p.ID); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := s.books.Accrue(t.Context(), stored{s.pins(), true}); err != nil {
				t.Fatal(err)
			}
		}
		cost, err := s.books.CostOf(t.Context(), int64(account), string(old.ID))
		if most := 2*ledger.Credit + ledger.Credit/100; err != nil || cost < 2*ledger.Credit-1000 || cost > most {
			t.Errorf("two days have cost %s: %v", cost, err)
		}
		if stock, err := s.pins().Stock(t.Context(), account); stock != (pins.Stock{}) || err != nil {
			t.Errorf("%+v goes on to cost: %v", stock, err)
		}
	})
}

// waits adds a pin that waits for its data.
func (s *sponsored) waits(t *testing.T, account pins.Account, name string) pins.ID {
	t.Helper()
	root := pinstest.Leaf(name).Root
	p, err := s.pins().Add(t.Context(), account, spec.Request{CID: root.String(), Root: root}, pins.Decision{})
	if err != nil {
		t.Fatal(err)
	}
	return p.ID
}

// Each of them alone is within the allowance.
func TestFetchesThatRunAtOnceShareTheAllowance(t *testing.T) {
	limits := auth.Limits{Prices: map[string]string{"hot_gib_month": "1024", "free_hot_gib_month": "0.009765625"}} // 10 MiB
	eachSponsor(t, limits, func(t *testing.T, s *sponsored, account pins.Account) {
		ids := []pins.ID{s.waits(t, account, "one"), s.waits(t, account, "two")}
		carry := func(i int, mib int64) error {
			return s.Carry(t.Context(), account, ids[i], pins.Extent{Blocks: 1, Bytes: mib << 20}, 0)
		}
		if err := errors.Join(carry(0, 6), carry(1, 4)); err != nil {
			t.Fatal(err)
		}
		var short *pins.ShortError
		if err := carry(1, 5); !errors.As(err, &short) || short.Reason != spec.ReasonInsufficientFunds {
			t.Errorf("11 MiB of 10 at zero: %v", err)
		}
		if _, _, err := s.books.Credit(t.Context(), int64(account), 3*ledger.Credit, "in", ""); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(carry(1, 5), carry(0, 7), carry(1, 6)); err != nil {
			t.Errorf("13 MiB of 10, and 3 paid for: %v", err)
		}
		if b, err := s.books.Balance(t.Context(), int64(account)); err != nil || b.Holds != 3*ledger.Credit {
			t.Errorf("%s is set aside: %v", b.Holds, err)
		}
		if err := carry(0, 8); !errors.As(err, &short) {
			t.Errorf("14 MiB of 13: %v", err)
		}
		// What was set aside for a pin that has gone does not count.
		if err := s.pins().Delete(t.Context(), account, ids[1]); err != nil {
			t.Fatal(err)
		}
		if err := carry(0, 13); err != nil {
			t.Errorf("13 MiB alone: %v", err)
		}
	})
}
