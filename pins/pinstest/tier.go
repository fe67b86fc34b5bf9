package pinstest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot/hold"
)

// Delegate is the address the model tells clients, until SetDelegates.
const Delegate = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"

// A Tier is a hot tier in memory with a network that does what the test says. It keeps every promise of
// pins.HotTier; NewTier makes one.
type Tier struct {
	holder  *hold.Holder
	imports hold.Imports

	mu          sync.Mutex
	changed     chan struct{} // closed, and replaced, whenever something below changes
	closed      bool
	down        bool
	silent      bool
	session     int // new blocks that one session may get; 0 is no bound
	network     map[string]blocks.Block
	peers       map[peer.ID]map[string]blocks.Block
	local       map[string]blocks.Block
	held        map[cid.Cid]bool
	dialled     map[peer.ID]int // connections that someone keeps
	failing     map[cid.Cid]error
	unreadable  map[string]error
	holds       map[cid.Cid]int
	announced   []cid.Cid
	delegates   []string
	free        int64
	failRelease error
}

var _ pins.HotTier = (*Tier)(nil)

// NewTier returns an empty tier on an empty network.
func NewTier() *Tier {
	t := &Tier{
		changed:    make(chan struct{}),
		network:    make(map[string]blocks.Block),
		peers:      make(map[peer.ID]map[string]blocks.Block),
		local:      make(map[string]blocks.Block),
		held:       make(map[cid.Cid]bool),
		dialled:    make(map[peer.ID]int),
		failing:    make(map[cid.Cid]error),
		unreadable: make(map[string]error),
		holds:      make(map[cid.Cid]int),
		delegates:  []string{Delegate},
		free:       1 << 40,
	}
	t.holder = hold.NewHolder(modelNode{t}, 8, nil)
	return t
}

// Blocks are kept by hash: one block may have several CIDs.
func blockKey(c cid.Cid) string { return string(c.Hash()) }

// change runs f and wakes everyone who waits for blocks.
func (t *Tier) change(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
	close(t.changed)
	t.changed = make(chan struct{})
}

// up answers pins.ErrUnavailable while the node is down. t.mu is held.
func (t *Tier) up() error {
	if t.closed || t.down {
		return pins.ErrUnavailable
	}
	return nil
}

// lookup finds a block here or on the network. t.mu is held.
func (t *Tier) lookup(key string) (b blocks.Block, here, ok bool) {
	if b, ok := t.local[key]; ok {
		return b, true, true
	}
	if t.silent {
		return nil, false, false
	}
	if b, ok := t.network[key]; ok {
		return b, false, true
	}
	for id, has := range t.peers {
		if b, ok := has[key]; ok && t.dialled[id] > 0 {
			return b, false, true
		}
	}
	return nil, false, false
}

type modelNode struct{ *Tier }

func (n modelNode) Session(_ context.Context, offline bool) hold.Get {
	got := 0
	return func(ctx context.Context, c cid.Cid) (hold.Block, error) {
		for {
			n.mu.Lock()
			if err := n.up(); err != nil {
				n.mu.Unlock()
				return hold.Block{}, err
			}
			b, here, ok := n.lookup(blockKey(c))
			switch {
			case ok && here, ok && !offline && (n.session == 0 || got < n.session):
				if !here {
					got++
					n.local[blockKey(c)] = b
				}
				n.mu.Unlock()
				return hold.Block{Size: len(b.RawData()), Data: b.RawData()}, nil
			case offline:
				n.mu.Unlock()
				return hold.Block{}, pins.ErrAbsent
			}
			changed := n.changed
			n.mu.Unlock()
			select {
			case <-changed:
			case <-ctx.Done():
				return hold.Block{}, context.Cause(ctx)
			}
		}
	}
}

func (n modelNode) Pin(_ context.Context, root cid.Cid) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.up(); err != nil {
		return err
	}
	n.held[root] = true
	return nil
}

// Hold implements pins.HotTier.
func (t *Tier) Hold(ctx context.Context, root cid.Cid, lim pins.Limits, p *pins.Progress) error {
	t.mu.Lock()
	t.holds[root]++
	err := t.failing[root]
	t.mu.Unlock()
	if err != nil {
		return err
	}
	return t.holder.Hold(ctx, root, lim, p)
}

// Lacks implements pins.HotTier.
func (t *Tier) Lacks(root cid.Cid) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, inline := hold.Identity(root); inline || hold.Admit(root) != nil {
		return false
	}
	_, here := t.local[blockKey(root)]
	return t.up() == nil && !here
}

// Release implements pins.HotTier.
func (t *Tier) Release(ctx context.Context, root cid.Cid) error {
	return t.holder.Alone(ctx, root, func() error {
		t.mu.Lock()
		defer t.mu.Unlock()
		if err := t.up(); err != nil {
			return err
		}
		if t.failRelease != nil {
			return t.failRelease
		}
		delete(t.held, canonical(root))
		return nil
	})
}

// Held implements pins.HotTier.
func (t *Tier) Held(_ context.Context, root cid.Cid) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held[canonical(root)], t.up()
}

// Roots implements pins.HotTier.
func (t *Tier) Roots(ctx context.Context, yield func(cid.Cid) error) error {
	t.mu.Lock()
	roots, err := slices.Collect(maps.Keys(t.held)), t.up()
	t.mu.Unlock()
	if err != nil {
		return err
	}
	for _, root := range roots {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := yield(root); err != nil {
			return err
		}
	}
	return nil
}

// Block implements pins.HotTier.
func (t *Tier) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.up(); err != nil {
		return nil, err
	}
	if _, inline := hold.Identity(c); inline {
		return nil, pins.ErrAbsent
	}
	return t.read(c)
}

// Find implements pins.HotTier.
func (t *Tier) Find(ctx context.Context, roots []cid.Cid, found func(cid.Cid)) error {
	if len(roots) > pins.MaxFind {
		return errors.New("looking for more roots than one search may")
	}
	todo := slices.Clone(roots)
	for {
		t.mu.Lock()
		if err := t.up(); err != nil {
			t.mu.Unlock()
			return err
		}
		var arrived []cid.Cid
		todo = slices.DeleteFunc(todo, func(c cid.Cid) bool {
			_, ok := hold.Identity(c)
			ok = ok || hold.Admit(c) != nil // Hold says why it can never be held
			if !ok {
				var b blocks.Block
				if b, _, ok = t.lookup(blockKey(c)); ok {
					t.local[blockKey(c)] = b
				}
			}
			if ok {
				arrived = append(arrived, c)
			}
			return ok
		})
		changed := t.changed
		t.mu.Unlock()
		for _, c := range arrived {
			found(c)
		}
		if len(todo) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Connect implements pins.HotTier.
func (t *Tier) Connect(_ context.Context, origins []peer.AddrInfo) (release func()) {
	t.change(func() {
		for _, origin := range origins {
			t.dialled[origin.ID]++
		}
	})
	return sync.OnceFunc(func() {
		t.change(func() {
			for _, origin := range origins {
				if t.dialled[origin.ID]--; t.dialled[origin.ID] == 0 {
					delete(t.dialled, origin.ID)
				}
			}
		})
	})
}

// Announce implements pins.HotTier.
func (t *Tier) Announce(_ context.Context, root cid.Cid) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.up(); err != nil {
		return err
	}
	t.announced = append(t.announced, root)
	return nil
}

// Delegates implements pins.HotTier. As promised it answers while the node is down.
func (t *Tier) Delegates(context.Context) ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.delegates) == 0 {
		return nil, pins.ErrUnavailable
	}
	return slices.Clone(t.delegates), nil
}

// Usage implements pins.HotTier.
func (t *Tier) Usage(context.Context) (pins.Usage, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := pins.Usage{Free: t.free}
	for _, b := range t.local {
		u.Bytes += int64(len(b.RawData()))
	}
	return u, t.up()
}

// Collect implements pins.HotTier.
func (t *Tier) Collect(ctx context.Context, keep []cid.Cid) (removed int64, err error) {
	err = t.holder.Pause(ctx, func(running []cid.Cid) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		if err := t.up(); err != nil {
			return err
		}
		marked := make(map[string]bool)
		var broken []pins.Broken
		for root := range t.held {
			broken = append(broken, t.follow(root, marked)...)
		}
		if len(broken) > 0 {
			return &pins.HeldUp{Broken: broken}
		}
		for _, root := range slices.Concat(keep, running) {
			t.follow(root, marked)
		}
		t.imports.Each(func(hash string) { marked[hash] = true })
		for key := range t.local {
			if !marked[key] {
				delete(t.local, key)
				removed++
			}
		}
		return nil
	})
	return removed, err
}

// follow marks what is below root and was not marked before, and returns the blocks below which it cannot look. t.mu is
// held.
func (t *Tier) follow(root cid.Cid, marked map[string]bool) (broken []pins.Broken) {
	todo := []cid.Cid{root}
	decoder := hold.NewDecoder()
	for len(todo) > 0 {
		c := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if marked[c.KeyString()] {
			continue
		}
		marked[c.KeyString()], marked[blockKey(c)] = true, true
		if c.Type() == cid.Raw {
			continue
		}
		data, inline := hold.Identity(c)
		if !inline {
			var err error
			if data, err = t.read(c); err != nil {
				broken = append(broken, pins.Broken{Root: canonical(root), Block: c, Err: err})
				continue
			}
		}
		if links, err := decoder.Links(c, data); err == nil {
			todo = append(todo, links...)
		}
	}
	return broken
}

// read returns the bytes of a block that is here. t.mu is held.
func (t *Tier) read(c cid.Cid) ([]byte, error) {
	b, ok := t.local[blockKey(c)]
	switch err := t.unreadable[blockKey(c)]; {
	case err != nil:
		return nil, err
	case !ok:
		return nil, pins.ErrAbsent
	}
	if sum, err := c.Prefix().Sum(b.RawData()); err != nil || !sum.Equals(c) {
		return nil, pins.ErrCorrupt
	}
	return b.RawData(), nil
}

// Close implements pins.HotTier.
func (t *Tier) Close() error {
	t.change(func() { t.closed = true })
	return nil
}
