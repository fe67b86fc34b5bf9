package pins

import (
	"context"
	"errors"

	"github.com/frostpin/frostpin/deals"
)

// Archived implements deals.Follower: called in the archive's transaction that changed how a wish stands, it gives the
// wish's pins their status in the same.
func (s *Service) Archived(ctx context.Context, w deals.Wish, standing deals.Standing) error {
	if standing.Cold == deals.ColdStored {
		signal(s.sched.proven)
	}
	if err := s.store.tellCold(ctx, w, standing); err != nil {
		return err
	}
	return s.store.archived(ctx, w, standing)
}

// Decide finds out until when a request is wanted, and which copies: what its meta keys say, over what the policies in c say, over what the
// service does by itself. The decision is the one to give to Add. Errors: *spec.InvalidError names the meta key or
// the policy that is wrong or cannot be had here.
func (s *Service) Decide(ctx context.Context, c Choice, meta map[string]string) (Decision, error) {
	expiry, err := readExpiry(meta, s.now())
	if err != nil {
		return Decision{}, err
	}
	decided, err := s.cold.decide(ctx, c, meta)
	decided.Expiry = expiry
	return decided, err
}

// HasPolicy tells whether there is a policy of this name.
func (s *Service) HasPolicy(ctx context.Context, name string) (bool, error) {
	_, err := s.cold.policies.Get(ctx, name)
	if errors.Is(err, ErrNoPolicy) {
		return false, nil
	}
	return err == nil, err
}

// colds tells the archive what it has missed, and decides about pins that nobody has decided about.
func (d *scheduler) colds(ctx context.Context) {
	if d.s.store.archive == nil {
		return
	}
	every(ctx, sweepEvery, func(ctx context.Context) {
		if err := d.s.catchUp(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("catching up with cold copies", "err", err)
		}
	})
}

func (s *Service) catchUp(ctx context.Context) error {
	for more := true; more; {
		var err error
		if more, err = s.store.payOwed(ctx); err != nil {
			return err
		}
	}
	settings, err := s.store.settings(ctx)
	if err != nil || settings[settingUndecided] == "" {
		return err
	}
	terms, err := s.cold.standard(ctx)
	if err != nil {
		return err
	}
	var at undecidedPin
	for more := true; more; {
		if at, more, err = s.store.decide(ctx, at, terms); err != nil {
			return err
		}
	}
	return s.store.decided(ctx, settings[settingUndecided])
}
