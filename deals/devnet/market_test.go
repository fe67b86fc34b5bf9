package devnet_test

import (
	"strings"
	"testing"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-bitfield"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	market18 "github.com/filecoin-project/go-state-types/builtin/v18/market"
	"github.com/filecoin-project/go-state-types/exitcode"
	"github.com/filecoin-project/lotus/chain/types"

	"github.com/frostpin/frostpin/deals/devnet"
)

// equal compares amounts by value.
func equal(t *testing.T, what string, got, want abi.TokenAmount) {
	t.Helper()
	if !got.Equals(want) {
		t.Errorf("%s is %s, want %s", what, got, want)
	}
}

func (w *world) balance(a address.Address) abi.TokenAmount {
	w.t.Helper()
	return must[types.BigInt](w.t)(w.node.WalletBalance(w.ctx, a))
}

func (w *world) burnt() abi.TokenAmount { return w.balance(builtin.BurntFundsActorAddr) }

func (w *world) settle(ids ...uint64) market18.SettleDealPaymentsReturn {
	w.t.Helper()
	set := bitfield.NewFromSet(ids)
	found := w.push(&types.Message{
		To: builtin.StorageMarketActorAddr, From: w.ClientAddress(), Value: big.Zero(),
		Method: builtin.MethodsMarket.SettleDealPaymentsExported, Params: params(w.t, &set),
	})
	var ret market18.SettleDealPaymentsReturn
	if err := ret.UnmarshalCBOR(strings.NewReader(string(found.Receipt.Return))); err != nil {
		w.t.Fatal(err)
	}
	return ret
}

func (w *world) gone(id abi.DealID) {
	w.t.Helper()
	_, err := w.node.StateMarketStorageDeal(w.ctx, id, types.EmptyTSK)
	if err == nil || !strings.Contains(err.Error(), "deal may not have completed sealing before deal proposal start epoch, or deal may have been slashed") {
		w.t.Fatalf("reading deal %d gives %v, want lotus' not-found text", id, err)
	}
}

func TestPublishingNormalisesAddressesAndLocksFunds(t *testing.T) {
	w := start(t, devnet.Config{})
	w.fund()
	miner := w.Miners()[0]
	p := w.proposal(miner, 1)
	p.ClientCollateral = abi.NewTokenAmount(77)
	id := w.publish(miner, p)

	client := must[address.Address](t)(w.node.StateLookupID(w.ctx, w.ClientAddress(), types.EmptyTSK))
	d := w.deal(id)
	if d.Proposal.Client != client || d.Proposal.Provider != miner.ID {
		t.Errorf("stored addresses are %s and %s", d.Proposal.Client, d.Proposal.Provider)
	}
	equal(t, "locked of the client", w.market(client).Locked, p.ClientBalanceRequirement())
	equal(t, "locked of the provider", w.market(miner.ID).Locked, p.ProviderCollateral)
	signed := p
	p.Client = client
	if pending, err := w.node.StateMarketProposalPending(w.ctx, must[cidT](t)(p.Cid()), types.EmptyTSK); err != nil || !pending {
		t.Errorf("normalised proposal pending: %v, %v", pending, err)
	}
	if pending, err := w.node.StateMarketProposalPending(w.ctx, must[cidT](t)(signed.Cid()), types.EmptyTSK); err != nil || pending {
		t.Errorf("proposal as signed pending: %v, %v; the chain knows the normalised one only", pending, err)
	}
}

func TestInvalidDealsAreDroppedAndTheRestPublished(t *testing.T) {
	w := start(t, devnet.Config{ClientDataCap: big.NewInt(1 << 20)})
	w.fund()
	miner, other := w.Miners()[0], w.Miners()[1]
	good := w.proposal(miner, 1)
	change := func(seed byte, f func(*market18.DealProposal)) market18.ClientDealProposal {
		p := w.proposal(miner, seed)
		f(&p)
		return w.sign(p)
	}
	forged := w.sign(w.proposal(miner, 2))
	forged.Proposal.StoragePricePerEpoch = big.Add(forged.Proposal.StoragePricePerEpoch, big.NewInt(1))
	// Lotus adds a tenth to the actor's bound, rounding down.
	minCollateral := big.Div(big.Add(big.Mul(good.ProviderCollateral, big.NewInt(100)), big.NewInt(109)), big.NewInt(110))
	cases := []struct {
		name string
		deal market18.ClientDealProposal
		ok   bool
	}{
		{"valid", w.sign(good), true},
		{"signature over other terms", forged, false},
		{"the same again", w.sign(good), false},
		{"another provider", change(3, func(p *market18.DealProposal) { p.Provider = other.ID }), false},
		{"start has passed", change(4, func(p *market18.DealProposal) { p.StartEpoch = 0; p.EndEpoch = 200 * day }), false},
		{"shorter than 180 days", change(5, func(p *market18.DealProposal) { p.EndEpoch = p.StartEpoch + 180*day - 1 }), false},
		{"180 days", change(6, func(p *market18.DealProposal) { p.EndEpoch = p.StartEpoch + 180*day }), true},
		{"1278 days", change(7, func(p *market18.DealProposal) { p.EndEpoch = p.StartEpoch + 1278*day }), true},
		{"longer than 1278 days", change(8, func(p *market18.DealProposal) { p.EndEpoch = p.StartEpoch + 1278*day + 1 }), false},
		{"negative price", change(9, func(p *market18.DealProposal) { p.StoragePricePerEpoch = abi.NewTokenAmount(-1) }), false},
		{"free", change(10, func(p *market18.DealProposal) { p.StoragePricePerEpoch = big.Zero() }), true},
		{"least collateral of the actor", change(11, func(p *market18.DealProposal) { p.ProviderCollateral = minCollateral }), true},
		{"collateral below it", change(12, func(p *market18.DealProposal) { p.ProviderCollateral = big.Sub(minCollateral, big.NewInt(1)) }), false},
		{"piece size no power of two", change(13, func(p *market18.DealProposal) { p.PieceSize = 1000 }), false},
		{"costs more than the escrow", change(14, func(p *market18.DealProposal) { p.StoragePricePerEpoch = fil(1) }), false},
		{"collateral above the provider's escrow", change(15, func(p *market18.DealProposal) { p.ProviderCollateral = fil(11) }), false},
		{"verified within the datacap", change(16, func(p *market18.DealProposal) { p.VerifiedDeal = true }), true},
		{"verified beyond the datacap", change(17, func(p *market18.DealProposal) { p.VerifiedDeal = true }), false},
		{"label as bytes", change(18, func(p *market18.DealProposal) { p.Label, _ = market18.NewLabelFromBytes([]byte{0xff}) }), true},
	}
	var batch []market18.ClientDealProposal
	want := make([]int64, len(cases))
	next := int64(firstDeal)
	for i, c := range cases {
		batch = append(batch, c.deal)
		want[i] = -1
		if c.ok {
			want[i] = next
			next++
		}
	}
	got := w.published(w.push(w.publishMessage(miner, batch...)), len(batch))
	for i, c := range cases {
		if got[i] != want[i] {
			t.Errorf("%s: deal id %d, want %d", c.name, got[i], want[i])
		}
	}
}

func TestBatchWithNothingValidFailsAsAWhole(t *testing.T) {
	w := start(t, devnet.Config{})
	w.fund()
	miner := w.Miners()[0]
	p := w.proposal(miner, 1)
	w.publish(miner, p)

	msg := w.publishMessage(miner, w.sign(p)) // a duplicate across messages
	_, err := w.node.MpoolPushMessage(w.ctx, msg, nil)
	if err == nil || !strings.Contains(err.Error(), "All deal proposals invalid") {
		t.Fatalf("estimating a message that must fail gives %v", err)
	}
	msg.GasLimit = 10_000_000 // without an estimate it reaches the chain and fails there
	if found := w.push(msg); found.Receipt.ExitCode != exitcode.ErrIllegalArgument || len(found.Receipt.Return) != 0 {
		t.Fatalf("receipt is %+v", found.Receipt)
	}
	stranger := w.publishMessage(miner, w.sign(w.proposal(miner, 2)))
	stranger.From = w.Miners()[1].Worker
	if _, err := w.node.MpoolPushMessage(w.ctx, stranger, nil); err == nil || !strings.Contains(err.Error(), "is not worker or control address of provider") {
		t.Fatalf("publishing for another provider gives %v", err)
	}
	if _, err := w.node.MpoolPushMessage(w.ctx, w.publishMessage(miner), nil); err == nil || !strings.Contains(err.Error(), "Empty deals parameter") {
		t.Fatalf("publishing nothing gives %v", err)
	}
}

func TestEscrowIsAddedWithdrawnAndNeverBelowLocked(t *testing.T) {
	w := start(t, devnet.Config{})
	w.fund()
	client, miner := w.ClientAddress(), w.Miners()[0]
	p := w.proposal(miner, 1)
	w.publish(miner, p)
	before := w.balance(client)
	must[cidT](t)(w.node.MarketWithdraw(w.ctx, client, client, fil(1_000)))
	w.advance(2)
	after := w.market(client)
	equal(t, "escrow after withdrawing all", after.Escrow, p.ClientBalanceRequirement())
	equal(t, "locked", after.Locked, p.ClientBalanceRequirement())
	if gain := big.Sub(w.balance(client), before); gain.LessThan(fil(9)) {
		t.Errorf("wallet gained %s attoFIL", gain)
	}
	if _, err := w.node.MarketWithdraw(w.ctx, client, miner.ID, fil(1)); err == nil {
		t.Error("the client may withdraw a provider's escrow")
	}
	if _, err := w.node.MarketAddBalance(w.ctx, client, client, big.Zero()); err == nil || !strings.Contains(err.Error(), "balance to add must be greater than zero was: 0") {
		t.Errorf("adding nothing gives %v", err)
	}
	// A provider's escrow goes to its owner, whoever of the two asks.
	owner := w.balance(miner.Owner)
	must[cidT](t)(w.node.MarketWithdraw(w.ctx, miner.Worker, miner.ID, fil(2)))
	w.advance(2)
	equal(t, "owner's gain", big.Sub(w.balance(miner.Owner), owner), fil(2))
}

func TestActivationNeedsTheRightPieceInTime(t *testing.T) {
	w := start(t, devnet.Config{})
	w.fund()
	miner := w.Miners()[0]
	p := w.proposal(miner, 1)
	id := w.publish(miner, p)
	piece := abi.PieceInfo{PieceCID: p.PieceCID, Size: p.PieceSize}
	long := p.EndEpoch + 100*day

	refused := func(why string, msg *types.Message) {
		t.Helper()
		if _, err := w.node.MpoolPushMessage(w.ctx, msg, nil); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("got %v, want a refusal with %q", err, why)
		}
	}
	refused("not found in precommits", w.prove(miner, 1, id, p, true))
	w.push(w.preCommit(miner, 1, long, piece))
	refused("already been allocated", w.preCommit(miner, 1, long, piece))
	refused("too early to prove", w.prove(miner, 1, id, p, true))
	w.advance(10)
	other := p
	other.PieceCID = pieceCID(t, 9)
	refused("does not match its pieces", w.prove(miner, 1, id, other, true))
	refused("sector change rejected", w.prove(miner, 1, id+1, p, true))
	stranger := w.prove(miner, 1, id, p, true)
	stranger.From = w.Miners()[1].Worker
	refused("is not one of supported", stranger)

	w.push(w.prove(miner, 1, id, p, true))
	at := w.deal(id).State.SectorStartEpoch
	if at < 0 {
		t.Fatal("deal is not active")
	}
	refused("sector change rejected", func() *types.Message {
		w.push(w.preCommit(miner, 3, long, piece))
		w.advance(10)
		return w.prove(miner, 3, id, p, true) // twice
	}())
}

func TestSectorMustOutliveTheDeal(t *testing.T) {
	w := start(t, devnet.Config{})
	w.fund()
	miner := w.Miners()[0]
	p := w.proposal(miner, 1)
	p.EndEpoch = p.StartEpoch + 300*day
	id := w.publish(miner, p)
	piece := abi.PieceInfo{PieceCID: p.PieceCID, Size: p.PieceSize}
	w.push(w.preCommit(miner, 0, p.EndEpoch-1, piece))
	w.push(w.preCommit(miner, 1, p.EndEpoch, piece))
	w.advance(10)
	w.push(w.prove(miner, 0, id, p, false))
	if s := w.deal(id).State.SectorStartEpoch; s != -1 {
		t.Fatalf("active at %d in a sector that ends first", s)
	}
	w.push(w.prove(miner, 1, id, p, true))
	if s := w.deal(id).State.SectorStartEpoch; s < 0 {
		t.Fatal("not active in a sector that ends with it")
	}
}

func TestMissedDealIsRemovedAtItsTurnAndCollateralBurnt(t *testing.T) {
	w := start(t, devnet.Config{CronInterval: 1_000})
	w.fund()
	miner := w.Miners()[0]
	client := w.ClientAddress()
	first := w.proposal(miner, 9)
	w.publish(miner, first) // so that the turn is not the start of a round
	p := w.proposal(miner, 1)
	p.StartEpoch = w.Height() + 500
	p.EndEpoch = p.StartEpoch + 200*day
	id := w.publish(miner, p)
	turn := p.StartEpoch + (1_000+abi.ChainEpoch(id)-p.StartEpoch%1_000)%1_000
	escrow, burnt := w.market(miner.ID), w.burnt()

	piece := abi.PieceInfo{PieceCID: p.PieceCID, Size: p.PieceSize}
	w.push(w.preCommit(miner, 0, p.EndEpoch+100*day, piece))
	w.until(p.StartEpoch + 1)
	// Past the start it cannot be activated any more, though it is still in the state.
	w.push(w.prove(miner, 0, id, p, false))
	if d := w.deal(id); d.State.SectorStartEpoch != -1 {
		t.Fatalf("activated after its start: %+v", d.State)
	}
	if f := w.fate(id); f.Fate != devnet.FateMissed || f.Ended != -1 {
		t.Fatalf("fate is %+v", f)
	}
	w.until(turn)
	w.deal(id) // its turn is executed with this tipset, and shows from the next
	w.advance(1)
	w.gone(id)
	if got := big.Sub(w.burnt(), burnt); got.LessThan(p.ProviderCollateral) {
		t.Errorf("burnt %s, less than the collateral", got) // more, by the gas of messages
	}
	equal(t, "provider's escrow", w.market(miner.ID).Escrow, big.Sub(escrow.Escrow, p.ProviderCollateral))
	equal(t, "client's lock", w.market(client).Locked, first.ClientBalanceRequirement())
	if f := w.fate(id); f.Fate != devnet.FateMissed || f.Ended != turn {
		t.Fatalf("fate is %+v, want missed at %d", f, turn)
	}
}

func TestSettlementRemovesAMissedDealAndPaysAnActiveOne(t *testing.T) {
	w := start(t, devnet.Config{})
	w.fund()
	miner := w.Miners()[0]
	p := w.proposal(miner, 1)
	q := w.proposal(miner, 2)
	missedID, id := w.publish(miner, p), w.publish(miner, q)
	w.activate(miner, 0, id, q)

	early := w.settle(uint64(missedID), uint64(id))
	if early.Results.SuccessCount != 2 || !early.Settlements[0].Payment.IsZero() || !early.Settlements[1].Payment.IsZero() {
		t.Fatalf("settled before the start: %+v", early)
	}
	w.until(q.StartEpoch + 99)
	provider := w.market(miner.ID)
	ret := w.settle(uint64(missedID), uint64(id))
	if ret.Results.SuccessCount != 1 || len(ret.Results.FailCodes) != 1 || ret.Results.FailCodes[0].Code != 32 {
		t.Fatalf("settling a missed and an active deal: %+v", ret.Results)
	}
	w.gone(missedID)
	equal(t, "first payment", ret.Settlements[0].Payment, big.Mul(q.StoragePricePerEpoch, big.NewInt(100)))
	equal(t, "provider's escrow", w.market(miner.ID).Escrow, big.Sub(big.Add(provider.Escrow, ret.Settlements[0].Payment), p.ProviderCollateral))
	if d := w.deal(id); d.State.LastUpdatedEpoch != q.StartEpoch+100 {
		t.Errorf("last updated at %d", d.State.LastUpdatedEpoch)
	}

	// Past its end the deal stays until somebody settles it.
	w.until(q.EndEpoch + 10)
	if d, f := w.deal(id), w.fate(id); d.State.SlashEpoch != -1 || f.Fate != devnet.FateExpired || f.Ended != -1 {
		t.Fatalf("expired deal reads %+v, fate %+v", d.State, f)
	}
	last := w.settle(uint64(id))
	if len(last.Settlements) != 1 || !last.Settlements[0].Completed {
		t.Fatalf("final settlement: %+v", last)
	}
	w.gone(id)
	equal(t, "all payments", big.Add(ret.Settlements[0].Payment, last.Settlements[0].Payment), q.TotalStorageFee())
	equal(t, "locked of the client at the end", w.market(w.ClientAddress()).Locked, big.Zero())
	equal(t, "locked of the provider at the end", w.market(miner.ID).Locked, big.Zero())
}

func TestTerminationPaysUpToNowRefundsAndBurns(t *testing.T) {
	w := start(t, devnet.Config{})
	w.fund()
	miner, client := w.Miners()[0], w.ClientAddress()
	p := w.proposal(miner, 1)
	id := w.publish(miner, p)
	w.activate(miner, 5, id, p)
	w.until(p.StartEpoch + 1_000)
	before, clientBefore, burnt := w.market(miner.ID), w.market(client), w.burnt()
	w.push(w.terminate(miner, 5))
	w.gone(id)
	paid := big.Mul(p.StoragePricePerEpoch, big.NewInt(1_001)) // executed one epoch on
	equal(t, "provider's escrow", w.market(miner.ID).Escrow, big.Sub(big.Add(before.Escrow, paid), p.ProviderCollateral))
	equal(t, "client's escrow", w.market(client).Escrow, big.Sub(clientBefore.Escrow, paid))
	equal(t, "client's lock", w.market(client).Locked, big.Zero())
	if got := big.Sub(w.burnt(), burnt); got.LessThan(p.ProviderCollateral) {
		t.Errorf("burnt %s, less than the collateral", got)
	}
	if f := w.fate(id); f.Fate != devnet.FateTerminated || f.Ended != p.StartEpoch+1_001 {
		t.Fatalf("fate is %+v", f)
	}
	if _, err := w.node.StateSectorExpiration(w.ctx, miner.ID, 5, types.EmptyTSK); err == nil {
		t.Error("a terminated sector still has an expiration")
	}
	if _, err := w.node.MpoolPushMessage(w.ctx, w.terminate(miner, 5), nil); err == nil {
		t.Error("a sector can be terminated twice")
	}
}

func TestTerminationAfterTheEndDoesNotSlash(t *testing.T) {
	w := start(t, devnet.Config{})
	w.fund()
	miner := w.Miners()[0]
	p := w.proposal(miner, 1)
	id := w.publish(miner, p)
	w.activate(miner, 5, id, p)
	w.until(p.EndEpoch + 5)
	before := w.market(miner.ID)
	w.push(w.terminate(miner, 5))
	if d := w.deal(id); d.State.SlashEpoch != -1 {
		t.Fatalf("slashed at %d", d.State.SlashEpoch)
	}
	equal(t, "provider's escrow", w.market(miner.ID).Escrow, before.Escrow)
}
