package devnet_test

import (
	"strings"
	"testing"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	market18 "github.com/filecoin-project/go-state-types/builtin/v18/market"
	"github.com/filecoin-project/go-state-types/exitcode"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/google/go-cmp/cmp"

	"github.com/frostpin/frostpin/deals/devnet"
)

// Both parties' escrow has to cover all deals of a batch together, in their order.
func TestBatchIsCoveredAsAWhole(t *testing.T) {
	for name, price := range map[string]func(*market18.DealProposal){
		"client": func(p *market18.DealProposal) {
			p.StoragePricePerEpoch = big.Div(fil(4), big.NewInt(int64(p.Duration())))
		},
		"provider": func(p *market18.DealProposal) { p.ProviderCollateral = fil(4) },
	} {
		w := start(t, devnet.Config{})
		w.fund() // 10 FIL each
		miner := w.Miners()[0]
		var batch []market18.ClientDealProposal
		for i := range byte(4) {
			p := w.proposal(miner, i)
			price(&p)
			batch = append(batch, w.sign(p))
		}
		if diff := cmp.Diff([]int64{1, 2, -1, -1}, w.published(w.push(w.publishMessage(miner, batch...)), 4)); diff != "" {
			t.Errorf("four deals of 4 FIL on 10 FIL of the %s: %s", name, diff)
		}
		if diff := cmp.Diff([]int64{-1, 3}, w.published(w.push(w.publishMessage(miner, batch[2], w.sign(w.proposal(miner, 9)))), 2)); diff != "" {
			t.Errorf("the next message of the %s: %s", name, diff)
		}
	}
}

// executeAt has a message executed at exactly this height, without an estimate, and returns its exit code.
func (w *world) executeAt(height abi.ChainEpoch, msg *types.Message) exitcode.ExitCode {
	w.t.Helper()
	w.until(height - 1)
	msg.GasLimit = 50_000_000
	signed, err := w.node.MpoolPushMessage(w.ctx, msg, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.advance(2)
	return w.receipt(signed.Cid()).Receipt.ExitCode
}

func TestDealMayBeActivatedUpToItsStartEpoch(t *testing.T) {
	for late, want := range map[abi.ChainEpoch]exitcode.ExitCode{0: exitcode.Ok, 1: exitcode.ErrIllegalArgument} {
		w := start(t, devnet.Config{})
		w.fund()
		miner := w.Miners()[0]
		p := w.proposal(miner, 1)
		id := w.publish(miner, p)
		w.push(w.preCommit(miner, 0, p.EndEpoch+100*day, abi.PieceInfo{PieceCID: p.PieceCID, Size: p.PieceSize}))
		if got := w.executeAt(p.StartEpoch+late, w.prove(miner, 0, id, p, true)); got != want {
			t.Errorf("proof %d epochs after the start: exit code %s, want %s", late, got, want)
		}
		if active := w.deal(id).State.SectorStartEpoch == p.StartEpoch; active != (late == 0) {
			t.Errorf("proof %d epochs after the start: active is %v", late, active)
		}
	}
}

func TestProofWaitsForTheDelayAfterThePreCommit(t *testing.T) {
	const delay = 25
	for early, want := range map[abi.ChainEpoch]exitcode.ExitCode{0: exitcode.ErrForbidden, 1: exitcode.Ok} {
		w := start(t, devnet.Config{PreCommitDelay: delay})
		w.fund()
		miner := w.Miners()[0]
		p := w.proposal(miner, 1)
		id := w.publish(miner, p)
		at := w.Height() + 1
		msg := w.preCommit(miner, 0, p.EndEpoch+100*day, abi.PieceInfo{PieceCID: p.PieceCID, Size: p.PieceSize})
		if got := w.executeAt(at, msg); got != exitcode.Ok {
			t.Fatalf("pre-commit: %s", got)
		}
		if got := w.executeAt(at+delay+early, w.prove(miner, 0, id, p, true)); got != want {
			t.Errorf("proof %d epochs after the pre-commit: exit code %s, want %s", delay+early, got, want)
		}
	}
}

func TestFailedMessageLeavesNoTrace(t *testing.T) {
	w := start(t, devnet.Config{ActorEvents: true})
	w.fund()
	miner := w.Miners()[0]
	p, q := w.proposal(miner, 1), w.proposal(miner, 2)
	id := w.publish(miner, p)
	w.push(w.preCommit(miner, 0, q.EndEpoch+100*day, abi.PieceInfo{PieceCID: p.PieceCID, Size: p.PieceSize}))
	w.advance(10)
	before, nonce := w.market(miner.ID), must[uint64](t)(w.node.MpoolGetNonce(w.ctx, miner.Worker))
	if got := w.executeAt(w.Height()+2, w.prove(miner, 0, id+7, p, true)); got == exitcode.Ok {
		t.Fatal("a proof for an unknown deal succeeded")
	}
	if info, err := w.node.StateSectorGetInfo(w.ctx, miner.ID, 0, types.EmptyTSK); err != nil || info != nil {
		t.Errorf("the sector of a failed proof: %v, %v", info, err)
	}
	equal(t, "escrow", w.market(miner.ID).Escrow, before.Escrow)
	if got := must[uint64](t)(w.node.MpoolGetNonce(w.ctx, miner.Worker)); got != nonce+1 {
		t.Errorf("nonce is %d after %d: a failed message uses one", got, nonce)
	}
	w.push(w.prove(miner, 0, id, p, true))
	if f := w.fate(id); f.Fate != devnet.FateActive {
		t.Errorf("fate is %+v", f)
	}
}

// The estimate tells why, the way lotus words it.
func TestRefusalAtThePushSaysWhy(t *testing.T) {
	w := start(t, devnet.Config{})
	w.fund()
	msg := w.publishMessage(w.Miners()[0], w.sign(w.proposal(w.Miners()[1], 1)))
	_, err := w.node.MpoolPushMessage(w.ctx, msg, nil)
	if err == nil || !strings.Contains(err.Error(), "message execution failed (exit=[") {
		t.Fatalf("got %v", err)
	}
	if found, err := w.node.StateSearchMsg(w.ctx, types.EmptyTSK, msg.Cid(), api.LookbackNoLimit, true); err == nil {
		t.Errorf("a refused message was found: %v", found)
	}
}
