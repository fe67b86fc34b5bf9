package receipt

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
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
	ChainGetMessage(ctx context.Context, message cid.Cid) (*types.Message, error)
	StateLookupID(ctx context.Context, a address.Address, at types.TipSetKey) (address.Address, error)
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

// chain looks a deal up. Deals that have ended are no longer there, and say nothing.
func (r *Report) chain(ctx context.Context, name string, d deals.ReceiptDeal, signed market.DealProposal, node Node) error {
	head, err := node.ChainHead(ctx)
	if err != nil {
		return fmt.Errorf("asking the node for its head: %w", err)
	}
	id, known, err := dealID(d)
	if err != nil {
		r.add(Wrong, name, "%s", err)
		return nil //nolint:nilerr // that is the finding
	}
	if int64(head.Height()) < d.SeenAtHeight {
		r.add(Open, name, "the node is at height %d, behind the service, which saw it at %d", head.Height(), d.SeenAtHeight)
		return nil
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

// published looks for the proposal in the message that is said to have published it. Many nodes have forgotten old
// messages, so a missing one says nothing.
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
	if err := batch.UnmarshalCBOR(bytes.NewReader(message.Params)); err != nil {
		r.add(Wrong, name, "the message %s publishes no deals", c)
		return
	}
	for _, signed := range batch.Deals {
		if id, err := signed.Proposal.Cid(); err == nil && id.String() == d.ProposalCID {
			r.add(Proved, name, "published by the message %s", c)
			return
		}
	}
	r.add(Wrong, name, "the message %s published other deals", c)
}
