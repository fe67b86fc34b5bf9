package pinstest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	blocks "github.com/ipfs/go-block-format"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/goleak"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestModelKeepsTheContract(t *testing.T) {
	pinstest.TestHotTier(t, func(t *testing.T) pinstest.Rig {
		tier := pinstest.NewTier()
		t.Cleanup(func() {
			if err := tier.Close(); err != nil {
				t.Error(err)
			}
		})
		return pinstest.Rig{
			Tier:            tier,
			Peer:            peer.AddrInfo{ID: "somebody", Addrs: []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/9")}},
			Provide:         tier.AddNetwork,
			Silence:         tier.Silence,
			Corrupt:         func(b blocks.Block) { tier.Corrupt(b.Cid()) },
			KeepsUnfinished: true,
		}
	})
}

// A session that dies without a word is replaced by a new one, which goes on where the old one stopped (H4, K5).
func TestDeadSessionsAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tier := pinstest.NewTier()
		d := pinstest.Tree("many sessions", 100)
		tier.AddNetwork(d.Blocks...)
		tier.LimitSessions(10)
		var p pins.Progress
		begun := time.Now()
		limits := pins.Limits{Idle: 15 * time.Second, Stall: time.Minute}
		if err := tier.Hold(t.Context(), d.Root, limits, &p); err != nil {
			t.Fatal(err)
		}
		// 101 blocks in portions of 10: ten sessions die.
		if took := time.Since(begun); took != 10*limits.Idle {
			t.Errorf("the hold took %s, want ten times %s", took, limits.Idle)
		}
		if blocks, bytes := p.Totals(); blocks != 101 || bytes != d.Size() {
			t.Errorf("totals %d blocks, %d bytes; want 101, %d", blocks, bytes, d.Size())
		}
	})
}

// What is here already is walked again by each session, and that is no progress.
func TestWalkingAgainIsNoProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tier := pinstest.NewTier()
		d := pinstest.Tree("stuck", 20)
		tier.AddNetwork(d.Blocks[:20]...)
		begun := time.Now()
		limits := pins.Limits{Idle: 15 * time.Second, Stall: 50 * time.Second}
		err := tier.Hold(t.Context(), d.Root, limits, nil)
		if diff := cmp.Diff(pins.ErrStalled.Error(), err.Error()); diff != "" {
			t.Errorf("error (-want +got):\n%s", diff)
		}
		if took := time.Since(begun); took != limits.Stall {
			t.Errorf("stalled after %s, want %s", took, limits.Stall)
		}
	})
}

// Users see numbers that only grow, however often the walk starts again.
func TestProgressNeverGoesBack(t *testing.T) {
	tier := pinstest.NewTier()
	d := pinstest.Tree("growing", 60)
	tier.AddNetwork(d.Blocks...)
	tier.LimitSessions(7)
	var p pins.Progress
	done := make(chan error, 1)
	go func() { done <- tier.Hold(t.Context(), d.Root, pins.Limits{Idle: 5 * time.Millisecond}, &p) }()
	var lastBlocks, lastBytes int64
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
			blocks, bytes := p.Totals()
			if blocks < lastBlocks || bytes < lastBytes {
				t.Fatalf("progress went back from %d, %d to %d, %d", lastBlocks, lastBytes, blocks, bytes)
			}
			lastBlocks, lastBytes = blocks, bytes
		}
	}
}

func TestBlocksOfAPeerNeedItsConnection(t *testing.T) {
	tier := pinstest.NewTier()
	d := pinstest.Tree("origin", 3)
	tier.AddPeer("origin", d.Blocks...)
	limits := pins.Limits{Idle: time.Millisecond, Stall: 2 * time.Millisecond}
	if err := tier.Hold(t.Context(), d.Root, limits, nil); err == nil {
		t.Fatal("held a DAG that only an unconnected peer has")
	}
	release := tier.Connect(t.Context(), []peer.AddrInfo{{ID: "origin"}})
	if err := tier.Hold(t.Context(), d.Root, pins.Limits{}, nil); err != nil {
		t.Fatal(err)
	}
	release()
	if left := tier.Connected(); len(left) != 0 {
		t.Errorf("still connected to %v", left)
	}
}
