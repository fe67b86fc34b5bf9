package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot"
)

// A hotTier is what the two kinds have in common beyond what pins needs.
type hotTier interface {
	pins.HotTier
	// ID is the node's peer id. It fails when the node does not answer.
	ID(ctx context.Context) (string, error)
	// Risks says in words which of the node's settings may lose data or open the network.
	Risks(ctx context.Context) ([]string, error)
}

// hotDir is where the embedded node keeps everything.
func (c *Config) hotDir() string { return filepath.Join(c.DataDir, "ipfs") }

// openHot opens the hot tier that the settings describe.
func openHot(ctx context.Context, c *Config, turns *pins.Turns, log *slog.Logger) (hotTier, error) {
	if c.Hot == hotRemote {
		tier, err := hot.OpenRemote(ctx, hot.RemoteConfig{
			URL:                 c.HotURL,
			Authorization:       c.HotAuthorization.Reveal(),
			AllowPrivateOrigins: c.AllowPrivateOrigins,
			Announce:            c.Announce,
			LastDelegates:       lastDelegates(c.DataDir),
			Turns:               turns,
			Log:                 log,
		})
		if err != nil {
			return nil, fmt.Errorf("connecting to the kubo daemon: %w", err)
		}
		return tier, nil
	}
	tier, err := hot.OpenEmbedded(ctx, hot.Config{
		Dir:                 c.hotDir(),
		Network:             c.Network,
		Profile:             c.HotDatastore,
		Listen:              c.SwarmListen,
		Announce:            c.Announce,
		AllowPrivateOrigins: c.AllowPrivateOrigins,
		ConnLow:             c.ConnectionsLow,
		ConnHigh:            c.ConnectionsHigh,
		Turns:               turns,
		Log:                 log,
	})
	if err != nil {
		return nil, fmt.Errorf("starting the embedded node: %w", err)
	}
	return tier, nil
}

// checkHot is what /readyz and doctor ask of a hot tier.
func checkHot(ctx context.Context, tier hotTier) error {
	_, err := tier.ID(ctx)
	return err
}
