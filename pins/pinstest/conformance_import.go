package pinstest

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins"
)

func (r *rig) open() pins.Import {
	r.t.Helper()
	in, err := r.Tier.Import(r.ctx)
	if err != nil {
		r.t.Fatalf("opening an import: %v", err)
	}
	return in
}

func (r *rig) put(in pins.Import, list ...blocks.Block) {
	r.t.Helper()
	if err := in.Put(r.ctx, list); err != nil {
		r.t.Fatalf("importing: %v", err)
	}
}

func importStays(t *testing.T, r *rig) {
	d := Tree("imported", 40)
	in := r.open()
	r.put(in, d.Blocks...)
	r.put(in, d.Blocks...) // again, which changes nothing
	if r.collect() != 0 {
		t.Error("what an open import had stored was collected")
	}
	for _, b := range d.Blocks {
		if data, err := r.Tier.Block(r.ctx, b.Cid()); err != nil || !bytes.Equal(data, b.RawData()) {
			t.Errorf("imported block %s: %v", b.Cid(), err)
		}
	}
	if !r.present(d.Root) { // pins it
		t.Error("an imported DAG is not whole")
	}
	for range 2 {
		if err := in.Close(); err != nil {
			t.Errorf("closing an import: %v", err)
		}
	}
	r.collect()
	r.held(d.Root, true)
	r.release(d.Root)
	if n := r.collect(); n != int64(len(d.Blocks)) {
		t.Errorf("%d blocks were collected after the import was closed and its DAG released; want %d", n, len(d.Blocks))
	}
}

func importRefuses(t *testing.T, r *rig) {
	in := r.open()
	defer func() { _ = in.Close() }()
	good, other := Raw("good"), Raw("other")
	wrong, err := blocks.NewBlockWithCid(good.RawData(), other.Cid())
	if err != nil {
		t.Fatal(err)
	}
	strange := Block(0x300539, 0x12, []byte("of a codec that nobody knows"))
	for _, bad := range []blocks.Block{wrong, strange, Block(cid.Raw, 0, []byte("inlined"))} {
		var refused *pins.Refused
		if err := in.Put(r.ctx, []blocks.Block{good, bad}); !errors.As(err, &refused) {
			t.Errorf("importing %s: %v; want a refusal", bad.Cid(), err)
		}
		r.absent(good.Cid(), "it came with a block that was refused")
	}
}

func importMends(t *testing.T, r *rig) {
	if r.Corrupt == nil {
		return // nobody can get wrong bytes into this node
	}
	d := r.provided(Tree("to be mended", 10))
	r.hold(d.Root)
	for _, b := range d.Blocks {
		r.Corrupt(b)
	}
	in := r.open()
	defer func() { _ = in.Close() }()
	r.put(in, d.Blocks...)
	for _, b := range d.Blocks {
		if data, err := r.Tier.Block(r.ctx, b.Cid()); err != nil || !bytes.Equal(data, b.RawData()) {
			t.Errorf("mended block %s: %v", b.Cid(), err)
		}
	}
	r.held(d.Root, true)
}

func verifyNames(t *testing.T, r *rig) {
	d := r.provided(Tree("to be verified", 30))
	r.hold(d.Root)
	verify := func() (read int, bad map[string]error) {
		bad = map[string]error{}
		err := r.Tier.Verify(r.ctx, V0(d.Root), func(_ context.Context, n int) error { read += n; return nil },
			func(c cid.Cid, err error) error { bad[c.KeyString()] = err; return nil })
		if err != nil {
			t.Fatalf("verifying: %v", err)
		}
		return read, bad
	}
	if read, bad := verify(); int64(read) != d.Size() || len(bad) > 0 {
		t.Errorf("of a DAG of %d bytes that is here %d were read, and found bad: %v", d.Size(), read, bad)
	}
	if r.Corrupt != nil {
		leaf := d.Blocks[len(d.Blocks)-1]
		r.Corrupt(leaf)
		if _, bad := verify(); len(bad) != 1 || !errors.Is(bad[leaf.Cid().KeyString()], pins.ErrCorrupt) {
			t.Errorf("a leaf is corrupt, and found bad: %v", bad)
		}
	}
	enough := errors.New("enough")
	err := r.Tier.Verify(r.ctx, d.Root, func(context.Context, int) error { return enough }, func(cid.Cid, error) error { return nil })
	if !errors.Is(err, enough) {
		t.Errorf("ended with %v; want what pace has said", err)
	}
	absent := Tree("not here", 3)
	missing := 0
	err = r.Tier.Verify(r.ctx, absent.Root, func(context.Context, int) error { return nil }, func(_ cid.Cid, err error) error {
		if missing++; !errors.Is(err, pins.ErrAbsent) {
			t.Errorf("a block that is not here is %v", err)
		}
		return nil
	})
	if err != nil || missing != 1 {
		t.Errorf("of a DAG that is not here %d blocks are missing, %v; want its root", missing, err)
	}
}

func fetchAsks(t *testing.T, r *rig) {
	here, there := Raw("here"), Raw("on the network")
	in := r.open()
	defer func() { _ = in.Close() }()
	r.put(in, here)
	r.Provide(there)
	for _, b := range []blocks.Block{here, there, Block(cid.Raw, 0, []byte("inlined"))} {
		if data, err := r.Tier.Fetch(r.ctx, b.Cid()); err != nil || !bytes.Equal(data, b.RawData()) {
			t.Errorf("fetching %s: %q, %v", b.Cid(), data, err)
		}
	}
	ctx, cancel := context.WithTimeout(r.ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := r.Tier.Fetch(ctx, Raw("nowhere").Cid()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("fetching what nobody has: %v", err)
	}
}
