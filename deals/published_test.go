package deals_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/filecoin-project/go-state-types/abi"

	"github.com/frostpin/frostpin/deals"
)

// A listing chain notes when which deals are looked up at the head, and tells of more that nobody knows.
type listing struct {
	deals.Chain
	strangers int // with ids from 10,000 on
	mu        sync.Mutex
	looked    map[abi.DealID]int
	at        map[time.Time]int
}

func (l *listing) Deal(ctx context.Context, id abi.DealID, final bool) (deals.OnChain, bool, error) {
	if !final {
		l.mu.Lock()
		l.looked[id]++
		l.at[time.Now()]++
		l.mu.Unlock()
	}
	return l.Chain.Deal(ctx, id, final)
}

func (l *listing) Events(ctx context.Context, from deals.Epoch) ([]deals.Publication, deals.Epoch, error) {
	all, read, err := l.Chain.Events(ctx, from)
	for i := range l.strangers {
		all = append(all, deals.Publication{Deal: abi.DealID(10_000 + i)}) //nolint:gosec // a small number
	}
	return all, read, err
}

func (l *listing) seen(id abi.DealID) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.looked[id]
}

// listed replaces the service by a new one, as a new process does, whose lookups are noted.
func (w *world) listed(strangers int) *listing {
	w.stop()
	l := &listing{Chain: w.net, strangers: strangers, looked: map[abi.DealID]int{}, at: map[time.Time]int{}}
	w.chain = l
	w.make()
	w.start()
	return l
}

func TestAStartLooksUpNoDealThatIsOnRecord(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.start()
		wish := w.wish("x", 3)
		w.untilActive(wish, 3)
		l := w.listed(1)
		w.until("the events are read", time.Hour, func() bool { return l.seen(10_000) > 0 })
		for _, a := range w.attempts(wish) {
			if n := l.seen(a.DealID); n > 0 {
				t.Errorf("deal %d, which is on record, is looked up %d times", a.DealID, n)
			}
		}
	})
}

func TestAPassLooksUpNoMoreDealsThanItMay(t *testing.T) {
	forLong(t, 1, func(t *testing.T, w *world) {
		const strangers = 3000
		l := w.listed(strangers)
		w.until("the last one is looked up", time.Hour, func() bool { return l.seen(10_000+strangers-1) > 0 })
		l.mu.Lock()
		for at, n := range l.at {
			if n > 512 {
				t.Errorf("%d deals are looked up in the pass of %s", n, at)
			}
		}
		l.mu.Unlock()
		wish := w.wish("x", 1) // and what comes later is found all the same
		mute := honest()
		mute.Silent = true
		w.net.Add(1000, mute)
		w.untilActive(wish, 1)
	})
}

// A deaf chain fails to tell which deals were published.
type deaf struct {
	deals.Chain
	deaf atomic.Bool
}

func (d *deaf) Events(ctx context.Context, from deals.Epoch) ([]deals.Publication, deals.Epoch, error) {
	if d.deaf.Load() {
		return nil, from, errors.New("no answer within a minute")
	}
	return d.Chain.Events(ctx, from)
}

func TestWhatWasGivenUpIsRefundedThoughEventsAreNeverRead(t *testing.T) {
	forLong(t, 1, func(t *testing.T, w *world) {
		bad := honest()
		bad.GiveUp = true
		w.net.Add(1000, bad)
		chain := &deaf{Chain: w.net}
		chain.deaf.Store(true)
		w.chain = chain
		var logged bytes.Buffer
		w.log = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelWarn}))
		w.make()
		w.start()
		wish := w.wish("x", 1)
		late := w.untilGivenUp(wish, 1000)
		pass(time.Duration(late.Start+deals.EventsReach-w.net.Height()) * epoch)
		if a := w.attempt(wish, late.ID); a.Reserved.Sign() == 0 {
			t.Error("it is refunded while the events that may name it can still be read")
		}
		w.until("it is refunded", time.Hour, func() bool { return w.attempt(wish, late.ID).Reserved.Sign() == 0 })
		w.stop()
		if n := strings.Count(logged.String(), "events of the market cannot be read"); n != 1 {
			t.Errorf("that the events cannot be read is told %d times", n)
		}
		w.mustBeSound()
	})
}

// A vague chain fails to tell what the deal of a stranger is.
type vague struct {
	*listing
	vague atomic.Bool
}

func (v *vague) Deal(ctx context.Context, id abi.DealID, final bool) (deals.OnChain, bool, error) {
	if id == 10_000 && v.vague.Load() {
		return deals.OnChain{}, false, deals.ErrChain
	}
	return v.listing.Deal(ctx, id, final)
}

func TestNothingIsRefundedWhileAPublishedDealCannotBeLookedUp(t *testing.T) {
	forLong(t, 1, func(t *testing.T, w *world) {
		bad := honest()
		bad.GiveUp = true
		w.net.Add(1000, bad)
		chain := &vague{listing: &listing{Chain: w.net, strangers: 2, looked: map[abi.DealID]int{}, at: map[time.Time]int{}}}
		chain.vague.Store(true)
		w.chain = chain
		w.make()
		w.start()
		wish := w.wish("x", 1)
		late := w.untilGivenUp(wish, 1000)
		pass(time.Duration(late.Start+2*deals.EpochsPerDay-w.net.Height()) * epoch)
		if a := w.attempt(wish, late.ID); a.Reserved.Sign() == 0 {
			t.Error("it is refunded, and may be the deal that was published")
		}
		chain.vague.Store(false)
		w.until("it is refunded", time.Hour, func() bool { return w.attempt(wish, late.ID).Reserved.Sign() == 0 })
		w.mustBeSound()
	})
}

func TestADealThatWaitsForAnotherIsTakenUpAsSoonAsThatIsOver(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		w.cfg.Policy.RetryFirst, w.cfg.Policy.PollSlow = 30*time.Second, 20*time.Minute
		w.make()
		never := honest()
		never.NeverPublish = true
		wish, first := w.askedAgain(never)
		w.until("the first is on chain", time.Hour, func() bool { return len(w.net.Deals()) == 1 })
		w.until("the other is under way", time.Hour, func() bool {
			all := w.attempts(wish)
			return len(all) == 2 && all[1].State == deals.Transferring
		})
		w.stop()
		w.make()
		w.start()
		pass(time.Minute) // the first round has read the event; the next one comes too late
		w.net.Add(1001, honest())
		if err := deals.NewRegistry(w.db, time.Now).Add(t.Context(), deals.Decision{ID: 1001}); err != nil {
			t.Fatal(err)
		}
		never.GiveUp = true
		w.net.Add(1000, never)
		w.untilActive(wish, 1)
		pass(time.Minute)
		if got, want := w.states(wish), []deals.State{deals.Active, deals.Failed}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if a := w.attempt(wish, first.ID); a.State != deals.Active {
			t.Errorf("the first is %s", a.State)
		}
		w.mustBeSound()
	})
}
