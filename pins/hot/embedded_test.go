package hot_test

import (
	"testing"

	blocks "github.com/ipfs/go-block-format"

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

// corrupt changes the bytes of a block behind the tier's back.
func corrupt(t *testing.T, tier *hot.Embedded, b blocks.Block) {
	t.Helper()
	store := tier.Node().Blockstore
	if err := store.DeleteBlock(t.Context(), b.Cid()); err != nil { // what is there is not written again
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), pinstest.Corrupted(b)); err != nil {
		t.Fatal(err)
	}
}

func TestEmbeddedKeepsTheContract(t *testing.T) {
	for _, profile := range []string{hot.Pebble, hot.Flatfs} {
		t.Run(profile, func(t *testing.T) {
			pinstest.TestHotTier(t, func(t *testing.T) pinstest.Rig {
				peer := newPeer(t)
				tier := openEmbedded(t, hot.Config{AllowPrivateOrigins: true, Profile: profile})
				return pinstest.Rig{
					Tier:    tier,
					Peer:    peer.info(),
					Provide: peer.provide,
					Silence: peer.store.silence,
					Corrupt: func(b blocks.Block) { // as it is found after a start
						corrupt(t, tier, b)
						tier.Distrust(b.Cid())
					},
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
