package pins_test

import (
	"errors"
	"testing"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// deep is a DAG with two levels of nodes: the root, a node, the node below that, its leaf, and a leaf of the root.
func deep(seed string) pinstest.DAG {
	leaf, beside := pinstest.Raw(seed+" leaf"), pinstest.Raw(seed+" beside")
	low := pinstest.Node(seed+" low", leaf.Cid())
	high := pinstest.Node(seed+" high", low.Cid())
	root := pinstest.Node(seed, high.Cid(), beside.Cid())
	return pinstest.DAG{Root: root.Cid(), Blocks: []blocks.Block{root, high, low, leaf, beside}}
}

// A holed world holds two DAGs, one of which has lost nodes, beside blocks that nothing needs.
type holed struct {
	*world
	broken, sound, garbage pinstest.DAG
	pin                    pins.Pin
	lost                   []blocks.Block
}

// hole makes a holed world of one that works. lost are the places of what is lost.
func hole(t *testing.T, w *world, lost ...int) *holed {
	t.Helper()
	h := &holed{world: w, broken: deep("broken"), sound: deep("sound"), garbage: deep("garbage")}
	pins.HastenMending(w.Service)
	w.tier.AddLocal(h.broken.Blocks...) // so that nothing has to be fetched within a deadline
	h.pin = w.untilStatus(w.add(alice, request(h.broken.Root)), spec.Pinned)
	w.hold(bob, h.sound)
	w.tier.AddLocal(h.garbage.Blocks...)
	for _, d := range []pinstest.DAG{h.broken, h.sound} {
		for _, b := range d.Blocks {
			w.tier.RemoveNetwork(b.Cid())
		}
	}
	for _, i := range lost {
		h.lost = append(h.lost, h.broken.Blocks[i])
		w.tier.RemoveLocal(h.broken.Blocks[i].Cid())
	}
	return h
}

// collect collects, and fails the test if what a held DAG needs is removed.
func (h *holed) collect() error {
	h.t.Helper()
	err := pins.Collect(h.t.Context(), h.Service)
	h.whole(h.sound)
	return err
}

func (h *holed) whole(dag pinstest.DAG) {
	h.t.Helper()
	for _, b := range dag.Blocks {
		if !h.tier.Has(b.Cid()) {
			h.t.Fatalf("block %s of a held dag is gone", b.Cid())
		}
	}
}

// mustBeHeldUp collects in vain.
func (h *holed) mustBeHeldUp() {
	h.t.Helper()
	var held *pins.HeldUp
	if err := h.collect(); !errors.As(err, &held) || held.Broken[0].Root != h.broken.Root {
		h.t.Fatalf("the collection: %v", err)
	}
	h.whole(h.garbage)
	if err := h.CheckCollections(h.t.Context()); err == nil {
		h.t.Error("the operator is not told")
	}
}

func (h *holed) mustGoOn() {
	h.t.Helper()
	if err := h.collect(); err != nil {
		h.t.Fatal(err)
	}
	for _, b := range h.garbage.Blocks {
		if h.tier.Has(b.Cid()) {
			h.t.Fatalf("block %s is still here", b.Cid())
		}
	}
	if err := h.CheckCollections(h.t.Context()); err != nil {
		h.t.Error(err)
	}
}

func (h *holed) settled(why string) {
	h.t.Helper()
	h.until(why, func() bool { return h.get(h.pin).DAG.Hot == pins.HotHeld && h.held(h.broken.Root) })
	h.whole(h.broken)
}

// However full the disk is, a few blocks make room for many.
func TestCollectionFetchesTheNodesThatHoldItUp(t *testing.T) {
	t.Parallel()
	for name, little := range map[string]pins.Room{"plenty": pins.RoomPlenty, "scarce": pins.RoomScarce, "none": pins.RoomNone} {
		t.Run(name, func(t *testing.T) {
			eachRoom(t, nil, func(t *testing.T, w *world, r *room) {
				h := hole(t, w, 1, 2)
				w.tier.AddNetwork(h.lost...)
				r.set(little)
				h.mustGoOn()
				h.settled("it is held as before")
			})
		})
	}
}

func TestCollectionsGoOnOnceTheDAGThatHeldThemUpIsMended(t *testing.T) {
	eachRoom(t, nil, func(t *testing.T, w *world, r *room) {
		h := hole(t, w, 1)
		r.set(pins.RoomScarce)
		h.mustBeHeldUp()
		if hot := w.get(h.pin).DAG.Hot; hot == pins.HotHeld {
			t.Error("what has lost blocks counts as held")
		}
		for _, i := range []int{2, 3, 4} {
			if b := h.broken.Blocks[i]; !w.tier.Has(b.Cid()) {
				t.Errorf("block %s is gone, and nobody else has it", b.Cid())
			}
		}
		other := deep("waits for room")
		w.tier.AddNetwork(other.Blocks...)
		waits := w.add(bob, request(other.Root))
		w.tier.AddNetwork(h.lost...)
		h.settled("it is mended, with little room")
		if hot := w.get(waits).DAG.Hot; hot != pins.HotQueued {
			t.Errorf("what makes no room is %s with little room", hot)
		}
		h.mustGoOn()
	})
}

func TestCollectionsGoOnOnceTheDAGThatHeldThemUpIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, little := range map[string]pins.Room{"plenty": pins.RoomPlenty, "scarce": pins.RoomScarce} {
		t.Run(name, func(t *testing.T) {
			change := func(c *pins.Config) {
				c.Policy.Deadline = 2 * time.Second
				c.Limits.Idle, c.Limits.Stall = 50*time.Millisecond, 100*time.Millisecond
			}
			eachRoom(t, change, func(t *testing.T, w *world, r *room) {
				h := hole(t, w, 1)
				r.set(little)
				h.mustBeHeldUp()
				h.untilStatus(h.pin, spec.Failed)
				h.mustGoOn()
				if w.held(h.broken.Root) || w.tier.Has(h.broken.Blocks[2].Cid()) {
					t.Error("what was given up is still here")
				}
			})
		})
	}
}

// The time in which nothing at all is fetched is none in which it was tried.
func TestDAGThatHoldsUpCollectionsIsNotGivenUpWhileTheDiskIsFull(t *testing.T) {
	change := func(c *pins.Config) { c.Policy.Deadline = time.Second }
	eachRoom(t, change, func(t *testing.T, w *world, r *room) {
		h := hole(t, w, 1)
		r.set(pins.RoomNone)
		h.mustBeHeldUp()
		later := time.Now().Add(2 * time.Second)
		h.until("the deadline would be over", func() bool { return time.Now().After(later) })
		if got := w.get(h.pin); got.Status() == spec.Failed || !w.held(h.broken.Root) {
			t.Fatalf("it is %s: %s", got.Status(), got.DAG.Reason)
		}
		w.tier.AddNetwork(h.lost...)
		h.mustGoOn()
	})
}

func TestDAGThatHoldsUpCollectionsIsRestoredFromColdWithLittleRoom(t *testing.T) {
	r := &room{}
	src := &source{dags: map[string]pinstest.DAG{}}
	change := func(c *pins.Config) {
		c.ColdSource, c.Room = src, func() pins.Room { return pins.Room(r.now.Load()) }
	}
	eachCold(t, change, func(t *testing.T, w *world, a *archive) {
		r.set(pins.RoomPlenty)
		src.tier = w.tier
		w.start()
		d := deep("broken")
		w.addCold(alice, d.Root, 1)
		h := hole(t, w, 1)
		err := a.set(t.Context(), deals.Wish{Root: d.Root, Terms: 1}, deals.Standing{Cold: deals.ColdStored, Wanted: 1, Active: 1, Ever: 1, Kept: true})
		if err != nil {
			t.Fatal(err)
		}
		src.dags[d.Root.KeyString()] = d
		r.set(pins.RoomScarce)
		h.mustBeHeldUp()
		h.settled("it is restored")
		h.mustGoOn()
	})
}

// A disk that cannot be read says nothing about what it has.
func TestBlockThatCannotBeReadHoldsUpCollectionsAndLosesNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		h := hole(t, w)
		bad := h.broken.Blocks[1].Cid()
		w.tier.FailBlock(bad, errors.New("input/output error"))
		h.mustBeHeldUp()
		if got := w.get(h.pin); got.DAG.Hot != pins.HotHeld {
			t.Errorf("it is %s", got.DAG.Hot)
		}
		w.tier.FailBlock(bad, nil)
		h.mustGoOn()
		h.whole(h.broken)
	})
}

// A pin of the tier that the database has given up would hold up collections for as long as it is there.
func TestWhatWasGivenUpDoesNotStayPinned(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		w := newWorld(t, db, pinstest.NewTier(), config())
		given, kept := deep("given up"), deep("kept")
		for _, d := range []pinstest.DAG{given, kept} {
			w.add(alice, request(d.Root))
			w.tier.AddLocal(d.Blocks...)
			w.tier.AddPin(d.Root)
		}
		w.setHot(given.Root, pins.HotGaveUp)
		w.setHot(kept.Root, pins.HotHeld)
		if err := pins.Collect(t.Context(), w.Service); err != nil {
			t.Fatal(err)
		}
		has := func(c cid.Cid) bool { return w.held(c) && w.tier.Has(c) }
		if has(given.Root) || !has(kept.Root) {
			t.Errorf("given up and here: %t; held and here: %t", has(given.Root), has(kept.Root))
		}
	})
}
