package pinstest

import (
	"maps"
	"slices"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// What a test may do to the model. All of it may be done at any time, from any goroutine.

// AddNetwork makes blocks obtainable by everyone.
func (t *Tier) AddNetwork(add ...blocks.Block) {
	t.change(func() {
		for _, b := range add {
			t.network[blockKey(b.Cid())] = b
		}
	})
}

// RemoveNetwork takes blocks off the network; what has arrived stays.
func (t *Tier) RemoveNetwork(cids ...cid.Cid) {
	t.change(func() {
		for _, c := range cids {
			delete(t.network, blockKey(c))
		}
	})
}

// AddPeer makes blocks obtainable while the tier is connected to this peer.
func (t *Tier) AddPeer(id peer.ID, add ...blocks.Block) {
	t.change(func() {
		if t.peers[id] == nil {
			t.peers[id] = make(map[string]blocks.Block)
		}
		for _, b := range add {
			t.peers[id][blockKey(b.Cid())] = b
		}
	})
}

// AddLocal puts blocks into the node, unpinned.
func (t *Tier) AddLocal(add ...blocks.Block) {
	t.change(func() {
		for _, b := range add {
			t.local[blockKey(b.Cid())] = b
		}
	})
}

// RemoveLocal loses blocks that are here, held or not.
func (t *Tier) RemoveLocal(cids ...cid.Cid) {
	t.change(func() {
		for _, c := range cids {
			delete(t.local, blockKey(c))
		}
	})
}

// Corrupt changes the bytes of a block that is here, as a failing disk would.
func (t *Tier) Corrupt(c cid.Cid) {
	t.change(func() {
		if b, ok := t.local[blockKey(c)]; ok {
			t.local[blockKey(c)] = Corrupted(b)
		}
	})
}

// Silence makes the network stop answering, or answer again.
func (t *Tier) Silence(on bool) { t.change(func() { t.silent = on }) }

// LimitSessions makes every session end after n new blocks, without a word (H4). 0 takes the limit away.
func (t *Tier) LimitSessions(n int) { t.change(func() { t.session = n }) }

// SetDown makes the node unavailable, or brings it back with everything it had.
func (t *Tier) SetDown(on bool) { t.change(func() { t.down = on }) }

// FailHold makes every Hold of root fail with err at once; nil ends that.
func (t *Tier) FailHold(root cid.Cid, err error) {
	t.change(func() {
		if err == nil {
			delete(t.failing, root)
			return
		}
		t.failing[root] = err
	})
}

// FailBlock makes reading a block fail with err, as a bad spot of the disk would; nil ends that.
func (t *Tier) FailBlock(c cid.Cid, err error) { t.change(func() { t.unreadable[blockKey(c)] = err }) }

// FailRelease makes releases fail with err; nil: none.
func (t *Tier) FailRelease(err error) { t.change(func() { t.failRelease = err }) }

// LosePin takes the pin of root away behind everyone's back.
func (t *Tier) LosePin(root cid.Cid) { t.change(func() { delete(t.held, canonical(root)) }) }

// AddPin pins root behind everyone's back.
func (t *Tier) AddPin(root cid.Cid) { t.change(func() { t.held[canonical(root)] = true }) }

// SetDelegates sets what Delegates returns.
func (t *Tier) SetDelegates(addrs ...string) { t.change(func() { t.delegates = slices.Clone(addrs) }) }

// SetFree sets the free space that Usage tells.
func (t *Tier) SetFree(bytes int64) { t.change(func() { t.free = bytes }) }

// Holds counts the Holds of root so far.
func (t *Tier) Holds(root cid.Cid) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.holds[root]
}

// Has tells whether the node has the block.
func (t *Tier) Has(c cid.Cid) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.local[blockKey(c)]
	return ok
}

// HeldRoots returns all pinned roots, in order.
func (t *Tier) HeldRoots() []cid.Cid {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.SortedFunc(maps.Keys(t.held), func(a, b cid.Cid) int {
		return slices.Compare(a.Bytes(), b.Bytes())
	})
}

// Connected returns the peers whose connection someone keeps.
func (t *Tier) Connected() []peer.ID {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Sorted(maps.Keys(t.dialled))
}

// Announced returns the roots that were announced, in order.
func (t *Tier) Announced() []cid.Cid {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.announced)
}
