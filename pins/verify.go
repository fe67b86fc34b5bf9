package pins

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"golang.org/x/time/rate"
)

const (
	verifyPause = time.Minute        // after everything was verified lately, or the tier did not answer
	verifyApart = 7 * 24 * time.Hour // between two verifications of one DAG
	maxDoubts   = 1024               // roots that wait for a verification out of turn
	unreadTime  = 6 * time.Hour      // before a root that could not be read has its turn again
	maxUnread   = 1024               // roots that could not be read; one a minute is found at most
	mendAtOnce  = 64                 // wrong blocks that are looked for before they are mended
	mendTime    = 30 * time.Second   // for each of them
)

// Doubt says that the hot copy of a root looks damaged: it is verified soon, out of turn. It never waits; a root that
// finds no room has its turn like any other.
func (s *Service) Doubt(root cid.Cid) {
	d := s.sched
	d.doubting.Lock()
	defer d.doubting.Unlock()
	if len(d.doubts) >= maxDoubts {
		return
	}
	if _, known := d.doubts[root.KeyString()]; known {
		return
	}
	d.doubts[root.KeyString()] = root
	signal(d.doubted)
}

func (d *scheduler) nextDoubt() (cid.Cid, bool) {
	d.doubting.Lock()
	defer d.doubting.Unlock()
	for key, root := range d.doubts {
		delete(d.doubts, key)
		return root, true
	}
	return cid.Undef, false
}

// verifies reads held DAGs and hashes them, the one that was verified longest ago first, and those in doubt at once.
func (d *scheduler) verifies(ctx context.Context) {
	limit := rate.Inf
	if d.s.cfg.VerifyRate > 0 {
		limit = rate.Limit(d.s.cfg.VerifyRate)
	}
	const burst = 4 << 20 // more than the largest block
	pace := rate.NewLimiter(limit, burst)
	for ctx.Err() == nil {
		worked, err := d.verifyNext(ctx, func(ctx context.Context, bytes int) error {
			d.s.meter.verified.Add(float64(bytes))
			return pace.WaitN(ctx, min(bytes, burst))
		})
		if err != nil && ctx.Err() == nil {
			d.log.Error("verifying a hot copy", "err", err)
		}
		if worked && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
		case <-d.doubted:
		case <-time.After(verifyPause):
		}
	}
}

// verifyNext verifies one DAG, if one is due.
func (d *scheduler) verifyNext(ctx context.Context, pace func(context.Context, int) error) (worked bool, err error) {
	var r Root
	found := false
	for c, doubted := d.nextDoubt(); doubted && !found; c, doubted = d.nextDoubt() {
		if r, found, err = d.s.store.heldRoot(ctx, `r.cid = ?`, c.String()); err != nil {
			return false, err
		}
		if found {
			break
		}
	}
	if !found && d.s.cfg.VerifyRate > 0 {
		before := d.s.now().Add(-verifyApart).UnixMilli()
		r, found, err = d.s.store.heldRoot(ctx, `r.verified_ms < ? AND r.id NOT IN ? ORDER BY r.verified_ms, r.id LIMIT 1`, before, d.passedOver())
	}
	if err != nil || !found {
		return false, err
	}
	err = d.verify(ctx, r, pace)
	if err != nil && ctx.Err() == nil && !errors.Is(err, ErrUnavailable) && len(d.unread) < maxUnread {
		d.unread[r.id] = d.s.now()
	}
	return true, err
}

// passedOver are the roots that could not be read lately: nothing is known about them, and one block on a bad spot of the
// disk must not keep all others from being verified.
func (d *scheduler) passedOver() []int64 {
	maps.DeleteFunc(d.unread, func(_ int64, at time.Time) bool { return d.s.now().Sub(at) >= unreadTime })
	return append(slices.Collect(maps.Keys(d.unread)), 0) // no root's id, because a list is never empty
}

// verify reads one DAG. One with blocks that are missing or wrong is lost, whatever the node says of its pin.
func (d *scheduler) verify(ctx context.Context, r Root, pace func(context.Context, int) error) error {
	err := d.readHot(ctx, r, pace)
	switch {
	case errors.Is(err, errDamaged):
		d.s.meter.damaged.Inc()
		err := d.s.store.lost(ctx, r.id, true)
		d.poke()
		return err
	case err != nil:
		return err
	}
	return d.s.store.verified(ctx, r.id)
}

// readHot is HotTier.Verify, which ends at the first damaged block, with a panic made an error.
func (d *scheduler) readHot(ctx context.Context, r Root, pace func(context.Context, int) error) (err error) {
	defer d.guard(r, &err)
	return d.s.hot.Verify(ctx, r.CID, pace, func(c cid.Cid, cause error) error {
		d.log.Warn("a block of a hot copy is damaged", "cid", r.CID, "block", c, "err", cause)
		return errDamaged
	})
}

// mend gets the wrong blocks of a DAG from the network and stores them over what is here. Blocks that nobody has stay
// wrong; whoever holds the DAG then finds them.
func (d *scheduler) mend(ctx context.Context, root cid.Cid) error {
	for {
		wrong, err := d.wrong(ctx, root)
		if err != nil || len(wrong) == 0 {
			return err
		}
		if err := d.mendBlocks(ctx, wrong); err != nil || len(wrong) < mendAtOnce {
			return err
		}
	}
}

// wrong returns blocks of a DAG whose bytes are wrong, at most mendAtOnce.
func (d *scheduler) wrong(ctx context.Context, root cid.Cid) (list []cid.Cid, err error) {
	err = d.s.hot.Verify(ctx, root, unpaced, func(c cid.Cid, cause error) error {
		if errors.Is(cause, ErrCorrupt) {
			list = append(list, c)
		}
		if len(list) == mendAtOnce {
			return errDamaged
		}
		return nil
	})
	if errors.Is(err, errDamaged) {
		err = nil
	}
	return list, err
}

func (d *scheduler) mendBlocks(ctx context.Context, list []cid.Cid) error {
	in, err := d.s.hot.Import(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	for _, c := range list {
		if err := d.mendBlock(ctx, in, c); err != nil {
			return err
		}
	}
	return nil
}

func (d *scheduler) mendBlock(ctx context.Context, in Import, c cid.Cid) error {
	ctx, cancel := context.WithTimeout(ctx, mendTime)
	defer cancel()
	data, err := d.s.hot.Fetch(ctx, c)
	if err != nil {
		return err
	}
	b, err := blocks.NewBlockWithCid(data, c)
	if err != nil {
		return err
	}
	return in.Put(ctx, []blocks.Block{b})
}
