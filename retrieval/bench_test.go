package retrieval_test

import (
	"context"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/frostpin/frostpin/retrieval"
)

// A whole DAG of 64 MiB from a provider that takes 80 ms to answer: read cold, verified and stored, in turns with the
// plain download of its CAR, so that both meet the same machine. The goal is 1.3 times the plain download at most. best
// compares the fastest rounds: what both take when nothing else runs; median those in the middle.
func BenchmarkColdRead(b *testing.B) {
	d := newDAG(30, 256, 256<<10)
	d.car() // it is there before anybody asks
	p := newProvider(b, "f01000", d)
	p.delay = 80 * time.Millisecond
	f := newFixture(b, func(c *retrieval.Config) { c.Header, c.Idle = 10*time.Second, 15*time.Second }, d, p)
	plain := func() {
		res, err := http.Get(p.URL + "/ipfs/" + d.root.String() + "?format=car")
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, res.Body); err != nil || n < 64<<20 {
			b.Fatalf("%d bytes: %v", n, err)
		}
		_ = res.Body.Close()
	}
	cold := func() {
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		ctx, _ = retrieval.WithTrail(retrieval.WithRoot(ctx, d.root))
		f.Prefetch(ctx, d.root, d.root)
		for _, c := range d.order {
			if _, err := f.Blocks().GetBlock(ctx, c); err != nil {
				b.Fatal(err)
			}
		}
	}
	var plains, colds []time.Duration
	for b.Loop() {
		begun := time.Now()
		plain()
		plains = append(plains, time.Since(begun))
		f.shelf.wipe()
		p.requests.Store(0)
		begun = time.Now()
		cold()
		colds = append(colds, time.Since(begun))
		// The transfer ends a moment after its last reader, and the next round must not join it.
		if err := f.Restore(b.Context(), d.root, retrieval.Budget{}, nil); err != nil {
			b.Fatal(err)
		}
		if n := p.requests.Load(); n != 1 {
			b.Fatalf("%d requests; want one CAR", n)
		}
	}
	slices.Sort(plains)
	slices.Sort(colds)
	for name, at := range map[string]int{"best": 0, "median": len(plains) / 2} {
		b.ReportMetric(colds[at].Seconds()/plains[at].Seconds(), name+"-ratio")
		b.ReportMetric(float64(plains[at].Milliseconds()), name+"-plain-ms")
		b.ReportMetric(float64(colds[at].Milliseconds()), name+"-cold-ms")
	}
}
