package pins

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
)

// scarceGC is how often blocks are collected while there is little room.
const scarceGC = time.Minute

// collections collects blocks that nothing needs, at most once in GCEvery and only after something was released or given
// up. With little room it does not wait so long, and then it is what ends the want of room: whoever leaves blocks behind
// says so.
func (d *scheduler) collections(ctx context.Context) {
	if d.s.cfg.GCEvery == 0 {
		return
	}
	// What was released before a crash is still there: the first collection needs no reason.
	signal(d.garbage)
	ticker := time.NewTicker(min(d.s.cfg.GCEvery, scarceGC))
	defer ticker.Stop()
	for last := time.Now(); ; last = time.Now() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			// A tick comes a little early or late.
			if time.Since(last) > d.s.cfg.GCEvery-scarceGC/2 || d.room() != RoomPlenty {
				break
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-d.garbage:
		}
		d.quiet(ctx)
		if err := d.collect(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("collecting blocks", "err", err)
			signal(d.garbage)
		}
	}
}

// quiet waits for a moment in which no DAG is being fetched, because a collection makes them pause; not for longer than the
// collections are apart, and not with little room: what is being fetched goes on taking it.
func (d *scheduler) quiet(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, d.s.cfg.GCEvery)
	defer cancel()
	ticker := time.NewTicker(quietEvery)
	defer ticker.Stop()
	for {
		if _, walking := d.jobs.sizes(); walking == 0 || d.room() != RoomPlenty {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// collect removes blocks that nothing needs. The books are compared first, always: the tier keeps what it has pinned and
// what it is told to keep, and by the comparison of every hour it could have lost pins since. What was lost is among the
// partial roots from then on. Comparing reads the pins and the roots once, which the tier's own walk over all blocks with
// links makes small.
func (d *scheduler) collect(ctx context.Context) error {
	lost, err := d.compare(ctx)
	if err != nil {
		return fmt.Errorf("comparing pins with the hot tier: %w", err)
	}
	if lost > 0 && d.room() == RoomPlenty {
		// A tier that cannot be told what to keep must have the pins again first. With little room nobody makes them.
		d.log.Warn("collecting is put off while lost hot copies are held again", "lost", lost)
		signal(d.garbage)
		return nil
	}
	partial, err := d.s.store.partial(ctx)
	if err != nil {
		return err
	}
	started := d.s.now()
	removed, err := d.s.hot.Collect(ctx, partial)
	var doubtful []cid.Cid
	defer func() { // not before: a verification would find what the next round brings, and have it fetched when there is room
		for _, root := range doubtful {
			d.s.Doubt(root)
		}
	}()
	for range mendRounds {
		var held *HeldUp
		if !errors.As(err, &held) {
			break
		}
		mended, all, problem := d.heldUp(ctx, held.Broken)
		doubtful = append(doubtful, mended...)
		if problem != nil || !all {
			return errors.Join(err, problem)
		}
		removed, err = d.s.hot.Collect(ctx, partial)
	}
	if err != nil {
		return err
	}
	d.urgent.set(nil, nil, started)
	took := d.s.now().Sub(started)
	d.s.meter.collected(removed, took)
	d.log.Info("blocks collected", "removed", removed, "took", took)
	return nil
}

// Bounds of the mending of blocks that hold up a collection.
const (
	holdUpTime   = time.Minute // for all of them
	holdUpAtOnce = 32
	mendRounds   = 8 // below what was mended more may be missing
)

// heldUp sees to it that collections go on. The blocks are asked for on the network at once, however little room there is:
// they are those with links, which are few, and make room for all the others. A root that lacks some after that is damaged.
// It is restored from cold copies or fetched, also with little room, and let go when it is given up in the end. It
// returns the roots of which the blocks are here now, and tells whether those are all.
func (d *scheduler) heldUp(ctx context.Context, broken []Broken) (mended []cid.Cid, all bool, err error) {
	byRoot := map[cid.Cid][]Broken{}
	for _, b := range broken {
		byRoot[b.Root] = append(byRoot[b.Root], b)
	}
	for root, list := range byRoot {
		d.log.Error("a dag with blocks that cannot be read holds up collections", "cid", root, "blocks", len(list),
			"block", list[0].Block, "err", list[0].Err)
	}
	here, err := d.mendNow(ctx, broken)
	if err != nil {
		return mended, false, err
	}
	var urgent []int64
	for root, list := range byRoot {
		if !slices.ContainsFunc(list, func(b Broken) bool { return !here[b.Block] }) {
			d.log.Info("the dag was mended from the network", "cid", root)
			mended = append(mended, root)
			delete(byRoot, root)
			continue
		}
		if !slices.ContainsFunc(list, Broken.damaged) {
			continue // a disk that cannot be read says nothing about what it has
		}
		r, waits, fresh, err := d.s.store.damaged(ctx, root)
		if err != nil {
			return mended, false, err
		}
		if fresh {
			d.s.meter.damaged.Inc()
		}
		if waits {
			urgent = append(urgent, r.id)
		}
	}
	d.urgent.set(urgent, slices.Collect(maps.Keys(byRoot)), d.s.now())
	d.poke()
	return mended, len(byRoot) == 0, nil
}

func (b Broken) damaged() bool { return errors.Is(b.Err, ErrAbsent) || errors.Is(b.Err, ErrCorrupt) }

type makesRoomKey struct{}

// MakingRoom says in a context that what is stored makes more room than it takes: a collection waits for it.
func MakingRoom(ctx context.Context) context.Context {
	return context.WithValue(ctx, makesRoomKey{}, true)
}

// MakesRoom returns what MakingRoom has said.
func MakesRoom(ctx context.Context) bool { return ctx.Value(makesRoomKey{}) != nil }

// mendNow fetches blocks and tells which it has stored.
func (d *scheduler) mendNow(ctx context.Context, broken []Broken) (mended map[cid.Cid]bool, err error) {
	in, err := d.s.hot.Import(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	bounded, cancel := context.WithTimeout(MakingRoom(ctx), d.holdUpTime)
	defer cancel()
	var mu sync.Mutex
	mended = map[cid.Cid]bool{}
	var group errgroup.Group
	group.SetLimit(holdUpAtOnce)
	for _, b := range broken {
		group.Go(func() error {
			if err := d.mendBlock(bounded, in, b.Block); err != nil {
				return nil //nolint:nilerr // nobody has it: its root says so later
			}
			mu.Lock()
			defer mu.Unlock()
			mended[b.Block] = true
			return nil
		})
	}
	_ = group.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return mended, nil
}

// urgent is what held up the last collection.
type urgent struct {
	mu     sync.Mutex
	waits  map[int64]time.Time // roots that are to be mended, and since when
	broken []cid.Cid           // all of them
}

func (u *urgent) set(waits []int64, broken []cid.Cid, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	before := u.waits
	u.waits, u.broken = map[int64]time.Time{}, broken
	for _, id := range waits {
		if since, known := before[id]; known {
			u.waits[id] = since
		} else {
			u.waits[id] = now
		}
	}
}

func (u *urgent) since(id int64) (since time.Time, known bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	since, known = u.waits[id]
	return since, known
}

func (u *urgent) roots() []int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Collect(maps.Keys(u.waits))
}

func (u *urgent) dags() []cid.Cid {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.broken
}

// CheckCollections fails while blocks that are missing or wrong keep collections from making room.
func (s *Service) CheckCollections(context.Context) error {
	dags := s.sched.urgent.dags()
	if len(dags) == 0 {
		return nil
	}
	return fmt.Errorf("nothing is removed from the hot tier while %d dags have blocks that cannot be read; one is %s", len(dags), dags[0])
}
