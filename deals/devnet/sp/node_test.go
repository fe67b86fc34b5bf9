package sp_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-bitfield"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	market18 "github.com/filecoin-project/go-state-types/builtin/v18/market"
	miner18 "github.com/filecoin-project/go-state-types/builtin/v18/miner"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-project/go-state-types/exitcode"
	"github.com/filecoin-project/go-state-types/network"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/actors/builtin/miner"
	"github.com/filecoin-project/lotus/chain/actors/builtin/verifreg"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/filecoin-project/lotus/chain/wallet/key"
	"github.com/filecoin-project/lotus/lib/sigs"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/frostpin/frostpin/deals/mk12/wire"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A node is a chain of one miner that executes what a provider sends, one epoch after it was sent, and judges only a
// proposal's signature. What the market does in full is tested on the devnet, in chain_test.go.
type node struct {
	worker, client *key.Key
	miner          address.Address

	mu        sync.Mutex
	height    abi.ChainEpoch
	heads     map[chan []*api.HeadChange]bool
	down      error
	blind     bool // it does not find messages
	byUUID    map[uuid.UUID]*types.SignedMessage
	pool      []*types.SignedMessage
	found     map[cid.Cid]*api.MsgLookup
	published []market.ClientDealProposal // by deal id − 1
	active    map[abi.DealID]abi.SectorNumber
	peerID    peer.ID
	addrs     []abi.Multiaddrs
	escrow    map[address.Address]abi.TokenAmount
	datacap   *abi.StoragePower
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{
		worker: must(key.GenerateKey(types.KTSecp256k1)), client: must(key.GenerateKey(types.KTSecp256k1)),
		miner: must(address.NewIDAddress(1000)), height: 100, heads: make(map[chan []*api.HeadChange]bool),
		byUUID: make(map[uuid.UUID]*types.SignedMessage), found: make(map[cid.Cid]*api.MsgLookup),
		active: make(map[abi.DealID]abi.SectorNumber), escrow: make(map[address.Address]abi.TokenAmount),
	}
	n.escrow[n.client.Address] = abi.NewTokenAmount(1e18)
	return n
}

func (n *node) tipset() *types.TipSet {
	some := must(abi.CidBuilder.Sum(fmt.Appendf(nil, "%d", n.height)))
	return must(types.NewTipSet([]*types.BlockHeader{{
		Miner: n.miner, Ticket: &types.Ticket{VRFProof: []byte{1}}, ElectionProof: &types.ElectionProof{VRFProof: []byte{1}},
		ParentWeight: big.Zero(), Height: n.height, ParentStateRoot: some, ParentMessageReceipts: some, Messages: some,
		BLSAggregate: &crypto.Signature{Type: crypto.SigTypeBLS}, BlockSig: &crypto.Signature{Type: crypto.SigTypeBLS},
		ParentBaseFee: big.Zero(),
	}}))
}

// advance executes what was sent and moves the head on.
func (n *node) advance(epochs abi.ChainEpoch) {
	for range epochs {
		n.mu.Lock()
		for _, m := range n.pool {
			code, ret := n.execute(&m.Message)
			n.found[m.Cid()] = &api.MsgLookup{
				Message: m.Cid(), Height: n.height, TipSet: types.EmptyTSK,
				Receipt: types.MessageReceipt{ExitCode: code, Return: ret},
			}
		}
		n.pool = nil
		n.height++
		change := []*api.HeadChange{{Type: "apply", Val: n.tipset()}}
		for ch := range n.heads {
			ch <- change
		}
		n.mu.Unlock()
	}
}

func (n *node) execute(m *types.Message) (code exitcode.ExitCode, ret []byte) {
	params := bytes.NewReader(m.Params)
	switch {
	case m.To == builtin.StorageMarketActorAddr && m.Method == builtin.MethodsMarket.AddBalance:
		var who address.Address
		if who.UnmarshalCBOR(params) != nil {
			return 16, nil
		}
		n.escrow[who] = big.Add(n.balance(who), m.Value)
	case m.To == builtin.StorageMarketActorAddr && m.Method == builtin.MethodsMarket.PublishStorageDeals:
		return n.publish(params)
	case m.To == n.miner && m.Method == builtin.MethodsMiner.ChangePeerID:
		var p miner18.ChangePeerIDParams
		if p.UnmarshalCBOR(params) != nil {
			return 16, nil
		}
		n.peerID = peer.ID(p.NewID)
	case m.To == n.miner && m.Method == builtin.MethodsMiner.ChangeMultiaddrs:
		var p miner18.ChangeMultiaddrsParams
		if p.UnmarshalCBOR(params) != nil {
			return 16, nil
		}
		n.addrs = p.NewMultiaddrs
	case m.To == n.miner && m.Method == builtin.MethodsMiner.PreCommitSectorBatch2:
	case m.To == n.miner && m.Method == builtin.MethodsMiner.ProveCommitSectors3:
		var p miner18.ProveCommitSectors3Params
		if p.UnmarshalCBOR(params) != nil {
			return 16, nil
		}
		for _, s := range p.SectorActivations {
			// A deal id below 24 is one byte of CBOR, which is all that is needed here.
			n.active[abi.DealID(s.Pieces[0].Notify[0].Payload[0])] = s.SectorNumber
		}
	default:
		return 22, nil
	}
	return 0, nil
}

func (n *node) publish(params *bytes.Reader) (exitcode.ExitCode, []byte) {
	var p market.PublishStorageDealsParams
	if p.UnmarshalCBOR(params) != nil {
		return 16, nil
	}
	ret := market18.PublishStorageDealsReturn{ValidDeals: bitfield.New()}
	for i, deal := range p.Deals {
		if !signed(deal) {
			continue
		}
		n.published = append(n.published, deal)
		ret.IDs = append(ret.IDs, abi.DealID(len(n.published)))
		ret.ValidDeals.Set(uint64(i))
	}
	if len(ret.IDs) == 0 {
		return 16, nil
	}
	var out bytes.Buffer
	if err := ret.MarshalCBOR(&out); err != nil {
		return 16, nil
	}
	return 0, out.Bytes()
}

func signed(deal market.ClientDealProposal) bool {
	return sigs.Verify(&deal.ClientSignature, deal.Proposal.Client, must(wire.ProposalBytes(&deal.Proposal))) == nil
}

func (n *node) balance(who address.Address) abi.TokenAmount {
	if b, ok := n.escrow[who]; ok {
		return b
	}
	return big.Zero()
}

func (n *node) setDown(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = err
}

func (n *node) setBlind(blind bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.blind = blind
}

func (n *node) get(f func()) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down != nil {
		return n.down
	}
	f()
	return nil
}

func (n *node) ChainHead(context.Context) (ts *types.TipSet, err error) {
	err = n.get(func() { ts = n.tipset() })
	return ts, err
}

func (n *node) ChainNotify(ctx context.Context) (<-chan []*api.HeadChange, error) {
	ch := make(chan []*api.HeadChange, 10_000)
	err := n.get(func() {
		ch <- []*api.HeadChange{{Type: "current", Val: n.tipset()}}
		n.heads[ch] = true
	})
	context.AfterFunc(ctx, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.heads, ch)
	})
	return ch, err
}

func (n *node) MpoolPushMessage(_ context.Context, m *types.Message, spec *api.MessageSendSpec) (sm *types.SignedMessage, err error) {
	err = n.get(func() {
		if sent, ok := n.byUUID[spec.MsgUuid]; ok {
			sm = sent
			return
		}
		m.GasFeeCap, m.GasPremium = big.Zero(), big.Zero()
		m.Nonce = uint64(len(n.byUUID))
		sm = &types.SignedMessage{Message: *m, Signature: crypto.Signature{Type: crypto.SigTypeSecp256k1}}
		n.byUUID[spec.MsgUuid] = sm
		n.pool = append(n.pool, sm)
	})
	return sm, err
}

func (n *node) StateAccountKey(_ context.Context, addr address.Address, _ types.TipSetKey) (address.Address, error) {
	return addr, n.get(func() {})
}

func (n *node) StateDealProviderCollateralBounds(context.Context, abi.PaddedPieceSize, bool, types.TipSetKey) (api.DealCollateralBounds, error) {
	return api.DealCollateralBounds{Min: abi.NewTokenAmount(1000), Max: abi.NewTokenAmount(1e18)}, n.get(func() {})
}

func (n *node) StateGetAllocationIdForPendingDeal(context.Context, abi.DealID, types.TipSetKey) (verifreg.AllocationId, error) {
	return 7, n.get(func() {})
}

func (n *node) StateLookupID(context.Context, address.Address, types.TipSetKey) (address.Address, error) {
	return must(address.NewIDAddress(1234)), n.get(func() {})
}

func (n *node) StateMarketBalance(_ context.Context, who address.Address, _ types.TipSetKey) (b api.MarketBalance, err error) {
	err = n.get(func() { b = api.MarketBalance{Escrow: n.balance(who), Locked: big.Zero()} })
	return b, err
}

func (n *node) StateMarketStorageDeal(context.Context, abi.DealID, types.TipSetKey) (*api.MarketDeal, error) {
	return nil, errors.New("not used")
}

func (n *node) StateMinerInfo(context.Context, address.Address, types.TipSetKey) (info api.MinerInfo, err error) {
	err = n.get(func() {
		info = api.MinerInfo{
			Worker: n.worker.Address, Owner: n.worker.Address, Multiaddrs: n.addrs, SectorSize: 32 << 30,
			WindowPoStProofType: abi.RegisteredPoStProof_StackedDrgWindow32GiBV1_1,
		}
		if n.peerID != "" {
			id := n.peerID
			info.PeerId = &id
		}
	})
	return info, err
}

func (n *node) StateNetworkVersion(context.Context, types.TipSetKey) (network.Version, error) {
	return network.Version28, n.get(func() {})
}

func (n *node) StateSearchMsg(_ context.Context, _ types.TipSetKey, m cid.Cid, _ abi.ChainEpoch, _ bool) (found *api.MsgLookup, err error) {
	err = n.get(func() {
		if !n.blind {
			found = n.found[m]
		}
	})
	return found, err
}

func (n *node) StateSectorPartition(context.Context, address.Address, abi.SectorNumber, types.TipSetKey) (*miner.SectorLocation, error) {
	return &miner.SectorLocation{}, n.get(func() {})
}

func (n *node) StateVerifiedClientStatus(context.Context, address.Address, types.TipSetKey) (datacap *abi.StoragePower, err error) {
	err = n.get(func() { datacap = n.datacap })
	return datacap, err
}

func (n *node) WalletSign(_ context.Context, who address.Address, data []byte) (*crypto.Signature, error) {
	for _, k := range []*key.Key{n.worker, n.client} {
		if k.Address == who {
			return sigs.Sign(crypto.SigTypeSecp256k1, k.PrivateKey, data)
		}
	}
	return nil, errors.New("key not found")
}

func (n *node) WalletVerify(_ context.Context, who address.Address, data []byte, sig *crypto.Signature) (bool, error) {
	return sigs.Verify(sig, who, data) == nil, nil
}

// random is content that nobody has seen before.
func random(size int) []byte {
	data := make([]byte, size)
	rand.Read(data)
	return data
}
