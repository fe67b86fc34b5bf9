package pins_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// A refused is a world that has one DAG that several accounts have pinned and none can have: alice has no room, the others no money.
type refused struct {
	*world
	purses *purses
	told   *reasons
	dag    pinstest.DAG
	pins   map[pins.Account]pins.Pin
}

// reasons are a journal that keeps what each account was told why a pin has failed; 0: all.
type reasons struct {
	mu   sync.Mutex
	told map[pins.Account]string
}

func (r *reasons) Record(ctx context.Context, root cid.Cid, _ deals.TermsID, kind string, data map[string]any) error {
	return r.RecordFor(ctx, 0, root, kind, data)
}

func (r *reasons) RecordFor(_ context.Context, account pins.Account, _ cid.Cid, kind string, data map[string]any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if kind == pins.KindFailed {
		r.told[account] = fmt.Sprint(data["reason"])
	}
	return nil
}

func (r *reasons) all() map[pins.Account]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.told)
}

const noRoom, noMoney = "QUOTA_EXCEEDED: the store is full", "INSUFFICIENT_FUNDS: the purse is empty"

func ownReason(account pins.Account) string {
	if account == alice {
		return noRoom
	}
	return noMoney
}

// eachRefused has the accounts ask in this order. The reason of the last one is that of the root.
func eachRefused(t *testing.T, accounts []pins.Account, test func(t *testing.T, w *refused)) {
	t.Helper()
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		w := &refused{
			purses: newPurses(), told: &reasons{told: map[pins.Account]string{}},
			dag: pinstest.Tree("too much for all", 3), pins: map[pins.Account]pins.Pin{},
		}
		w.purses.fill(alice, true)
		cfg := config()
		cfg.Sponsor, cfg.Journal = w.purses, w.told
		w.world = newWorld(t, db, pinstest.NewTier(), cfg)
		w.tier.AddNetwork(w.dag.Blocks...)
		for _, account := range accounts {
			w.pins[account] = w.add(account, request(w.dag.Root))
		}
		w.start()
		for _, pin := range w.pins {
			w.untilStatus(pin, spec.Failed)
		}
		if recorded, want := w.rootReason(), ownReason(accounts[len(accounts)-1]); recorded != want {
			t.Fatalf("the root says %q, not %q, so that this proves nothing", recorded, want)
		}
		test(t, w)
	})
}

func (w *refused) rootReason() string {
	w.t.Helper()
	reason, err := pins.ReasonOf(w.t.Context(), w.Service, w.dag.Root)
	if err != nil {
		w.t.Fatal(err)
	}
	return reason
}

// mustKeep looks how many accounts' reasons are kept beside that of the root.
func (w *refused) mustKeep(want int) {
	w.t.Helper()
	if n, err := pins.Refusals(w.t.Context(), w.Service); err != nil || n != want {
		w.t.Errorf("%d reasons are kept, %v; want %d", n, err, want)
	}
}

// inEitherOrder has alice's reason be that of the root, or bob's.
func inEitherOrder(t *testing.T, test func(t *testing.T, w *refused)) {
	t.Helper()
	for name, accounts := range map[string][]pins.Account{"alice last": {bob, alice}, "bob last": {alice, bob}} {
		t.Run(name, func(t *testing.T) { eachRefused(t, accounts, test) })
	}
}

func TestEachAccountSeesItsOwnReasonWhyItCannotHaveADAG(t *testing.T) {
	inEitherOrder(t, func(t *testing.T, w *refused) {
		failed, byCID := all(), all()
		failed.Statuses = []spec.Status{spec.Failed}
		byCID.CIDs = []cid.Cid{w.dag.Root}
		for account, pin := range w.pins {
			want := ownReason(account)
			if got := w.get(pin); got.DAG.Reason != want || !strings.Contains(got.Info()["status_details"], want) {
				t.Errorf("account %d sees %q, want %q", account, got.Info()["status_details"], want)
			}
			for name, q := range map[string]spec.Query{"all": all(), "failed": failed, "by cid": byCID} {
				page := w.list(account, q)
				for _, got := range page.Pins {
					if got.DAG.Reason != want {
						t.Errorf("account %d sees %q in the list %s, want %q", account, got.DAG.Reason, name, want)
					}
				}
				if len(page.Pins) != 1 {
					t.Errorf("the list %s has %d pins", name, len(page.Pins))
				}
			}
		}
	})
}

func TestEachAccountIsToldItsOwnReasonByAnEvent(t *testing.T) {
	inEitherOrder(t, func(t *testing.T, w *refused) {
		if got, want := w.told.all(), (map[pins.Account]string{alice: noRoom, bob: noMoney}); !maps.Equal(got, want) {
			t.Errorf("was told %v, want %v", got, want)
		}
	})
}

func TestReasonsOfAccountsGoWithTheRefusal(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, w *refused){
		"it is asked for again and fetched": func(t *testing.T, w *refused) {
			w.purses.give(bob, w.dag.Size())
			w.add(bob, named(w.dag.Root, "again"))
			for _, pin := range w.pins {
				if got := w.untilStatus(pin, spec.Pinned); got.DAG.Reason != "" {
					t.Errorf("a pin that is held says %q", got.DAG.Reason)
				}
			}
		},
		"it is refused again, to all for the same": func(t *testing.T, w *refused) {
			w.purses.fill(alice, false)
			again := w.add(bob, named(w.dag.Root, "again"))
			w.untilStatus(again, spec.Failed)
			for account, pin := range w.pins {
				if got := w.untilStatus(pin, spec.Failed).DAG.Reason; got != noMoney {
					t.Errorf("account %d sees %q", account, got)
				}
			}
		},
		"its content is blocked": func(t *testing.T, w *refused) {
			w.block(w.dag.Root)
			for account, pin := range w.pins {
				w.until("it says so", func() bool { return strings.HasPrefix(w.get(pin).DAG.Reason, pins.ReasonBlocked) })
				if got := w.list(account, all()).Pins[0].DAG.Reason; !strings.HasPrefix(got, pins.ReasonBlocked) {
					t.Errorf("account %d sees %q in a list", account, got)
				}
			}
		},
		"nobody pins it": func(_ *testing.T, w *refused) {
			for _, pin := range w.pins {
				w.delete(pin)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachRefused(t, []pins.Account{alice, bob}, func(t *testing.T, w *refused) {
				w.mustKeep(2)
				end(t, w)
				w.mustKeep(0)
			})
		})
	}
}

func TestNoReasonIsKeptBesideThatOfTheRootWhereAllHaveTheSame(t *testing.T) {
	for name, accounts := range map[string][]pins.Account{"one account": {alice}, "two": {bob, 3}} {
		t.Run(name, func(t *testing.T) {
			eachRefused(t, accounts, func(t *testing.T, w *refused) {
				w.mustKeep(0)
				if got, want := w.told.all(), (map[pins.Account]string{0: ownReason(accounts[0])}); !maps.Equal(got, want) {
					t.Errorf("was told %v, want %v", got, want)
				}
			})
		})
	}
}

func TestEachOfManyAccountsSeesItsOwnReason(t *testing.T) {
	var accounts []pins.Account
	for i := range 150 { // of several inserts, and more than are asked at once
		accounts = append(accounts, pins.Account(150-i))
	}
	eachRefused(t, accounts, func(t *testing.T, w *refused) {
		w.mustKeep(len(accounts))
		for account, pin := range w.pins {
			if got := w.get(pin).DAG.Reason; got != ownReason(account) {
				t.Errorf("account %d sees %q", account, got)
			}
		}
		for account, told := range w.told.all() {
			if account != 0 || strings.Contains(told, noRoom) || strings.Contains(told, noMoney) {
				t.Errorf("account %d was told %q", account, told)
			}
		}
	})
}

// Whichever reason the root tells.
func TestMoneyTriesAgainWhatAnAccountItselfHadNoMoneyFor(t *testing.T) {
	inEitherOrder(t, func(t *testing.T, w *refused) {
		w.purses.give(bob, w.dag.Size())
		w.purses.give(alice, w.dag.Size())
		if err := w.Retry(t.Context(), alice, spec.ReasonInsufficientFunds); err != nil {
			t.Fatal(err)
		}
		for _, pin := range w.pins {
			if status := w.get(pin).Status(); status != spec.Failed {
				t.Errorf("with money of an account that had no room it is %s", status)
			}
		}
		if err := w.Retry(t.Context(), bob, spec.ReasonInsufficientFunds); err != nil {
			t.Fatal(err)
		}
		for _, pin := range w.pins {
			w.untilStatus(pin, spec.Pinned)
		}
	})
}
