package chain_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-bitfield"
	commcid "github.com/filecoin-project/go-fil-commcid"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v18/miner"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/test"
	"github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multihash"
	cbg "github.com/whyrusleeping/cbor-gen"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/chain"
	"github.com/frostpin/frostpin/deals/devnet"
)

// A world is a devnet with the node under test in front of it. What providers do goes past that node's faults.
type world struct {
	*devnet.Net
	*chain.Lotus
	t *testing.T
}

func begin(t *testing.T, cfg devnet.Config, change func(*chain.Config)) *world {
	t.Helper()
	cfg.Miners, cfg.ActorEvents = 2, true
	net, err := devnet.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { net.Close() })
	w := &world{Net: net, t: t}
	// Heads at which there is a final tipset other than genesis.
	w.Lotus = open(t, net.RPCURL(), func(c *chain.Config) {
		c.Network, c.Wallet, c.Token = "devnet", net.ClientAddress(), net.Token(api.PermRead, api.PermSign)
		if change != nil {
			change(c)
		}
	})
	return w
}

// pass lets epochs pass, and waits until the node under test has seen it.
func (w *world) pass(epochs int) {
	w.t.Helper()
	if err := w.Advance(epochs); err != nil {
		w.t.Fatal(err)
	}
	w.see()
}

func (w *world) see() {
	w.t.Helper()
	eventually(w.t, "the devnet's head", func() bool {
		h, err := w.Heads(w.t.Context())
		return err == nil && h.Head == w.Height()
	})
}

// do sends a message of a provider and lets it be executed.
func (w *world) do(from, to address.Address, method abi.MethodNum, params cbg.CBORMarshaler) cid.Cid {
	w.t.Helper()
	signed, err := w.API().MpoolPushMessage(w.t.Context(), &types.Message{
		To: to, From: from, Value: big.Zero(), Method: method, Params: encode(w.t, params),
	}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.pass(2)
	return signed.Cid()
}

func encode(t *testing.T, v cbg.CBORMarshaler) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := v.MarshalCBOR(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// fund puts 10 FIL into the escrow of the client and of all providers.
func (w *world) fund() {
	w.t.Helper()
	amount := big.Mul(big.NewInt(10), builtin.TokenPrecision)
	if _, err := w.AddEscrow(w.t.Context(), uuid.New(), amount); err != nil {
		w.t.Fatal(err)
	}
	for _, m := range w.Miners() {
		if _, err := w.API().MarketAddBalance(w.t.Context(), m.Worker, m.ID, amount); err != nil {
			w.t.Fatal(err)
		}
	}
	w.pass(2)
}

func (w *world) offer(m devnet.Miner, seed byte) market.DealProposal {
	w.t.Helper()
	least, _, err := w.Collateral(w.t.Context(), 1<<20, false)
	if err != nil {
		w.t.Fatal(err)
	}
	piece, err := commcid.PieceCommitmentV1ToCID(append(bytes.Repeat([]byte{seed}, 31), 0))
	if err != nil {
		w.t.Fatal(err)
	}
	p := proposal(w.t)
	p.PieceCID, p.Client, p.Provider, p.ProviderCollateral = piece, w.ClientAddress(), m.ID, least
	p.StartEpoch = w.Height() + 2*deals.EpochsPerDay
	p.EndEpoch = p.StartEpoch + 200*deals.EpochsPerDay
	return p
}

func (w *world) signed(p market.DealProposal) market.ClientDealProposal {
	w.t.Helper()
	sig, err := w.Sign(w.t.Context(), encode(w.t, &p))
	if err != nil {
		w.t.Fatal(err)
	}
	return market.ClientDealProposal{Proposal: p, ClientSignature: sig}
}

func (w *world) publish(m devnet.Miner, batch ...market.ClientDealProposal) cid.Cid {
	w.t.Helper()
	return w.do(m.Worker, builtin.StorageMarketActorAddr, builtin.MethodsMarket.PublishStorageDeals, &market.PublishStorageDealsParams{Deals: batch})
}

// activate seals a deal into a sector of its own.
func (w *world) activate(m devnet.Miner, sector abi.SectorNumber, id abi.DealID, p market.DealProposal) {
	w.t.Helper()
	const proof = abi.RegisteredSealProof_StackedDrg32GiBV1_1
	unsealed, err := devnet.DataCommitment(proof, []abi.PieceInfo{{PieceCID: p.PieceCID, Size: p.PieceSize}})
	if err != nil {
		w.t.Fatal(err)
	}
	digest, err := multihash.Encode(bytes.Repeat([]byte{byte(sector)}, 32), multihash.POSEIDON_BLS12_381_A1_FC1)
	if err != nil {
		w.t.Fatal(err)
	}
	w.do(m.Worker, m.ID, builtin.MethodsMiner.PreCommitSectorBatch2, &miner.PreCommitSectorBatchParams2{Sectors: []miner.SectorPreCommitInfo{{
		SealProof: proof, SectorNumber: sector, SealedCID: cid.NewCidV1(cid.FilCommitmentSealed, digest),
		SealRandEpoch: w.Height() - 1, Expiration: p.EndEpoch + 100*deals.EpochsPerDay, UnsealedCid: &unsealed,
	}}})
	w.pass(10)
	number := cbg.CborInt(id)
	w.do(m.Worker, m.ID, builtin.MethodsMiner.ProveCommitSectors3, &miner.ProveCommitSectors3Params{
		SectorActivations: []miner.SectorActivationManifest{{SectorNumber: sector, Pieces: []miner.PieceActivationManifest{{
			CID: p.PieceCID, Size: p.PieceSize,
			Notify: []miner.DataActivationNotification{{Address: builtin.StorageMarketActorAddr, Payload: encode(w.t, &number)}},
		}}}},
		SectorProofs: [][]byte{{1}}, RequireActivationSuccess: true, RequireNotificationSuccess: true,
	})
}

func (w *world) terminate(m devnet.Miner, sector abi.SectorNumber) {
	w.t.Helper()
	at, err := w.API().StateSectorPartition(w.t.Context(), m.ID, sector, types.EmptyTSK)
	if err != nil {
		w.t.Fatal(err)
	}
	w.do(m.Worker, m.ID, builtin.MethodsMiner.TerminateSectors, &miner.TerminateSectorsParams{Terminations: []miner.TerminationDeclaration{{
		Deadline: at.Deadline, Partition: at.Partition, Sectors: bitfield.NewFromSet([]uint64{uint64(sector)}),
	}}})
}

func (w *world) pending(p market.DealProposal) bool {
	w.t.Helper()
	pending, err := w.Pending(w.t.Context(), p)
	if err != nil {
		w.t.Fatal(err)
	}
	return pending
}

func TestDealIsFollowedFromProposalToTermination(t *testing.T) {
	w := begin(t, devnet.Config{Finality: 5}, nil)
	ctx, m := t.Context(), w.Miners()[0]
	w.fund()
	good, broken := w.offer(m, 1), w.offer(m, 2)
	if w.pending(good) {
		t.Error("pending before it was published")
	}
	from := w.Height()
	unsigned := w.signed(broken)
	unsigned.ClientSignature.Data = slices.Clone(unsigned.ClientSignature.Data)
	unsigned.ClientSignature.Data[3] ^= 1
	message := w.publish(m, unsigned, w.signed(good))
	if !w.pending(good) || w.pending(broken) {
		t.Error("the good one should be pending, the broken one not")
	}
	w.SetFaults(devnet.Faults{NullEvery: 1, Methods: []string{"StateMarketProposalPending"}})
	if pending, err := w.Pending(ctx, good); pending || !errors.Is(err, deals.ErrChain) {
		t.Errorf("a node that denies a pending proposal is believed: %v", err)
	}
	w.SetFaults(devnet.Faults{})
	id, found, err := w.Published(ctx, message, good)
	if err != nil || !found {
		t.Fatalf("published: %v, %v", found, err)
	}
	if _, found, err := w.Published(ctx, message, broken); err != nil || found {
		t.Errorf("the deal that was dropped from the batch: %v, %v", found, err)
	}
	other := good
	other.EndEpoch++
	if _, found, err := w.Published(ctx, message, other); err != nil || found {
		t.Errorf("a deal that is not in the batch: %v, %v", found, err)
	}
	published, _, err := w.Events(ctx, from)
	if want := []deals.Publication{{Deal: id, Message: message}}; err != nil || !slices.Equal(published, want) {
		t.Errorf("events: %v, %v, want %v", published, err, want)
	}

	client, err := w.Client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	d, found, err := w.Deal(ctx, id, false)
	number, _ := address.IDFromAddress(m.ID)
	if err != nil || !found || d.SectorStart != -1 || !deals.Matches(good, client, deals.ProviderID(number), d) {
		t.Fatalf("the published deal is %+v, %v, %v", d, found, err)
	}
	if _, found, err := w.Deal(ctx, id, true); err != nil || found {
		t.Errorf("not final yet, and found %v, %v", found, err)
	}
	w.activate(m, 7, id, good)
	w.pass(6)
	d, found, err = w.Deal(ctx, id, true)
	if err != nil || !found || d.SectorStart < 0 || d.Sector != 7 || d.SlashEpoch != -1 {
		t.Fatalf("the active deal is %+v, %v, %v", d, found, err)
	}
	named, since := changed(t, w.Lotus, deals.Snapshot{}, []abi.DealID{id, id + 1})
	if diff := cmp.Diff([]abi.DealID{id + 1}, named); diff != "" {
		t.Error(diff)
	}
	w.terminate(m, 7)
	if _, found, err = w.Deal(ctx, id, false); err != nil || found {
		t.Errorf("terminated, and found at the head: %v, %v", found, err)
	}
	if _, found, err = w.Deal(ctx, id, true); err != nil || !found {
		t.Errorf("not finally terminated, and found %v, %v", found, err)
	}
	w.pass(6)
	if named, _ = changed(t, w.Lotus, since, []abi.DealID{id}); len(named) != 1 {
		t.Error("the termination is not named")
	}
	if _, found, err = w.Deal(ctx, id, true); err != nil || found {
		t.Errorf("finally terminated, and found %v, %v", found, err)
	}
}

func TestEscrowOfOneKeyIsAddedOnce(t *testing.T) {
	w := begin(t, devnet.Config{}, nil)
	ctx := t.Context()
	before, err := w.Funds(ctx)
	if err != nil {
		t.Fatal(err)
	}
	key, amount := uuid.New(), abi.NewTokenAmount(12_345)
	first, err := w.AddEscrow(ctx, key, amount)
	if err != nil {
		t.Fatal(err)
	}
	if _, found, err := w.Message(ctx, first); err != nil || found {
		t.Errorf("a message on no tipset: found %v, %v", found, err)
	}
	w.DropConnections()
	for range 2 {
		var again cid.Cid
		eventually(t, "the node answers", func() bool { again, err = w.AddEscrow(ctx, key, amount); return err == nil })
		if again != first {
			t.Errorf("again: %s, want %s", again, first)
		}
		w.pass(2)
	}
	if _, err := w.AddEscrow(ctx, key, big.Add(amount, big.NewInt(1))); err == nil {
		t.Error("another amount under the same key is not refused")
	}
	if got, found, err := w.Message(ctx, first); err != nil || !found || got.ExitCode != 0 || got.Height == 0 {
		t.Errorf("message %+v, %v, %v", got, found, err)
	}
	after, err := w.Funds(ctx)
	if err != nil || !after.Escrow.Equals(amount) || !before.Escrow.IsZero() || !after.Wallet.LessThan(before.Wallet) {
		t.Errorf("funds %+v, then %+v, %v", before, after, err)
	}
	for _, none := range []abi.TokenAmount{{}, big.Zero(), big.NewInt(-1)} {
		if _, err := w.AddEscrow(ctx, uuid.New(), none); err == nil {
			t.Errorf("%s attoFIL are taken", none)
		}
	}
	if _, err := w.AddEscrow(ctx, uuid.Nil, amount); err == nil {
		t.Error("no key is taken")
	}
}

func TestAskIsTheWorkersOwn(t *testing.T) {
	w := begin(t, devnet.Config{}, nil)
	ctx := t.Context()
	m, other := w.Miners()[0], w.Miners()[1]
	number, _ := address.IDFromAddress(m.ID)
	text := []byte("an ask")
	for name, c := range map[string]struct {
		key  address.Address
		said []byte
		want bool
	}{
		"the worker":         {m.Worker, text, true},
		"the worker, else":   {m.Worker, []byte("another ask"), false},
		"another's worker":   {other.Worker, text, false},
		"the client himself": {w.ClientAddress(), text, false},
	} {
		sig, err := w.API().WalletSign(ctx, c.key, c.said)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := w.VerifyAsk(ctx, deals.ProviderID(number), text, *sig); err != nil || got != c.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestMinerIsWhatTheChainKnows(t *testing.T) {
	w := begin(t, devnet.Config{SectorSize: 64 << 30}, nil)
	m := w.Miners()[0]
	number, _ := address.IDFromAddress(m.ID)
	id, err := test.RandPeerID()
	if err != nil {
		t.Fatal(err)
	}
	addr := multiaddr.StringCast("/dns4/sp.example/tcp/443/wss")
	w.do(m.Worker, m.ID, builtin.MethodsMiner.ChangePeerID, &miner.ChangePeerIDParams{NewID: abi.PeerID(id)})
	w.do(m.Worker, m.ID, builtin.MethodsMiner.ChangeMultiaddrs, &miner.ChangeMultiaddrsParams{
		NewMultiaddrs: []abi.Multiaddrs{[]byte("no address"), addr.Bytes()},
	})
	got, found, err := w.Miner(t.Context(), deals.ProviderID(number))
	want := deals.Miner{PeerID: id.String(), Addrs: []string{addr.String()}, SectorSize: 64 << 30}
	if diff := cmp.Diff(want, got); err != nil || !found || diff != "" {
		t.Errorf("%v, %v %s", found, err, diff)
	}
	client, err := w.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	account, _ := address.IDFromAddress(client.ID)
	for name, id := range map[string]deals.ProviderID{"nobody": 999_999, "an account": deals.ProviderID(account), "the market": 5} {
		if _, found, err := w.Miner(t.Context(), id); err != nil || found {
			t.Errorf("%s: found %v, %v", name, found, err)
		}
	}
}

func TestFaultsOfTheNodeAreNeverAnAnswer(t *testing.T) {
	w := begin(t, devnet.Config{Finality: 5}, nil)
	ctx, m := t.Context(), w.Miners()[0]
	w.fund()
	p := w.offer(m, 1)
	message := w.publish(m, w.signed(p))
	id, found, err := w.Published(ctx, message, p)
	if err != nil || !found {
		t.Fatal(found, err)
	}
	w.activate(m, 1, id, p)
	w.pass(6)
	w.Lotus = open(t, w.RPCURL(), func(c *chain.Config) { // for the questions alone: what hangs is not to be waited for long
		c.Network, c.Wallet, c.Token = "devnet", w.ClientAddress(), w.Token(api.PermRead, api.PermSign)
		c.Timeout = 200 * time.Millisecond
	})
	w.see()
	for name, f := range map[string]devnet.Faults{
		"errors":    {ErrorEvery: 1, Methods: []string{"StateMarketStorageDeal", "StateSearchMsg", "ChainReadObj", "StateMinerInfo"}},
		"null":      {NullEvery: 1, Methods: []string{"StateMarketStorageDeal", "StateMinerInfo"}},
		"hangs":     {HangEvery: 1, Methods: []string{"StateMarketStorageDeal", "StateMinerInfo"}},
		"not found": {NotFoundEvery: 1},
		"drops":     {DropEvery: 2},
		"down":      {Down: true},
		"lag":       {Lag: 20},
	} {
		t.Run(name, func(t *testing.T) {
			w.SetFaults(f)
			if f.Lag > 0 {
				eventually(t, "the lag is seen", func() bool { _, err := w.Heads(ctx); return err != nil })
			}
			for range 5 {
				for _, final := range []bool{true, false} {
					if d, found, err := w.Deal(ctx, id, final); err == nil && (!found || d.SectorStart < 0) {
						t.Errorf("an active deal is %+v, found %v", d, found)
					}
				}
				if _, found, err := w.Published(ctx, message, p); err == nil && !found {
					t.Error("a published message is not there")
				}
				number, _ := address.IDFromAddress(m.ID)
				if _, found, err := w.Miner(ctx, deals.ProviderID(number)); err == nil && !found {
					t.Error("a miner is not there")
				}
			}
			w.SetFaults(devnet.Faults{})
			w.see()
			eventually(t, "the deal is seen again", func() bool { _, found, err := w.Deal(ctx, id, true); return err == nil && found })
		})
	}
}

func TestTokenThatMayNotSignIsRefused(t *testing.T) {
	net, err := devnet.Start(t.Context(), devnet.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { net.Close() })
	l, err := chain.Open(t.Context(), chain.Config{
		URL: net.RPCURL(), Network: "devnet", Wallet: net.ClientAddress(), Token: net.Token(api.PermRead),
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	wantRefused(t, l, "sign")
}

func TestAnotherRunOfTheSameNetworkIsRefused(t *testing.T) {
	w := begin(t, devnet.Config{Finality: 5}, nil)
	w.pass(20)
	p := newPlug(t)
	p.into(w.RPCURL())
	l := open(t, p.url(), func(c *chain.Config) {
		c.Network, c.Wallet, c.Token = "devnet", w.ClientAddress(), w.Token(api.PermRead, api.PermSign)
	})
	if _, err := l.Heads(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := begin(t, devnet.Config{Finality: 5}, nil)
	other.pass(40)
	p.into(other.RPCURL())
	eventually(t, "the switch is noticed", func() bool { _, err := l.Heads(context.Background()); return errors.Is(err, deals.ErrChain) })
	wantRefused(t, l, "")
}
