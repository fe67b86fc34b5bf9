package pins

import (
	"context"
	"fmt"
	"time"
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
	if err != nil {
		return err
	}
	took := d.s.now().Sub(started)
	d.s.meter.collected(removed, took)
	d.log.Info("blocks collected", "removed", removed, "took", took)
	return nil
}
