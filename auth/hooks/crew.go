package hooks

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/frostpin/frostpin/auth/events"
)

const (
	atOnce      = 64 // hooks that are called at the same time
	ofOneAtOnce = 4  // of one account, so that its slow ones take the places of its own only
	// Hooks that a look finds at most: more than accounts with no place left for them can have, or it may find theirs only.
	listed = atOnce / ofOneAtOnce * maxHooks * 2
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
	read    map[string]reach    // of hooks that had a turn since the last note, by id
}

// A turn is the work for one hook.
type turn struct {
	hook   Hook      // as it was found
	due    bool      // there is something to send
	since  time.Time // it waits for a turn
	reach  reach
	idle   bool // there was nothing to do
	failed bool
}

// A reach is how far events were read for a hook without finding any for it. Most events are somebody else's: a commit for
// each hook that one does not concern would be thousands. So it is remembered and written now and then; after a crash the
// same is read again.
type reach struct {
	from events.Position // the hook's own, in the database; when that has moved the reach means nothing
	to   events.Position
	when time.Time // it was read: the hook waits for its next turn since then
	full time.Time // until then events are not read, because too much waits already
}

func (s *Service) newCrew() *crew {
	return &crew{s: s, ended: make(chan turn, atOnce), busy: map[string]struct{}{}, share: map[int64]int{}, read: map[string]reach{}}
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
		found, err := c.s.due(ctx, c.last.Seq)
		if err != nil {
			return err
		}
		c.waiting = c.pick(found)
		c.stale = len(c.waiting) == listed // others may wait behind these
	}
}

// pick returns those of the hooks found for which there may be something to do, those that wait longest first.
func (c *crew) pick(found []turn) []turn {
	list := found[:0]
	for _, t := range found {
		t.reach = reach{from: t.hook.At, to: t.hook.At}
		if r, known := c.read[t.hook.ID]; known && r.from == t.hook.At {
			if t.reach = r; r.when.After(t.since) {
				t.since = r.when
			}
		}
		unread := t.reach.to.Seq < c.last.Seq || t.reach.to.Pin != ""
		if t.due || unread && !c.s.now().Before(t.reach.full) {
			list = append(list, t)
		}
	}
	slices.SortFunc(list, func(a, b turn) int { return a.since.Compare(b.since) })
	return list[:min(listed, len(list))]
}

// note writes down how far events were read.
func (c *crew) note(ctx context.Context) error {
	maps.DeleteFunc(c.read, func(_ string, r reach) bool { return r.from == r.to })
	if err := c.s.move(ctx, c.read); err != nil {
		return err
	}
	clear(c.read)
	return nil
}

// start begins the turns of those that wait, as far as there are places.
func (c *crew) start(ctx context.Context) {
	still := c.waiting[:0]
	for _, t := range c.waiting {
		if _, busy := c.busy[t.hook.ID]; busy {
			continue // it was told to replay during its turn, and is found again when that is over
		}
		if len(c.busy) == atOnce || c.share[t.hook.Account] == ofOneAtOnce {
			still = append(still, t)
			continue
		}
		c.busy[t.hook.ID] = struct{}{}
		c.share[t.hook.Account]++
		last := c.last
		c.working.Go(func() {
			if err := c.s.serve(ctx, &t, last); err != nil {
				if t.failed = true; ctx.Err() == nil {
					c.s.log.Warn("calling a webhook; it is tried again", "webhook", t.hook.ID, "err", err)
				}
			}
			c.ended <- t
		})
	}
	c.waiting = still
}

// end notes that a turn is over. What is found again at once after it failed would be tried without end: that is left to
// the next look. After a turn in which there was nothing to do there is nothing until more happens: thousands of such turns
// must not be thousands of looks.
func (c *crew) end(t turn) {
	account := t.hook.Account
	delete(c.busy, t.hook.ID)
	if c.share[account]--; c.share[account] == 0 {
		delete(c.share, account)
	}
	t.reach.when = c.s.now()
	c.read[t.hook.ID] = t.reach
	idle := t.idle && t.reach.to.Seq >= c.last.Seq
	c.stale = c.stale || !t.failed && !idle && !c.next(account)
}

// next tells whether one that waits can have the place of an account's hook.
func (c *crew) next(account int64) bool {
	for _, t := range c.waiting {
		if t.hook.Account == account || c.share[t.hook.Account] < ofOneAtOnce {
			return true
		}
	}
	return false
}
