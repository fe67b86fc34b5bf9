package pins_test

import (
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// Between its hold and its pin a DAG is on the tier and nowhere else, or in a row that has given up.
func TestComparingLeavesWhatAnUploadHolds(t *testing.T) {
	change := func(c *pins.Config) { c.Policy.Deadline = time.Second }
	eachRoom(t, change, func(t *testing.T, w *world, _ *room) {
		unknown, failed := pinstest.Tree("nobody has pinned it", 3), pinstest.Tree("nobody had it", 3)
		w.untilStatus(w.add(alice, request(failed.Root)), spec.Failed)
		id, err := w.BeginHold(t.Context(), []cid.Cid{unknown.Root, failed.Root})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range []pinstest.DAG{unknown, failed} {
			w.tier.AddLocal(d.Blocks...)
			if err := w.tier.Hold(t.Context(), d.Root, pins.Limits{Offline: true}, nil); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			if err := pins.Collect(t.Context(), w.Service); err != nil {
				t.Fatal(err)
			}
		}
		for _, d := range []pinstest.DAG{unknown, failed} {
			if !w.held(d.Root) {
				t.Errorf("%s was let go", d.Root)
			}
		}
		w.EndHold(id)
		w.until("what got no pin is let go", func() bool { return !w.held(unknown.Root) && !w.held(failed.Root) })
	})
}
