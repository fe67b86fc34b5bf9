package hold

import (
	"slices"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/spec"
)

// A Todo is what a walk by one goroutine has still to visit, each CID once however many links lead to it: a DAG of a
// thousand blocks can have a hundred million links.
type Todo struct {
	met  map[string]struct{}
	list []cid.Cid // last in, first out
}

// NewTodo returns a Todo of roots.
func NewTodo(roots ...cid.Cid) *Todo {
	t := &Todo{met: make(map[string]struct{})}
	t.Add(roots)
	return t
}

// Add notes what was not met before, so that the first comes first.
func (t *Todo) Add(links []cid.Cid) {
	for _, c := range slices.Backward(links) {
		c = spec.Canonical(c)
		if _, met := t.met[c.KeyString()]; met || carriedLeaf(c) {
			continue
		}
		t.met[c.KeyString()] = struct{}{}
		t.list = append(t.list, c)
	}
}

// Next returns the next CID, or false when everything was visited.
func (t *Todo) Next() (cid.Cid, bool) {
	if len(t.list) == 0 {
		return cid.Undef, false
	}
	last := len(t.list) - 1
	c := t.list[last]
	t.list = t.list[:last]
	return c, true
}
