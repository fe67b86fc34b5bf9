package devnet

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v18/util/adt"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/ipfs/go-cid"
	cbor "github.com/ipfs/go-ipld-cbor"
	cbg "github.com/whyrusleeping/cbor-gen"
)

// entry is one tipset with the result of executing it. As in Lotus, a tipset's own messages show in the state of its
// child: ts.ParentState is what the parents' execution left.
type entry struct {
	ts     *types.TipSet
	parent *entry // nil at genesis and at the edge of what is kept
	sent   []*sentMessage
	post   execution
}

func (e *entry) height() abi.ChainEpoch { return e.ts.Height() }

// execution is what a tipset did: cron of the null rounds before it, its messages, its own cron.
type execution struct {
	root     cid.Cid // state tree
	receipts cid.Cid // AMT of receipts
	outcomes []outcome
	changes  []change
}

// execute runs a tipset on top of the state its parent left.
func (n *Net) execute(ctx context.Context, over *overlay, ts *types.TipSet, parentHeight abi.ChainEpoch, sent []*sentMessage) (execution, error) {
	m, err := openMachine(ctx, &n.policy, over, ts.ParentState())
	if err != nil {
		return execution{}, err
	}
	m.reward = ts.Blocks()[0].Miner
	if ts.Height() > parentHeight+1 {
		if err := m.cron(ts.Height() - 1); err != nil {
			return execution{}, fmt.Errorf("running cron for null rounds: %w", err)
		}
	}
	m.epoch = ts.Height()
	var x execution
	for _, s := range sent {
		out, err := m.apply(ctx, &s.signed.Message, s.cid)
		if err != nil {
			return execution{}, fmt.Errorf("applying message %s: %w", s.cid, err)
		}
		x.outcomes = append(x.outcomes, out)
	}
	m.message = cid.Undef
	if err := m.cron(ts.Height()); err != nil {
		return execution{}, fmt.Errorf("running cron: %w", err)
	}
	x.changes = m.changes
	if x.root, err = m.tree.Flush(ctx); err != nil {
		return execution{}, fmt.Errorf("writing the state tree: %w", err)
	}
	x.receipts, err = writeArray(m.store, len(x.outcomes), func(i int) cbg.CBORMarshaler { return &x.outcomes[i].receipt })
	return x, err
}

func writeArray(store adt.Store, n int, item func(int) cbg.CBORMarshaler) (cid.Cid, error) {
	a, err := adt.MakeEmptyArray(store, 3)
	if err != nil {
		return cid.Undef, err
	}
	for i := range n {
		if err := a.Set(uint64(i), item(i)); err != nil {
			return cid.Undef, err
		}
	}
	return a.Root()
}

// mine adds one tipset at a height above the head, with the messages that may go in, and executes it. The caller holds
// n.mu and calls announce after the last tipset of a batch.
func (n *Net) mine(ctx context.Context, height abi.ChainEpoch) error {
	over := newOverlay(n.objects)
	parent := n.head
	sent := n.pool.pick(height, n.nonceAfter(ctx, parent))
	ts, header, err := n.assemble(ctx, over, parent, height, sent)
	if err != nil {
		return fmt.Errorf("assembling tipset %d: %w", height, err)
	}
	next := &entry{ts: ts, parent: parent, sent: sent}
	if next.post, err = n.execute(ctx, over, ts, parent.height(), sent); err != nil {
		return fmt.Errorf("executing tipset %d: %w", height, err)
	}
	blk := ts.Blocks()[0]
	fresh := over.commit(next.post.root, next.post.receipts, blk.Messages, header)
	if err := n.journal.tipset(next, n.seq, fresh); err != nil {
		return err
	}
	n.extend(next)
	return n.collect()
}

// extend makes a tipset the head. The parent's execution becomes visible with it.
func (n *Net) extend(next *entry) {
	for i, s := range next.parent.sent {
		s.executed = &lookup{receipt: next.parent.post.outcomes[i].receipt, key: next.ts.Key(), height: next.height()}
	}
	n.chronicle.add(next.height(), next.parent.post.changes)
	for _, s := range next.sent {
		s.included = true
		n.pool.remove(s)
	}
	n.tipsets[next.ts.Key()] = next
	n.canon = append(n.canon, next)
	n.head = next
}

// assemble builds the one block of a tipset.
func (n *Net) assemble(ctx context.Context, over *overlay, parent *entry, height abi.ChainEpoch, sent []*sentMessage) (*types.TipSet, cid.Cid, error) {
	store := adt.WrapStore(ctx, cbor.NewCborStore(over))
	list, err := writeMessages(ctx, store, sent)
	if err != nil {
		return nil, cid.Undef, err
	}
	miner := builtin.SystemActorAddr
	if len(n.miners) > 0 {
		miner = n.miners[uint64(height)%uint64(len(n.miners))].ID
	}
	n.seq++
	return n.seal(ctx, store, header{
		miner: miner, parents: parent.ts.Cids(), weight: big.Add(parent.ts.ParentWeight(), big.NewInt(1)), height: height,
		state: parent.post.root, receipts: parent.post.receipts, messages: list, seq: n.seq,
	})
}

type header struct {
	miner                     address.Address
	parents                   []cid.Cid
	weight                    big.Int
	height                    abi.ChainEpoch
	state, receipts, messages cid.Cid
	seq                       uint64 // makes a block of a fork differ from the one it replaces
}

// seal fills in what consensus would provide, with values that decode but prove nothing.
func (n *Net) seal(ctx context.Context, store adt.Store, h header) (*types.TipSet, cid.Cid, error) {
	var proof [16]byte
	binary.BigEndian.PutUint64(proof[:], h.seq)
	none := func() *crypto.Signature { return &crypto.Signature{Type: crypto.SigTypeBLS, Data: proof[:]} }
	block := &types.BlockHeader{
		Miner: h.miner, Height: h.height, Parents: h.parents, ParentWeight: h.weight,
		Ticket:          &types.Ticket{VRFProof: proof[:]},
		ElectionProof:   &types.ElectionProof{WinCount: 1, VRFProof: proof[:]},
		ParentStateRoot: h.state, ParentMessageReceipts: h.receipts, Messages: h.messages,
		BLSAggregate: none(), BlockSig: none(),
		Timestamp: uint64(n.now().Unix()), ParentBaseFee: baseFee,
	}
	c, err := store.Put(ctx, block)
	if err != nil {
		return nil, cid.Undef, fmt.Errorf("storing a block: %w", err)
	}
	ts, err := types.NewTipSet([]*types.BlockHeader{block})
	return ts, c, err
}

func writeMessages(ctx context.Context, store adt.Store, sent []*sentMessage) (cid.Cid, error) {
	none, err := writeArray(store, 0, nil)
	if err != nil {
		return cid.Undef, err
	}
	list, err := writeArray(store, len(sent), func(i int) cbg.CBORMarshaler { c := cbg.CborCid(sent[i].cid); return &c })
	if err != nil {
		return cid.Undef, err
	}
	for _, s := range sent {
		if _, err := store.Put(ctx, s.signed); err != nil {
			return cid.Undef, fmt.Errorf("storing a message: %w", err)
		}
	}
	return store.Put(ctx, &types.MsgMeta{BlsMessages: none, SecpkMessages: list})
}

// stateAt opens the state that is visible at a tipset, for reading.
func (n *Net) stateAt(ctx context.Context, ts *types.TipSet) (*machine, error) {
	m, err := openMachine(ctx, &n.policy, newOverlay(n.objects), ts.ParentState())
	if err != nil {
		return nil, err
	}
	m.epoch = ts.Height()
	return m, nil
}

// stateAfter opens the state that a tipset leaves to its child: what the next message will run on.
func (n *Net) stateAfter(ctx context.Context, e *entry) (*machine, error) {
	m, err := openMachine(ctx, &n.policy, newOverlay(n.objects), e.post.root)
	if err != nil {
		return nil, err
	}
	m.epoch = e.height() + 1
	return m, nil
}

// nonceAfter answers which nonce a sender's next message needs on top of a tipset.
func (n *Net) nonceAfter(ctx context.Context, e *entry) func(address.Address) (uint64, error) {
	var m *machine
	return func(a address.Address) (uint64, error) {
		if m == nil {
			var err error
			if m, err = n.stateAfter(ctx, e); err != nil {
				return 0, err
			}
		}
		act, err := m.tree.GetActor(a)
		if err != nil {
			return 0, fmt.Errorf("loading actor %s: %w", a, err)
		}
		return act.Nonce, nil
	}
}
