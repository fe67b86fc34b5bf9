package pinstest

import (
	"context"
	"sync"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot/hold"
)

// Verify implements pins.HotTier.
func (t *Tier) Verify(ctx context.Context, root cid.Cid, pace func(ctx context.Context, bytes int) error, bad func(c cid.Cid, err error) error) error {
	return hold.Verify(ctx, root, t.Block, pace, bad)
}

// Fetch implements pins.HotTier.
func (t *Tier) Fetch(ctx context.Context, c cid.Cid) ([]byte, error) {
	if err := hold.Admit(c); err != nil {
		return nil, err
	}
	if data, inline := hold.Identity(c); inline {
		return data, nil
	}
	if data, err := t.Block(ctx, c); err == nil {
		return data, nil
	}
	for {
		t.mu.Lock()
		err := t.up()
		wrong := t.local[blockKey(c)]
		delete(t.local, blockKey(c)) // what is here was looked at
		b, _, ok := t.lookup(blockKey(c))
		if wrong != nil {
			t.local[blockKey(c)] = wrong
		}
		changed := t.changed
		t.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case ok:
			return b.RawData(), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Import implements pins.HotTier.
func (t *Tier) Import(context.Context) (pins.Import, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.up(); err != nil {
		return nil, err
	}
	kept := t.imports.Open()
	return &tierImport{t: t, kept: kept, end: sync.OnceFunc(kept.Close)}, nil
}

type tierImport struct {
	t    *Tier
	kept *hold.Kept
	end  func()
}

// Put implements pins.Import.
func (i *tierImport) Put(_ context.Context, list []blocks.Block) error {
	if err := hold.Check(list); err != nil {
		return err
	}
	i.kept.Keep(list)
	var err error
	i.t.change(func() {
		if err = i.t.up(); err != nil {
			return
		}
		for _, b := range list {
			i.t.local[blockKey(b.Cid())] = b
		}
	})
	return err
}

// Stored implements pins.Import.
func (i *tierImport) Stored(c cid.Cid) bool { return i.kept.Has(c) }

// Close implements pins.Import.
func (i *tierImport) Close() error {
	i.end()
	return nil
}
