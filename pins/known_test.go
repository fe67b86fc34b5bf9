package pins_test

import (
	"slices"
	"testing"

	"github.com/ipfs/go-cid"

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

func TestNamedAreTheRootsOfTheAccounts(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		hers, his, theirs := pinstest.Leaf("hers"), pinstest.Leaf("his"), pinstest.Leaf("theirs")
		w.add(alice, request(hers.Root))
		w.add(bob, request(his.Root))
		w.add(alice, request(theirs.Root))
		w.add(bob, request(theirs.Root))
		roots := []cid.Cid{hers.Root, his.Root, theirs.Root, pinstest.Leaf("nobody's").Root}
		got, err := w.Named(t.Context(), []pins.Account{alice}, roots)
		slices.SortFunc(got, func(a, b cid.Cid) int { return slices.Index(roots, a) - slices.Index(roots, b) })
		if want := []cid.Cid{hers.Root, theirs.Root}; err != nil || !slices.Equal(got, want) {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
	})
}
