package devnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/ipfs/go-cid"
)

func (v *view) messageMethods(node *api.FullNodeStruct) {
	m := &node.Internal
	m.ChainGetMessage = v.message
	m.ChainGetBlockMessages = v.blockMessages
	m.ChainGetParentMessages = v.parentMessages
	m.ChainGetParentReceipts = v.parentReceipts
	m.StateSearchMsg = v.searchMessage
	m.StateWaitMsg = v.waitMessage
	m.MpoolPushMessage = v.n.pushMessage
	m.MpoolPush = v.n.pushSigned
	m.MpoolGetNonce = v.nonce
	m.MpoolPending = func(context.Context, types.TipSetKey) ([]*types.SignedMessage, error) {
		v.n.mu.RLock()
		defer v.n.mu.RUnlock()
		return v.n.pool.all(), nil
	}
	m.GasEstimateMessageGas = func(ctx context.Context, msg *types.Message, _ *api.MessageSendSpec, _ types.TipSetKey) (*types.Message, error) {
		v.n.mu.RLock()
		defer v.n.mu.RUnlock()
		filled := *msg
		return &filled, v.n.estimate(ctx, &filled)
	}
	m.MarketAddBalance = v.n.addBalance
	m.MarketWithdraw = v.n.withdraw
	m.MarketReserveFunds = v.n.reserve
	m.MarketReleaseFunds = func(ctx context.Context, addr address.Address, amount types.BigInt) error {
		id, err := v.lookupID(ctx, addr, types.EmptyTSK)
		if err != nil {
			return err
		}
		v.n.reserved.add(id, amount.Neg())
		return nil
	}
	m.MarketGetReserved = func(ctx context.Context, addr address.Address) (types.BigInt, error) {
		id, err := v.lookupID(ctx, addr, types.EmptyTSK)
		if err != nil {
			return types.EmptyInt, err
		}
		return v.n.reserved.add(id, types.NewInt(0)), nil
	}
	m.GetActorEventsRaw = v.events
}

func (v *view) known(c cid.Cid) (*sentMessage, bool) {
	v.n.mu.RLock()
	defer v.n.mu.RUnlock()
	s, ok := v.n.pool.byCID[c]
	return s, ok
}

func (v *view) message(_ context.Context, c cid.Cid) (*types.Message, error) {
	s, ok := v.known(c)
	if !ok {
		return nil, fmt.Errorf("failed to load message: %s not found", c)
	}
	msg := s.signed.Message
	return &msg, nil
}

func (v *view) entryOfBlock(block cid.Cid) (*entry, error) {
	return v.entry(types.NewTipSetKey(block))
}

// parentOf is the parent of a block's tipset; nil at genesis and at the edge of what is kept.
func (v *view) parentOf(block cid.Cid) (*entry, error) {
	e, err := v.entryOfBlock(block)
	if err != nil {
		return nil, err
	}
	v.n.mu.RLock()
	defer v.n.mu.RUnlock()
	return e.parent, nil
}

func (v *view) blockMessages(_ context.Context, block cid.Cid) (*api.BlockMessages, error) {
	e, err := v.entryOfBlock(block)
	if err != nil {
		return nil, err
	}
	out := &api.BlockMessages{BlsMessages: []*types.Message{}, SecpkMessages: []*types.SignedMessage{}, Cids: []cid.Cid{}}
	for _, s := range e.sent {
		out.SecpkMessages = append(out.SecpkMessages, s.signed)
		out.Cids = append(out.Cids, s.cid)
	}
	return out, nil
}

func (v *view) parentMessages(_ context.Context, block cid.Cid) ([]api.Message, error) {
	parent, err := v.parentOf(block)
	if err != nil || parent == nil {
		return nil, err
	}
	var out []api.Message
	for _, s := range parent.sent {
		out = append(out, api.Message{Cid: s.cid, Message: s.signed.VMMessage()})
	}
	return out, nil
}

func (v *view) parentReceipts(_ context.Context, block cid.Cid) ([]*types.MessageReceipt, error) {
	parent, err := v.parentOf(block)
	if err != nil || parent == nil {
		return nil, err
	}
	var out []*types.MessageReceipt
	for _, o := range parent.post.outcomes {
		receipt := o.receipt
		out = append(out, &receipt)
	}
	return out, nil
}

func (v *view) nonce(ctx context.Context, a address.Address) (uint64, error) {
	v.n.mu.RLock()
	defer v.n.mu.RUnlock()
	m, err := v.n.stateAfter(ctx, v.n.head)
	if err != nil {
		return 0, err
	}
	act, err := m.tree.GetActor(a)
	if err != nil {
		return 0, fmt.Errorf("resolution lookup failed (%s): %w", a, err)
	}
	return v.n.pool.nextNonce(a, act.Nonce), nil
}

// searchMessage finds the receipt of a message at or below a tipset; nil = it is not on the chain.
func (v *view) searchMessage(_ context.Context, from types.TipSetKey, c cid.Cid, limit abi.ChainEpoch, _ bool) (*api.MsgLookup, error) {
	e, err := v.entry(from)
	if err != nil {
		return nil, err
	}
	return v.found(e, c, limit)
}

func (v *view) found(at *entry, c cid.Cid, limit abi.ChainEpoch) (*api.MsgLookup, error) {
	v.n.mu.RLock()
	defer v.n.mu.RUnlock()
	s, ok := v.n.pool.byCID[c]
	if !ok {
		return nil, fmt.Errorf("failed to load message: %s not found", c)
	}
	x := s.executed
	if x == nil || x.height > at.height() || (limit >= 0 && x.height+limit < at.height()) {
		return nil, nil
	}
	return &api.MsgLookup{Message: c, Receipt: x.receipt, TipSet: x.key, Height: x.height}, nil
}

// waitMessage returns once the receipt has so many tipsets on top of it.
func (v *view) waitMessage(ctx context.Context, c cid.Cid, confidence uint64, limit abi.ChainEpoch, _ bool) (*api.MsgLookup, error) {
	for {
		head, moved := v.head()
		found, err := v.found(head, c, limit)
		if err != nil {
			return nil, err
		}
		if found != nil && head.height() >= found.Height+abi.ChainEpoch(confidence) {
			return found, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// events answers with the deal events of the kept canonical chain that match the filter.
func (v *view) events(_ context.Context, f *types.ActorEventFilter) ([]*types.ActorEvent, error) {
	if !v.n.cfg.ActorEvents {
		return nil, api.ErrNotSupported
	}
	if f == nil {
		f = &types.ActorEventFilter{}
	}
	if f.TipSetKey != nil && (f.FromHeight != nil || f.ToHeight != nil) {
		return nil, errors.New("cannot specify both TipSetKey and FromHeight/ToHeight")
	}
	head, _ := v.head()
	low, high := head.height(), head.height()
	if f.FromHeight != nil && *f.FromHeight >= 0 {
		low = *f.FromHeight
	}
	if f.ToHeight != nil && *f.ToHeight >= 0 {
		high = *f.ToHeight
	}
	if low > high {
		return nil, fmt.Errorf("invalid epoch range: 'to' height (%d) must be after 'from' height (%d)", high, low)
	}
	v.n.mu.RLock()
	defer v.n.mu.RUnlock()
	out := []*types.ActorEvent{}
	for _, e := range v.n.canon {
		// A tipset's events exist once its child has executed it, as everywhere else.
		if e.height() >= head.height() {
			break
		}
		if f.TipSetKey != nil && e.ts.Key() != *f.TipSetKey || f.TipSetKey == nil && (e.height() < low || e.height() > high) {
			continue
		}
		for i, o := range e.post.outcomes {
			for _, ev := range o.events {
				emitter, err := address.NewIDAddress(uint64(ev.Emitter))
				if err != nil {
					return nil, err
				}
				if matches(f, emitter, ev) {
					out = append(out, &types.ActorEvent{
						Entries: ev.Entries, Emitter: emitter, Height: e.height(), TipSetKey: e.ts.Key(), MsgCid: e.sent[i].cid,
					})
				}
			}
		}
	}
	return out, nil
}

// matches: one of the addresses, and for every field one of its values.
func matches(f *types.ActorEventFilter, emitter address.Address, ev types.Event) bool {
	if len(f.Addresses) > 0 && !containsAddress(f.Addresses, emitter) {
		return false
	}
	for key, wanted := range f.Fields {
		ok := false
		for _, e := range ev.Entries {
			if e.Key != key {
				continue
			}
			ok = len(wanted) == 0
			for _, w := range wanted {
				ok = ok || w.Codec == e.Codec && bytes.Equal(w.Value, e.Value)
			}
		}
		if !ok {
			return false
		}
	}
	return true
}
