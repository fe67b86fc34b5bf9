package retrieval_test

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	blocks "github.com/ipfs/go-block-format"

	"github.com/frostpin/frostpin/retrieval"
)

// A stuck shelf takes nothing until it is let go, as during a collection.
type stuckShelf struct {
	*shelf
	open chan struct{}
	puts atomic.Int64
}

func (s *stuckShelf) Put(ctx context.Context, list []blocks.Block) error {
	s.puts.Add(1)
	select {
	case <-s.open:
		return s.shelf.Put(ctx, list)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// What was fetched and verified is given to its readers while the store takes nothing, without being asked for again; how
// much waits to be stored is bounded, and what is dropped can be read all the same.
func TestReadersDoNotWaitForTheStore(t *testing.T) {
	d := newDAG(50, 200, 100)
	p := newProvider(t, "f01000", d)
	dir := &directory{sources: map[string][]retrieval.Source{d.root.KeyString(): {p.source(d)}}}
	hot := &stuckShelf{shelf: newShelf(), open: make(chan struct{})}
	s := retrieval.New(retrieval.Config{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
		retrieval.Parts{Directory: dir, Store: hot, Codec: pbCodec{}}, slog.New(slog.DiscardHandler), time.Now)
	ctx, cancel := context.WithTimeout(retrieval.WithRoot(t.Context(), d.root), 20*time.Second)
	defer cancel()
	for i, c := range d.order {
		for range 2 {
			asked, trail := retrieval.WithTrail(ctx)
			if b, err := s.Get(asked, c); err != nil || string(b.RawData()) != string(d.blocks[c.KeyString()]) {
				t.Fatalf("block %d: %v", i, err)
			}
			if trail.Tier() != retrieval.TierCold {
				t.Errorf("block %d, which is not hot, is said to be %s", i, trail.Tier())
			}
		}
		if n := p.requests.Load(); i < 10 && n != int64(i+1) {
			t.Fatalf("%d requests for %d blocks", n, i+1)
		}
	}
	if n := hot.puts.Load(); n < 10 || n > 64 {
		t.Errorf("%d blocks wait to be stored", n)
	}
	close(hot.open)
	for hot.len() < 10 {
		select {
		case <-ctx.Done():
			t.Fatalf("%d blocks were stored", hot.len())
		case <-time.After(time.Millisecond):
		}
	}
}
