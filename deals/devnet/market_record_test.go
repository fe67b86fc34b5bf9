package devnet_test

import (
	"strings"
	"testing"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/google/go-cmp/cmp"

	"github.com/frostpin/frostpin/deals/devnet"
)

func TestVerifiedDealTurnsDataCapIntoAllocationAndClaim(t *testing.T) {
	w := start(t, devnet.Config{ClientDataCap: big.NewInt(3 << 20)})
	w.fund()
	miner := w.Miners()[0]
	p := w.proposal(miner, 1)
	p.VerifiedDeal = true
	id := w.publish(miner, p)
	if left := must[*abi.StoragePower](t)(w.node.StateVerifiedClientStatus(w.ctx, w.ClientAddress(), types.EmptyTSK)); !left.Equals(big.NewInt(2 << 20)) {
		t.Errorf("datacap left is %s", left)
	}
	alloc, err := w.node.StateGetAllocationForPendingDeal(w.ctx, id, types.EmptyTSK)
	if err != nil || alloc == nil {
		t.Fatalf("allocation of the pending deal: %v, %v", alloc, err)
	}
	if alloc.TermMin != p.Duration() || alloc.TermMax != p.Duration()+90*day || alloc.Expiration != p.StartEpoch || alloc.Data != p.PieceCID {
		t.Errorf("allocation is %+v", alloc)
	}
	allocID, err := w.node.StateGetAllocationIdForPendingDeal(w.ctx, id, types.EmptyTSK)
	if err != nil || allocID != 1 {
		t.Fatalf("allocation id %d, %v", allocID, err)
	}
	piece := abi.PieceInfo{PieceCID: p.PieceCID, Size: p.PieceSize}
	w.push(w.preCommit(miner, 0, p.EndEpoch+10*day, piece))
	w.advance(10)
	w.push(w.proveVerified(miner, 0, id, p, 1))
	if d := w.deal(id); d.State.SectorStartEpoch < 0 {
		t.Fatal("verified deal is not active")
	}
	claim, err := w.node.StateGetClaim(w.ctx, miner.ID, 1, types.EmptyTSK)
	if err != nil || claim == nil || claim.Data != p.PieceCID || claim.Sector != 0 {
		t.Fatalf("claim is %+v, %v", claim, err)
	}
	if again, err := w.node.StateGetAllocation(w.ctx, w.ClientAddress(), 1, types.EmptyTSK); err != nil || again != nil {
		t.Errorf("allocation after its claim: %+v, %v", again, err)
	}
	if none, err := w.node.StateGetClaim(w.ctx, miner.ID, 2, types.EmptyTSK); err != nil || none != nil {
		t.Errorf("absent claim: %+v, %v", none, err)
	}
}

func TestEventsNameEveryStepOfADeal(t *testing.T) {
	w := start(t, devnet.Config{ActorEvents: true})
	w.fund()
	miner := w.Miners()[0]
	p := w.proposal(miner, 1)
	id := w.publish(miner, p)
	w.activate(miner, 0, id, p)
	w.until(p.StartEpoch + 1)
	w.push(w.terminate(miner, 0))

	from := abi.ChainEpoch(0)
	kinds := func(f types.ActorEventFilter) []string {
		var out []string
		for _, e := range must[[]*types.ActorEvent](t)(w.node.GetActorEventsRaw(w.ctx, &f)) {
			out = append(out, string(e.Entries[0].Value[1:]))
		}
		return out
	}
	want := []string{"deal-published", "deal-activated", "deal-terminated"}
	if diff := cmp.Diff(want, kinds(types.ActorEventFilter{FromHeight: &from, Addresses: []address.Address{builtin.StorageMarketActorAddr}})); diff != "" {
		t.Error(diff)
	}
	published := types.ActorEventBlock{Codec: 0x51, Value: append([]byte{0x60 + 14}, "deal-published"...)}
	if diff := cmp.Diff(want[:1], kinds(types.ActorEventFilter{FromHeight: &from, Fields: map[string][]types.ActorEventBlock{"$type": {published}}})); diff != "" {
		t.Error(diff)
	}
	quiet := start(t, devnet.Config{})
	if _, err := quiet.node.GetActorEventsRaw(quiet.ctx, nil); err == nil || !strings.Contains(err.Error(), api.ErrNotSupported.Error()) {
		t.Errorf("events of a node that has them off: %v", err)
	}
}
