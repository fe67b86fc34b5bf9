package retrieval

import (
	"fmt"
	"slices"

	"github.com/ipfs/go-cid"
)

// A step is a block that a walk has still to visit.
type step struct {
	cid   cid.Cid
	depth int
}

// A todo is what a walk has still to visit, depth first in the order of the links, each CID once however many links lead
// to it: a DAG of a thousand blocks can have a hundred million links.
type todo struct {
	codec Codec
	most  int64             // CIDs that may be met; 0: no bound
	met   map[string]*place // nil once it was visited
	top   *place            // comes next
}

// A place is that of one CID on the way. It is linked, because a CID that is met again moves.
type place struct {
	step
	above, below *place
}

// newTodo returns a todo of one CID.
func newTodo(codec Codec, most int64, at step) *todo {
	t := &todo{codec: codec, most: most, met: map[string]*place{}}
	t.put(at)
	return t
}

// push notes what a block links to, so that the first link comes next. What waits already comes sooner now, as it would
// if each link were kept: its later turn would find it visited. Leaves that their CIDs carry are nothing to visit, and a
// block may have a hundred thousand of them. The error is a *RefusedError.
func (t *todo) push(links []cid.Cid, depth int) error {
	for _, c := range slices.Backward(links) {
		if c.Type() == cid.Raw {
			if _, inline := t.codec.Inline(c); inline {
				continue
			}
		}
		c = canonical(c)
		waits, met := t.met[c.KeyString()]
		switch {
		case met && waits == nil:
			continue
		case met:
			t.take(waits)
		case over(int64(len(t.met))+1, t.most):
			return &RefusedError{Reason: fmt.Sprintf("it has more than %d blocks", t.most)}
		}
		t.put(step{c, depth})
	}
	return nil
}

// pop returns what comes next, or false when everything was visited.
func (t *todo) pop() (step, bool) {
	p := t.top
	if p == nil {
		return step{}, false
	}
	t.take(p)
	t.met[p.cid.KeyString()] = nil
	return p.step, true
}

// visited tells whether a CID has had its turn.
func (t *todo) visited(c cid.Cid) bool {
	waits, met := t.met[c.KeyString()]
	return met && waits == nil
}

func (t *todo) put(at step) {
	p := &place{step: at, below: t.top}
	if t.top != nil {
		t.top.above = p
	}
	t.top = p
	t.met[at.cid.KeyString()] = p
}

func (t *todo) take(p *place) {
	if p.below != nil {
		p.below.above = p.above
	}
	if p.above != nil {
		p.above.below = p.below
	} else {
		t.top = p.below
	}
}
