package deals_test

import (
	"context"
	"sync"
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

func (l *listing) Events(ctx context.Context, from deals.Epoch) ([]deals.Publication, error) {
	all, err := l.Chain.Events(ctx, from)
	for i := range l.strangers {
		all = append(all, deals.Publication{Deal: abi.DealID(10_000 + i)}) //nolint:gosec // a small number
	}
	return all, err
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
