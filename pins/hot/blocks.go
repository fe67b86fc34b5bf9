package hot

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/ipfs/boxo/path"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	iface "github.com/ipfs/kubo/core/coreiface"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot/hold"
)

// Block implements pins.HotTier. It reads the store and nothing above it: a block service could be told by someone
// else's session to look further.
func (e *Embedded) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	return e.read(ctx, c, e.seen.has(c.Hash()))
}

// hashed is Block for those who are to find wrong bytes: it hashes also what was right before.
func (e *Embedded) hashed(ctx context.Context, c cid.Cid) ([]byte, error) {
	return e.read(ctx, c, false)
}

func (e *Embedded) read(ctx context.Context, c cid.Cid, trusted bool) ([]byte, error) {
	if _, inline := hold.Identity(c); inline {
		return nil, pins.ErrAbsent
	}
	ctx, done, err := e.life.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	step := pins.StepOf(ctx)
	if err := step.Work(ctx); err != nil {
		return nil, err
	}
	block, err := e.node.Blockstore.Get(ctx, c)
	if err != nil {
		step.Afar() // it is looked for elsewhere now
	}
	switch {
	case ipld.IsNotFound(err):
		return nil, fmt.Errorf("reading block %s: %w", c, pins.ErrAbsent)
	case rotten(err):
		return nil, fmt.Errorf("reading block %s: %w: %w", c, pins.ErrCorrupt, err)
	case err != nil:
		return nil, fmt.Errorf("reading block %s: %w", c, err)
	}
	if trusted {
		return block.RawData(), nil
	}
	data, err := verified(c, block.RawData())
	if err != nil {
		e.seen.forget(c.Hash())
		return nil, err
	}
	e.seen.add(c.Hash())
	return data, nil
}

// rotten tells whether the store has found wrong bytes where a block is, or would be: pebble knows neither whether the
// block was there nor what it was. What is stored then is found before them.
func rotten(err error) bool { return err != nil && pebble.IsCorruptionError(err) }

// Block implements pins.HotTier.
func (r *Remote) Block(ctx context.Context, c cid.Cid) (data []byte, err error) {
	if _, inline := hold.Identity(c); inline {
		return nil, pins.ErrAbsent
	}
	ctx, done, err := r.life.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	pins.StepOf(ctx).Afar() // a daemon that hangs is to keep no turn
	err = r.reading.do(ctx, func(ctx context.Context) error {
		return r.daemon.quick(ctx, func(ctx context.Context) error {
			data, err = blockBytes(ctx, r.local, c)
			return err
		})
	})
	switch {
	case isNotFound(err):
		return nil, fmt.Errorf("reading block %s: %w", c, pins.ErrAbsent)
	case err != nil:
		return nil, err
	}
	return data, nil
}

// blockBytes reads a block from a daemon and verifies it.
func blockBytes(ctx context.Context, api iface.CoreAPI, c cid.Cid) ([]byte, error) {
	reader, err := api.Block().Get(ctx, path.FromCid(c))
	if err != nil {
		return nil, fmt.Errorf("getting block %s: %w", c, err)
	}
	var data []byte
	if read, ok := reader.(*bytes.Buffer); ok { // Kubo's client has read it all
		data = read.Bytes()
	} else if data, err = io.ReadAll(reader); err != nil {
		return nil, fmt.Errorf("reading block %s: %w", c, err)
	}
	return verified(c, data)
}

// verified returns data if c names it.
func verified(c cid.Cid, data []byte) ([]byte, error) {
	sum, err := c.Prefix().Sum(data)
	if err != nil {
		return nil, fmt.Errorf("hashing block %s: %w", c, err)
	}
	if !sum.Equals(c) {
		return nil, fmt.Errorf("reading block %s: %w", c, pins.ErrCorrupt)
	}
	return data, nil
}
