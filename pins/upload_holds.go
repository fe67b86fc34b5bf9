package pins

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/spec"
)

// uploadsAtWork are the uploads of this process that hold something.
type uploadsAtWork struct {
	mu  sync.Mutex
	ids map[string]bool
}

func (u *uploadsAtWork) set(id string, working bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if working {
		u.ids[id] = true
	} else {
		delete(u.ids, id)
	}
}

func (u *uploadsAtWork) has(id string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.ids[id]
}

// BeginHold records that an upload is about to hold DAGs on the hot tier, so that what gets no pin is let go, also when
// this process ends before. What others hold on a tier that is not ours alone is theirs, and stays. The upload says when
// it has ended with EndHold.
func (s *Service) BeginHold(ctx context.Context, roots []cid.Cid) (id string, err error) {
	canonical, held := make([]cid.Cid, len(roots)), make([]bool, len(roots))
	for i, root := range roots {
		canonical[i] = spec.Canonical(root)
		if s.cfg.Exclusive {
			continue
		}
		if held[i], err = s.hot.Held(ctx, canonical[i]); err != nil {
			return "", fmt.Errorf("looking whether %s is held by others: %w", root, err)
		}
	}
	id = uuid.NewString()
	s.sched.uploads.set(id, true)
	if err := s.store.recordHold(ctx, id, canonical, held); err != nil {
		s.EndHold(id) // an error does not say that nothing was recorded
		return "", fmt.Errorf("recording what an upload holds: %w", err)
	}
	return id, nil
}

// EndHold has what an upload has held let go where no pin names it. It never waits.
func (s *Service) EndHold(id string) {
	s.sched.uploads.set(id, false)
	signal(s.sched.uploaded)
}

// uploadHolds lets go of what uploads have held that have ended, or whose process has.
func (d *scheduler) uploadHolds(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		if err := d.endHolds(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("letting go of what uploads have held", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-d.uploaded:
		}
	}
}

func (d *scheduler) endHolds(ctx context.Context) error {
	if err := d.s.store.endHolds(ctx, d.uploads.has); err != nil {
		return err
	}
	list, err := d.s.store.uploadHolds(ctx)
	if err != nil {
		return err
	}
	wanted := map[string]bool{} // by other uploads, which see to it when they end
	var ended []uploadHold
	for _, h := range list {
		if h.mine && d.uploads.has(h.id) || !h.mine && h.alive {
			wanted[h.root] = true
		} else {
			ended = append(ended, h)
		}
	}
	var problems []error
	for _, h := range ended {
		if !wanted[h.root] {
			problems = append(problems, d.endHold(ctx, h))
		}
	}
	return errors.Join(problems...)
}

// endHold lets a root go that has no pin, or only such as have failed. What is wanted is let go when it is no longer.
func (d *scheduler) endHold(ctx context.Context, h uploadHold) error {
	c, err := cid.Decode(h.root)
	if err != nil {
		return fmt.Errorf("reading the root of an upload: %w", err)
	}
	r, named, claimed, busy, err := d.s.store.claimStray(ctx, c, h.id)
	switch {
	case err != nil:
		return err
	case busy:
		return nil // the next look finds it again
	case claimed:
		err = d.dropHot(ctx, r)
	case !named:
		if busy, err = d.s.store.adoptEnded(ctx, c, h.id); busy {
			return err
		}
		d.log.Info("releasing a dag whose upload made no pin", "cid", c)
		d.poke()
	}
	if err != nil {
		return err
	}
	return d.s.store.forgetHold(ctx, h)
}
