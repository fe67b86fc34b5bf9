package pins

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
)

// sweeps lets go of claims that nothing here works on, and of what is known of old requests.
func (d *scheduler) sweeps(ctx context.Context) {
	strays := map[int64]bool{}
	every(ctx, sweepEvery, func(ctx context.Context) {
		var err error
		if strays, err = d.freeStrays(ctx, strays); err != nil && ctx.Err() == nil {
			d.log.Error("looking for stray claims", "err", err)
		}
		if err := d.s.store.forgetUploads(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("forgetting old uploads", "err", err)
		}
		if err := d.s.store.forgetBatches(ctx, d.s.now()); err != nil && ctx.Err() == nil {
			d.log.Error("forgetting old lists of pins", "err", err)
		}
	})
}

// retained lets go of what was kept back too long.
func (d *scheduler) retained(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		orphans, err := d.s.store.expireRetained(ctx)
		if err != nil && ctx.Err() == nil {
			d.log.Error("letting retained dags go", "err", err)
		}
		d.orphaned(orphans)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-d.s.store.overdue:
		}
	}
}

// freeStrays gives back the claims that were strays before and still are: those of roots on which nothing works, as is
// left when the database was away at the moment of giving one back. It returns the strays it sees for the first time.
func (d *scheduler) freeStrays(ctx context.Context, before map[int64]bool) (now map[int64]bool, err error) {
	mine, err := d.s.store.mine(ctx)
	if err != nil {
		return before, err
	}
	now = map[int64]bool{}
	var free []int64
	for _, id := range mine {
		switch {
		case d.jobs.knows(id) || d.s.store.counter.looks(id):
		case before[id]:
			free = append(free, id)
		default:
			now[id] = true
		}
	}
	if len(free) > 0 {
		d.log.Warn("giving back claims that nothing worked on", "roots", len(free))
	}
	return now, d.s.store.unclaim(ctx, free)
}

// spans makes spans of names for the accounts whose searches want them.
func (d *scheduler) spans(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case account := <-d.s.store.spansWanted:
			if err := d.makeSpans(ctx, account); err != nil && ctx.Err() == nil {
				d.log.Error("making spans of names", "account", account, "err", err)
			}
		}
	}
}

// makeSpans goes once over an account, however many spans it loses meanwhile, and stops when there is little room.
func (d *scheduler) makeSpans(ctx context.Context, account Account) error {
	for after := int64(-1); after != 0 && d.s.room() == RoomPlenty; {
		var err error
		if after, err = d.s.store.makeSpan(ctx, account, after); err != nil {
			return err
		}
	}
	return nil
}

// compares holds the database, which is the authority, against the hot tier.
func (d *scheduler) compares(ctx context.Context) {
	every(ctx, compareEvery, func(ctx context.Context) {
		if _, err := d.compare(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("comparing pins with the hot tier", "err", err)
		}
	})
}

// compare fetches again what should be held and is not, and releases what is held without being wanted, if the tier
// is ours alone. The two sets are compared by hashes, eight bytes a root; what differs is then looked at exactly. It
// returns how many hot copies turned out to be lost.
func (d *scheduler) compare(ctx context.Context) (lost int, err error) {
	d.comparing.Lock()
	defer d.comparing.Unlock()
	seed := maphash.MakeSeed()
	var onTier []uint64
	err = d.s.hot.Roots(ctx, func(c cid.Cid) error {
		onTier = append(onTier, maphash.String(seed, c.String()))
		return nil
	})
	if err != nil {
		return 0, err
	}
	slices.Sort(onTier)
	var known []uint64
	var missing []rootRef
	err = d.s.store.walkRoots(ctx, func(ref rootRef) error {
		h := maphash.String(seed, ref.cid)
		if !ref.unwanted {
			known = append(known, h) // what was let go and is still there is released like what nobody names
		}
		if _, found := slices.BinarySearch(onTier, h); !found && ref.hot == HotHeld {
			missing = append(missing, ref)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, ref := range missing {
		gone, err := d.recheck(ctx, ref)
		if err != nil {
			return lost, err
		}
		if gone {
			lost++
		}
	}
	if !d.s.cfg.Exclusive {
		return lost, nil
	}
	slices.Sort(known)
	return lost, d.s.hot.Roots(ctx, func(c cid.Cid) error {
		if _, found := slices.BinarySearch(known, maphash.String(seed, c.String())); found {
			return nil
		}
		return d.releaseStray(ctx, c)
	})
}

// recheck has a root fetched again that the tier really does not hold.
func (d *scheduler) recheck(ctx context.Context, ref rootRef) (lost bool, err error) {
	c, err := cid.Decode(ref.cid)
	if err != nil {
		return false, err
	}
	held, err := d.s.hot.Held(ctx, c)
	if err != nil || held {
		return false, err
	}
	d.log.Warn("a hot copy was lost", "cid", c)
	d.s.meter.losses.Inc()
	if err := d.s.store.lost(ctx, ref.id, false); err != nil {
		return false, err
	}
	d.poke()
	return true, nil
}

// releaseStray has a DAG let go that the tier holds and that is not wanted there: one that no pin names, or one whose
// offloading a crash has cut short, or taking back its block.
func (d *scheduler) releaseStray(ctx context.Context, c cid.Cid) error {
	r, claimed, err := d.s.store.claimUnwanted(ctx, c)
	if err != nil {
		return err
	}
	if claimed {
		return d.dropHot(ctx, r)
	}
	held, err := d.s.store.adoptStray(ctx, c)
	if err != nil || held {
		return err
	}
	d.log.Info("releasing a dag that no pin names", "cid", c)
	d.poke()
	return nil
}

// dropHot lets the hot copy of a claimed root go that is not wanted, and gives the claim back. Who asks for the DAG
// meanwhile finds it claimed, and has it held again after this.
func (d *scheduler) dropHot(ctx context.Context, r Root) error {
	err := d.releaseHot(ctx, r)
	if err == nil {
		signal(d.garbage)
	}
	return errors.Join(err, d.s.store.unclaim(context.WithoutCancel(ctx), []int64{r.id}))
}
