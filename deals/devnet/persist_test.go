package devnet_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/frostpin/frostpin/deals/devnet"
)

// crash copies the chain as a killed process would leave it (the process goes on) and opens the copy.
func (w *world) crash(dir string, cut int64) *world {
	w.t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "chain.journal"))
	if err != nil {
		w.t.Fatal(err)
	}
	copied := w.t.TempDir()
	if err := os.WriteFile(filepath.Join(copied, "chain.journal"), raw[:int64(len(raw))-cut], 0o600); err != nil {
		w.t.Fatal(err)
	}
	cfg := w.cfg
	cfg.Dir = copied
	return start(w.t, cfg)
}

func deals(w *world) []devnet.Deal {
	w.t.Helper()
	return must[[]devnet.Deal](w.t)(w.Deals())
}

var sameDeals = cmp.Comparer(func(a, b devnet.Deal) bool {
	return cmp.Equal(a.ProposalCID.String(), b.ProposalCID.String()) && a.ID == b.ID && a.Fate == b.Fate && a.Sector == b.Sector &&
		a.Published == b.Published && a.Activated == b.Activated && a.Ended == b.Ended && a.Message == b.Message
})

func TestRestartKeepsChainWalletAndWaitingMessages(t *testing.T) {
	dir := t.TempDir()
	w := start(t, devnet.Config{Dir: dir})
	w.fund()
	miner := w.Miners()[0]
	p, q := w.proposal(miner, 1), w.proposal(miner, 2)
	id := w.publish(miner, p)
	w.activate(miner, 0, id, p)
	fresh := must[address.Address](t)(dial(t, w.Net, api.AllPermissions...).WalletNew(w.ctx, types.KTSecp256k1))
	spec := &api.MessageSendSpec{MsgUuid: uuid.New()}
	waiting := must[*types.SignedMessage](t)(w.node.MpoolPushMessage(w.ctx, w.publishMessage(miner, w.sign(q)), spec))

	r := w.crash(dir, 0)
	if diff := cmp.Diff(deals(w), deals(r), sameDeals); diff != "" {
		t.Error(diff)
	}
	if r.Height() != w.Height() || r.ClientAddress() != w.ClientAddress() || r.head().Key() != w.head().Key() {
		t.Fatalf("restarted at %d as %s", r.Height(), r.ClientAddress())
	}
	if !slices.Equal(w.Miners(), r.Miners()) {
		t.Errorf("miners are %v, were %v", r.Miners(), w.Miners())
	}
	if ok, err := r.node.WalletHas(r.ctx, fresh); err != nil || !ok {
		t.Errorf("new key is lost: %v, %v", ok, err)
	}
	if perms, err := r.node.AuthVerify(r.ctx, w.Token(api.PermSign)); err != nil || len(perms) != 1 {
		t.Errorf("old token: %v, %v", perms, err)
	}
	again := must[*types.SignedMessage](t)(r.node.MpoolPushMessage(r.ctx, r.publishMessage(miner, r.sign(q)), spec))
	if again.Cid() != waiting.Cid() {
		t.Error("the uuid was forgotten")
	}
	r.advance(2)
	r.receipt(waiting.Cid())
	if got := r.deal(firstDeal + 1).Proposal.PieceCID; got != q.PieceCID {
		t.Errorf("second deal is for %s", got)
	}
}

func TestTornJournalLosesOnlyTheTornRecord(t *testing.T) {
	dir := t.TempDir()
	w := start(t, devnet.Config{Dir: dir})
	w.fund()
	miner := w.Miners()[0]
	w.publish(miner, w.proposal(miner, 1))
	for cut := int64(1); cut < 3_000; cut += 97 {
		r := w.crash(dir, cut)
		if r.Height() >= w.Height() || r.Height() < w.Height()-4 {
			t.Fatalf("cut by %d bytes: height %d of %d", cut, r.Height(), w.Height())
		}
		r.advance(3) // goes on: mines, executes and writes
		r.deal(firstDeal)
	}
}

func TestReorgSurvivesARestart(t *testing.T) {
	for _, drop := range []bool{false, true} {
		dir := t.TempDir()
		w := start(t, devnet.Config{Dir: dir})
		w.fund()
		miner := w.Miners()[0]
		signed := must[*types.SignedMessage](t)(w.node.MpoolPushMessage(w.ctx, w.publishMessage(miner, w.sign(w.proposal(miner, 1))), nil))
		w.advance(2)
		if err := w.Reorg(2, drop); err != nil {
			t.Fatal(err)
		}
		r := w.crash(dir, 0)
		if r.head().Key() != w.head().Key() {
			t.Fatal("another head after the restart")
		}
		r.advance(3)
		if drop {
			r.gone(firstDeal)
			continue
		}
		r.receipt(signed.Cid())
		r.deal(firstDeal)
	}
}

func TestCompactionKeepsWhatCanStillBeAsked(t *testing.T) {
	dir := t.TempDir()
	w := start(t, devnet.Config{Dir: dir, Finality: 5})
	w.fund()
	miner := w.Miners()[0]
	p := w.proposal(miner, 1)
	signed := must[*types.SignedMessage](t)(w.node.MpoolPushMessage(w.ctx, w.publishMessage(miner, w.sign(p)), nil))
	w.advance(2)
	w.activate(miner, 0, firstDeal, p)
	waiting := must[cidT](t)(w.node.MarketAddBalance(w.ctx, miner.Owner, miner.ID, fil(1)))
	w.advance(1_000)
	before := size(t, dir)
	if err := w.Sweep(); err != nil {
		t.Fatal(err)
	}
	if after := size(t, dir); after > before/2 {
		t.Errorf("journal shrank from %d to %d bytes only", before, after)
	}
	w.advance(3)
	r := w.crash(dir, 0)
	for _, x := range []*world{w, r} {
		x.receipt(signed.Cid())
		x.receipt(waiting)
		if d := x.deal(firstDeal); d.State.SectorStartEpoch < 0 {
			t.Error("deal lost its activation")
		}
		if f := x.fate(firstDeal); f.Fate != devnet.FateActive || f.Signed == nil {
			t.Errorf("fate is %+v", f)
		}
		final := must[*types.TipSet](t)(x.node.ChainGetFinalizedTipSet(x.ctx))
		if _, err := x.node.StateMarketStorageDeal(x.ctx, firstDeal, final.Key()); err != nil {
			t.Error(err)
		}
		if g := must[*types.TipSet](t)(x.node.ChainGetGenesis(x.ctx)); g.Height() != 0 {
			t.Errorf("genesis at %d", g.Height())
		}
	}
	r.advance(2)
}

func size(t *testing.T, dir string) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, "chain.journal"))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func TestChainOfAnotherNetworkIsRefused(t *testing.T) {
	dir := t.TempDir()
	net, err := devnet.Start(t.Context(), devnet.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := net.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := devnet.Start(t.Context(), devnet.Config{Dir: dir, Network: "other"}); err == nil {
		t.Fatal("opened the chain of another network")
	}
}

func TestSeededDealsAreActiveAndSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	w := start(t, devnet.Config{Dir: dir})
	miner := w.Miners()[0]
	var seeds []devnet.SeedDeal
	for i := range byte(100) {
		seeds = append(seeds, devnet.SeedDeal{Proposal: w.proposal(miner, i), Sector: abi.SectorNumber(i / 10)})
	}
	ids := must[[]abi.DealID](t)(w.Seed(w.ctx, seeds))
	w.advance(1)
	r := w.crash(dir, 0)
	for _, x := range []*world{w, r} {
		if len(ids) != 100 || len(deals(x)) != 100 {
			t.Fatalf("%d ids, %d deals", len(ids), len(deals(x)))
		}
		if d := x.deal(ids[42]); d.State.SectorNumber != 4 || d.State.SectorStartEpoch != 0 {
			t.Errorf("deal reads %+v", d.State)
		}
	}
	equal(t, "locked", w.market(miner.ID).Locked, w.market(miner.ID).Escrow)
}
