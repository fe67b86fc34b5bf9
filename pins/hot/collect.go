package hot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/datastore/dshelp"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/ipfs/kubo/core/corerepo"
	"github.com/ipfs/kubo/gc"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/pins/hot/hold"
)

// Collect implements pins.HotTier. It marks what is pinned with Kubo's own collector and sweeps itself. The roots in
// keep and those of running Holds it follows itself, as far as blocks are there: Kubo's collector would give up at
// the first block it cannot read below them, and such a block is easily sent by a stranger.
func (e *Embedded) Collect(ctx context.Context, keep []cid.Cid) (removed int64, err error) {
	ctx, done, err := e.life.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	err = e.holder.Pause(ctx, func(running []cid.Cid) error {
		// No walk is inside, so this waits for pins and releases at most, which take one flush each (H2, H3).
		defer e.node.Blockstore.GCLock(ctx).Unlock(ctx)
		live, err := e.mark(ctx, slices.Concat(keep, running))
		if err != nil {
			return err
		}
		removed, err = e.sweep(ctx, live)
		return err
	})
	return removed, err
}

// mark returns the hashes of all blocks that stay.
func (e *Embedded) mark(ctx context.Context, keep []cid.Cid) (map[string]struct{}, error) {
	roots, err := corerepo.BestEffortRoots(e.node)
	if err != nil {
		return nil, fmt.Errorf("finding what to keep: %w", err)
	}
	problems := make(chan gc.Result)
	var problem error
	listened := make(chan struct{})
	go func() {
		defer close(listened)
		for p := range problems {
			if p.Error != nil && problem == nil {
				problem = p.Error
			}
		}
	}()
	pinned, err := gc.ColoredSet(ctx, e.node.Pinning, merkledag.NewDAGService(e.local), roots, problems)
	close(problems)
	<-listened
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err = errors.Join(err, problem); err != nil {
		return nil, fmt.Errorf("finding what is pinned: %w", err)
	}
	live := make(map[string]struct{}, pinned.Len())
	if err := pinned.ForEach(func(c cid.Cid) error {
		live[string(c.Hash())] = struct{}{}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("finding what is pinned: %w", err)
	}
	e.imports.Each(func(hash string) { live[hash] = struct{}{} })
	return live, e.markPresent(ctx, live, keep)
}

// markPresent adds what is here below the roots.
func (e *Embedded) markPresent(ctx context.Context, live map[string]struct{}, roots []cid.Cid) error {
	decoder := hold.NewDecoder()
	todo := hold.NewTodo(roots...)
	for c, more := todo.Next(); more; c, more = todo.Next() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if hold.Admit(c) != nil {
			continue
		}
		data, inline := hold.Identity(c)
		if !inline {
			live[string(c.Hash())] = struct{}{}
			if c.Type() == cid.Raw {
				continue
			}
			block, err := e.node.Blockstore.Get(ctx, c)
			switch {
			case ipld.IsNotFound(err):
				continue // not here yet
			case err != nil: // what is below it would be removed
				return fmt.Errorf("finding what to keep: %w", err)
			}
			data = block.RawData()
		}
		if links, err := decoder.Links(c, data); err == nil {
			todo.Add(links)
		}
	}
	return nil
}

func (e *Embedded) sweep(ctx context.Context, live map[string]struct{}) (removed int64, err error) {
	err = e.list(ctx, func(hash multihash.Multihash) error {
		if _, stays := live[string(hash)]; stays {
			return nil
		}
		c := cid.NewCidV1(cid.Raw, hash)
		if err := e.node.Blockstore.DeleteBlock(ctx, c); err != nil {
			return fmt.Errorf("removing block %s: %w", c, err)
		}
		removed++
		return nil
	})
	if err != nil {
		return removed, err
	}
	if store, ok := e.repo.Datastore().(datastore.GCDatastore); ok {
		if err := store.CollectGarbage(ctx); err != nil {
			return removed, fmt.Errorf("freeing the room of removed blocks: %w", err)
		}
	}
	return removed, nil
}

// list yields the hash of every block. The node's block store would end without a word where it cannot read on.
func (e *Embedded) list(ctx context.Context, yield func(multihash.Multihash) error) error {
	all, err := e.repo.Datastore().Query(ctx, query.Query{Prefix: blockstore.BlockPrefix.String(), KeysOnly: true})
	if err != nil {
		return fmt.Errorf("listing blocks: %w", err)
	}
	defer func() { _ = all.Close() }()
	for entry, more := all.NextSync(); more; entry, more = all.NextSync() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if entry.Error != nil {
			return fmt.Errorf("listing blocks: %w", entry.Error)
		}
		key, ok := strings.CutPrefix(entry.Key, blockstore.BlockPrefix.String())
		if !ok || !strings.HasPrefix(key, "/") {
			continue
		}
		hash, err := dshelp.DsKeyToMultihash(datastore.RawKey(key))
		if err != nil {
			continue // no block of ours
		}
		if err := yield(hash); err != nil {
			return err
		}
	}
	return nil
}
