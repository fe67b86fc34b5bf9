package retrieval_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/frostpin/frostpin/retrieval"
)

// A whole DAG of 64 MiB from a provider that takes 80 ms to answer: read cold, verified and stored, beside the plain
// download of its CAR. The goal is 1.3 times the plain download at most.
func BenchmarkColdRead(b *testing.B) {
	d := newDAG(30, 256, 256<<10)
	p := newProvider(b, "f01000", d)
	p.delay = 80 * time.Millisecond
	b.Run("plain CAR", func(b *testing.B) {
		b.SetBytes(64 << 20)
		for b.Loop() {
			res, err := http.Get(p.URL + "/ipfs/" + d.root.String() + "?format=car")
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, res.Body); err != nil || n < 64<<20 {
				b.Fatalf("%d bytes: %v", n, err)
			}
			_ = res.Body.Close()
		}
	})
	b.Run("cold", func(b *testing.B) {
		f := newFixture(b, func(c *retrieval.Config) { c.Header, c.Idle = 10*time.Second, 15*time.Second }, d, p)
		b.SetBytes(64 << 20)
		for b.Loop() {
			f.shelf.wipe()
			p.requests.Store(0)
			ctx, cancel := context.WithCancel(b.Context())
			ctx, _ = retrieval.WithTrail(retrieval.WithRoot(ctx, d.root))
			f.Prefetch(ctx, d.root)
			if err := f.whole(ctx, d); err != nil {
				b.Fatal(err)
			}
			cancel()
			b.StopTimer()
			// The transfer ends a moment after its last reader, and the next round must not join it.
			if err := f.Restore(b.Context(), d.root, retrieval.Budget{}, nil); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if n := p.requests.Load(); n != 1 {
				b.Fatalf("%d requests; want one CAR", n)
			}
		}
	})
}
