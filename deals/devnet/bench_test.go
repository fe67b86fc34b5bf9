package devnet_test

import (
	"encoding/binary"
	"runtime"
	"testing"

	commcid "github.com/filecoin-project/go-fil-commcid"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/lotus/chain/types"

	"github.com/frostpin/frostpin/deals/devnet"
)

// crowd is a devnet with many active deals.
func crowd(b *testing.B, deals int) *devnet.Net {
	b.Helper()
	net, err := devnet.Start(b.Context(), devnet.Config{Miners: 10})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = net.Close() })
	seeds := make([]devnet.SeedDeal, deals)
	p := sample(b, net)
	for i := range seeds {
		seeds[i] = devnet.SeedDeal{Proposal: p, Sector: abi.SectorNumber(i / 16)}
		seeds[i].Proposal.Provider = net.Miners()[i%10].ID
		piece := make([]byte, 32)
		binary.LittleEndian.PutUint64(piece, uint64(i))
		if seeds[i].Proposal.PieceCID, err = commcid.PieceCommitmentV1ToCID(piece); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := net.Seed(b.Context(), seeds); err != nil {
		b.Fatal(err)
	}
	if err := net.Advance(1); err != nil {
		b.Fatal(err)
	}
	return net
}

// BenchmarkTipset is the cost of an epoch in which nothing happens, beside 300,000 active deals.
func BenchmarkTipset(b *testing.B) {
	net := crowd(b, 300_000)
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	for b.Loop() {
		if err := net.Advance(1); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(mem.HeapAlloc)/(1<<20), "MiB-heap")
}

// BenchmarkStorageDeal is one StateMarketStorageDeal among 300,000, without the RPC.
func BenchmarkStorageDeal(b *testing.B) {
	net := crowd(b, 300_000)
	node := net.API()
	i := 0
	for b.Loop() {
		i++
		if _, err := node.StateMarketStorageDeal(b.Context(), firstDeal+abi.DealID(i*7919%300_000), types.EmptyTSK); err != nil {
			b.Fatal(err)
		}
	}
}
