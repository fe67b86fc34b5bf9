package devnet

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/ipfs/go-cid"
)

// tick adds a tipset per epoch until ctx ends.
func (n *Net) tick(ctx context.Context) {
	clock := time.NewTicker(n.cfg.Epoch)
	defer clock.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-clock.C:
		}
		if err := n.Advance(1); err != nil { //nolint:contextcheck // a tipset that was begun is finished
			n.log.Error("devnet clock stopped", "err", err)
			return
		}
	}
}

// Advance adds tipsets at the next heights, one by one. A message that waits goes into the first of them, is executed
// there, and shows in the state of the second.
func (n *Net) Advance(epochs int) error { return n.advance(epochs, 0) }

// Skip lets null rounds pass and then adds one tipset: the height grows by one more than the rounds.
func (n *Net) Skip(nullRounds int) error { return n.advance(1, abi.ChainEpoch(nullRounds)) }

func (n *Net) advance(tipsets int, nullRounds abi.ChainEpoch) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer n.announce()
	for range tipsets {
		if err := n.mine(context.Background(), n.head.height()+nullRounds+1); err != nil {
			return err
		}
	}
	return nil
}

// Reorg replaces the last tipsets of the chain by a heavier fork of one more. The messages of the replaced tipsets
// return to the pool and go into the first tipset after the fork; with drop they are gone for good, as when another
// message with the same nonce wins.
func (n *Net) Reorg(depth int, drop bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer n.announce()
	fork := n.head
	for range depth {
		if fork = fork.parent; fork == nil {
			return fmt.Errorf("reorganising %d tipsets: only %d are kept", depth, len(n.canon))
		}
	}
	top := n.head.height()
	hold := top + 2
	if err := n.journal.reorg(fork, hold, drop); err != nil {
		return err
	}
	n.rewind(fork, hold, drop)
	for n.head.height() <= top {
		if err := n.mine(context.Background(), n.head.height()+1); err != nil {
			return err
		}
	}
	return nil
}

// rewind makes an earlier tipset the head again. Messages above it wait until height hold, or are dropped.
func (n *Net) rewind(fork *entry, hold abi.ChainEpoch, drop bool) {
	for n.head != fork {
		gone := n.head
		for _, s := range gone.sent {
			s.included = false
			if !drop {
				s.earliest = hold
				n.pool.queue(s)
			}
		}
		for _, s := range gone.parent.sent {
			s.executed = nil
		}
		n.head = gone.parent
		n.canon = n.canon[:len(n.canon)-1]
	}
	n.chronicle.cut(fork.height())
}

// announce wakes everyone who waits for a new head. The caller holds n.mu.
func (n *Net) announce() {
	close(n.moved)
	n.moved = make(chan struct{})
}

// watch returns the head and a channel that closes when it has moved.
func (n *Net) watch() (*entry, <-chan struct{}) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.head, n.moved
}

// keep is how many tipsets of history the node serves: enough to read at finality for a while, and where the clock runs
// by itself, for whoever was cut off to find that the chain still holds what it saw last.
func (n *Net) keep() int {
	if n.cfg.Epoch > 0 {
		return 2*int(n.cfg.Finality) + 2000
	}
	return 2*int(n.cfg.Finality) + 100
}

// collect forgets tipsets below what is kept, and once enough garbage has come together, the objects that no kept
// tipset reaches. The caller holds n.mu.
func (n *Net) collect() error {
	if keep := n.keep(); len(n.canon) > 2*keep {
		edge := n.canon[len(n.canon)-keep]
		for key, e := range n.tipsets {
			if e.height() < edge.height() {
				delete(n.tipsets, key)
			}
		}
		n.canon = slices.Clone(n.canon[len(n.canon)-keep:])
		for _, e := range n.tipsets {
			if e.parent != nil && e.parent.height() < edge.height() {
				e.parent = nil
			}
		}
	}
	const slack = 32 << 20
	if n.objects.size < 2*n.liveBytes+slack {
		return nil
	}
	return n.sweep()
}

// sweep drops the objects that no kept tipset reaches and rewrites the journal without them.
func (n *Net) sweep() error {
	started := n.now()
	var roots []cid.Cid
	pinned := slices.Clone(n.genesis.Cids())
	for _, e := range n.tipsets {
		blk := e.ts.Blocks()[0]
		roots = append(roots, blk.ParentStateRoot, blk.ParentMessageReceipts, blk.Messages, e.post.root, e.post.receipts)
		pinned = append(pinned, e.ts.Cids()...)
	}
	kept := n.objects.retain(roots, pinned)
	n.liveBytes = n.objects.size
	n.log.Debug("devnet objects swept", "objects", len(kept), "bytes", n.liveBytes, "took", n.now().Sub(started))
	return n.journal.compact(n, kept)
}

// tipsetAt is the canonical tipset at a height as seen from a tipset, or the nearest one below (above, with after).
func (n *Net) tipsetAt(height abi.ChainEpoch, from *entry, after bool) (*types.TipSet, error) {
	if height > from.height() {
		return nil, fmt.Errorf("looking for tipset with height greater than start point")
	}
	if height < 0 {
		return nil, fmt.Errorf("negative height %d", height)
	}
	at, above := from, from
	for at.height() > height && at.parent != nil {
		above, at = at, at.parent
	}
	if at.height() > height {
		if height == 0 || n.genesis.Height() == height {
			return n.genesis, nil
		}
		return nil, fmt.Errorf("tipset at height %d is below the %d tipsets this node keeps", height, n.keep())
	}
	if after && at.height() < height {
		return above.ts, nil
	}
	return at.ts, nil
}
