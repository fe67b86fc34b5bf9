package sp_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-jsonrpc/auth"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/api/client"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/google/uuid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/frostpin/frostpin/deals/devnet"
	"github.com/frostpin/frostpin/deals/devnet/sp"
	"github.com/frostpin/frostpin/deals/mk12/wire"
)

// A devworld is a devnet with providers and a client, all of them strangers who meet at its RPC endpoint.
type devworld struct {
	t      *testing.T
	net    *devnet.Net
	node   api.FullNode
	fleet  sp.Fleet
	cfg    sp.FleetConfig
	client address.Address
	host   host.Host
}

func newDevworld(t *testing.T, n int, change ...func(*sp.FleetConfig)) *devworld {
	t.Helper()
	net, err := devnet.Start(t.Context(), devnet.Config{Miners: n, ClientDataCap: big.NewInt(1 << 40)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { net.Close() })
	w := &devworld{t: t, net: net, client: net.ClientAddress()}
	w.node = w.dial()
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	w.cfg = sp.FleetConfig{
		Config: sp.Config{Node: w.dial(), Dir: t.TempDir(), Log: log, Seed: 1, Pull: sp.PullConfig{Backoff: time.Millisecond, MinRate: -1}},
	}
	for _, m := range net.Miners() {
		w.cfg.Members = append(w.cfg.Members, sp.Member{Miner: m.ID, Worker: m.Worker})
	}
	for _, f := range change {
		f(&w.cfg)
	}
	if w.fleet, err = sp.StartFleet(t.Context(), w.cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.fleet.Close() })
	if w.host, err = libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.host.Close() })
	if _, err := w.node.MarketAddBalance(t.Context(), w.client, w.client, abi.NewTokenAmount(1e18)); err != nil {
		t.Fatal(err)
	}
	w.until("everything is settled", w.fleet.Settled)
	return w
}

func (w *devworld) dial() api.FullNode {
	w.t.Helper()
	token := w.net.Token(auth.Permission(api.PermRead), api.PermWrite, api.PermSign)
	node, closer, err := client.NewFullNodeRPCV1(w.t.Context(), w.net.RPCURL(), http.Header{"Authorization": {"Bearer " + token}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(closer)
	return node
}

func (w *devworld) tick() {
	if err := w.net.Advance(1); err != nil {
		w.t.Error(err)
	}
}

func (w *devworld) until(what string, cond func() bool) {
	w.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !cond() {
		select {
		case <-ticker.C:
			w.tick()
		case <-deadline.C:
			w.t.Fatalf("it never came: %s", what)
		}
	}
}

// found is where the chain says that a miner listens.
func (w *devworld) found(miner address.Address) peer.AddrInfo {
	w.t.Helper()
	info, err := w.node.StateMinerInfo(w.t.Context(), miner, types.EmptyTSK)
	if err != nil {
		w.t.Fatal(err)
	}
	at := peer.AddrInfo{ID: *info.PeerId}
	for _, raw := range info.Multiaddrs {
		at.Addrs = append(at.Addrs, must(multiaddr.NewMultiaddrBytes(raw)))
	}
	return at
}

func (w *devworld) params(p *sp.Provider, d dag, verified bool) *wire.DealParams {
	w.t.Helper()
	ctx := w.t.Context()
	bounds := must(w.node.StateDealProviderCollateralBounds(ctx, d.size, verified, types.EmptyTSK))
	start := w.net.Height() + 1500
	params := &wire.DealParams{
		DealUUID: uuid.New(), DealDataRoot: d.root,
		ClientDealProposal: market.ClientDealProposal{Proposal: market.DealProposal{
			PieceCID: d.piece, PieceSize: d.size, VerifiedDeal: verified, Client: w.client, Provider: p.Miner(),
			Label: must(market.NewLabelFromString(d.root.String())), StartEpoch: start, EndEpoch: start + 520_000,
			StoragePricePerEpoch: abi.NewTokenAmount(3), ProviderCollateral: big.Div(big.Mul(bounds.Min, big.NewInt(12)), big.NewInt(10)),
			ClientCollateral: abi.NewTokenAmount(0),
		}},
		Transfer: must(wire.NewHTTPTransfer("", wire.HTTPRequest{
			URL: newSource(w.t, d).URL, Headers: map[string]string{"Authorization": token},
		}, uint64(len(d.car)))),
	}
	data := must(wire.ProposalBytes(&params.ClientDealProposal.Proposal))
	params.ClientDealProposal.ClientSignature = *must(w.node.WalletSign(ctx, w.client, data))
	return params
}

func (w *devworld) accept(p *sp.Provider, d dag, verified bool) *wire.DealParams {
	w.t.Helper()
	params := w.params(p, d, verified)
	resp, err := wire.Propose(w.t.Context(), w.host, w.found(p.Miner()), params)
	if err != nil || !resp.Accepted {
		w.t.Fatalf("proposing: %+v, %v", resp, err)
	}
	return params
}

func (w *devworld) stage(p *sp.Provider, params *wire.DealParams, want ...sp.Stage) *sp.Deal {
	w.t.Helper()
	return waitStage(w.t, p, params.DealUUID, w.tick, want...)
}

// onChain is the client's view of a deal; nil if the chain does not know it.
func (w *devworld) onChain(id abi.DealID) *api.MarketDeal {
	w.t.Helper()
	deal, err := w.node.StateMarketStorageDeal(w.t.Context(), id, types.EmptyTSK)
	if err != nil {
		return nil
	}
	return deal
}

// chainDeals is every deal that the chain has.
func (w *devworld) chainDeals() map[string]*api.MarketDeal {
	w.t.Helper()
	return must(w.node.StateMarketDeals(w.t.Context(), types.EmptyTSK))
}

func TestDealsBecomeActiveOnTheDevnet(t *testing.T) {
	w := newDevworld(t, 3)
	d := newDAG(20, 50_000)
	for i, p := range w.fleet {
		params := w.accept(p, d, i == 2)
		deal := w.stage(p, params, sp.Complete)
		w.tick()
		chain := w.onChain(deal.DealID)
		if chain == nil || chain.State.SectorStartEpoch < 0 || chain.State.SectorNumber != deal.Sector {
			t.Fatalf("provider %d: deal %d is %+v", i, deal.DealID, chain)
		}
		if !chain.Proposal.PieceCID.Equals(d.piece) || chain.Proposal.VerifiedDeal != (i == 2) {
			t.Errorf("provider %d: proposal is %+v", i, chain.Proposal)
		}
	}
	if n := len(w.chainDeals()); n != 3 {
		t.Errorf("the chain has %d deals", n)
	}
}

func TestSeveralDealsShareOneMessage(t *testing.T) {
	w := newDevworld(t, 1, func(c *sp.FleetConfig) { c.PublishDelay = 10 })
	var all []*wire.DealParams
	for range 3 {
		params := w.accept(w.fleet[0], newDAG(2, 1000), false)
		waitStage(t, w.fleet[0], params.DealUUID, func() {}, sp.Transferred)
		all = append(all, params)
	}
	messages := make(map[string]bool)
	ids := make(map[abi.DealID]bool)
	for _, params := range all {
		deal := w.stage(w.fleet[0], params, sp.Complete)
		messages[deal.Publish.CID.String()], ids[deal.DealID] = true, true
	}
	if len(messages) != 1 || len(ids) != 3 {
		t.Errorf("messages %v, ids %v", messages, ids)
	}
}

// What a dishonest provider publishes is dropped by the chain: the client's signature is over something else.
func TestTheChainRefusesAlteredDeals(t *testing.T) {
	for _, kind := range []sp.Kind{sp.PublishPiece, sp.PublishPrice, sp.PublishClient} {
		t.Run(string(kind), func(t *testing.T) {
			w := newDevworld(t, 1)
			if err := w.fleet[0].SetFaults(sp.Faults{{Kind: kind, First: 1}}); err != nil {
				t.Fatal(err)
			}
			params := w.accept(w.fleet[0], newDAG(2, 1000), false)
			deal := w.stage(w.fleet[0], params, sp.Failed)
			contains(t, deal.Error, "publishing failed: ")
			if n := len(w.chainDeals()); n != 0 {
				t.Errorf("the chain has %d deals", n)
			}
			next := w.accept(w.fleet[0], newDAG(2, 1000), false)
			w.stage(w.fleet[0], next, sp.Complete)
		})
	}
}

func TestInvalidNeighboursDoNotHarmADeal(t *testing.T) {
	w := newDevworld(t, 1)
	if err := w.fleet[0].SetFaults(sp.Faults{{Kind: sp.PublishMixed}}); err != nil {
		t.Fatal(err)
	}
	params := w.accept(w.fleet[0], newDAG(2, 1000), false)
	deal := w.stage(w.fleet[0], params, sp.Complete)
	w.tick()
	if chain := w.onChain(deal.DealID); chain == nil || !chain.Proposal.PieceCID.Equals(params.ClientDealProposal.Proposal.PieceCID) {
		t.Errorf("deal %d is %+v", deal.DealID, chain)
	}
	if n := len(w.chainDeals()); n != 1 {
		t.Errorf("the chain has %d deals", n)
	}
}

func TestPublishingTwiceMakesOneDeal(t *testing.T) {
	w := newDevworld(t, 1)
	if err := w.fleet[0].SetFaults(sp.Faults{{Kind: sp.PublishTwice}}); err != nil {
		t.Fatal(err)
	}
	params := w.accept(w.fleet[0], newDAG(2, 1000), false)
	w.stage(w.fleet[0], params, sp.Complete)
	if n := len(w.chainDeals()); n != 1 {
		t.Errorf("the chain has %d deals", n)
	}
}

func TestADealSealedTooLateIsNeverActive(t *testing.T) {
	w := newDevworld(t, 1)
	p := w.fleet[0]
	if err := p.SetFaults(sp.Faults{{Kind: sp.SealAfterStart}}); err != nil {
		t.Fatal(err)
	}
	params := w.accept(p, newDAG(2, 1000), false)
	deal := w.stage(p, params, sp.AddedPiece)
	w.advanceTo(params.ClientDealProposal.Proposal.StartEpoch + 1)
	contains(t, w.stage(p, params, sp.Failed).Error, "proven after the deal's start epoch")
	w.tick()
	if chain := w.onChain(deal.DealID); chain != nil && chain.State.SectorStartEpoch >= 0 {
		t.Errorf("it became active: %+v", chain)
	}
	if info, err := w.node.StateSectorGetInfo(t.Context(), p.Miner(), deal.Sector, types.EmptyTSK); err != nil || info == nil {
		t.Errorf("the sector is %+v, %v", info, err)
	}
}

func (w *devworld) advanceTo(height abi.ChainEpoch) {
	w.t.Helper()
	if left := height - w.net.Height(); left > 0 {
		if err := w.net.Skip(int(left)); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestADealNeverSealedIsMissed(t *testing.T) {
	w := newDevworld(t, 1)
	p := w.fleet[0]
	if err := p.SetFaults(sp.Faults{{Kind: sp.SealNever}}); err != nil {
		t.Fatal(err)
	}
	params := w.accept(p, newDAG(2, 1000), false)
	deal := w.stage(p, params, sp.PublishConfirmed)
	w.advanceTo(params.ClientDealProposal.Proposal.StartEpoch + 10)
	for range 5 {
		w.tick()
	}
	if chain := w.onChain(deal.DealID); chain == nil || chain.State.SectorStartEpoch != -1 {
		t.Errorf("after its start: %+v", chain)
	}
	if got := w.stage(p, params, sp.PublishConfirmed); got.Sector != 0 {
		t.Errorf("it lies in sector %d", got.Sector)
	}
}

func TestSealingLateIsStillInTime(t *testing.T) {
	w := newDevworld(t, 1)
	p := w.fleet[0]
	if err := p.SetFaults(sp.Faults{{Kind: sp.SealLate, Epochs: 300}}); err != nil {
		t.Fatal(err)
	}
	params := w.accept(p, newDAG(2, 1000), false)
	deal := w.stage(p, params, sp.AddedPiece)
	w.advanceTo(deal.PreCommitted + 250)
	w.tick()
	if got := w.stage(p, params, sp.AddedPiece); got.Prove.CID.Defined() {
		t.Error("it was proven early")
	}
	w.advanceTo(deal.PreCommitted + 300)
	if done := w.stage(p, params, sp.Complete); done.Activated < deal.PreCommitted+300 {
		t.Errorf("activated at %d, committed at %d", done.Activated, deal.PreCommitted)
	}
}

func TestATerminatedDealLeavesTheChain(t *testing.T) {
	w := newDevworld(t, 1)
	p := w.fleet[0]
	if err := p.SetFaults(sp.Faults{{Kind: sp.Terminate, Epochs: 20}}); err != nil {
		t.Fatal(err)
	}
	params := w.accept(p, newDAG(2, 1000), false)
	deal := w.stage(p, params, sp.Complete)
	w.tick()
	if w.onChain(deal.DealID) == nil {
		t.Fatal("it was never there")
	}
	w.stage(p, params, sp.Ended)
	w.until("the chain forgets the deal", func() bool { return w.onChain(deal.DealID) == nil })
}

func TestAReorganisationDelaysADealOnly(t *testing.T) {
	w := newDevworld(t, 1)
	p := w.fleet[0]
	params := w.accept(p, newDAG(2, 1000), false)
	w.stage(p, params, sp.Published)
	w.tick()
	if err := w.net.Reorg(2, true); err != nil {
		t.Fatal(err)
	}
	w.stage(p, params, sp.Complete)
	active := 0
	for _, deal := range w.chainDeals() {
		if deal.State.SectorStartEpoch >= 0 {
			active++
		}
	}
	if active != 1 {
		t.Errorf("%d deals are active", active)
	}
}

func TestAWrongPeerIDIsSeenOnChainAndTakenBack(t *testing.T) {
	w := newDevworld(t, 1)
	p := w.fleet[0]
	if err := p.SetFaults(sp.Faults{{Kind: sp.NoPeer}}); err != nil {
		t.Fatal(err)
	}
	w.until("the chain names another peer", func() bool { return w.found(p.Miner()).ID != p.AddrInfo().ID })
	_, err := wire.Ask(t.Context(), w.host, w.found(p.Miner()), p.Miner())
	if _, unsent := errors.AsType[*wire.NotSentError](err); !unsent {
		t.Errorf("asking the wrong peer: %v", err)
	}
	if err := p.SetFaults(nil); err != nil {
		t.Fatal(err)
	}
	w.until("the chain names the right peer", func() bool { return w.found(p.Miner()).ID == p.AddrInfo().ID })
	if ask, err := wire.Ask(t.Context(), w.host, w.found(p.Miner()), p.Miner()); err != nil || ask == nil {
		t.Errorf("asking the right peer: %+v, %v", ask, err)
	}
}

// Every provider of a fleet is closed and started again, in the middle of deals with all of them.
func TestAFleetSurvivesARestart(t *testing.T) {
	w := newDevworld(t, 2)
	d := newDAG(5, 20_000)
	var all []*wire.DealParams
	for _, p := range w.fleet {
		all = append(all, w.accept(p, d, false))
	}
	w.tick()
	if err := w.fleet.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.fleet, err = sp.StartFleet(t.Context(), w.cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.fleet.Close() })
	for i, p := range w.fleet {
		w.stage(p, all[i], sp.Complete)
		if dir := filepath.Join(w.cfg.Dir, p.Miner().String()); len(must(filepath.Glob(dir+"/pieces/*.part"))) != 0 {
			t.Errorf("%s keeps parts", dir)
		}
	}
	if n := len(w.chainDeals()); n != 2 {
		t.Errorf("the chain has %d deals: %s", n, must(json.Marshal(w.chainDeals())))
	}
}
