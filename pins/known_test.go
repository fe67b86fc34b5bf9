package pins_test

import (
	"testing"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
)

func TestKnownIsWhatAPinNames(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		dag := pinstest.Tree("known", 5)
		knows := func(who pins.Account, want bool) {
			t.Helper()
			for _, c := range []struct{ name string }{{"v1"}, {"v0"}} {
				root := dag.Root
				if c.name == "v0" {
					root = pinstest.V0(root)
				}
				got, err := w.KnownTo(t.Context(), who, root)
				if who == 0 {
					got, err = w.Known(t.Context(), root)
				}
				if err != nil || got != want {
					t.Errorf("to account %d, spelled %s: %v, %v; want %v", who, c.name, got, err, want)
				}
			}
		}
		knows(0, false)
		p := w.add(alice, request(dag.Root))
		knows(0, true)
		knows(alice, true)
		knows(bob, false)
		w.delete(p)
		knows(0, false)
		knows(alice, false)
		if got, err := w.KnownTo(t.Context(), 0, dag.Root); err != nil || got {
			t.Errorf("known to nobody: %v, %v", got, err)
		}
	})
}
