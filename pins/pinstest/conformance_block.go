package pinstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/pins"
)

func (r *rig) absent(c cid.Cid, why string) {
	r.t.Helper()
	if data, err := r.Tier.Block(r.ctx, c); !errors.Is(err, pins.ErrAbsent) {
		r.t.Errorf("%s: the block %s is %d bytes, %v; want pins.ErrAbsent", why, c, len(data), err)
	}
}

func blockLocal(t *testing.T, r *rig) {
	d := r.provided(Tree("blocks", 300))
	for _, b := range d.Blocks {
		r.absent(b.Cid(), "only a peer has it")
	}
	inline := Identity(cid.Raw, []byte("inline"))
	r.absent(inline, "an identity CID has no block")

	r.hold(d.Root)
	r.Silence(true)
	var reading sync.WaitGroup
	failed := make(chan error, len(d.Blocks))
	for _, b := range d.Blocks {
		reading.Go(func() {
			data, err := r.Tier.Block(r.ctx, b.Cid())
			if err == nil && !bytes.Equal(data, b.RawData()) {
				err = errors.New("other bytes")
			}
			if err != nil {
				failed <- fmt.Errorf("block %s: %w", b.Cid(), err)
			}
		})
	}
	reading.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	if data, err := r.Tier.Block(r.ctx, V0(d.Root)); err != nil || !bytes.Equal(data, d.Blocks[0].RawData()) {
		t.Errorf("the old spelling of the root returned %d bytes, %v", len(data), err)
	}

	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(r.ctx)
	cancel(why)
	if _, err := r.Tier.Block(ctx, d.Root); !errors.Is(err, why) {
		t.Errorf("a cancelled read returned %v", err)
	}
	r.release(d.Root)
	r.collect()
	r.absent(d.Root, "it was collected")
	if err := r.Tier.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []cid.Cid{d.Root, d.Blocks[1].Cid()} {
		if _, err := r.Tier.Block(r.ctx, c); !errors.Is(err, pins.ErrUnavailable) {
			t.Errorf("a closed tier answered %v", err)
		}
	}
}

func blockVerified(t *testing.T, r *rig) {
	if r.Corrupt == nil {
		return // nobody can get wrong bytes into this node
	}
	for i, b := range []blocks.Block{
		Raw("to be corrupted"), Node("to be corrupted"), Block(cid.Raw, multihash.BLAKE2B_MIN+31, []byte("to be corrupted")),
	} {
		r.Provide(b)
		r.hold(b.Cid())
		r.Corrupt(b)
		if data, err := r.Tier.Block(r.ctx, b.Cid()); !errors.Is(err, pins.ErrCorrupt) || data != nil {
			t.Errorf("corrupt block %d: %q, %v; want pins.ErrCorrupt", i, data, err)
		}
	}
}
