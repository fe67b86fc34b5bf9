package pinstest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/frostpin/frostpin/pins"
)

// A Rig is a hot tier for TestHotTier and a peer that it can fetch from.
type Rig struct {
	Tier pins.HotTier
	Peer peer.AddrInfo // where the peer is; the tier is not connected to it yet

	Provide func(...blocks.Block) // makes blocks obtainable from the peer
	Silence func(on bool)         // makes the peer keep what it is asked for to itself, or answer everything

	Corrupt func(blocks.Block) // puts a block that is here into the node again with other bytes; nil where nobody can

	KeepsUnfinished bool // Collect keeps what is present below the roots it is told
}

// Patience bounds everything in TestHotTier that has to come true.
const Patience = 30 * time.Second

// TestHotTier is the contract of pins.HotTier. open is called for a tier of its own by each part; it must let the
// tier dial private addresses.
func TestHotTier(t *testing.T, open func(*testing.T) Rig) {
	parts := []struct {
		name string
		test func(*testing.T, *rig)
	}{
		{"HoldMakesTheWholeDAGPresentAndProtected", holdProtects},
		{"HoldingAgainChangesNothing", holdAgain},
		{"CancelledSecondHoldKeepsTheFirstPin", cancelledSecondHold},
		{"ReleasedDAGIsCollected", releaseCollects},
		{"ConcurrentHoldsAndReleasesEndInOrder", holdsAndReleases},
		{"OfflineHoldNeverFetches", offlineHold},
		{"LimitsStopARunningHold", limitsStop},
		{"WhatCanNeverBeHeldIsRefused", refusals},
		{"MissingBlockStallsAndKeepsTheRest", stallKeeps},
		{"SilentPeerIsWaitedFor", silentPeer},
		{"CancelledHoldReturnsItsCause", cancelledHold},
		{"CollectNeverWaitsForAStuckFetch", collectDuringFetch},
		{"CollectKeepsUnfinishedDAGs", collectKeeps},
		{"IdentityRootIsHeldAtOnce", identityRoot},
		{"EveryAdmittedCodecIsHeldAndCollectedAround", everyCodec},
		{"BlockReturnsWhatIsHereAndNeverFetches", blockLocal},
		{"BlockIsVerified", blockVerified},
		{"ImportedBlocksStayUntilTheImportIsClosed", importStays},
		{"ImportRefusesWhatIsNotWhatItSays", importRefuses},
		{"ImportMendsWrongBytes", importMends},
		{"VerifyNamesWhatIsMissingOrWrong", verifyNames},
		{"FetchAsksTheNetwork", fetchAsks},
		{"FindReportsWhatArrives", findReports},
		{"RootsListsExactlyWhatIsHeld", rootsLists},
		{"DelegatesAreDialable", delegatesDialable},
		{"ConnectSurvivesBadOrigins", badOrigins},
		{"AnnounceHarmsNothing", announceHarmless},
		{"UsageGrows", usageGrows},
		{"CloseEndsRunningCalls", closeEnds},
	}
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), Patience)
			defer cancel()
			r := &rig{Rig: open(t), t: t, ctx: ctx}
			defer r.Tier.Connect(ctx, []peer.AddrInfo{r.Peer})()
			part.test(t, r)
		})
	}
}

// rig adds to a Rig what the parts share.
type rig struct {
	Rig
	t   *testing.T
	ctx context.Context
}

// hold holds root without limits.
func (r *rig) hold(root cid.Cid) {
	r.t.Helper()
	if err := r.Tier.Hold(r.ctx, root, pins.Limits{Idle: 2 * time.Second}, nil); err != nil {
		r.t.Fatalf("holding %s: %v", root, err)
	}
}

// provided makes a DAG obtainable.
func (r *rig) provided(d DAG) DAG {
	r.Provide(d.Blocks...)
	return d
}

func (r *rig) held(root cid.Cid, want bool) {
	r.t.Helper()
	got, err := r.Tier.Held(r.ctx, root)
	if err != nil || got != want {
		r.t.Fatalf("Held(%s) = %v, %v; want %v", root, got, err, want)
	}
}

// present tells whether the whole DAG is here, without fetching. It pins it if so.
func (r *rig) present(root cid.Cid) bool {
	r.t.Helper()
	err := r.Tier.Hold(r.ctx, root, pins.Limits{Offline: true}, nil)
	if err != nil && !errors.Is(err, pins.ErrAbsent) {
		r.t.Fatalf("looking for %s offline: %v", root, err)
	}
	return err == nil
}

func (r *rig) collect(keep ...cid.Cid) int64 {
	r.t.Helper()
	removed, err := r.Tier.Collect(r.ctx, keep)
	if err != nil {
		r.t.Fatalf("collecting: %v", err)
	}
	return removed
}

func (r *rig) release(root cid.Cid) {
	r.t.Helper()
	if err := r.Tier.Release(r.ctx, root); err != nil {
		r.t.Fatalf("releasing %s: %v", root, err)
	}
}

// start runs f and returns a channel with its answer.
func start(f func() error) <-chan error {
	answer := make(chan error, 1)
	go func() { answer <- f() }()
	return answer
}

// wait returns the answer, or fails when it does not come.
func (r *rig) wait(answer <-chan error, what string) error {
	r.t.Helper()
	select {
	case err := <-answer:
		return err
	case <-r.ctx.Done():
		r.t.Fatalf("%s did not end", what)
		return nil
	}
}

// until polls until ok, or fails.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			r.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// refused checks that a Hold failed for good, with a reason that says what.
func (r *rig) refused(err error, what string) {
	r.t.Helper()
	var refused *pins.Refused
	if !errors.As(err, &refused) || !strings.Contains(refused.Reason, what) {
		r.t.Errorf("error %v; want a refusal about %q", err, what)
	}
}
