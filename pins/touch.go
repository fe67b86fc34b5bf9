package pins

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins/heat"
	"github.com/frostpin/frostpin/spec"
)

const (
	touchEvery  = 10 * time.Second // reads that are counted together
	touchSoon   = time.Second      // the same when something is read that is not here
	touchAtOnce = 200              // DAGs in one transaction
	maxTouched  = 100_000          // DAGs that are remembered in between
)

// touches are reads that are not recorded yet. A crash forgets them: they decide about room, not about promises.
type touches struct {
	mu    sync.Mutex
	reads map[string]touch // by key of the root
	cold  chan struct{}    // something was read that is not here
}

func newTouches() *touches {
	return &touches{reads: map[string]touch{}, cold: make(chan struct{}, 1)}
}

// Touched says that a DAG was read, and whether that was cold: not all of it was here. It never waits.
func (s *Service) Touched(root cid.Cid, cold bool) {
	if s.cfg.Archive == nil || s.cfg.ColdSource == nil {
		return // everything stays here
	}
	t := s.sched.touches
	t.mu.Lock()
	defer t.mu.Unlock()
	root = spec.Canonical(root) // as rows have it
	key := root.KeyString()
	if seen, known := t.reads[key]; known || len(t.reads) < maxTouched {
		t.reads[key] = touch{root, seen.reads + 1}
	}
	if cold {
		signal(t.cold)
		signal(s.sched.garbage) // what was fetched for the reader is here now, and nothing holds it
	}
}

func (t *touches) take() []touch {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]touch, 0, len(t.reads))
	for _, read := range t.reads {
		all = append(all, read)
	}
	clear(t.reads)
	return all
}

// touching records reads, and brings back what is read often.
func (d *scheduler) touching(ctx context.Context) {
	ticker := time.NewTicker(touchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-d.touches.cold:
			select { // others gather
			case <-ctx.Done():
				return
			case <-time.After(touchSoon):
			}
		}
		if err := d.recordTouches(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("recording reads", "err", err)
		}
	}
}

func (d *scheduler) recordTouches(ctx context.Context) error {
	all := d.touches.take()
	if len(all) == 0 {
		return nil
	}
	clock, err := d.s.store.clock(ctx)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(all, touchAtOnce) {
		away, err := d.s.store.touch(ctx, some, clock)
		if err != nil {
			return err
		}
		if err := d.bringBack(ctx, some, away, clock); err != nil {
			return err
		}
	}
	return nil
}

// bringBack has those of the roots that are not here restored that deserve it and for which there is room. Without a quota
// nothing is away but what is wanted so, or was before there was one.
func (d *scheduler) bringBack(ctx context.Context, touched []touch, away []resident, clock heat.Clock) error {
	if d.s.cfg.HotQuota <= 0 || len(away) == 0 {
		return nil
	}
	reads := make(map[string]int, len(touched))
	for _, t := range touched {
		reads[t.root.KeyString()] = t.reads
	}
	var room int64
	for i, r := range away {
		if i == 0 {
			sums, err := d.s.store.occupied(ctx)
			if err != nil {
				return err
			}
			room = d.s.cfg.HotQuota - sums[HotHeld].Bytes - sums[HotRestoring].Bytes
		}
		n, now := reads[r.CID.KeyString()], d.s.now()
		if r.coldOnly || r.Bytes > room || !r.Deserves(n, r.Bytes, d.cost(r), clock, now) {
			continue
		}
		r.Record = r.CameBack(now).Touched(n, now, clock)
		back, err := d.s.store.bringBack(ctx, r)
		if err != nil {
			return err
		}
		if back {
			room -= r.Bytes
			d.s.meter.broughtBack.Inc()
			d.poke()
		}
	}
	return nil
}

// cost is how dear it is to read a DAG from its cold copies.
func (d *scheduler) cost(r resident) float64 {
	if d.s.cfg.ColdSource == nil {
		return heat.Cost(0)
	}
	var best time.Duration
	for _, p := range r.providers {
		if first := d.s.cfg.ColdSource.FirstByte(p.String()); first > 0 && (best == 0 || first < best) {
			best = first
		}
	}
	return heat.Cost(best)
}
