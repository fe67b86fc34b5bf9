package chain

import (
	"bytes"
	"context"
	"testing"

	"github.com/filecoin-project/go-amt-ipld/v4"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin/v18/market"
	cbor "github.com/ipfs/go-ipld-cbor"
	cbg "github.com/whyrusleeping/cbor-gen"
)

// FuzzTree makes sure that no object, whatever is in it, does harm when it is read or walked.
func FuzzTree(f *testing.F) {
	store := cbor.NewMemCborStore()
	t, err := amt.NewAMT(store, amt.UseTreeBitWidth(market.StatesAmtBitwidth))
	if err != nil {
		f.Fatal(err)
	}
	for _, id := range []uint64{0, 5, 63} {
		if err := t.Set(context.Background(), id, &market.DealState{SectorStartEpoch: 1, LastUpdatedEpoch: -1, SlashEpoch: -1}); err != nil {
			f.Fatal(err)
		}
		c, err := t.Flush(context.Background())
		if err != nil {
			f.Fatal(err)
		}
		var raw cbg.Deferred
		if err := store.Get(context.Background(), c, &raw); err != nil {
			f.Fatal(err)
		}
		f.Add(raw.Raw)
		if err := t.Set(context.Background(), id+1000, nil); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, _ = readMarket(raw)
		for _, value := range []valueReader{isActive, nil} {
			r, err := readRoot(raw, value)
			if err != nil {
				continue
			}
			for _, id := range []abi.DealID{0, 1, 63, 64, 1 << 40, 1<<63 - 1} {
				if r.holds(id) {
					r.top.child(r.digit(id, r.height))
				}
			}
			if r.top.active&^r.top.present != 0 {
				t.Errorf("%b are active of %b", r.top.active, r.top.present)
			}
		}
		for height := range uint(2) {
			v, err := readVertex(cbg.NewCborReader(bytes.NewReader(raw)), 6, height, isActive)
			if err != nil {
				continue
			}
			for i := range uint(64) {
				if _, ok := v.child(i); ok && height == 0 {
					t.Error("a leaf has a link")
				}
			}
		}
	})
}
