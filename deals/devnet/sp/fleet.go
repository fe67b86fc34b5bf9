package sp

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/filecoin-project/go-address"
)

// A Member is a miner that a fleet runs a provider for.
type Member struct {
	Miner, Worker address.Address
}

// A Fleet is several providers of one devnet.
type Fleet []*Provider

// FleetConfig makes providers alike, except for what makes them different.
type FleetConfig struct {
	Config            // the template; Dir holds a directory per member, the rest of what is per member is set
	Members  []Member // one provider each
	Regions  []string // in turn [EU, US, ASIA]
	Styles   []Style  // in turn [Boost, Curio]
	Override func(i int, cfg *Config)
}

// StartFleet starts them all, or none.
func StartFleet(ctx context.Context, cfg FleetConfig) (Fleet, error) {
	regions, styles := cfg.Regions, cfg.Styles
	if len(regions) == 0 {
		regions = []string{"EU", "US", "ASIA"}
	}
	if len(styles) == 0 {
		styles = []Style{Boost, Curio}
	}
	var fleet Fleet
	for i, member := range cfg.Members {
		one := cfg.Config
		one.Miner, one.Worker = member.Miner, member.Worker
		one.Dir = filepath.Join(cfg.Dir, member.Miner.String())
		one.Region, one.Style = regions[i%len(regions)], styles[i%len(styles)]
		one.Seed = cfg.Seed + uint64(i)
		if cfg.Override != nil {
			cfg.Override(i, &one)
		}
		p, err := Start(ctx, one)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("starting provider %d of %d: %w", i+1, len(cfg.Members), err), fleet.Close())
		}
		fleet = append(fleet, p)
	}
	return fleet, nil
}

// Close stops them all.
func (f Fleet) Close() error {
	var failed []error
	for _, p := range f {
		failed = append(failed, p.Close())
	}
	return errors.Join(failed...)
}

// Of returns the provider of a miner, or nil.
func (f Fleet) Of(miner address.Address) *Provider {
	for _, p := range f {
		if p.Miner() == miner {
			return p
		}
	}
	return nil
}

// Settled tells whether the chain knows all of them as they are.
func (f Fleet) Settled() bool {
	for _, p := range f {
		if !p.Settled() {
			return false
		}
	}
	return true
}
