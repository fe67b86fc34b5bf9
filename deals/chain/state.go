package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/actors"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v18/util/adt"
	"github.com/filecoin-project/go-state-types/manifest"
	lotusactors "github.com/filecoin-project/lotus/chain/actors"
	"github.com/filecoin-project/lotus/chain/types"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipldcbor "github.com/ipfs/go-ipld-cbor"
	cbg "github.com/whyrusleeping/cbor-gen"

	"github.com/frostpin/frostpin/deals"
)

// errUnreadable says that the state tree cannot be read from this node, or not by this build: what is in it has to be
// asked otherwise.
var errUnreadable = errors.New("the state tree cannot be read")

// marketState is what is used of the market actor's state.
type marketState struct {
	proposals, states cid.Cid // AMTs by deal id
	pending           cid.Cid // set of the CIDs of proposals
	known             bool    // this build knows the layout of a deal's state
}

// market reads the market actor's state in a tipset.
func (l *Lotus) market(ctx context.Context, s *session, head, at tip) (marketState, error) {
	type wanted struct{ tip }
	return remember(ctx, &l.memo, s, head.Key, wanted{at}, func(ctx context.Context) (marketState, error) {
		actor, err := call(ctx, s, "StateGetActor", func(ctx context.Context, n *node) (*types.Actor, error) {
			return n.StateGetActor(ctx, builtin.StorageMarketActorAddr, at.Key)
		})
		if err != nil {
			if isAbsent(err) {
				err = fmt.Errorf("%w: %w", errUnreadable, err)
			}
			return marketState{}, err
		}
		raw, err := object(ctx, s, actor.Head)
		if err != nil {
			return marketState{}, err
		}
		m, err := readMarket(raw)
		if err != nil {
			return marketState{}, fmt.Errorf("%w: reading the market's state: %w", errUnreadable, err)
		}
		name, version, found := lotusactors.GetActorMetaByCode(actor.Code)
		m.known = found && name == manifest.MarketKey && version >= actors.Version13
		return m, nil
	})
}

// readMarket takes the first three fields, which have their places since the first version.
func readMarket(raw []byte) (m marketState, _ error) {
	r := cbg.NewCborReader(bytes.NewReader(raw))
	fields := []*cid.Cid{&m.proposals, &m.states, &m.pending}
	n, err := arrayLen(r)
	if err != nil {
		return m, err
	}
	if n < uint64(len(fields)) {
		return m, fmt.Errorf("%d fields are too few", n)
	}
	for i, f := range fields {
		if *f, err = cbg.ReadCid(r); err != nil {
			return m, fmt.Errorf("reading field %d: %w", i, err)
		}
	}
	return m, nil
}

// object reads an object of the state from the node, and makes sure that it is that object.
func object(ctx context.Context, s *session, c cid.Cid) ([]byte, error) {
	raw, err := call(ctx, s, "ChainReadObj", func(ctx context.Context, n *node) (*[]byte, error) { return n.ChainReadObj(ctx, c) })
	if err != nil {
		if isAnswer(err) {
			return nil, fmt.Errorf("%w: %w", errUnreadable, err) // not served, or no longer kept
		}
		return nil, err
	}
	sum, err := c.Prefix().Sum(*raw)
	if err != nil {
		return nil, fmt.Errorf("checking object %s: %w", c, err)
	}
	if !sum.Equals(c) {
		return nil, fmt.Errorf("asking the node for object %s: %w: it sent another one", c, deals.ErrChain)
	}
	return *raw, nil
}

// proposed tells whether the state has a proposal under a deal id; false also where the state cannot be read.
func (l *Lotus) proposed(ctx context.Context, s *session, head, at tip, id abi.DealID) (bool, error) {
	there, err := l.findProposal(ctx, s, head, at, id)
	if errors.Is(err, errUnreadable) {
		l.sayUnreadable(err)
		return false, nil
	}
	return there, err
}

func (l *Lotus) findProposal(ctx context.Context, s *session, head, at tip, id abi.DealID) (bool, error) {
	m, err := l.market(ctx, s, head, at)
	if err != nil {
		return false, err
	}
	raw, err := object(ctx, s, m.proposals)
	if err != nil {
		return false, err
	}
	r, err := readRoot(raw, nil)
	if err != nil {
		return false, fmt.Errorf("%w: reading the root of the proposals: %w", errUnreadable, err)
	}
	if !r.holds(id) {
		return false, nil
	}
	v := r.top
	for h := r.height; h > 0; h-- {
		c, ok := v.child(r.digit(id, h))
		if !ok {
			return false, nil
		}
		if raw, err = object(ctx, s, c); err != nil {
			return false, err
		}
		if v, err = readVertex(cbg.NewCborReader(bytes.NewReader(raw)), r.width, h-1, nil); err != nil {
			return false, fmt.Errorf("%w: reading a node of the proposals: %w", errUnreadable, err)
		}
	}
	return v.present>>r.digit(id, 0)&1 == 1, nil
}

// isPending tells whether the state has a proposal among those that are published; false also where it cannot be read.
func (l *Lotus) isPending(ctx context.Context, s *session, head tip, c cid.Cid) (bool, error) {
	m, err := l.market(ctx, s, head, head)
	there := false
	if err == nil {
		there, err = has(ctx, s, m.pending, c)
	}
	if errors.Is(err, errUnreadable) {
		l.sayUnreadable(err)
		return false, nil
	}
	return there, err
}

// has tells whether a set of CIDs, a HAMT, has one.
func has(ctx context.Context, s *session, set, c cid.Cid) (bool, error) {
	in, err := adt.AsSet(adt.WrapStore(ctx, ipldcbor.NewCborStore(objects{s})), set, builtin.DefaultHamtBitwidth)
	if err != nil {
		return false, fmt.Errorf("reading the pending proposals: %w", err)
	}
	there, err := in.Has(abi.CidKey(c))
	if err != nil {
		return false, fmt.Errorf("reading the pending proposals: %w", err)
	}
	return there, nil
}

// objects are those of the node's state, for code that reads them itself.
type objects struct{ s *session }

func (o objects) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	raw, err := object(ctx, o.s, c)
	if err != nil {
		return nil, err
	}
	return blocks.NewBlockWithCid(raw, c)
}

func (objects) Put(context.Context, blocks.Block) error {
	return errors.New("the chain's state is not for us to write")
}
