package hot_test

import (
	"testing"

	"github.com/frostpin/frostpin/pins/hot"
	"github.com/frostpin/frostpin/pins/pinstest"
)

// openEmbedded opens a node of a test, on loopback only.
func openEmbedded(t testing.TB, cfg hot.Config) *hot.Embedded {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	cfg.Network = hot.Private
	tier, err := hot.OpenEmbedded(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tier.Close(); err != nil {
			t.Errorf("closing the node: %v", err)
		}
	})
	return tier
}

func TestEmbeddedKeepsTheContract(t *testing.T) {
	for _, profile := range []string{hot.Pebble, hot.Flatfs} {
		t.Run(profile, func(t *testing.T) {
			pinstest.TestHotTier(t, func(t *testing.T) pinstest.Rig {
				peer := newPeer(t)
				return pinstest.Rig{
					Tier:            openEmbedded(t, hot.Config{AllowPrivateOrigins: true, Profile: profile}),
					Peer:            peer.info(),
					Provide:         peer.provide,
					Silence:         peer.store.silence,
					KeepsUnfinished: true,
				}
			})
		})
	}
}

func TestEmbeddedTellsAtOnceWhichRootItLacks(t *testing.T) {
	tier := openEmbedded(t, hot.Config{})
	if !tier.Lacks(pinstest.Raw("nobody has this").Cid()) {
		t.Error("a root that is not here is not said to be missing")
	}
}
