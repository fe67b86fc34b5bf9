package hot_test

import (
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot"
	"github.com/frostpin/frostpin/pins/pinstest"
)

func TestRemoteKeepsTheContract(t *testing.T) {
	daemon := startDaemon(t)
	pinstest.TestHotTier(t, func(t *testing.T) pinstest.Rig {
		tier := openRemote(t, hot.RemoteConfig{URL: daemon.url(), AllowPrivateOrigins: true})
		empty(t, tier)
		peer := newPeer(t)
		return pinstest.Rig{Tier: tier, Peer: peer.info(), Provide: peer.provide, Silence: peer.store.silence}
	})
}

// empty takes everything out of a tier.
func empty(t *testing.T, tier pins.HotTier) {
	t.Helper()
	var roots []cid.Cid
	if err := tier.Roots(t.Context(), func(c cid.Cid) error { roots = append(roots, c); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, root := range roots {
		if err := tier.Release(t.Context(), root); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tier.Collect(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}
