package hooks

import (
	"context"
	"sync"

	"github.com/frostpin/frostpin/auth/events"
)

const (
	atOnce      = 64  // hooks that are called at the same time
	ofOneAtOnce = 4   // of one account, so that its slow ones take the places of its own only
	listed      = 256 // that are looked up at once; more than atOnce, or a look may find none that is not busy
)

// A crew calls hooks, some at the same time. A place that becomes free goes to the hook that has waited longest and whose
// account has not got its share already: nobody waits for the slow ones of others. It is used by one goroutine.
type crew struct {
	s       *Service
	working sync.WaitGroup
	ended   chan turn

	busy    map[string]struct{} // hooks
	share   map[int64]int       // of each account, how many of them
	waiting []turn              // found by the last look, those that wait longest first
	last    events.Position     // up to where something had happened then
	stale   bool                // there may be more than it has found
}

// A turn is the work for one hook.
type turn struct {
	hook    string
	account int64
	failed  bool
}

func (s *Service) newCrew() *crew {
	return &crew{s: s, ended: make(chan turn, atOnce), busy: map[string]struct{}{}, share: map[int64]int{}}
}

// look starts all that may start now.
func (c *crew) look(ctx context.Context) error {
	for {
		c.start(ctx)
		if !c.stale || len(c.busy) == atOnce || ctx.Err() != nil {
			return ctx.Err()
		}
		c.stale = false
		var err error
		if c.last, err = c.s.events.Last(ctx); err != nil {
			return err
		}
		if c.waiting, err = c.s.due(ctx, c.last.Seq, c.full(), listed); err != nil {
			return err
		}
		// Where all places of the list are one account's, others may wait behind it.
		c.stale = len(c.waiting) == listed
	}
}

// full returns the accounts that have their share.
func (c *crew) full() (accounts []int64) {
	for account, n := range c.share {
		if n == ofOneAtOnce {
			accounts = append(accounts, account)
		}
	}
	return accounts
}

// start begins the turns of those that wait, as far as there are places.
func (c *crew) start(ctx context.Context) {
	still := c.waiting[:0]
	for _, t := range c.waiting {
		if _, busy := c.busy[t.hook]; busy {
			continue // it was told to replay during its turn, and is found again when that is over
		}
		if len(c.busy) == atOnce || c.share[t.account] == ofOneAtOnce {
			still = append(still, t)
			continue
		}
		c.busy[t.hook] = struct{}{}
		c.share[t.account]++
		last := c.last
		c.working.Go(func() {
			if err := c.s.serve(ctx, t.hook, last); err != nil {
				if t.failed = true; ctx.Err() == nil {
					c.s.log.Warn("calling a webhook; it is tried again", "webhook", t.hook, "err", err)
				}
			}
			c.ended <- t
		})
	}
	c.waiting = still
}

// end notes that a turn is over. What is found again at once after it failed would be tried without end: that is left to
// the next look.
func (c *crew) end(t turn) {
	delete(c.busy, t.hook)
	if c.share[t.account]--; c.share[t.account] == 0 {
		delete(c.share, t.account)
	}
	c.stale = c.stale || !t.failed && !c.next(t.account)
}

// next tells whether one that waits can have the place of an account's hook.
func (c *crew) next(account int64) bool {
	for _, t := range c.waiting {
		if t.account == account || c.share[t.account] < ofOneAtOnce {
			return true
		}
	}
	return false
}
