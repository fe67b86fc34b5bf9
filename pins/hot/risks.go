package hot

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/ipfs/kubo/config"
)

// Risks names settings that an operator should know about.
func (e *Embedded) Risks(context.Context) ([]string, error) {
	if e.config.AllowPrivateOrigins && e.config.Network == Public {
		return []string{"origins on private addresses are allowed: whoever may pin can make this node connect to " +
			"hosts of your own network"}, nil
	}
	return nil, nil
}

// Risks names settings of the daemon that an operator should change. Whether it was started with --enable-gc cannot
// be seen from here.
func (r *Remote) Risks(ctx context.Context) ([]string, error) {
	var raw json.RawMessage
	err := r.quick(ctx, func(ctx context.Context) error { return r.daemon.Request("config/show").Exec(ctx, &raw) })
	if err != nil {
		return nil, fmt.Errorf("reading the daemon's settings: %w", err)
	}
	var k config.Config
	if err := json.Unmarshal(raw, &k); err != nil {
		return nil, fmt.Errorf("reading the daemon's settings: %w", err)
	}
	return daemonRisks(&k, r.config.AllowPrivateOrigins), nil
}

func daemonRisks(k *config.Config, allowPrivate bool) []string {
	var risks []string
	if k.HTTPRetrieval.Enabled.WithDefault(config.DefaultHTTPRetrievalEnabled) {
		risks = append(risks, "HTTPRetrieval is enabled: provider records of strangers can make the daemon send HTTP "+
			"requests to its own network; run: ipfs config --json HTTPRetrieval.Enabled false")
	}
	if !allowPrivate && len(k.Swarm.AddrFilters) == 0 {
		risks = append(risks, "Swarm.AddrFilters is empty: peers can lead the daemon to hosts of its own network; "+
			"run: ipfs config profile apply server")
	}
	if unsynced(k.Datastore.Spec) {
		risks = append(risks, "flatfs does not sync: after a power cut a pin may be there whose blocks are not; set "+
			`"sync": true for flatfs in Datastore.Spec`)
	}
	if k.Provide.Enabled.WithDefault(config.DefaultProvideEnabled) &&
		k.Provide.Strategy.WithDefault(config.DefaultProvideStrategy) == config.DefaultProvideStrategy {
		risks = append(risks, "Provide.Strategy is all: every block of every pin is announced; run: "+
			"ipfs config Provide.Strategy roots")
	}
	return risks
}

// unsynced tells whether a layout has a flatfs that does not sync (H7).
func unsynced(spec map[string]any) bool {
	if sync, _ := spec["sync"].(bool); spec["type"] == Flatfs && !sync {
		return true
	}
	return slices.ContainsFunc(parts(spec), unsynced)
}
