package hot

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/path"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	iface "github.com/ipfs/kubo/core/coreiface"
	"github.com/ipfs/kubo/core/coreiface/options"
	"github.com/multiformats/go-multicodec"
	"golang.org/x/sync/errgroup"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot/hold"
)

// Verify implements pins.HotTier.
func (e *Embedded) Verify(ctx context.Context, root cid.Cid, pace func(ctx context.Context, bytes int) error, bad func(c cid.Cid, err error) error) error {
	return hold.Verify(ctx, root, e.hashed, pace, bad)
}

// Fetch implements pins.HotTier.
func (e *Embedded) Fetch(ctx context.Context, c cid.Cid) ([]byte, error) {
	if err := hold.Admit(c); err != nil {
		return nil, err
	}
	if data, inline := hold.Identity(c); inline {
		return data, nil
	}
	if data, err := e.hashed(ctx, c); err == nil {
		return data, nil
	}
	ctx, done, err := e.life.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	// Not through the block service: it would return wrong bytes that are here.
	block, err := e.node.Exchange.GetBlock(ctx, c)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("fetching block %s: %w", c, err)
	}
	return verified(c, block.RawData())
}

// Import implements pins.HotTier.
func (e *Embedded) Import(context.Context) (pins.Import, error) {
	done, ok := e.life.visit()
	if !ok {
		return nil, pins.ErrUnavailable
	}
	defer done()
	return &embeddedImport{e, e.imports.Open()}, nil
}

type embeddedImport struct {
	e    *Embedded
	kept *hold.Kept
}

// Put implements pins.Import.
func (i *embeddedImport) Put(ctx context.Context, list []blocks.Block) error {
	ctx, done, err := i.e.life.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	turns, who := i.e.config.Turns, pins.BehalfOf(ctx)
	if err := turns.Do(ctx, who, func() error { return hold.Check(list) }); err != nil {
		return err
	}
	i.kept.Keep(list)                   // before they are there: a collection that begins now must know of them
	unlock, err := i.e.uncollected(ctx) // no turn is to wait for it
	if err != nil {
		return err
	}
	defer unlock()
	return turns.Do(ctx, who, func() error { return i.e.put(ctx, list) })
}

// uncollected keeps collections away until unlock is called. One that runs may take minutes, and Kubo's lock waits for it
// whatever becomes of ctx.
func (e *Embedded) uncollected(ctx context.Context) (unlock func(), err error) {
	locked := make(chan blockstore.Unlocker)
	go func() {
		lock := e.node.Blockstore.PinLock(ctx)
		select {
		case locked <- lock:
		case <-ctx.Done(): // nobody waits any more
			lock.Unlock(ctx)
		}
	}()
	select {
	case lock := <-locked:
		return func() { lock.Unlock(ctx) }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// put stores blocks, over those that are here with wrong bytes.
func (e *Embedded) put(ctx context.Context, list []blocks.Block) error {
	for _, b := range list {
		if err := e.clear(ctx, b.Cid()); err != nil {
			return err
		}
	}
	if err := e.node.Blockstore.PutMany(ctx, list); err != nil {
		return spaced(fmt.Errorf("storing %d blocks: %w", len(list), err))
	}
	for _, b := range list { // hashed before they came here
		e.seen.add(b.Cid().Hash())
	}
	return nil
}

// clear removes a block that is here with wrong bytes: Kubo's store keeps what it has when it is given something under
// the same name.
func (e *Embedded) clear(ctx context.Context, c cid.Cid) error {
	here, err := e.has(ctx, c)
	if err != nil && !errors.Is(err, pins.ErrCorrupt) {
		return err
	}
	if err == nil && !here {
		return nil
	}
	if _, err := e.hashed(ctx, c); !errors.Is(err, pins.ErrCorrupt) {
		return nil //nolint:nilerr // right, or not readable: storing it again harms nothing
	}
	if err := e.node.Blockstore.DeleteBlock(ctx, c); err != nil {
		return fmt.Errorf("removing the wrong bytes of block %s: %w", c, err)
	}
	return nil
}

// Stored implements pins.Import.
func (i *embeddedImport) Stored(c cid.Cid) bool { return i.kept.Has(c) }

// Close implements pins.Import.
func (i *embeddedImport) Close() error {
	i.kept.Close()
	return nil
}

// Verify implements pins.HotTier.
func (r *Remote) Verify(ctx context.Context, root cid.Cid, pace func(ctx context.Context, bytes int) error, bad func(c cid.Cid, err error) error) error {
	return hold.Verify(ctx, root, r.Block, pace, bad)
}

// Fetch implements pins.HotTier.
func (r *Remote) Fetch(ctx context.Context, c cid.Cid) ([]byte, error) {
	if err := hold.Admit(c); err != nil {
		return nil, err
	}
	if data, inline := hold.Identity(c); inline {
		return data, nil
	}
	ctx, done, err := r.life.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	data, err := blockBytes(ctx, r.daemon, c)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return data, err
}

// Import implements pins.HotTier. Wrong bytes of a block that the daemon has pinned cannot be replaced: it removes no
// pinned block, and keeps what it has. Put says so.
func (r *Remote) Import(context.Context) (pins.Import, error) {
	done, ok := r.life.visit()
	if !ok {
		return nil, pins.ErrUnavailable
	}
	defer done()
	return &remoteImport{r, r.imports.Open()}, nil
}

type remoteImport struct {
	r    *Remote
	kept *hold.Kept
}

// putAtOnce is how many blocks of one list are sent to the daemon at the same time.
const putAtOnce = 8

// Put implements pins.Import.
func (i *remoteImport) Put(ctx context.Context, list []blocks.Block) error {
	if err := hold.Check(list); err != nil {
		return err
	}
	ctx, done, err := i.r.life.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	i.kept.Keep(list)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(putAtOnce)
	for _, b := range list {
		group.Go(func() error {
			return i.r.daemon.quick(ctx, func(ctx context.Context) error {
				return pins.Safely(func() error { return putBlock(ctx, i.r.local, b) })
			})
		})
	}
	return spaced(group.Wait())
}

// putBlock stores a block and, where the daemon had wrong bytes of it, makes it take the right ones.
func putBlock(ctx context.Context, api iface.CoreAPI, b blocks.Block) error {
	c := b.Cid()
	if _, err := blockBytes(ctx, api, c); errors.Is(err, pins.ErrCorrupt) {
		if err := api.Block().Rm(ctx, path.FromCid(c), options.Block.Force(true)); err != nil {
			return fmt.Errorf("replacing the wrong bytes of block %s in the kubo daemon: %w", c, err)
		}
	}
	prefix := c.Prefix()
	codec := multicodec.Code(prefix.Codec).String()
	stat, err := api.Block().Put(ctx, bytes.NewReader(b.RawData()),
		options.Block.CidCodec(codec), options.Block.Hash(prefix.MhType, prefix.MhLength), options.Block.Pin(false))
	if err != nil {
		return fmt.Errorf("storing block %s in the kubo daemon: %w", c, err)
	}
	if got := stat.Path().RootCid(); string(got.Hash()) != string(c.Hash()) {
		return fmt.Errorf("storing block %s in the kubo daemon: it says %s", c, got)
	}
	return nil
}

// Stored implements pins.Import.
func (i *remoteImport) Stored(c cid.Cid) bool { return i.kept.Has(c) }

// Close implements pins.Import.
func (i *remoteImport) Close() error {
	i.kept.Close()
	return nil
}
