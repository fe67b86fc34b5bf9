package hot

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/ipfs/kubo/core/corerepo"
	"golang.org/x/sync/errgroup"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot/hold"
	"github.com/frostpin/frostpin/spec"
)

// maxBroken is how many blocks that cannot be read a collection looks for before it says so.
const maxBroken = 1024

// A marking finds the blocks that stay. It follows what is pinned itself, because Kubo's collector says which block it
// could not read and not whose it is, and takes bytes that are wrong for right, and with them their links.
//
// What lies below a block that cannot be read is not known: what is below it may have been stored long before or after, may
// be below other roots as well, and nobody else may have it. So nothing at all is removed while a pinned DAG has such a
// block, and its root is named: it is mended, or let go in the end, and the next collection goes on.
type marking struct {
	e       *Embedded
	decoder hold.Decoder

	mu     sync.Mutex
	live   map[string]struct{} // hashes of what stays
	met    map[string]struct{} // CIDs that may have links: each is followed once, for the first root that leads there
	broken []pins.Broken
}

// mark returns the hashes of all blocks that stay, or a *pins.HeldUp.
func (e *Embedded) mark(ctx context.Context, keep []cid.Cid) (map[string]struct{}, error) {
	m := &marking{e: e, decoder: hold.NewDecoder(), live: make(map[string]struct{}), met: make(map[string]struct{})}
	err := m.pinned(ctx)
	if err == nil {
		err = m.present(ctx, keep)
	}
	if len(m.broken) > 0 && ctx.Err() == nil {
		return nil, &pins.HeldUp{Broken: m.broken}
	}
	if err != nil {
		return nil, err
	}
	e.imports.Each(func(hash string) { m.live[hash] = struct{}{} })
	return m.live, nil
}

// pinned follows what is pinned, all of it.
func (m *marking) pinned(ctx context.Context) error {
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(walkers)
	for pin := range m.e.node.Pinning.RecursiveKeys(inner, false) {
		if pin.Err != nil {
			return errors.Join(fmt.Errorf("finding what is pinned: %w", pin.Err), group.Wait())
		}
		group.Go(func() error { return m.follow(inner, pin.Pin.Key, true) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for pin := range m.e.node.Pinning.DirectKeys(ctx, false) {
		if pin.Err != nil {
			return fmt.Errorf("finding what is pinned: %w", pin.Err)
		}
		m.live[string(pin.Pin.Key.Hash())] = struct{}{}
	}
	if ctx.Err() != nil { // the lists just end then
		return context.Cause(ctx)
	}
	return nil
}

// present follows the roots in keep, and those of the node's own files, as far as blocks are here.
func (m *marking) present(ctx context.Context, keep []cid.Cid) error {
	files, err := corerepo.BestEffortRoots(m.e.node)
	if err != nil {
		return fmt.Errorf("finding what to keep: %w", err)
	}
	for _, roots := range [][]cid.Cid{files, keep} {
		for _, root := range roots {
			if err := m.follow(ctx, root, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// errEnough ends a marking that has found maxBroken blocks.
var errEnough = errors.New("too many blocks cannot be read")

// follow marks what is below root and was not met before. whole: no block may be missing.
func (m *marking) follow(ctx context.Context, root cid.Cid, whole bool) error {
	todo := m.meet([]cid.Cid{root}, whole)
	for len(todo) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		last := len(todo) - 1
		c := todo[last]
		todo = todo[:last]
		data, err := m.read(ctx, c)
		var links []cid.Cid
		if err == nil {
			links, err = m.decoder.Links(c, data)
			if err != nil && !whole {
				continue // a stranger may have sent it; no Hold takes it
			}
		}
		switch {
		case err == nil:
			todo = append(todo, m.meet(links, whole)...)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !whole && errors.Is(err, pins.ErrAbsent): // not here yet
		default:
			if err := m.tell(pins.Broken{Root: spec.Canonical(root), Block: c, Err: err}); err != nil {
				return err
			}
		}
	}
	return nil
}

// meet marks blocks and returns those that are still to be followed.
func (m *marking) meet(list []cid.Cid, whole bool) (follow []cid.Cid) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range list {
		c = spec.Canonical(c)
		if !whole && hold.Admit(c) != nil {
			continue
		}
		if _, inline := hold.Identity(c); !inline {
			m.live[string(c.Hash())] = struct{}{}
		}
		if c.Type() == cid.Raw {
			continue
		}
		if _, met := m.met[c.KeyString()]; !met {
			m.met[c.KeyString()] = struct{}{}
			follow = append(follow, c)
		}
	}
	return follow
}

// read returns the bytes of a block, verified: what flatfs has on a disk that rots is still read.
func (m *marking) read(ctx context.Context, c cid.Cid) ([]byte, error) {
	if data, inline := hold.Identity(c); inline {
		return data, nil
	}
	block, err := m.e.node.Blockstore.Get(ctx, c)
	switch {
	case ipld.IsNotFound(err):
		return nil, pins.ErrAbsent
	case rotten(err):
		return nil, fmt.Errorf("%w: %w", pins.ErrCorrupt, err)
	case err != nil:
		return nil, fmt.Errorf("reading block %s: %w", c, err)
	}
	return verified(c, block.RawData())
}

func (m *marking) tell(b pins.Broken) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken = append(m.broken, b); len(m.broken) >= maxBroken {
		return errEnough
	}
	return nil
}
