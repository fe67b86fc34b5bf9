package pinstest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/pins"
)

func holdProtects(t *testing.T, r *rig) {
	d := r.provided(Tree("protected", 50))
	r.held(d.Root, false)
	var p pins.Progress
	if err := r.Tier.Hold(r.ctx, d.Root, pins.Limits{Idle: 2 * time.Second}, &p); err != nil {
		t.Fatal(err)
	}
	if blocks, bytes := p.Totals(); blocks != int64(len(d.Blocks)) || bytes != d.Size() {
		t.Errorf("progress is %d blocks and %d bytes, want %d and %d", blocks, bytes, len(d.Blocks), d.Size())
	}
	r.held(d.Root, true)
	r.Silence(true)
	r.collect()
	if !r.present(d.Root) {
		t.Error("a held DAG lost blocks to the collector")
	}
}

func holdAgain(t *testing.T, r *rig) {
	d := r.provided(Tree("again", 20))
	r.hold(d.Root)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			var p pins.Progress
			if err := r.Tier.Hold(r.ctx, d.Root, pins.Limits{Offline: true}, &p); err != nil {
				t.Errorf("holding what is held: %v", err)
			}
			if blocks, _ := p.Totals(); blocks != int64(len(d.Blocks)) {
				t.Errorf("the second walk saw %d blocks of %d", blocks, len(d.Blocks))
			}
		})
	}
	group.Wait()
	r.held(d.Root, true)
}

// Kubo's own pin takes the old pin away before it walks, and does not bring it back when it is cancelled (H1).
func cancelledSecondHold(t *testing.T, r *rig) {
	d := r.provided(Tree("twice", 200))
	r.hold(d.Root)
	for _, root := range []cid.Cid{d.Root, V0(d.Root)} { // both spellings are one DAG (H10)
		for _, after := range []time.Duration{0, 200 * time.Microsecond, time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond} {
			ctx, cancel := context.WithTimeout(r.ctx, after)
			err := r.Tier.Hold(ctx, root, pins.Limits{}, nil)
			cancel()
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("cancelled after %s: %v", after, err)
			}
			r.held(d.Root, true)
			r.held(V0(d.Root), true)
		}
	}
	r.Silence(true)
	if removed := r.collect(); removed != 0 {
		t.Errorf("the collector removed %d blocks of a held DAG", removed)
	}
	if !r.present(d.Root) {
		t.Error("the held DAG is not whole any more")
	}
}

func releaseCollects(t *testing.T, r *rig) {
	shared := Raw("shared by both")
	gone, stays := Node("gone", shared.Cid()), Node("stays", shared.Cid(), Raw("own").Cid())
	r.Provide(shared, gone, stays, Raw("own"))
	r.hold(gone.Cid())
	r.hold(stays.Cid())
	r.collect()
	r.release(gone.Cid())
	r.release(gone.Cid())              // not held any more: no error
	r.release(Raw("never held").Cid()) // never held: no error
	r.held(gone.Cid(), false)
	r.Silence(true)
	if removed := r.collect(); removed != 1 {
		t.Errorf("the collector removed %d blocks, want the one that no one needs", removed)
	}
	if r.present(gone.Cid()) {
		t.Error("a released DAG is still here after a collection")
	}
	if !r.present(stays.Cid()) {
		t.Error("releasing one DAG took a block from another one")
	}
}

// Three accounts pin and unpin one CID; whatever the order, the last word counts.
func holdsAndReleases(t *testing.T, r *rig) {
	d := r.provided(Tree("contended", 10))
	for range 10 {
		var group sync.WaitGroup
		for i := range 6 {
			group.Go(func() {
				var err error
				if i%2 == 0 {
					err = r.Tier.Hold(r.ctx, d.Root, pins.Limits{Idle: 2 * time.Second}, nil)
				} else {
					err = r.Tier.Release(r.ctx, d.Root)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
	}
	r.hold(d.Root)
	r.held(d.Root, true)
	r.release(d.Root)
	r.held(d.Root, false)
}

// Kubo's offline pin still fetches a missing child, and waits for it (H9).
func offlineHold(t *testing.T, r *rig) {
	d := r.provided(Tree("offline", 5))
	begun := time.Now()
	if r.Tier.Lacks(Identity(0x55, []byte("inline"))) {
		t.Error("a root without a block is said not to be here")
	}
	if err := r.Tier.Hold(r.ctx, d.Root, pins.Limits{Offline: true}, nil); !errors.Is(err, pins.ErrAbsent) {
		t.Fatalf("offline, nothing here: %v", err)
	}
	if err := r.Tier.Find(r.ctx, []cid.Cid{d.Root}, func(cid.Cid) {}); err != nil {
		t.Fatal(err)
	}
	if r.Tier.Lacks(d.Root) {
		t.Error("a root that was found is said not to be here")
	}
	if err := r.Tier.Hold(r.ctx, d.Root, pins.Limits{Offline: true}, nil); !errors.Is(err, pins.ErrAbsent) {
		t.Fatalf("offline, only the root here: %v", err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("two offline holds and a find took %s", took)
	}
	r.held(d.Root, false)
	r.hold(d.Root)
}

func limitsStop(t *testing.T, r *rig) {
	wide, deep := r.provided(Tree("wide", 100)), r.provided(Chain("deep", 20))
	for _, c := range []struct {
		what   string
		root   cid.Cid
		limits pins.Limits
	}{
		{"larger than the limit of 8 KiB", wide.Root, pins.Limits{Bytes: 8 << 10}},
		{"more blocks than the limit of 10", deep.Root, pins.Limits{Blocks: 10}},
		{"more blocks than the limit of 100", wide.Root, pins.Limits{Blocks: 100}},
		{"deeper than the limit of 18 links", deep.Root, pins.Limits{Depth: 18}},
		{"is larger than the limit of 512 bytes", Raw("large").Cid(), pins.Limits{BlockSize: 512}},
	} {
		if c.limits.BlockSize > 0 {
			c.root = wide.Blocks[1].Cid()
		}
		r.refused(r.Tier.Hold(r.ctx, c.root, c.limits, nil), c.what)
		r.held(c.root, false)
	}
	r.collect()
	r.Silence(true)
	if r.present(deep.Root) {
		t.Error("what a refused Hold fetched was not collected")
	}
	r.Silence(false)
	for _, c := range []struct {
		dag    DAG
		limits pins.Limits
	}{
		{wide, pins.Limits{Bytes: wide.Size(), Blocks: 101, Depth: 1, BlockSize: 8 << 10}},
		{deep, pins.Limits{Bytes: deep.Size(), Blocks: 20, Depth: 19}},
	} {
		if err := r.Tier.Hold(r.ctx, c.dag.Root, c.limits, nil); err != nil {
			t.Errorf("a DAG that is exactly as large as allowed: %v", err)
		}
	}
}

func refusals(t *testing.T, r *rig) {
	git := Block(cid.GitRaw, multihash.SHA2_256, []byte("blob 0\x00"))
	murmur := Block(cid.Raw, multihash.MURMUR3X64_64, []byte("weak"))
	sha1 := Block(cid.Raw, multihash.SHA1, []byte("old"))
	broken := Block(cid.DagCBOR, multihash.SHA2_256, []byte{0xff, 0x00})
	bomb := make([]byte, 1<<20)
	for i := range bomb {
		bomb[i] = 0x81 // an array of one array of one array …
	}
	nested := Block(cid.DagCBOR, multihash.SHA2_256, bomb)
	for _, c := range []struct {
		what string
		root cid.Cid
	}{
		{"codec", git.Cid()},
		{"hash function", murmur.Cid()},
		{"hash function", sha1.Cid()},
		{"identity", Identity(cid.Raw, make([]byte, 129))},
		{"not valid dag-cbor", broken.Cid()},
		{"not valid dag-cbor", nested.Cid()},
	} {
		under := Node("above "+c.what, c.root)
		r.Provide(under, broken, nested)
		for _, root := range []cid.Cid{c.root, under.Cid()} {
			r.refused(r.Tier.Hold(r.ctx, root, pins.Limits{Idle: 2 * time.Second, Stall: 10 * time.Second}, nil), c.what)
			r.held(root, false)
		}
	}
	// None of it may keep the collector from its work.
	r.collect(broken.Cid(), murmur.Cid(), git.Cid(), nested.Cid())
}

func stallKeeps(t *testing.T, r *rig) {
	d := Tree("stalled", 10)
	last := d.Blocks[len(d.Blocks)-1]
	r.Provide(d.Blocks[:len(d.Blocks)-1]...)
	var p pins.Progress
	begun := time.Now()
	limits := pins.Limits{Idle: 500 * time.Millisecond, Stall: 3 * time.Second}
	if err := r.Tier.Hold(r.ctx, d.Root, limits, &p); !errors.Is(err, pins.ErrStalled) {
		t.Fatalf("a DAG with a missing block: %v", err)
	}
	if took := time.Since(begun); took < limits.Stall || took > 5*limits.Stall {
		t.Errorf("stalled after %s, want soon after %s", took, limits.Stall)
	}
	if blocks, _ := p.Totals(); blocks != int64(len(d.Blocks))-1 {
		t.Errorf("progress stands at %d blocks, want all but one of %d", blocks, len(d.Blocks))
	}
	r.held(d.Root, false)
	r.Provide(last)
	r.hold(d.Root)
	r.held(d.Root, true)
}

func silentPeer(t *testing.T, r *rig) {
	d := r.provided(Tree("silent", 300))
	var p pins.Progress
	r.Silence(true)
	answer := start(func() error {
		return r.Tier.Hold(r.ctx, d.Root, pins.Limits{Idle: 500 * time.Millisecond, Stall: Patience}, &p)
	})
	select {
	case err := <-answer:
		t.Fatalf("held without blocks: %v", err)
	case <-time.After(time.Second): // two sessions have passed
	}
	r.Silence(false)
	if err := r.wait(answer, "the hold after the silence"); err != nil {
		t.Fatal(err)
	}
	if blocks, bytes := p.Totals(); blocks != int64(len(d.Blocks)) || bytes != d.Size() {
		t.Errorf("after restarts the totals are %d blocks, %d bytes; want %d, %d", blocks, bytes, len(d.Blocks), d.Size())
	}
}

func cancelledHold(t *testing.T, r *rig) {
	d := Tree("cancelled", 3)
	r.Provide(d.Blocks[0])
	why := errors.New("the user lost interest")
	ctx, cancel := context.WithCancelCause(r.ctx)
	var p pins.Progress
	answer := start(func() error { return r.Tier.Hold(ctx, d.Root, pins.Limits{}, &p) })
	r.until("the root has arrived", func() bool { n, _ := p.Totals(); return n == 1 })
	cancel(why)
	begun := time.Now()
	if err := r.wait(answer, "a cancelled hold"); !errors.Is(err, why) {
		t.Errorf("a cancelled hold returned %v", err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("a cancelled hold took %s to return", took)
	}
	r.held(d.Root, false)
}

// In the blocks themselves: what is not decodable cannot be pinned, what is must not stop the collector.
func everyCodec(t *testing.T, r *rig) {
	leaf := Raw("leaf of all")
	link := append([]byte{0xd8, 0x2a, 0x58, byte(len(leaf.Cid().Bytes()) + 1), 0}, leaf.Cid().Bytes()...)
	roots := []cid.Cid{}
	for _, b := range []struct {
		codec uint64
		data  []byte
	}{
		{cid.DagCBOR, append([]byte{0x81}, link...)},
		{cid.DagJSON, []byte(`[{"/":"` + leaf.Cid().String() + `"}]`)},
		{0x51, []byte{0x82, 0x01, 0x02}},
		{0x0200, []byte(`{"a":[1,2]}`)},
	} {
		block := Block(b.codec, multihash.SHA2_256, b.data)
		r.Provide(block, leaf)
		r.hold(block.Cid())
		roots = append(roots, block.Cid())
	}
	inline := Identity(cid.DagProtobuf, Node("", leaf.Cid()).RawData())
	r.hold(inline)
	r.collect()
	r.Silence(true)
	for _, root := range append(roots, inline) {
		if !r.present(root) {
			t.Errorf("the DAG %s is not whole after a collection", root)
		}
	}
}
