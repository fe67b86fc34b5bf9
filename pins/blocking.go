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

// loadBlocks learns what is blocked.
func (s *Service) loadBlocks(ctx context.Context) error {
	set, err := s.store.blocksAfter(ctx, s.blocked.Load().version)
	if err != nil {
		return fmt.Errorf("reading what is blocked: %w", err)
	}
	if set != nil {
		s.blocked.Store(set)
	}
	return nil
}

// blocks has this process know what is blocked. It waits for nothing but the database: what is served and taken in
// hangs on it.
func (d *scheduler) blocks(ctx context.Context) {
	every(ctx, blocksEvery, func(ctx context.Context) {
		if err := d.s.loadBlocks(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("following what is blocked", "err", err)
		}
	})
}

// obeys has this process act on what is blocked.
func (d *scheduler) obeys(ctx context.Context) {
	var obeyed *blockSet
	var settled, due, swept time.Time
	gone := map[int64]bool{}
	every(ctx, blocksEvery, func(ctx context.Context) {
		set, now := d.s.blocked.Load(), d.s.now()
		if set != obeyed {
			obeyed, settled = set, now.Add(blocksSettle)
		}
		if !now.Before(settled) && now.Before(due) {
			return
		}
		due = now.Add(sweepEvery)
		if now.Sub(swept) >= sweepEvery {
			swept = now
			clear(gone) // an upload that began before the block may have brought one back
		}
		done, err := d.obeyBlocks(ctx, set, gone)
		if !done {
			due = now
		}
		if err != nil && ctx.Err() == nil {
			d.log.Error("letting go what is blocked", "err", err)
		}
	})
}

// obeyBlocks gives up the roots whose content is blocked, and then lets their hot copies go, which may take long. It
// tells whether that is done; it is not where somebody works on a root, or when more has been blocked meanwhile. Every
// server does it, because each knows its own work. The node is not asked about roots of which nothing was left: gone
// remembers them.
func (d *scheduler) obeyBlocks(ctx context.Context, set *blockSet, gone map[int64]bool) (done bool, err error) {
	copies, done, err := d.giveUpBlocked(ctx, set, gone)
	if err != nil {
		return false, err
	}
	for _, r := range copies {
		dropped, dropErr := d.dropBlocked(ctx, r)
		err = errors.Join(err, dropErr)
		if dropped {
			gone[r.id] = true
		} else {
			done = false
		}
		if errors.Is(dropErr, ErrUnavailable) || d.s.blocked.Load() != set {
			return false, err
		}
	}
	return done, err
}

// giveUpBlocked returns the roots that may still have a hot copy and on which nobody works, and whether those are all.
func (d *scheduler) giveUpBlocked(ctx context.Context, set *blockSet, gone map[int64]bool) (copies []Root, all bool, err error) {
	all = true
	for some := range slices.Chunk(slices.Collect(maps.Keys(set.hashes)), blocksAtOnce) {
		list, err := d.s.store.blockedRoots(ctx, rootsWith(some))
		if err != nil {
			return nil, false, err
		}
		for _, r := range list {
			if r.Hot != HotGaveUp || r.Reason != blockedReason {
				given, err := d.s.store.block(ctx, r.id)
				if err != nil {
					return nil, false, err
				}
				if given {
					signal(d.garbage) // it may have been here in part, with no hot copy to let go
					d.log.Info("content was blocked", "cid", r.CID)
				}
				delete(gone, r.id)
			}
			d.cancel([]int64{r.id})
			if r.claimed {
				delete(gone, r.id) // who works on it may still have it held
				all = false
				continue
			}
			if !gone[r.id] {
				copies = append(copies, r.Root)
			}
		}
	}
	return copies, all, nil
}

// dropBlocked tells whether nothing is left of a root that was given up.
func (d *scheduler) dropBlocked(ctx context.Context, r Root) (dropped bool, err error) {
	held, err := d.s.hot.Held(ctx, r.CID)
	if err != nil || !held {
		return err == nil, err
	}
	claimed, err := d.s.store.claim(ctx, `r.id = ? AND r.hot = 'gave_up' AND r.claimed_by = ''`, r.id)
	if err != nil || len(claimed) == 0 {
		return false, err
	}
	err = d.dropHot(ctx, r)
	return err == nil, err
}
