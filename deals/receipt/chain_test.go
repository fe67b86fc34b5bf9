package receipt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-bitfield"
	"github.com/filecoin-project/go-jsonrpc"
	"github.com/filecoin-project/go-keccak"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/receipt"
)

// delegatedAddress is the f410 address of an Ethereum key.
func delegatedAddress(public []byte) (address.Address, error) {
	hasher := keccak.NewLegacyKeccak256()
	hasher.Write(public[1:])
	return address.NewDelegatedAddress(builtin.EthereumAddressManagerActorID, hasher.Sum(nil)[12:])
}

func labelOf(root cid.Cid) (market.DealLabel, error) { return market.NewLabelFromString(root.String()) }

// A node is a chain that has the deals of a bundle as they should be, until a test changes that.
type node struct {
	t        testing.TB
	height   abi.ChainEpoch
	deals    map[abi.DealID]*api.MarketDeal
	messages map[cid.Cid]*types.Message
	carried  *api.MsgLookup // what became of the message; nil: the node does not know
	number   address.Address
	down     error
	forged   bool
}

func newNode(t testing.TB, b bundle) *node {
	t.Helper()
	n := &node{t: t, height: head, carried: &api.MsgLookup{Receipt: types.MessageReceipt{Return: published(t, 0, 1)}}, deals: map[abi.DealID]*api.MarketDeal{}, messages: map[cid.Cid]*types.Message{}}
	var err error
	if n.number, err = address.NewIDAddress(77); err != nil {
		t.Fatal(err)
	}
	var batch market.PublishStorageDealsParams
	for i, a := range b.attempts {
		signed, err := b.receipt.Deals[i].Signed()
		if err != nil {
			t.Fatal(err)
		}
		batch.Deals = append(batch.Deals, signed)
		on := signed.Proposal
		on.Client = n.number
		n.deals[a.DealID] = &api.MarketDeal{
			Proposal: on,
			State:    api.MarketDealState{SectorStartEpoch: a.Start - 100, LastUpdatedEpoch: -1, SlashEpoch: -1},
		}
	}
	var params bytes.Buffer
	if err := batch.MarshalCBOR(&params); err != nil {
		t.Fatal(err)
	}
	n.messages[b.attempts[0].PublishCID] = &types.Message{
		To: builtin.StorageMarketActorAddr, From: n.number, Value: types.NewInt(0), GasFeeCap: types.NewInt(0), GasPremium: types.NewInt(0),
		Method: 4, Params: params.Bytes(),
	}
	return n
}

// published is what the market returns for a batch of which it has taken these deals.
func published(t testing.TB, valid ...uint64) []byte {
	t.Helper()
	r := market.PublishStorageDealsReturn{IDs: []abi.DealID{}, ValidDeals: bitfield.NewFromSet(valid)}
	for _, i := range valid {
		r.IDs = append(r.IDs, first+abi.DealID(i))
	}
	var out bytes.Buffer
	if err := r.MarshalCBOR(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (n *node) ChainHead(context.Context) (*types.TipSet, error) {
	if n.down != nil {
		return nil, n.down
	}
	return tipset(n.height)
}

func (n *node) ChainGetGenesis(context.Context) (*types.TipSet, error) { return tipset(0) }

func (n *node) StateSearchMsg(context.Context, types.TipSetKey, cid.Cid, abi.ChainEpoch, bool) (*api.MsgLookup, error) {
	return n.carried, nil
}

// tipset is that of a height: at head the receipts of the tests are issued.
func tipset(height abi.ChainEpoch) (*types.TipSet, error) {
	miner, err := address.NewIDAddress(1000)
	if err != nil {
		return nil, err
	}
	some, err := cid.V1Builder{Codec: cid.DagCBOR, MhType: multihash.BLAKE2B_MIN + 31}.Sum([]byte("some"))
	if err != nil {
		return nil, err
	}
	return types.NewTipSet([]*types.BlockHeader{{
		Miner: miner, Height: height, Timestamp: uint64(issued.Unix() + 30*int64(height-head)), Ticket: &types.Ticket{VRFProof: []byte{1}}, ElectionProof: &types.ElectionProof{VRFProof: []byte{1}},
		BlockSig: &crypto.Signature{Type: crypto.SigTypeBLS, Data: []byte{1}}, BLSAggregate: &crypto.Signature{Type: crypto.SigTypeBLS, Data: []byte{1}},
		ParentWeight: types.NewInt(1), ParentBaseFee: types.NewInt(1), ParentStateRoot: some, ParentMessageReceipts: some, Messages: some,
	}})
}

func (n *node) ChainGetMessage(_ context.Context, c cid.Cid) (*types.Message, error) {
	if m, ok := n.messages[c]; ok {
		return m, nil
	}
	return nil, errors.New("blockstore: block not found")
}

func (n *node) StateLookupID(context.Context, address.Address, types.TipSetKey) (address.Address, error) {
	return n.number, nil
}

func (n *node) StateMarketStorageDeal(_ context.Context, id abi.DealID, _ types.TipSetKey) (*api.MarketDeal, error) {
	if d, ok := n.deals[id]; ok {
		return d, nil
	}
	return nil, fmt.Errorf("deal %d not found - deal may not have completed sealing before deal proposal start epoch, or deal may have been slashed", id)
}

func (n *node) WalletVerify(_ context.Context, _ address.Address, message []byte, s *crypto.Signature) (bool, error) {
	return !n.forged && bytes.Equal(s.Data, blsLike(message)), nil
}

const (
	first = abi.DealID(1007) // of the deals of a bundle
	start = head - 10_000 + 8640
	end   = start + 540*2880
)

func TestWhatTheChainSaysOfADeal(t *testing.T) {
	for _, c := range []struct {
		name    string
		receipt func(*deals.Receipt)
		chain   func(*node)
		verdict receipt.Verdict
		want    string
	}{
		{"active", nil, func(*node) {}, receipt.Proved, "deal 1007 is on chain as it was signed, and active at height 6000000"},
		{"published", nil, func(*node) {}, receipt.Proved, "published by the message"},
		{"forgotten message", nil, func(n *node) { clear(n.messages) }, receipt.Open, "does not have the message"},
		{"message with other deals", nil, func(n *node) {
			for _, m := range n.messages {
				var out bytes.Buffer
				if err := (&market.PublishStorageDealsParams{Deals: []market.ClientDealProposal{}}).MarshalCBOR(&out); err != nil {
					n.t.Fatal(err)
				}
				m.Params = out.Bytes()
			}
		}, receipt.Wrong, "published other deals"},
		{"message that is none", nil, func(n *node) {
			for _, m := range n.messages {
				m.Params = []byte("x")
			}
		}, receipt.Wrong, "publishes no deals"},
		{"no such message CID", func(r *deals.Receipt) { r.Deals[0].PublishMessage = "x" }, func(*node) {}, receipt.Wrong, "reading the message"},
		{"gone", nil, func(n *node) { delete(n.deals, first) }, receipt.Wrong, "the chain has no deal 1007"},
		{"gone after its end", nil, func(n *node) { delete(n.deals, first); n.height = end }, receipt.Open, "the chain has forgotten it"},
		{"gone, and said to be", func(r *deals.Receipt) { r.Deals[0].State = deals.Terminated }, func(n *node) { delete(n.deals, first) }, receipt.Proved, "no longer on chain, as the receipt says"},
		{"slashed", nil, func(n *node) { n.deals[first].State.SlashEpoch = head - 1 }, receipt.Wrong, "was slashed"},
		{"not sealed in time", nil, func(n *node) { n.deals[first].State.SectorStartEpoch = -1 }, receipt.Wrong, "was not sealed by its start epoch"},
		{"sealing", func(r *deals.Receipt) { r.Deals[0].SeenAtHeight = 1 }, func(n *node) { n.deals[first].State.SectorStartEpoch, n.height = -1, start }, receipt.Open, "not sealed yet"},
		{"ended", nil, func(n *node) { n.height = end }, receipt.Open, "was kept and ended"},
		{"another deal", nil, func(n *node) { n.deals[first] = n.deals[first+1] }, receipt.Wrong, "is another one"},
		{"another client's deal", nil, func(n *node) { n.number, _ = address.NewIDAddress(78) }, receipt.Wrong, "is another one"},
		{"deal id unknown", func(r *deals.Receipt) { r.Deals[0].DealID, r.Deals[0].SeenAtHeight = "", 1 }, func(n *node) { n.height = start }, receipt.Open, "did not know its deal id"},
		{"deal id unknown and too late", func(r *deals.Receipt) { r.Deals[0].DealID = "" }, func(*node) {}, receipt.Wrong, "its start epoch"},
		{"no deal id at all", func(r *deals.Receipt) { r.Deals[0].DealID = "-1" }, func(*node) {}, receipt.Wrong, "reading the deal id"},
		{"a node that is behind", nil, func(n *node) { n.height = 5; clear(n.deals) }, receipt.Open, "behind the service"},
		{"slashed, and a node that is behind", func(r *deals.Receipt) { r.Deals[0].SeenAtHeight = head + 50 }, func(n *node) { n.deals[first].State.SlashEpoch = head - 1 }, receipt.Wrong, "was slashed"},
		{"active, and a node that is behind", func(r *deals.Receipt) { r.Deals[0].SeenAtHeight = head + 50 }, func(*node) {}, receipt.Proved, "active at height 6000000"},
		{"seen at a height that there was not", func(r *deals.Receipt) { r.Deals[0].SeenAtHeight = 9007199254740991 }, func(*node) {}, receipt.Wrong, "no chain was there"},
		{"gone, and seen at a height that there was not", func(r *deals.Receipt) { r.Deals[0].SeenAtHeight = head + 10_000 }, func(n *node) { delete(n.deals, first) }, receipt.Wrong, "the chain has no deal 1007"},
		{"message to somebody else", nil, func(n *node) {
			for _, m := range n.messages {
				m.To = n.number
			}
		}, receipt.Wrong, "publishes no deals"},
		{"message with another method", nil, func(n *node) {
			for _, m := range n.messages {
				m.Method = 2
			}
		}, receipt.Wrong, "publishes no deals"},
		{"message that failed", nil, func(n *node) { n.carried.Receipt.ExitCode = 16 }, receipt.Wrong, "failed with exit code 16"},
		{"message that the market took in part", nil, func(n *node) { n.carried.Receipt.Return = published(n.t, 1) }, receipt.Wrong, "was refused in the message"},
		{"message of which nobody knows what became", nil, func(n *node) { n.carried = nil }, receipt.Open, "named in the message"},
	} {
		var change []func(*deals.Receipt)
		if c.receipt != nil {
			change = append(change, c.receipt)
		}
		b := newBundle(t, crypto.SigTypeSecp256k1, change...)
		n := newNode(t, b)
		c.chain(n)
		report := verify(t, b.content, receipt.Options{Node: n})
		if !has(report, c.verdict, c.want) || report.OK() == (c.verdict == receipt.Wrong) {
			t.Errorf("%s: want %s %q in %+v", c.name, c.verdict, c.want, report.Findings)
		}
	}
}

func TestANodeThatDoesNotAnswerProvesNothing(t *testing.T) {
	b := newBundle(t, crypto.SigTypeSecp256k1)
	n := newNode(t, b)
	n.down = errors.New("gone")
	if _, err := receipt.Verify(t.Context(), b.content, receipt.Options{Node: n}); !errors.Is(err, n.down) {
		t.Errorf("got %v", err)
	}
}

func TestANodeIsAskedOverItsAPI(t *testing.T) {
	b := newBundle(t, crypto.SigTypeSecp256k1)
	model := newNode(t, b)
	var full api.FullNodeStruct
	full.Internal.ChainHead = model.ChainHead
	full.Internal.ChainGetMessage = model.ChainGetMessage
	full.Internal.StateSearchMsg = model.StateSearchMsg
	full.Internal.StateLookupID = model.StateLookupID
	full.Internal.StateMarketStorageDeal = model.StateMarketStorageDeal
	rpc := jsonrpc.NewServer()
	rpc.Register("Filecoin", &full)
	server := httptest.NewServer(rpc)
	defer server.Close()
	n, stop, err := receipt.Dial(t.Context(), strings.Replace(server.URL, "http://", "ws://", 1), "")
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if report := verify(t, b.content, receipt.Options{Node: n}); !report.OK() || !has(report, receipt.Proved, "active at height") {
		t.Errorf("%+v", report.Findings)
	}
	delete(model.deals, first)
	if report := verify(t, b.content, receipt.Options{Node: n}); !has(report, receipt.Wrong, "the chain has no deal 1007") {
		t.Errorf("not found over the wire: %+v", report.Findings)
	}
}
