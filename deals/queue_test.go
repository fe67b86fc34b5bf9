package deals_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"

	"github.com/frostpin/frostpin/deals"
)

// TestARenewalComesBeforeABacklogOfFirstCopies lets the only provider publish nothing more once it has one copy.
func TestARenewalComesBeforeABacklogOfFirstCopies(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		w.cfg.Global = 4
		w.cfg.Policy.RenewBefore = 180 * deals.EpochsPerDay // at its start
		w.make()
		w.start()
		kept := w.wish("kept", 1)
		w.untilActive(kept, 1)
		full := honest()
		full.NeverPublish = true
		w.net.Add(1000, full)
		var backlog []deals.Wish
		for i := range 30 {
			backlog = append(backlog, w.wish(fmt.Sprint("backlog ", i), 1))
		}
		begun := func() (n int) {
			for _, wish := range backlog {
				n += len(w.attempts(wish))
			}
			return n
		}
		w.until("as many as may are begun", time.Minute, func() bool { return begun() == 3 })
		w.until("the renewal is begun", time.Hour, func() bool { return len(w.attempts(kept)) == 2 })
		if n := begun(); n != 3 {
			t.Errorf("%d of the backlog were begun before it", n)
		}
		w.mustBeSound()
	})
}

// TestALostCopyIsReplacedBeforeABacklogOfFirstCopies has more first copies than may be begun.
func TestALostCopyIsReplacedBeforeABacklogOfFirstCopies(t *testing.T) {
	forLong(t, 2, func(t *testing.T, w *world) {
		w.cfg.Global = 4
		w.make()
		w.start()
		kept := w.wish("kept", 1)
		w.untilActive(kept, 1)
		full := honest()
		full.NeverPublish = true
		w.net.Add(1000, full)
		w.net.Add(1001, full)
		for i := range 30 {
			w.wish(fmt.Sprint("backlog ", i), 1)
		}
		pass(5 * time.Minute)
		if !w.net.Slash(w.attempts(kept)[0].Provider) {
			t.Fatal("nothing was slashed")
		}
		w.until("the loss is known", time.Hour, func() bool { return w.attempts(kept)[0].State == deals.Terminated })
		w.until("it is being replaced", 3*time.Minute, func() bool { return len(w.attempts(kept)) == 2 })
	})
}

// TestCopiesThatFindNoPlaceHideNoOthers fills one region, and puts a copy for another region behind many for that one.
func TestCopiesThatFindNoPlaceHideNoOthers(t *testing.T) {
	forLong(t, 0, func(t *testing.T, w *world) {
		w.cfg.PerProvider = 1
		w.make()
		full := honest()
		full.NeverPublish = true
		w.net.Add(1000, full)
		w.net.Add(1001, honest())
		registry := deals.NewRegistry(w.db, time.Now)
		for id, region := range map[deals.ProviderID]string{1000: "DE", 1001: "FR"} {
			if err := registry.Add(t.Context(), deals.Decision{ID: id, Region: region}); err != nil {
				t.Fatal(err)
			}
		}
		in := func(region string) deals.TermsID {
			id, err := w.Terms(t.Context(), deals.Terms{Replicas: 1, Days: 180, Regions: []string{region}})
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		wish := func(name string, terms deals.TermsID) deals.Wish {
			return w.want(deals.Wish{Root: w.blocks.add([]byte(name)), Terms: terms})
		}
		w.start()
		germany, france := in("DE"), in("FR")
		first := wish("first", france)
		w.until("the first is accepted", time.Minute, func() bool { return w.standing(first).Accepted == 1 })
		for i := range 400 {
			wish(fmt.Sprint("no place ", i), germany)
		}
		pass(15 * time.Second)
		second := wish("second", france)
		pass(15 * time.Second)
		if n := len(w.attempts(second)); n != 0 {
			t.Fatalf("%d deals were begun beside it", n)
		}
		w.until("the first is published", 10*time.Minute, func() bool { return !w.attempts(first)[0].PublishedAt.IsZero() })
		w.until("the second is begun", 40*time.Second, func() bool { return len(w.attempts(second)) == 1 })
	})
}

// TestACopyThatNobodyCanMakeIsLookedAtLessAndLess until something changes.
func TestACopyThatNobodyCanMakeIsLookedAtLessAndLess(t *testing.T) {
	forLong(t, 0, func(t *testing.T, w *world) {
		w.cfg.Policy.RetryMax = 6 * time.Hour
		w.make()
		terms, err := w.Record(t.Context(), deals.Terms{Replicas: 1, Days: 180})
		if err != nil {
			t.Fatal(err)
		}
		w.start()
		wish := w.want(deals.Wish{Root: w.blocks.add([]byte("x")), Terms: terms})
		looks, last := 0, time.Time{}
		for range 2 * 60 {
			pass(time.Minute)
			if next := w.standing(wish).NextAt; !next.Equal(last) {
				looks, last = looks+1, next
			}
		}
		if looks > 12 {
			t.Errorf("it was looked at %d times in two hours", looks)
		}
		w.net.Add(1000, honest())
		if err := deals.NewRegistry(w.db, time.Now).Add(t.Context(), deals.Decision{ID: 1000}); err != nil {
			t.Fatal(err)
		}
		w.until("the provider is used", 5*time.Minute, func() bool { return w.standing(wish).Accepted == 1 })
	})
}

// TestACopyThatNobodyPaysForIsLookedAtLessAndLess up to every half hour.
func TestACopyThatNobodyPaysForIsLookedAtLessAndLess(t *testing.T) {
	forLong(t, 1, func(t *testing.T, w *world) {
		var asked atomic.Int64
		var pays atomic.Bool
		w.Charge(func(context.Context, deals.Wish) (bool, error) {
			asked.Add(1)
			return pays.Load(), nil
		})
		w.start()
		wish := w.wish("x", 1)
		pass(10 * time.Hour)
		if n := asked.Load(); n < 18 || n > 24 {
			t.Errorf("it was asked %d times in ten hours whether anybody pays", n)
		}
		pays.Store(true)
		w.until("a deal is begun", 31*time.Minute, func() bool { return len(w.attempts(wish)) > 0 })
	})
}

// TestRenewalsWithABusyProviderHideNoneWithOthers has two copies of each DAG with two providers, of which one publishes no
// renewal, so that those with it soon have no place, and are the first to end.
func TestRenewalsWithABusyProviderHideNoneWithOthers(t *testing.T) {
	forLong(t, 2, func(t *testing.T, w *world) {
		w.cfg.Policy.StartDelay, w.cfg.Policy.Stuck = 20*deals.EpochsPerDay, 24*time.Hour // what stalls does so for 96 minutes
		w.cfg.Policy.RenewBefore = 178 * deals.EpochsPerDay                               // after 106 minutes
		w.make()
		w.start()
		var wishes []deals.Wish
		for i := range 40 {
			wishes = append(wishes, w.wish(fmt.Sprint(i), 2))
		}
		for _, wish := range wishes {
			w.untilActive(wish, 2)
		}
		full := honest()
		full.NeverPublish = true
		w.net.Add(1000, full)
		renewed := func() (n int) {
			for _, wish := range wishes {
				for _, a := range w.attempts(wish) {
					if a.Renews != 0 && a.Provider == 1001 && a.State == deals.Active {
						n++
					}
				}
			}
			return n
		}
		w.until("the other one has renewed all of its copies", 150*time.Minute, func() bool { return renewed() >= len(wishes) })
	})
}

// TestRenewalsThatWaitForMoneyHideNoCheaperOnes has more renewals of larger copies before them than a pass tries in vain.
func TestRenewalsThatWaitForMoneyHideNoCheaperOnes(t *testing.T) {
	forLong(t, 1, func(t *testing.T, w *world) {
		w.cfg.Policy.RenewBefore = 178 * deals.EpochsPerDay // 24 minutes after the first proposal
		w.cfg.Global, w.cfg.PerProvider = 512, 512
		w.make()
		w.start()
		var large []deals.Wish
		for i := range 8 * 17 { // of eight sizes, each more than once
			content := append([]byte(fmt.Sprint(i)), make([]byte, 4064<<(i%8))...)
			large = append(large, w.want(deals.Wish{Root: w.blocks.add(content), Terms: w.terms(1)}))
			pass(2 * time.Second) // so that each ends at another epoch
		}
		for _, wish := range large {
			w.untilActive(wish, 1)
		}
		cheap := w.wish("cheap", 1)
		w.untilActive(cheap, 1)
		spent := w.attempts(cheap)[0].Cost()
		for _, wish := range large {
			spent = big.Add(spent, w.attempts(wish)[0].Cost())
		}
		allow := func(most abi.TokenAmount) {
			w.stop()
			w.cfg.Caps.PerDay = most
			w.make()
			w.start()
		}
		allow(spent)
		w.until("all wait", time.Hour, func() bool { return w.standing(cheap).NextAt.Before(time.Now()) })
		pass(time.Minute)
		allow(big.Add(spent, big.Mul(w.attempts(cheap)[0].Cost(), big.NewInt(4))))
		w.until("the cheap one is being renewed", time.Hour, func() bool { return len(w.attempts(cheap)) == 2 })
		for _, wish := range large {
			if n := len(w.attempts(wish)); n != 1 {
				t.Fatalf("there are %d attempts of a large one", n)
			}
		}
	})
}

// TestCopiesThatCannotBePlannedHideNoOthers has more of them than a pass takes at once.
func TestCopiesThatCannotBePlannedHideNoOthers(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		w.cfg.PerProvider = 1
		w.make()
		var asked atomic.Int64
		bad := map[deals.Wish]bool{}
		w.Charge(func(_ context.Context, wish deals.Wish) (bool, error) {
			asked.Add(1)
			if bad[wish] {
				return false, errors.New("not to be read")
			}
			return true, nil
		})
		for i := range 70 {
			bad[w.wish(fmt.Sprint("bad ", i), 1)] = true
		}
		good := w.wish("good", 1)
		w.start()
		w.until("it is begun", 2*time.Minute, func() bool { return len(w.attempts(good)) == 1 })
		if n := asked.Load(); n > 71*40 {
			t.Errorf("it was asked %d times whether anybody pays", n)
		}
	})
}

// TestCopiesThatCannotBePlannedHideNoOthersInTheQueue has more of them there than are tried in vain.
func TestCopiesThatCannotBePlannedHideNoOthersInTheQueue(t *testing.T) {
	inWorld(t, 1, func(_ *testing.T, w *world) {
		w.cfg.PerProvider = 1
		w.make()
		var broken atomic.Bool
		bad := map[deals.Wish]bool{}
		w.Charge(func(_ context.Context, wish deals.Wish) (bool, error) {
			if broken.Load() && bad[wish] {
				return false, errors.New("not to be read")
			}
			return true, nil
		})
		w.start()
		first := w.wish("first", 1)
		w.until("the first is accepted", time.Minute, func() bool { return w.standing(first).Accepted == 1 })
		for i := range 20 {
			bad[w.want(deals.Wish{Root: w.blocks.add(fmt.Append(nil, "bad ", i)), Terms: first.Terms})] = true
		}
		pass(20 * time.Second)
		broken.Store(true)
		good := w.wish("good", 1)
		w.until("it is begun", time.Hour, func() bool { return len(w.attempts(good)) == 1 })
	})
}
