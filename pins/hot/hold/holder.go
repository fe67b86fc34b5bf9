package hold

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/spec"
)

// A Node is the IPFS node below a hot tier.
type Node interface {
	// Session returns how one attempt gets its blocks, until ctx ends. Each block is verified and stored in the
	// node when it is returned. Without a network (offline), a missing block is pins.ErrAbsent.
	Session(ctx context.Context, offline bool) Get

	// Pin protects a DAG whose blocks were all just seen in the node, durably. It changes nothing if root is
	// pinned (H1).
	Pin(ctx context.Context, root cid.Cid) error
}

// Get returns one verified block, or returns when its context ends. It is called concurrently.
type Get func(context.Context, cid.Cid) (Block, error)

// A Holder gives a Node the Hold of a hot tier. All methods may be called concurrently.
type Holder struct {
	node    Node
	workers int
	turns   *pins.Turns
	locks   locks
	gate    gate

	mu      sync.Mutex
	running map[cid.Cid]int // Holds at work, or waiting for their turn
}

// NewHolder returns a Holder that asks for up to workers blocks at once in each Hold, and decodes them in turns.
func NewHolder(node Node, workers int, turns *pins.Turns) *Holder {
	return &Holder{node: node, workers: workers, turns: turns, running: make(map[cid.Cid]int)}
}

// Hold does what pins.HotTier says.
func (h *Holder) Hold(ctx context.Context, root cid.Cid, lim pins.Limits, p *pins.Progress) error {
	root = spec.Canonical(root)
	if err := Admit(root); err != nil {
		return err
	}
	defer h.run(root)()
	unlock, err := h.locks.lock(ctx, root)
	if err != nil {
		return err
	}
	defer unlock()
	w := newWatch(lim, p)
	for {
		err := h.attempt(ctx, root, w)
		if !errors.Is(err, errIdle) && !errors.Is(err, errPaused) {
			return err
		}
	}
}

func (h *Holder) attempt(ctx context.Context, root cid.Cid, w *watch) error {
	inside, leave, err := h.gate.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	walking, stop := w.attempt(inside)
	defer stop()
	totals, err := Walk{
		Root:    root,
		Limits:  w.limits,
		Workers: h.workers,
		Turns:   h.turns,
		Get:     h.node.Session(walking, w.limits.Offline),
		Seen:    w.seen,
	}.Run(walking)
	if cause := context.Cause(walking); cause != nil && err != nil {
		return cause // rather than what the node made of it
	}
	if err != nil {
		return err
	}
	w.finish(totals)
	// A pin takes no longer than a flush, so neither the collector nor the watchdog interrupts it.
	return h.node.Pin(ctx, root)
}

// run notes a Hold, so that a collection keeps what it has fetched.
func (h *Holder) run(root cid.Cid) (done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running[root]++
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.running[root]--; h.running[root] == 0 {
			delete(h.running, root)
		}
	}
}

// Alone calls f while no other Hold or Alone of this root is at work.
func (h *Holder) Alone(ctx context.Context, root cid.Cid, f func() error) error {
	unlock, err := h.locks.lock(ctx, spec.Canonical(root))
	if err != nil {
		return err
	}
	defer unlock()
	return f()
}

// Pause stops all walks, calls f with the roots of the Holds that wait meanwhile, and lets them go on.
func (h *Holder) Pause(ctx context.Context, f func(running []cid.Cid) error) error {
	open, err := h.gate.shut(ctx)
	if err != nil {
		return err
	}
	defer open()
	h.mu.Lock()
	running := slices.Collect(maps.Keys(h.running))
	h.mu.Unlock()
	return f(running)
}
