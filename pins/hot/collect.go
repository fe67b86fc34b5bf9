package hot

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/datastore/dshelp"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	"github.com/multiformats/go-multihash"
)

// Collect implements pins.HotTier. It marks and sweeps itself: Kubo's collector would give up at the first block that it
// cannot read, also below the roots in keep and those of running Holds, where such a block is easily sent by a stranger.
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
