package hot

import (
	"context"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/ipfs/kubo/core"
	"github.com/ipfs/kubo/repo"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// Hasten has each request looked after soon, and the daemon taken for hung once an answer takes that long.
func (r *Remote) Hasten(answer time.Duration) {
	r.daemon.patience = patience{quick: answer, alive: answer, aliveAfter: 300 * time.Millisecond, still: answer}
}

// Trusts tells whether a block would be read without being hashed.
func (e *Embedded) Trusts(c cid.Cid) bool { return e.seen.has(c.Hash()) }

// Distrust has a block hashed when it is read next.
func (e *Embedded) Distrust(c cid.Cid) { e.seen.forget(c.Hash()) }

// Node is the node inside, for tests that look behind the tier or compare with it.
func (e *Embedded) Node() *core.IpfsNode { return e.node }

// NewFlusher returns the wait of a flusher.
func NewFlusher(flush func(context.Context) error) (wait func(context.Context) error) {
	return (&flusher{flush: flush}).wait
}

// FailFlush has each flush of pins fail with err from now on, or not when it is nil.
func (e *Embedded) FailFlush(err error) {
	whole := e.node.Pinning.Flush
	e.flusher.flush = func(ctx context.Context) error {
		if err != nil {
			return err
		}
		return whole(ctx)
	}
}

// Allows tells whether an address would be dialled.
func Allows(private, loopbackOnly bool, addr ma.Multiaddr) bool {
	return dialPolicy{private: private, loopbackOnly: loopbackOnly}.allows(addr)
}

// ChooseDelegates is what clients are told.
func ChooseDelegates(announce []string, addrs []ma.Multiaddr, id peer.ID) []string {
	return delegates(announce, addrs, id)
}

// DaemonSockets is the most requests that Finds have on their way.
const DaemonSockets = 2 * findSlots

// OpenStore opens a pebble store as Kubo does.
func OpenStore(dir string) (repo.Datastore, error) {
	s, err := parsePebble(map[string]any{"path": "store"})
	if err != nil {
		return nil, err
	}
	return s.Create(dir)
}
