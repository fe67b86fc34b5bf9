package deals

import (
	"context"
	"fmt"
	"time"
)

// leaveTime bounds giving the lease back when the process stops.
const leaveTime = 5 * time.Second

// Run makes deals until ctx ends, whenever this process holds the lease; it returns when everything it has begun has
// ended. It may be called once.
func (s *Service) Run(ctx context.Context) error {
	defer s.locator.wait()
	beat := time.NewTicker(s.cfg.LeaseTTL / 6)
	defer beat.Stop()
	for ctx.Err() == nil {
		held, err := s.store.seize(ctx, s.cfg.LeaseTTL)
		if err != nil && ctx.Err() == nil {
			s.log.Error("taking the lease of the deal maker", "err", err)
		}
		if held {
			s.log.Info("this process makes deals now")
			s.lead(ctx, beat.C)
		}
		select {
		case <-ctx.Done():
		case <-beat.C:
		}
	}
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
	defer cancel()
	if err := s.store.leave(leaving); err != nil {
		return fmt.Errorf("giving the lease of the deal maker back: %w", err)
	}
	return nil
}

// lead works while the lease is ours.
func (s *Service) lead(ctx context.Context, beat <-chan time.Time) {
	work, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.maker.run(work)
	}()
	defer func() {
		stop()
		<-done
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat:
		}
		held, err := s.store.renew(ctx, s.cfg.LeaseTTL)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			// The lease may have run out meanwhile: then no transaction of the loops writes anything.
			s.log.Error("prolonging the lease of the deal maker", "err", err)
		case !held:
			s.log.Warn("another process makes deals now")
			return
		}
	}
}
