package devnet_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-bitfield"
	commcid "github.com/filecoin-project/go-fil-commcid"
	"github.com/filecoin-project/go-jsonrpc/auth"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	market18 "github.com/filecoin-project/go-state-types/builtin/v18/market"
	miner18 "github.com/filecoin-project/go-state-types/builtin/v18/miner"
	verifreg18 "github.com/filecoin-project/go-state-types/builtin/v18/verifreg"
	"github.com/filecoin-project/go-state-types/exitcode"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/api/client"
	lotusmarket "github.com/filecoin-project/lotus/chain/actors/builtin/market"
	"github.com/filecoin-project/lotus/chain/types"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	mh "github.com/multiformats/go-multihash"
	cbg "github.com/whyrusleeping/cbor-gen"

	"github.com/frostpin/frostpin/deals/devnet"
)

// day is a day in epochs.
const day = abi.ChainEpoch(builtin.EpochsInDay)

// firstDeal is the id of the first deal that is published.
const firstDeal = abi.DealID(1)

// signing is the token that Lotus calls "sign".
var signing = []auth.Permission{api.PermRead, api.PermWrite, api.PermSign}

// world is a devnet and a client of its node, connected as a stranger would be.
type world struct {
	*devnet.Net
	t    *testing.T
	ctx  context.Context
	cfg  devnet.Config
	node api.FullNode
}

func start(t *testing.T, cfg devnet.Config) *world {
	t.Helper()
	if cfg.Miners == 0 {
		cfg.Miners = 2
	}
	net, err := devnet.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = net.Close() })
	return &world{Net: net, t: t, ctx: t.Context(), cfg: cfg, node: dial(t, net, signing...)}
}

func dial(t *testing.T, net *devnet.Net, perms ...auth.Permission) api.FullNode {
	t.Helper()
	header := http.Header{"Authorization": {"Bearer " + net.Token(perms...)}}
	node, closer, err := client.NewFullNodeRPCV1(t.Context(), net.RPCURL(), header)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closer)
	return node
}

func must[T any](t testing.TB) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (w *world) advance(epochs int) {
	w.t.Helper()
	if err := w.Advance(epochs); err != nil {
		w.t.Fatal(err)
	}
}

// until lets null rounds pass so that the next tipset is at the height.
func (w *world) until(height abi.ChainEpoch) {
	w.t.Helper()
	if gap := int(height - w.Height() - 1); gap > 0 {
		if err := w.Skip(gap); err != nil {
			w.t.Fatal(err)
		}
	} else {
		w.advance(gap + 1)
	}
	if w.Height() != height {
		w.t.Fatalf("at height %d, want %d", w.Height(), height)
	}
}

// push sends a message and lets it be executed; it returns the receipt.
func (w *world) push(msg *types.Message) *api.MsgLookup {
	w.t.Helper()
	signed, err := w.node.MpoolPushMessage(w.ctx, msg, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.advance(2)
	return w.receipt(signed.Cid())
}

func (w *world) receipt(c cid.Cid) *api.MsgLookup {
	w.t.Helper()
	found, err := w.node.StateSearchMsg(w.ctx, types.EmptyTSK, c, api.LookbackNoLimit, true)
	if err != nil {
		w.t.Fatal(err)
	}
	if found == nil {
		w.t.Fatalf("message %s has no receipt", c)
	}
	return found
}

func params(t *testing.T, v cbg.CBORMarshaler) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := v.MarshalCBOR(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func fil(n int64) abi.TokenAmount { return big.Mul(big.NewInt(n), builtin.TokenPrecision) }

// fund puts escrow behind the client and every miner.
func (w *world) fund() {
	w.t.Helper()
	add := func(wallet, addr address.Address) {
		if _, err := w.node.MarketAddBalance(w.ctx, wallet, addr, fil(10)); err != nil {
			w.t.Fatal(err)
		}
	}
	add(w.ClientAddress(), w.ClientAddress())
	for _, m := range w.Miners() {
		add(m.Worker, m.ID)
	}
	w.advance(2)
}

func pieceCID(t testing.TB, seed byte) cid.Cid {
	t.Helper()
	return must[cid.Cid](t)(commcid.PieceCommitmentV1ToCID(append(bytes.Repeat([]byte{seed}, 31), 0)))
}

// proposal is valid with every miner that has escrow; change what the test is about and sign it.
func (w *world) proposal(miner devnet.Miner, seed byte) market18.DealProposal {
	w.t.Helper()
	p := sample(w.t, w.Net)
	p.Provider, p.PieceCID = miner.ID, pieceCID(w.t, seed)
	return p
}

// sample is a proposal of the client to the first miner.
func sample(t testing.TB, net *devnet.Net) market18.DealProposal {
	t.Helper()
	const size = abi.PaddedPieceSize(1 << 20)
	bounds, err := net.API().StateDealProviderCollateralBounds(t.Context(), size, false, types.EmptyTSK)
	if err != nil {
		t.Fatal(err)
	}
	label, err := market18.NewLabelFromString("bafkqaaa")
	if err != nil {
		t.Fatal(err)
	}
	start := net.Height() + 2*day
	return market18.DealProposal{
		PieceCID: pieceCID(t, 0), PieceSize: size, Client: net.ClientAddress(), Provider: net.Miners()[0].ID, Label: label,
		StartEpoch: start, EndEpoch: start + 200*day, StoragePricePerEpoch: abi.NewTokenAmount(1_000),
		ProviderCollateral: bounds.Min, ClientCollateral: big.Zero(),
	}
}

func (w *world) sign(p market18.DealProposal) market18.ClientDealProposal {
	w.t.Helper()
	sig, err := w.node.WalletSign(w.ctx, p.Client, params(w.t, &p))
	if err != nil {
		w.t.Fatal(err)
	}
	return market18.ClientDealProposal{Proposal: p, ClientSignature: *sig}
}

func (w *world) publishMessage(miner devnet.Miner, deals ...market18.ClientDealProposal) *types.Message {
	return &types.Message{
		To: builtin.StorageMarketActorAddr, From: miner.Worker, Value: big.Zero(), Method: builtin.MethodsMarket.PublishStorageDeals,
		Params: params(w.t, &market18.PublishStorageDealsParams{Deals: deals}),
	}
}

// published are the deal ids of a publish message's return, by position in the batch; -1 = dropped.
func (w *world) published(found *api.MsgLookup, n int) []int64 {
	w.t.Helper()
	if found.Receipt.ExitCode != exitcode.Ok {
		w.t.Fatalf("publishing: exit code %s", found.Receipt.ExitCode)
	}
	nv, err := w.node.StateNetworkVersion(w.ctx, types.EmptyTSK)
	if err != nil {
		w.t.Fatal(err)
	}
	ret, err := lotusmarket.DecodePublishStorageDealsReturn(found.Receipt.Return, nv)
	if err != nil {
		w.t.Fatal(err)
	}
	ids := must[[]abi.DealID](w.t)(ret.DealIDs())
	out := make([]int64, n)
	for i := range out {
		valid, at, err := ret.IsDealValid(uint64(i))
		if err != nil {
			w.t.Fatal(err)
		}
		out[i] = -1
		if valid {
			out[i] = int64(ids[at])
		}
	}
	return out
}

// publish puts one valid deal on chain.
func (w *world) publish(miner devnet.Miner, p market18.DealProposal) abi.DealID {
	w.t.Helper()
	ids := w.published(w.push(w.publishMessage(miner, w.sign(p))), 1)
	if ids[0] < 0 {
		w.t.Fatal("deal was dropped")
	}
	return abi.DealID(ids[0])
}

const proof32 = abi.RegisteredSealProof_StackedDrg32GiBV1_1

func (w *world) preCommit(miner devnet.Miner, sector abi.SectorNumber, expiration abi.ChainEpoch, pieces ...abi.PieceInfo) *types.Message {
	w.t.Helper()
	commD, err := devnet.DataCommitment(proof32, pieces)
	if err != nil {
		w.t.Fatal(err)
	}
	digest := must[mh.Multihash](w.t)(mh.Encode(bytes.Repeat([]byte{byte(sector)}, 32), mh.POSEIDON_BLS12_381_A1_FC1))
	return &types.Message{
		To: miner.ID, From: miner.Worker, Value: big.Zero(), Method: builtin.MethodsMiner.PreCommitSectorBatch2,
		Params: params(w.t, &miner18.PreCommitSectorBatchParams2{Sectors: []miner18.SectorPreCommitInfo{{
			SealProof: proof32, SectorNumber: sector, SealedCID: cid.NewCidV1(cid.FilCommitmentSealed, digest),
			SealRandEpoch: w.Height() - 1, Expiration: expiration, UnsealedCid: &commD,
		}}}),
	}
}

func (w *world) prove(miner devnet.Miner, sector abi.SectorNumber, deal abi.DealID, p market18.DealProposal, strict bool) *types.Message {
	w.t.Helper()
	id := cbg.CborInt(deal)
	piece := miner18.PieceActivationManifest{CID: p.PieceCID, Size: p.PieceSize, Notify: []miner18.DataActivationNotification{
		{Address: builtin.StorageMarketActorAddr, Payload: params(w.t, &id)},
	}}
	return &types.Message{
		To: miner.ID, From: miner.Worker, Value: big.Zero(), Method: builtin.MethodsMiner.ProveCommitSectors3,
		Params: params(w.t, &miner18.ProveCommitSectors3Params{
			SectorActivations:        []miner18.SectorActivationManifest{{SectorNumber: sector, Pieces: []miner18.PieceActivationManifest{piece}}},
			SectorProofs:             [][]byte{{1}},
			RequireActivationSuccess: true, RequireNotificationSuccess: strict,
		}),
	}
}

// activate seals a published deal into a sector of its own.
func (w *world) activate(miner devnet.Miner, sector abi.SectorNumber, deal abi.DealID, p market18.DealProposal) {
	w.t.Helper()
	w.push(w.preCommit(miner, sector, p.EndEpoch+100*day, abi.PieceInfo{PieceCID: p.PieceCID, Size: p.PieceSize}))
	w.advance(10)
	w.push(w.prove(miner, sector, deal, p, true))
}

func (w *world) terminate(miner devnet.Miner, sector abi.SectorNumber) *types.Message {
	w.t.Helper()
	at, err := w.node.StateSectorPartition(w.ctx, miner.ID, sector, types.EmptyTSK)
	if err != nil {
		w.t.Fatal(err)
	}
	return &types.Message{
		To: miner.ID, From: miner.Worker, Value: big.Zero(), Method: builtin.MethodsMiner.TerminateSectors,
		Params: params(w.t, &miner18.TerminateSectorsParams{Terminations: []miner18.TerminationDeclaration{{
			Deadline: at.Deadline, Partition: at.Partition, Sectors: bitfield.NewFromSet([]uint64{uint64(sector)}),
		}}}),
	}
}

func (w *world) deal(id abi.DealID) *api.MarketDeal {
	w.t.Helper()
	d, err := w.node.StateMarketStorageDeal(w.ctx, id, types.EmptyTSK)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *world) market(of address.Address) api.MarketBalance {
	w.t.Helper()
	return must[api.MarketBalance](w.t)(w.node.StateMarketBalance(w.ctx, of, types.EmptyTSK))
}

func (w *world) fate(id abi.DealID) devnet.Deal {
	w.t.Helper()
	for _, d := range must[[]devnet.Deal](w.t)(w.Deals()) {
		if d.ID == id {
			return d
		}
	}
	w.t.Fatalf("deal %d was never on chain", id)
	return devnet.Deal{}
}

func TestDealIsPublishedProvenAndRead(t *testing.T) {
	w := start(t, devnet.Config{})
	w.fund()
	miner := w.Miners()[0]
	p := w.proposal(miner, 1)
	id := w.publish(miner, p)
	if d := w.deal(id); d.State.SectorStartEpoch != -1 || d.Proposal.PieceCID != p.PieceCID {
		t.Fatalf("a published deal reads %+v", d)
	}
	w.activate(miner, 0, id, p)
	if d := w.deal(id); d.State.SectorStartEpoch < 0 || d.State.SectorNumber != 0 || d.State.LastUpdatedEpoch != -1 || d.State.SlashEpoch != -1 {
		t.Fatalf("an active deal reads %+v", d)
	}
	if d := w.fate(id); d.Fate != devnet.FateActive {
		t.Fatalf("fate is %+v", d)
	}
}

type cidT = cid.Cid

// proveVerified proves a piece together with its allocation.
func (w *world) proveVerified(miner devnet.Miner, sector abi.SectorNumber, deal abi.DealID, p market18.DealProposal, allocation uint64) *types.Message {
	w.t.Helper()
	client, err := w.node.StateLookupID(w.ctx, p.Client, types.EmptyTSK)
	if err != nil {
		w.t.Fatal(err)
	}
	actor := must[uint64](w.t)(address.IDFromAddress(client))
	msg := w.prove(miner, sector, deal, p, true)
	var in miner18.ProveCommitSectors3Params
	if err := in.UnmarshalCBOR(bytes.NewReader(msg.Params)); err != nil {
		w.t.Fatal(err)
	}
	in.SectorActivations[0].Pieces[0].VerifiedAllocationKey = &miner18.VerifiedAllocationKey{Client: abi.ActorID(actor), ID: verifreg18.AllocationId(allocation)}
	msg.Params = params(w.t, &in)
	return msg
}

// remote reads the chain's objects over RPC, as a client that inspects the state does.
type remote struct{ w *world }

func (r remote) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	raw, err := r.w.node.ChainReadObj(ctx, c)
	if err != nil {
		return nil, err
	}
	return blocks.NewBlockWithCid(raw, c)
}

func (remote) Put(context.Context, blocks.Block) error { return errors.New("the chain is read only") }
