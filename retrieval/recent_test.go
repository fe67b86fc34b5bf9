package retrieval_test

import (
	"bytes"
	"log/slog"
	"maps"
	"testing"
	"time"

	ipld "github.com/ipfs/go-ipld-format"

	"github.com/frostpin/frostpin/retrieval"
)

// What was just read is read once from the store, as far as there is memory for it and no longer than a moment.
func TestBlockJustReadIsGivenToOthersForAMoment(t *testing.T) {
	d := newDAG(40, 3, 1000)
	for _, c := range []struct {
		name   string
		recent int64
		passes time.Duration
		gone   int // of the blocks, once the store has lost them
	}{
		{"at once", 1 << 20, 0, 0},
		{"just in time", 1 << 20, time.Second - 1, 0},
		{"too late", 1 << 20, time.Second, len(d.order)},
		{"the latest, as far as they fit", 3000, 0, len(d.order) - 2},
		{"none fits", 100, 0, len(d.order)},
		{"none is wanted", 0, 0, len(d.order)},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := time.Now()
			shelf := newShelf()
			s := retrieval.New(retrieval.Config{Recent: c.recent}, retrieval.Parts{Store: shelf, Codec: pbCodec{}},
				slog.New(slog.DiscardHandler), func() time.Time { return now })
			maps.Copy(shelf.blocks, d.blocks)
			for _, cid := range d.order {
				if _, err := s.HotBlocks().GetBlock(t.Context(), cid); err != nil {
					t.Fatal(err)
				}
			}
			shelf.wipe()
			now = now.Add(c.passes)
			gone := 0
			for i := range d.order {
				cid := d.order[len(d.order)-1-i]
				switch b, err := s.HotBlocks().GetBlock(t.Context(), cid); {
				case ipld.IsNotFound(err):
					gone++
				case err != nil:
					t.Fatal(err)
				case !bytes.Equal(b.RawData(), d.blocks[cid.KeyString()]):
					t.Errorf("wrong bytes of %s", cid)
				}
			}
			if gone != c.gone {
				t.Errorf("%d of %d blocks are gone; want %d", gone, len(d.order), c.gone)
			}
		})
	}
}
