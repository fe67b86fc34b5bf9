package pins

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// How often it is looked whether more or less is blocked, how long after a change it is looked again for roots that
// came in while a server did not know yet, and of how many blocks at once roots are read.
const (
	blocksEvery  = 2 * time.Second
	blocksSettle = 30 * time.Second
	blocksAtOnce = 64
)

// loadBlocks learns what is blocked, and tells whether that is something else than before.
func (s *Service) loadBlocks(ctx context.Context) (changed bool, err error) {
	set, err := s.store.blocksAfter(ctx, s.blocked.Load().version)
	if err != nil {
		return false, fmt.Errorf("reading what is blocked: %w", err)
	}
	if set == nil {
		return false, nil
	}
	s.blocked.Store(set)
	return true, nil
}

// blocks has this process follow what is blocked.
func (d *scheduler) blocks(ctx context.Context) {
	settled := d.s.now().Add(blocksSettle) // something may have been blocked just before the start
	var due time.Time
	every(ctx, blocksEvery, func(ctx context.Context) {
		changed, err := d.s.loadBlocks(ctx)
		now := d.s.now()
		if changed {
			settled = now.Add(blocksSettle)
		}
		if now.Before(settled) || !now.Before(due) {
			due = now.Add(sweepEvery)
			left, obeyErr := d.obeyBlocks(ctx)
			if left || obeyErr != nil {
				due = now
			}
			err = errors.Join(err, obeyErr)
		}
		if err != nil && ctx.Err() == nil {
			d.log.Error("following what is blocked", "err", err)
		}
	})
}

// obeyBlocks gives up the roots whose content is blocked and lets their hot copies go. It tells whether some are left
// that somebody works on. Every server does it, because each knows its own work.
func (d *scheduler) obeyBlocks(ctx context.Context) (left bool, err error) {
	for some := range slices.Chunk(slices.Collect(maps.Keys(d.s.blocked.Load().hashes)), blocksAtOnce) {
		roots, err := d.s.store.blockedRoots(ctx, rootsWith(some))
		if err != nil {
			return true, err
		}
		for _, r := range roots {
			gone, err := d.obeyBlock(ctx, r)
			if err != nil {
				return true, err
			}
			left = left || !gone
		}
	}
	return left, nil
}

// obeyBlock tells whether nothing is left of a root whose content is blocked.
func (d *scheduler) obeyBlock(ctx context.Context, r blockedRoot) (gone bool, err error) {
	if r.Hot != HotGaveUp || r.Reason != blockedReason {
		if err := d.s.store.block(ctx, r.id); err != nil {
			return false, err
		}
		d.log.Info("content was blocked", "cid", r.CID)
	}
	d.cancel([]int64{r.id})
	if r.claimed {
		return false, nil // who works on it may still have it held
	}
	held, err := d.s.hot.Held(ctx, r.CID)
	if err != nil || !held {
		return err == nil, err
	}
	claimed, err := d.s.store.claim(ctx, `r.id = ? AND r.hot = 'gave_up' AND r.claimed_by = ''`, r.id)
	if err != nil || len(claimed) == 0 {
		return false, err
	}
	return true, d.dropHot(ctx, r.Root)
}
