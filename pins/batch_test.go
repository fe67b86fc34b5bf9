package pins_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

func TestManyAreRecordedInTheirOrder(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		here := pinstest.Tree("here", 3)
		w.tier.AddLocal(here.Blocks...)
		const n = 600 // of several transactions
		asked := make([]pins.Asked, n)
		for i := range asked {
			d := here
			if i%3 > 0 {
				d = pinstest.Leaf(fmt.Sprint("absent", i/2))
			}
			asked[i] = pins.Asked{Request: named(d.Root, fmt.Sprint(i)), Decision: pins.Decision{Terms: pins.Undecided}}
		}
		results := w.AddAll(t.Context(), alice, asked)
		for i, r := range results {
			if r.Err != nil || *r.Pin.Name != fmt.Sprint(i) {
				t.Fatalf("%d: %+v", i, r)
			}
			if i > 0 && !r.Pin.Created.After(results[i-1].Pin.Created) {
				t.Fatalf("%d was created at %s, the one before at %s", i, r.Pin.Created, results[i-1].Pin.Created)
			}
			if i%3 == 0 && r.Pin.Status() != spec.Pinned {
				t.Errorf("%d is here and %s", i, r.Pin.Status())
			}
		}
		if page := w.list(alice, all()); page.Count != n {
			t.Errorf("%d of %d are there", page.Count, n)
		}
	})
}

func TestBatchWhoseClientHasGoneIsNotRecorded(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		recorded := int64(0)
		for _, r := range w.AddAll(ctx, alice, make10(t)) {
			if r.Err == nil {
				recorded++
			} else if !errors.Is(r.Err, context.Canceled) {
				t.Error(r.Err)
			}
		}
		if page := w.list(alice, all()); page.Count != recorded {
			t.Errorf("%d were told to be recorded, and %d are there", recorded, page.Count)
		}
	})
}

func make10(t *testing.T) []pins.Asked {
	t.Helper()
	asked := make([]pins.Asked, 10)
	for i := range asked {
		asked[i] = pins.Asked{Request: request(leaf(i)), Decision: pins.Decision{Terms: pins.Undecided}}
	}
	return asked
}
