package hot_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot"
	"github.com/frostpin/frostpin/pins/pinstest"
)

// What lies below a block that is missing is not known, and may be all that is left of it.
func TestCollectionRemovesNothingWhileAHeldDAGHasAHole(t *testing.T) {
	for _, profile := range []string{hot.Pebble, hot.Flatfs} {
		for _, c := range []struct {
			name string
			why  error
			harm func(t *testing.T, tier *hot.Embedded, d pinstest.DAG, block int)
		}{
			{"missing", pins.ErrAbsent, func(t *testing.T, tier *hot.Embedded, d pinstest.DAG, block int) {
				t.Helper()
				if err := tier.Node().Blockstore.DeleteBlock(t.Context(), d.Blocks[block].Cid()); err != nil {
					t.Fatal(err)
				}
			}},
			{"wrong", pins.ErrCorrupt, func(t *testing.T, tier *hot.Embedded, d pinstest.DAG, block int) {
				t.Helper()
				corrupt(t, tier, d.Blocks[block])
			}},
		} {
			t.Run(profile+", "+c.name, func(t *testing.T) {
				tier := openEmbedded(t, hot.Config{Profile: profile})
				holed, sound, garbage := noisyTree("holed"), noisyTree("sound"), noisyTree("garbage")
				for _, d := range []pinstest.DAG{holed, sound} {
					store(t, tier, d.Blocks...)
					if err := tier.Hold(t.Context(), d.Root, pins.Limits{Offline: true}, nil); err != nil {
						t.Fatal(err)
					}
				}
				store(t, tier, garbage.Blocks...)
				c.harm(t, tier, holed, 1)

				removed, err := tier.Collect(t.Context(), nil)
				var held *pins.HeldUp
				if !errors.As(err, &held) || removed != 0 {
					t.Fatalf("the collection removed %d blocks: %v", removed, err)
				}
				if b := held.Broken; len(b) != 1 || b[0].Root != holed.Root || b[0].Block != holed.Blocks[1].Cid() || !errors.Is(b[0].Err, c.why) {
					t.Errorf("it names %+v", b)
				}
				if got := here(t, tier, garbage); len(got) != len(garbage.Blocks) {
					t.Errorf("of the garbage %s are left", got)
				}

				store(t, tier, holed.Blocks[1])
				if removed, err := tier.Collect(t.Context(), nil); err != nil || removed != int64(len(garbage.Blocks)) {
					t.Errorf("once it is mended, a collection removes %d blocks: %v", removed, err)
				}
				c.harm(t, tier, holed, 3)
				if err := tier.Release(t.Context(), holed.Root); err != nil {
					t.Fatal(err)
				}
				if _, err := tier.Collect(t.Context(), nil); err != nil {
					t.Errorf("once it is let go: %v", err)
				}
				if got := here(t, tier, holed); len(got) > 0 {
					t.Errorf("of what was let go %s are left", got)
				}
				if got := wrong(t, tier, sound.Root); len(got) > 0 {
					t.Errorf("of another held dag %s are gone", got)
				}
			})
		}
	}
}

// here are the blocks of a DAG that can be read.
func here(t *testing.T, tier *hot.Embedded, d pinstest.DAG) (list []cid.Cid) {
	t.Helper()
	for _, b := range d.Blocks {
		switch _, err := tier.Block(t.Context(), b.Cid()); {
		case err == nil:
			list = append(list, b.Cid())
		case !errors.Is(err, pins.ErrAbsent):
			t.Errorf("reading block %s: %v", b.Cid(), err)
		}
	}
	return list
}

// All that cannot be read is told at once, and whose it is.
func TestHeldUpCollectionNamesEveryBrokenRoot(t *testing.T) {
	tier := openEmbedded(t, hot.Config{})
	var want []cid.Cid
	for _, name := range []string{"a", "b", "c"} {
		d := noisyTree(name)
		store(t, tier, d.Blocks...)
		if err := tier.Hold(t.Context(), d.Root, pins.Limits{Offline: true}, nil); err != nil {
			t.Fatal(err)
		}
		if name == "b" {
			continue
		}
		for _, block := range []int{1, 3} {
			if err := tier.Node().Blockstore.DeleteBlock(t.Context(), d.Blocks[block].Cid()); err != nil {
				t.Fatal(err)
			}
			want = append(want, d.Root)
		}
	}
	_, err := tier.Collect(t.Context(), nil)
	var held *pins.HeldUp
	if !errors.As(err, &held) {
		t.Fatal(err)
	}
	var got []cid.Cid
	for _, b := range held.Broken {
		got = append(got, b.Root)
	}
	byKey := func(a, b cid.Cid) int { return slices.Compare(a.Bytes(), b.Bytes()) }
	slices.SortFunc(got, byKey)
	slices.SortFunc(want, byKey)
	if !slices.Equal(got, want) {
		t.Errorf("named are %s, want %s", got, want)
	}
}

// A stopped collection has no list of pins that it could take for whole.
func TestCancelledCollectionRemovesNothing(t *testing.T) {
	tier := openEmbedded(t, hot.Config{})
	d := noisyTree("held")
	store(t, tier, d.Blocks...)
	if err := tier.Hold(t.Context(), d.Root, pins.Limits{Offline: true}, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if removed, err := tier.Collect(ctx, nil); !errors.Is(err, context.Canceled) || removed != 0 {
		t.Errorf("it removed %d blocks: %v", removed, err)
	}
	if got := wrong(t, tier, d.Root); len(got) > 0 {
		t.Errorf("gone are %s", got)
	}
}
