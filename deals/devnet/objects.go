package devnet

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	cbg "github.com/whyrusleeping/cbor-gen"
)

// objects holds the IPLD objects of the chain: state trees, receipts, message lists and block headers. They are
// immutable, so readers need no more than the map's lock; an object disappears only when no kept tipset reaches it.
type objects struct {
	mu    sync.RWMutex
	byCID map[cid.Cid][]byte
	size  int64 // bytes of all objects
}

func newObjects() *objects { return &objects{byCID: map[cid.Cid][]byte{}} }

func (o *objects) get(c cid.Cid) ([]byte, bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	data, ok := o.byCID[c]
	return data, ok
}

func (o *objects) put(objs []object) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, obj := range objs {
		if _, ok := o.byCID[obj.cid]; ok {
			continue
		}
		o.byCID[obj.cid] = obj.data
		o.size += int64(len(obj.data))
	}
}

// Get makes objects the read side of an IPLD store; a missing object is ipld.ErrNotFound.
func (o *objects) Get(_ context.Context, c cid.Cid) (blocks.Block, error) {
	data, ok := o.get(c)
	if !ok {
		return nil, ipld.ErrNotFound{Cid: c}
	}
	return blocks.NewBlockWithCid(data, c)
}

// Put refuses: the chain's objects are written by overlay.commit only.
func (o *objects) Put(context.Context, blocks.Block) error {
	return fmt.Errorf("writing to the chain's objects outside of an execution")
}

// retain drops every object that none of the roots reaches and returns what stays, in no particular order. Pinned
// objects are kept without following their links (block headers link to all of their past).
func (o *objects) retain(roots, pinned []cid.Cid) []object {
	o.mu.RLock()
	live := make(map[cid.Cid]struct{}, len(o.byCID))
	var kept []object
	var size int64
	mark := func(c cid.Cid) []byte {
		if _, seen := live[c]; seen {
			return nil
		}
		data, ok := o.byCID[c]
		if !ok {
			return nil // not ours: actor code, a sealed sector
		}
		live[c] = struct{}{}
		kept = append(kept, object{c, data})
		size += int64(len(data))
		return data
	}
	for _, c := range pinned {
		mark(c)
	}
	stack := append([]cid.Cid(nil), roots...)
	for len(stack) > 0 {
		c := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if data := mark(c); data != nil {
			stack = appendLinks(stack, data)
		}
	}
	o.mu.RUnlock()

	next := make(map[cid.Cid][]byte, len(kept))
	for _, obj := range kept {
		next[obj.cid] = obj.data
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.byCID, o.size = next, size
	return kept
}

func appendLinks(to []cid.Cid, data []byte) []cid.Cid {
	// Only our own objects are scanned, and those are valid CBOR by construction.
	_ = cbg.ScanForLinks(bytes.NewReader(data), func(c cid.Cid) {
		if c.Prefix().Codec == cid.DagCBOR {
			to = append(to, c)
		}
	})
	return to
}

type object struct {
	cid  cid.Cid
	data []byte
}

// overlay is what one execution writes: it reads through to the chain's objects and keeps its own writes apart, because
// most of them are intermediate nodes that the final state does not reach.
type overlay struct {
	base *objects
	own  map[cid.Cid][]byte
}

func newOverlay(base *objects) *overlay {
	return &overlay{base: base, own: map[cid.Cid][]byte{}}
}

func (v *overlay) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	if data, ok := v.own[c]; ok {
		return blocks.NewBlockWithCid(data, c)
	}
	return v.base.Get(ctx, c)
}

func (v *overlay) Put(_ context.Context, b blocks.Block) error {
	v.own[b.Cid()] = b.RawData()
	return nil
}

// commit moves what the roots reach into the chain's objects and returns what was new there.
func (v *overlay) commit(roots ...cid.Cid) []object {
	var fresh []object
	seen := map[cid.Cid]struct{}{}
	stack := append([]cid.Cid(nil), roots...)
	for len(stack) > 0 {
		c := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		data, ok := v.own[c]
		if _, done := seen[c]; done || !ok {
			continue // an object of the base reaches only the base
		}
		seen[c] = struct{}{}
		if _, known := v.base.get(c); known {
			continue
		}
		fresh = append(fresh, object{c, data})
		stack = appendLinks(stack, data)
	}
	v.base.put(fresh)
	return fresh
}
