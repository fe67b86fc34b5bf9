package chain

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/network"
	"github.com/filecoin-project/lotus/api"
	lotusmarket "github.com/filecoin-project/lotus/chain/actors/builtin/market"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals"
)

// Deal returns a deal from the head or from the last final tipset. There is none only if the node says so in Lotus'
// words, and its state tree, where it serves that, shows none either.
func (l *Lotus) Deal(ctx context.Context, id abi.DealID, final bool) (deals.OnChain, bool, error) {
	s, head, err := l.ready(ctx)
	if err != nil {
		return deals.OnChain{}, false, err
	}
	at := head
	if final {
		if at, err = l.finalTip(ctx, s, head); err != nil {
			return deals.OnChain{}, false, err
		}
	}
	d, found, err := dealAt(ctx, s, at, id)
	if err != nil || found {
		return d, found, err
	}
	there, err := l.proposed(ctx, s, head, at, id)
	if err != nil {
		return deals.OnChain{}, false, err
	}
	if there {
		return deals.OnChain{}, false, fmt.Errorf("asking the node for deal %d: %w: it says there is none, and has it in its state", id, deals.ErrChain)
	}
	return deals.OnChain{}, false, nil
}

func dealAt(ctx context.Context, s *session, at tip, id abi.DealID) (deals.OnChain, bool, error) {
	d, err := call(ctx, s, "StateMarketStorageDeal", func(ctx context.Context, n *node) (*api.MarketDeal, error) {
		return n.StateMarketStorageDeal(ctx, id, at.Key)
	})
	if err != nil {
		if isAnswer(err) && strings.Contains(err.Error(), fmt.Sprintf("deal %d not found - deal may not have completed sealing", id)) {
			return deals.OnChain{}, false, nil
		}
		return deals.OnChain{}, false, err
	}
	if !d.Proposal.PieceCID.Defined() {
		return deals.OnChain{}, false, fmt.Errorf("asking the node for deal %d: %w: the answer is empty", id, deals.ErrChain)
	}
	return deals.OnChain{
		Proposal:    d.Proposal,
		Sector:      d.State.SectorNumber,
		SectorStart: d.State.SectorStartEpoch,
		SlashEpoch:  d.State.SlashEpoch,
		ObservedAt:  at.Height,
	}, true, nil
}

// Pending tells whether the chain has a proposal, with ID addresses, among those that are published, at the head. Like
// Deal it does not take a mere no for an answer.
func (l *Lotus) Pending(ctx context.Context, p market.DealProposal) (bool, error) {
	s, head, err := l.ready(ctx)
	if err != nil {
		return false, err
	}
	for _, a := range []*address.Address{&p.Client, &p.Provider} {
		id, found, err := l.idOf(ctx, s, head, *a)
		if err != nil {
			return false, err
		}
		if !found {
			return false, nil // the market stores no deal of an address that is not on chain
		}
		*a = id
	}
	c, err := p.Cid()
	if err != nil {
		return false, fmt.Errorf("encoding the proposal: %w", err)
	}
	pending, err := call(ctx, s, "StateMarketProposalPending", func(ctx context.Context, n *node) (*bool, error) {
		return n.StateMarketProposalPending(ctx, c, head.Key)
	})
	if err != nil || *pending {
		return err == nil, err
	}
	there, err := l.isPending(ctx, s, head, c)
	if err != nil {
		return false, err
	}
	if there {
		return false, fmt.Errorf("asking the node for proposal %s: %w: it says that it is not pending, and has it in its state", c, deals.ErrChain)
	}
	return false, nil
}

// Published looks for the id of a proposal in the message that a provider named.
func (l *Lotus) Published(ctx context.Context, message cid.Cid, p market.DealProposal) (abi.DealID, bool, error) {
	s, _, err := l.ready(ctx)
	if err != nil {
		return 0, false, err
	}
	want, err := p.Cid()
	if err != nil {
		return 0, false, fmt.Errorf("encoding the proposal: %w", err)
	}
	found, err := search(ctx, s, message)
	if err != nil || found == nil || found.Receipt.ExitCode.IsError() {
		return 0, false, err
	}
	m, err := call(ctx, s, "ChainGetMessage", func(ctx context.Context, n *node) (*types.Message, error) {
		return n.ChainGetMessage(ctx, found.Message)
	})
	if err != nil {
		return 0, false, err
	}
	if m.To != builtin.StorageMarketActorAddr || m.Method != builtin.MethodsMarket.PublishStorageDeals {
		return 0, false, nil
	}
	var params market.PublishStorageDealsParams
	if err := params.UnmarshalCBOR(bytes.NewReader(m.Params)); err != nil {
		// The message succeeded, so the chain could read it: this is an answer that cannot be.
		return 0, false, fmt.Errorf("reading message %s: %w: %w", message, deals.ErrChain, err)
	}
	version, err := call(ctx, s, "StateNetworkVersion", func(ctx context.Context, n *node) (*network.Version, error) {
		return n.StateNetworkVersion(ctx, found.TipSet)
	})
	if err != nil {
		return 0, false, err
	}
	if *version == 0 {
		return 0, false, fmt.Errorf("asking the node for StateNetworkVersion: %w: the answer is empty", deals.ErrChain)
	}
	result, err := lotusmarket.DecodePublishStorageDealsReturn(found.Receipt.Return, *version)
	if err != nil {
		return 0, false, fmt.Errorf("reading the receipt of message %s: %w: %w", message, deals.ErrChain, err)
	}
	return publishedID(params.Deals, result, want)
}

// publishedID is the id that the market gave to the proposal.
func publishedID(batch []market.ClientDealProposal, result lotusmarket.PublishStorageDealsReturn, want cid.Cid) (abi.DealID, bool, error) {
	ids, err := result.DealIDs()
	if err != nil {
		return 0, false, fmt.Errorf("reading a receipt: %w: %w", deals.ErrChain, err)
	}
	for i := range batch {
		c, err := batch[i].Proposal.Cid()
		if err != nil || c != want {
			continue
		}
		valid, at, err := result.IsDealValid(uint64(i)) //nolint:gosec // an index
		if err != nil {
			return 0, false, fmt.Errorf("reading a receipt: %w: %w", deals.ErrChain, err)
		}
		if !valid {
			continue // the same proposal may come twice in a batch, the second time refused
		}
		if at < 0 || at >= len(ids) {
			return 0, false, fmt.Errorf("reading a receipt: %w: it names %d deals, and ours as number %d", deals.ErrChain, len(ids), at)
		}
		return ids[at], true, nil
	}
	return 0, false, nil
}

// eventSpan is the most heights of one request for events: nodes refuse more than a day.
const eventSpan = deals.EpochsPerDay

// Events returns the client's deals published from a height on. A node without events has none.
//
// Heights that the node refuses, because they are not indexed yet, hold too much or are too far back, keep none of the
// others from being read, and are asked for again.
func (l *Lotus) Events(ctx context.Context, from deals.Epoch) (found []deals.Publication, read deals.Epoch, err error) {
	s, head, err := l.ready(ctx)
	if err != nil {
		return nil, from, err
	}
	client, known, err := l.idOf(ctx, s, head, l.cfg.Wallet)
	if err != nil {
		return nil, from, err
	}
	if !known {
		return nil, head.Height + 1, nil
	}
	filter, err := publishedBy(client)
	if err != nil {
		return nil, from, err
	}
	from = max(0, from, head.Height-deals.EventsReach+1)
	read = from
	gap := false
	for low := from; low <= head.Height; low += eventSpan {
		high := min(head.Height, low+eventSpan-1)
		filter.FromHeight, filter.ToHeight = &low, &high
		events, err := callNull(ctx, s, slow*s.timeout, "GetActorEventsRaw", func(ctx context.Context, n *node) (*[]*types.ActorEvent, error) {
			return n.GetActorEventsRaw(ctx, &filter)
		})
		switch {
		case isAbsent(err):
			l.noEvent.Do(func() { l.log.Info("the Filecoin node serves no deal events", "err", err) }) // other ways remain
			return distinct(found), head.Height + 1, nil
		case isAnswer(err):
			l.refused.Do(func() {
				l.log.Warn("the Filecoin node refuses the deal events of some heights", "from", int64(low), "to", int64(high), "err", err)
			})
			gap = true
			continue
		case err != nil:
			return distinct(found), read, err
		case events != nil:
			found = append(found, publications(*events)...)
		}
		if !gap {
			read = high + 1
		}
	}
	return distinct(found), read, nil
}

// distinct returns each deal once. Where two messages are named for an id, the first was undone: the later one stands.
func distinct(found []deals.Publication) []deals.Publication {
	slices.Reverse(found)
	slices.SortStableFunc(found, func(a, b deals.Publication) int { return cmp.Compare(a.Deal, b.Deal) })
	return slices.CompactFunc(found, func(a, b deals.Publication) bool { return a.Deal == b.Deal })
}

const cborCodec = 0x51

func publishedBy(client address.Address) (types.ActorEventFilter, error) {
	id, err := address.IDFromAddress(client)
	if err != nil {
		return types.ActorEventFilter{}, fmt.Errorf("reading %s: %w", client, err)
	}
	return types.ActorEventFilter{
		Addresses: []address.Address{builtin.StorageMarketActorAddr},
		Fields: map[string][]types.ActorEventBlock{
			"$type":  {{Codec: cborCodec, Value: cborText("deal-published")}},
			"client": {{Codec: cborCodec, Value: cborUint(id)}},
		},
	}, nil
}

func publications(events []*types.ActorEvent) (found []deals.Publication) {
	for _, e := range events {
		if e == nil || e.Reverted {
			continue
		}
		for _, entry := range e.Entries {
			if entry.Key != "id" || entry.Codec != cborCodec {
				continue
			}
			if id, ok := readUint(entry.Value); ok {
				found = append(found, deals.Publication{Deal: abi.DealID(id), Message: e.MsgCid})
			}
		}
	}
	return found
}
