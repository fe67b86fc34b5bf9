package hold_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot/hold"
	"github.com/frostpin/frostpin/pins/pinstest"
)

// What a stranger has made up is held or refused with a reason, and never costs more than one look at each block.
func TestHostileDAGsAreHeldOrRefusedWithAReason(t *testing.T) {
	limits := pins.Limits{Bytes: 1 << 30, Blocks: 200_000, Depth: 1024, BlockSize: 4 << 20}
	for _, d := range pinstest.Hostiles() {
		t.Run(d.Name, func(t *testing.T) {
			have := onShelf(d.Blocks...)
			var asked atomic.Int64
			totals, err := hold.Walk{Root: d.Root, Limits: limits, Workers: 4, Get: func(ctx context.Context, c cid.Cid) (hold.Block, error) {
				asked.Add(1)
				return have.get(ctx, c)
			}}.Run(t.Context())
			if asked.Load() > int64(len(d.Blocks)) {
				t.Errorf("%d blocks were asked for; there are %d", asked.Load(), len(d.Blocks))
			}
			var refused *pins.Refused
			switch {
			case d.Refused == "" && (err != nil || totals.Blocks != int64(len(have))):
				t.Errorf("after %d of %d blocks: %v", totals.Blocks, len(have), err)
			case d.Refused != "" && (!errors.As(err, &refused) || !strings.Contains(refused.Reason, d.Refused)):
				t.Errorf("error %v; want a reason with %q", err, d.Refused)
			}
			if d.Refused != "" {
				return
			}
			var read int
			err = hold.Verify(t.Context(), d.Root, func(_ context.Context, c cid.Cid) ([]byte, error) {
				read++
				return have[c], nil
			}, func(context.Context, int) error { return nil }, func(_ cid.Cid, err error) error { return err })
			if err != nil || read != len(have) {
				t.Errorf("verifying read %d of %d blocks: %v", read, len(have), err)
			}
		})
	}
}

// Blocks that CIDs carry are no blocks, but what may have links has to be remembered.
func TestCarriedNodesCountAgainstTheLimitOnBlocks(t *testing.T) {
	d := pinstest.Inlined(20, 1000)
	_, err := hold.Walk{Root: d.Root, Limits: pins.Limits{Blocks: 5000}, Workers: 4, Get: onShelf(d.Blocks...).get}.Run(t.Context())
	var refused *pins.Refused
	if !errors.As(err, &refused) || !strings.Contains(refused.Reason, "the limit of 5000") {
		t.Errorf("error %v", err)
	}
	plain := pinstest.Fan(9000, pinstest.Identity(cid.Raw, nil), pinstest.UnixFS{Type: pinstest.Directory})
	if _, err := (hold.Walk{Root: plain.Root, Limits: pins.Limits{Blocks: 5000}, Workers: 4, Get: onShelf(plain.Blocks...).get}).Run(t.Context()); err != nil {
		t.Errorf("leaves that are carried were counted: %v", err)
	}
}

// What is still to be done must not grow with the links that lead to the same blocks.
func TestMemoryOfVerifyingDoesNotGrowWithRepeatedLinks(t *testing.T) {
	d := pinstest.Ladder(60, 20_000) // 1.2 million links
	have := onShelf(d.Blocks...)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most := heap(), uint64(0)
	err := hold.Verify(t.Context(), d.Root, func(_ context.Context, c cid.Cid) ([]byte, error) {
		most = max(most, heap())
		return have[c], nil
	}, func(context.Context, int) error { return nil }, func(_ cid.Cid, err error) error { return err })
	if err != nil {
		t.Fatal(err)
	}
	if grown := int64(most) - int64(before); grown > 16<<20 {
		t.Errorf("verifying 61 blocks took %d MiB", grown>>20)
	}
	runtime.KeepAlive(d)
}
