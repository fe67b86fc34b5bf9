package hot_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ipfs/boxo/path"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/kubo/core/coreapi"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot"
	"github.com/frostpin/frostpin/pins/pinstest"
)

// BenchmarkLocalPins compares the node's own rate of pinning what is local with that of Hold, which also walks the
// DAG under limits and is as durable.
func BenchmarkLocalPins(b *testing.B) {
	b.Run("node/c=8", func(b *testing.B) {
		tier := openEmbedded(b, hot.Config{})
		tier.Node().Pinning.(interface{ SetAutosync(bool) bool }).SetAutosync(true) // as Kubo has it
		api, err := coreapi.NewCoreAPI(tier.Node())
		if err != nil {
			b.Fatal(err)
		}
		pinLocal(b, tier, 8, func(ctx context.Context, root cid.Cid) error {
			return api.Pin().Add(ctx, path.FromCid(root))
		})
	})
	for _, c := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("hold/c=%d", c), func(b *testing.B) {
			tier := openEmbedded(b, hot.Config{})
			limits := pins.Limits{Bytes: 32 << 30, Blocks: 10_000_000, Depth: 1024, BlockSize: 2 << 20, Offline: true}
			pinLocal(b, tier, c, func(ctx context.Context, root cid.Cid) error {
				return tier.Hold(ctx, root, limits, nil)
			})
		})
	}
}

// pinLocal pins b.N different blocks that are in the node, c at once.
func pinLocal(b *testing.B, tier *hot.Embedded, c int, pin func(context.Context, cid.Cid) error) {
	ctx := b.Context()
	roots := make([]cid.Cid, b.N)
	var batch []blocks.Block
	for i := range roots {
		leaf := pinstest.Raw(fmt.Sprintf("%s %d", b.Name(), i))
		roots[i] = leaf.Cid()
		if batch = append(batch, leaf); len(batch) == 1000 || i == len(roots)-1 {
			if err := tier.Node().Blocks.AddBlocks(ctx, batch); err != nil {
				b.Fatal(err)
			}
			batch = batch[:0]
		}
	}
	var next atomic.Int64
	var workers sync.WaitGroup
	b.ResetTimer()
	for range c {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(roots)); i = next.Add(1) - 1 {
				if err := pin(ctx, roots[i]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pins/s")
	b.ReportMetric(0, "ns/op")
}
