package pins

import (
	"context"
)

// startReleases lets go what nothing wants any more.
func (d *scheduler) startReleases(ctx context.Context) error {
	roots, err := d.s.store.claimReleasing(ctx, releaseAtOnce)
	if err != nil {
		return err
	}
	if len(roots) == 0 {
		return nil
	}
	d.jobs.release(roots, true)
	d.workers.Go(func() {
		defer d.jobs.release(roots, false)
		for _, r := range roots {
			d.release(ctx, r)
		}
		if len(roots) == releaseAtOnce {
			d.poke()
		}
	})
	return nil
}

// release lets a claimed root go. The claim may be old by now: others of the same pass came first.
func (d *scheduler) release(ctx context.Context, r Root) {
	yes, err := d.s.store.toRelease(ctx, r)
	if yes {
		err = d.releaseHot(ctx, r)
	}
	if ctx.Err() != nil {
		return // stopping: Run gives the claim back
	}
	if err != nil {
		d.log.Warn("releasing a dag", "cid", r.CID, "err", err)
	}
	if err != nil || !yes {
		err = d.s.store.postponeRelease(ctx, r.id, d.s.now().Add(d.s.cfg.Policy.RetryFirst))
		d.poke() // who wants it again waits for the claim
	} else {
		err = d.recordReleased(ctx, r)
	}
	if err != nil && ctx.Err() == nil {
		d.log.Error("recording a release", "cid", r.CID, "err", err)
	}
}

// recordReleased records what the hot tier has let go. Blocks of what was asked for meanwhile are no garbage.
func (d *scheduler) recordReleased(ctx context.Context, r Root) error {
	done, err := d.s.store.released(ctx, r.id)
	if done {
		signal(d.garbage)
	} else {
		d.poke()
	}
	d.s.meter.releases.Inc()
	return err
}

// releaseHot is HotTier.Release, bounded in time and with a panic made an error.
func (d *scheduler) releaseHot(ctx context.Context, r Root) (err error) {
	defer d.guard(r, &err)
	ctx, cancel := context.WithTimeout(ctx, releaseTime)
	defer cancel()
	return d.s.hot.Release(ctx, r.CID)
}
