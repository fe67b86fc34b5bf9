package receipt

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/api/client"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals"
)

// A Node is what is asked of a Lotus node, all of it with read permission or none: a public one will do.
type Node interface {
	ChainHead(ctx context.Context) (*types.TipSet, error)
	ChainGetGenesis(ctx context.Context) (*types.TipSet, error)
	ChainGetMessage(ctx context.Context, message cid.Cid) (*types.Message, error)
	StateLookupID(ctx context.Context, a address.Address, at types.TipSetKey) (address.Address, error)
	StateSearchMsg(ctx context.Context, from types.TipSetKey, message cid.Cid, lookback abi.ChainEpoch, replaced bool) (*api.MsgLookup, error)
	StateMarketStorageDeal(ctx context.Context, id abi.DealID, at types.TipSetKey) (*api.MarketDeal, error)
	WalletVerify(ctx context.Context, a address.Address, message []byte, s *crypto.Signature) (bool, error)
}

// Dial connects to a node: its address, and a token when it wants one. The caller calls close.
func Dial(ctx context.Context, url, token string) (n Node, closer func(), err error) {
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	full, stop, err := client.NewFullNodeRPCV1(ctx, url, header)
	if err != nil {
		return nil, nil, fmt.Errorf("connecting to the node: %w", err)
	}
	return full, func() { stop() }, nil
}

// clockSkew is how far the clocks of the service, of the node and of whoever checks may be apart.
const clockSkew = time.Hour

// reached tells whether the chain of a node, which is at head, can have been at a height when a receipt was issued.
func reached(ctx context.Context, node Node, head *types.TipSet, height int64, issued time.Time) (bool, error) {
	genesis, err := node.ChainGetGenesis(ctx)
	if err != nil {
		return false, fmt.Errorf("asking the node for its genesis: %w", err)
	}
	at := func(t *types.TipSet) time.Time { return time.Unix(int64(t.MinTimestamp()), 0) } //nolint:gosec // seconds since 1970
	epoch := time.Second                                                                   // the shortest that the timestamps tell
	if n := time.Duration(head.Height() - genesis.Height()); n > 0 {
		epoch = max(time.Millisecond, at(head).Sub(at(genesis))/n)
	}
	ahead := max(0, issued.Sub(at(head))) + clockSkew
	return height <= int64(head.Height())+int64(ahead/epoch), nil
}

// chain looks a deal up. Deals that have ended are no longer there, and say nothing. A node that is behind the service may
// not have it yet, but what it has it has.
func (r *Report) chain(ctx context.Context, name string, d deals.ReceiptDeal, signed market.DealProposal, issued time.Time, node Node) error {
	head, err := node.ChainHead(ctx)
	if err != nil {
		return fmt.Errorf("asking the node for its head: %w", err)
	}
	id, known, err := dealID(d)
	if err != nil {
		r.add(Wrong, name, "%s", err)
		return nil //nolint:nilerr // that is the finding
	}
	behind := int64(head.Height()) < d.SeenAtHeight
	if behind {
		could, err := reached(ctx, node, head, d.SeenAtHeight, issued)
		if err != nil {
			return err
		}
		if !could {
			r.add(Wrong, name, "the service says that it saw it at height %d, and no chain was there when it issued the receipt", d.SeenAtHeight)
			behind = false
		}
	}
	r.published(ctx, name, d, node)
	if !known {
		if head.Height() > signed.StartEpoch {
			r.add(Wrong, name, "it had no deal id at height %d, and its start epoch %d is over", d.SeenAtHeight, signed.StartEpoch)
		} else {
			r.add(Open, name, "%s: the service did not know its deal id yet", d.State)
		}
		return nil
	}
	found, err := node.StateMarketStorageDeal(ctx, id, head.Key())
	if err != nil {
		if !strings.Contains(err.Error(), fmt.Sprintf("deal %d not found", id)) {
			return fmt.Errorf("asking the node for deal %d: %w", id, err)
		}
		switch {
		case behind:
			r.add(Open, name, "the node is at height %d, behind the service, which saw it at %d", head.Height(), d.SeenAtHeight)
		case d.State == deals.Terminated:
			r.add(Proved, name, "deal %d is no longer on chain, as the receipt says", id)
		case head.Height() >= signed.EndEpoch:
			r.add(Open, name, "deal %d ended at epoch %d, and the chain has forgotten it", id, signed.EndEpoch)
		default:
			r.add(Wrong, name, "the chain has no deal %d", id)
		}
		return nil
	}
	return r.onChain(ctx, name, id, signed, found, head, node)
}

// onChain compares a deal with what was signed. On chain both parties are numbers.
func (r *Report) onChain(ctx context.Context, name string, id abi.DealID, signed market.DealProposal, found *api.MarketDeal, head *types.TipSet, node Node) error {
	number, err := node.StateLookupID(ctx, signed.Client, head.Key())
	if err != nil {
		return fmt.Errorf("asking the node for the number of %s: %w", signed.Client, err)
	}
	want := signed
	want.Client = number
	var a, b bytes.Buffer
	got := found.Proposal
	if err := got.MarshalCBOR(&a); err != nil {
		return fmt.Errorf("encoding deal %d: %w", id, err)
	}
	if err := want.MarshalCBOR(&b); err != nil {
		return fmt.Errorf("encoding a proposal: %w", err)
	}
	start, slashed := found.State.SectorStartEpoch, found.State.SlashEpoch
	switch {
	case !bytes.Equal(a.Bytes(), b.Bytes()):
		r.add(Wrong, name, "deal %d is another one", id)
	case slashed >= 0:
		r.add(Wrong, name, "deal %d was slashed at epoch %d", id, slashed)
	case start < 0 && head.Height() > signed.StartEpoch:
		r.add(Wrong, name, "deal %d was not sealed by its start epoch %d", id, signed.StartEpoch)
	case start < 0:
		r.add(Open, name, "deal %d is on chain as it was signed, and not sealed yet at height %d", id, head.Height())
	case head.Height() >= signed.EndEpoch:
		r.add(Open, name, "deal %d was kept and ended at epoch %d", id, signed.EndEpoch)
	default:
		r.add(Proved, name, "deal %d is on chain as it was signed, and active at height %d until epoch %d", id, head.Height(), signed.EndEpoch)
	}
	return nil
}

// searchTime is how long a node may look for what became of a message: it may have to read the chain back to it.
const searchTime = 20 * time.Second

// published looks for the proposal in the message that is said to have published it, and for what became of that. Many nodes
// have forgotten old messages, so a missing one says nothing.
func (r *Report) published(ctx context.Context, name string, d deals.ReceiptDeal, node Node) {
	if d.PublishMessage == "" {
		return
	}
	c, err := cid.Decode(d.PublishMessage)
	if err != nil {
		r.add(Wrong, name, "reading the message that published it: %s", err)
		return
	}
	message, err := node.ChainGetMessage(ctx, c)
	if err != nil {
		r.add(Open, name, "the node does not have the message %s that published it", c)
		return
	}
	var batch market.PublishStorageDealsParams
	if message.To != builtin.StorageMarketActorAddr || message.Method != builtin.MethodsMarket.PublishStorageDeals ||
		batch.UnmarshalCBOR(bytes.NewReader(message.Params)) != nil {
		r.add(Wrong, name, "the message %s publishes no deals", c)
		return
	}
	var places []uint64 // a proposal may come twice, and be refused once
	for i, signed := range batch.Deals {
		if id, err := signed.Proposal.Cid(); err == nil && id.String() == d.ProposalCID {
			places = append(places, uint64(i)) //nolint:gosec // an index
		}
	}
	if len(places) == 0 {
		r.add(Wrong, name, "the message %s published other deals", c)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	found, err := node.StateSearchMsg(ctx, types.EmptyTSK, c, api.LookbackNoLimit, true)
	if err != nil || found == nil {
		r.add(Open, name, "named in the message %s; the node does not tell what became of that", c)
		return
	}
	var result market.PublishStorageDealsReturn
	switch code := found.Receipt.ExitCode; {
	case code.IsError():
		r.add(Wrong, name, "the message %s, which is said to have published it, failed with exit code %d", c, int64(code))
	case result.UnmarshalCBOR(bytes.NewReader(found.Receipt.Return)) != nil: // of an old market, or none
		r.add(Open, name, "named in the message %s; its receipt cannot be read", c)
	case !slices.ContainsFunc(places, func(i uint64) bool {
		taken, err := result.ValidDeals.IsSet(i)
		return err == nil && taken
	}):
		r.add(Wrong, name, "it was refused in the message %s", c)
	default:
		r.add(Proved, name, "published by the message %s", c)
	}
}
