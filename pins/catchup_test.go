package pins_test

import (
	"context"
	"errors"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

func TestPinsFromBeforeTheArchiveGetTheDefault(t *testing.T) {
	databasetest.Each(t, archiveMigrations(), func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		before := newWorld(t, db, pinstest.NewTier(), config())
		if err := pins.Begin(ctx, before.Service); err != nil {
			t.Fatal(err)
		}
		const n = 450 // more than two pages
		for i := range n {
			if _, err := before.Add(ctx, pins.Account(i%2+1), request(leaf(i%40)), pins.Decision{Terms: pins.Undecided}); err != nil {
				t.Fatal(err)
			}
		}
		out := before.addCold(alice, leaf(1), pins.Uncopied)
		before.setHot(leaf(3), pins.HotHeld)
		if info := out.Info(); info["cold_status"] != "disabled" {
			t.Errorf("info %v", info)
		}

		a := &archive{db: db}
		w := newColdWorld(t, a, func(c *pins.Config) { c.PinnedWhen = rule(t, "active(1)") })
		if err := pins.Begin(ctx, w.Service); err != nil {
			t.Fatal(err)
		}
		if info := w.list(alice, all()).Pins[5].Info(); info["cold_status"] != "pending" {
			t.Errorf("info before it was decided: %v", info)
		}
		// Broken off in the middle, it goes on at the next look.
		tries := 0
		a.fail = func(call string) error {
			if tries++; call == "want" && tries > 4 {
				return errors.New("broken off")
			}
			return nil
		}
		if err := pins.CatchUp(ctx, w.Service); err == nil {
			t.Fatal("it went through")
		}
		a.fail = nil
		if err := pins.CatchUp(ctx, w.Service); err != nil {
			t.Fatal(err)
		}
		a.mustAgree(t, w.Service, alice, bob)
		if wanted, err := a.wanted(ctx); err != nil || len(wanted) != 40 || !wanted[deals.Wish{Root: leaf(3), Terms: 2}] {
			t.Errorf("%d wishes, %v: %v", len(wanted), err, wanted)
		}
		if p := w.get(out); p.Terms != pins.Uncopied || p.Info()["cold_status"] != "disabled" {
			t.Errorf("what was opted out of is %d", p.Terms)
		}
		q := all()
		q.CIDs, q.Statuses = []cid.Cid{leaf(3)}, []spec.Status{spec.Pinning}
		if page := w.list(bob, q); page.Count == 0 {
			t.Error("under active(1) what is held and has no deal is not pinning")
		}
		// It is through: nothing is read again.
		a.calls = nil
		if err := pins.CatchUp(ctx, w.Service); err != nil || len(a.calls) > 0 {
			t.Errorf("%v, asked again for %v", err, a.calls)
		}
	})
}

// Copies that were there already when a pin joined them are paid for from when they are its own, too.
func TestPinsFromBeforeTheArchivePayForTheCopiesThatTheyFind(t *testing.T) {
	databasetest.Each(t, archiveMigrations(), func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		a := &archive{db: db}
		first := newColdWorld(t, a, nil)
		held, coming, none := leaf(0), leaf(1), leaf(2)
		for _, root := range []cid.Cid{held, coming, none} {
			first.addCold(alice, root, 2)
			first.setHot(root, pins.HotHeld)
		}
		for _, root := range []cid.Cid{held, coming} {
			if err := a.set(ctx, deals.Wish{Root: root, Terms: 2}, deals.Standing{Cold: deals.ColdStored, Wanted: 2, Active: 2}); err != nil {
				t.Fatal(err)
			}
		}
		first.setHot(coming, pins.HotRestoring)
		before := newWorld(t, db, pinstest.NewTier(), config())
		if err := pins.Begin(ctx, before.Service); err != nil {
			t.Fatal(err)
		}
		want := make(map[pins.ID]int64)
		for _, root := range []cid.Cid{held, coming, none} {
			want[before.addCold(bob, root, pins.Undecided).ID] = 2
			want[before.addCold(bob, root, pins.Uncopied).ID] = 0
		}
		w := newColdWorld(t, a, nil)
		if err := pins.Begin(ctx, w.Service); err != nil {
			t.Fatal(err)
		}
		if err := pins.CatchUp(ctx, w.Service); err != nil {
			t.Fatal(err)
		}
		check := func() {
			t.Helper()
			copies := make(map[pins.ID]int64)
			for h, err := range w.Holdings(ctx, true) {
				if err != nil {
					t.Fatal(err)
				}
				if h.Account == bob && h.Until.IsZero() {
					copies[h.Pin] = h.Copies
				}
			}
			for _, p := range w.list(bob, all()).Pins {
				if p.Root.Equals(none) {
					want[p.ID] = 0
				}
				if copies[p.ID] != want[p.ID] {
					t.Errorf("the pin of %s with terms %d occupies %d copies, want %d", p.Root, p.Terms, copies[p.ID], want[p.ID])
				}
			}
		}
		check()
		w.setHot(coming, pins.HotHeld)
		check()
	})
}

func TestPinsThatComeDuringTheCatchUpAreNotForgotten(t *testing.T) {
	eachCold(t, nil, func(t *testing.T, w *world, a *archive) {
		ctx := context.Background()
		if err := pins.Begin(ctx, w.Service); err != nil {
			t.Fatal(err)
		}
		w.addCold(alice, leaf(0), pins.Undecided)
		a.fail = func(call string) error {
			if call == "want" { // while a page is decided, another server adds one before it
				a.fail = nil
			}
			return nil
		}
		if err := pins.CatchUp(ctx, w.Service); err != nil {
			t.Fatal(err)
		}
		w.addCold(alice, leaf(1), pins.Undecided) // says so in its own transaction
		if err := pins.CatchUp(ctx, w.Service); err != nil {
			t.Fatal(err)
		}
		a.mustAgree(t, w.Service, alice)
		if wanted, err := a.wanted(ctx); err != nil || len(wanted) != 2 {
			t.Errorf("%v, %v", wanted, err)
		}
	})
}

func TestNewRuleCountsFromTheStart(t *testing.T) {
	databasetest.Each(t, archiveMigrations(), func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		a := &archive{db: db}
		start := func(text string) *world {
			w := newColdWorld(t, a, func(c *pins.Config) { c.PinnedWhen = rule(t, text) })
			if err := pins.Begin(ctx, w.Service); err != nil {
				t.Fatal(err)
			}
			return w
		}
		w := start("hot")
		const n = 230 // more than a page
		for i := range n {
			w.addCold(alice, leaf(i), 1)
			w.setHot(leaf(i), pins.HotHeld)
		}
		plain := w.addCold(alice, leaf(0), pins.Uncopied)
		done := deals.Wish{Root: leaf(7), Terms: 1}
		if err := a.set(ctx, done, deals.Standing{Cold: deals.ColdStored, Wanted: 1, Accepted: 1, Active: 1, Ever: 1, Kept: true}); err != nil {
			t.Fatal(err)
		}
		count := func(w *world, pinned int64) {
			t.Helper()
			for status, want := range map[spec.Status]int64{spec.Pinned: pinned, spec.Pinning: n + 1 - pinned} {
				q := all()
				q.Statuses = []spec.Status{status}
				if page := w.list(alice, q); page.Count != want {
					t.Errorf("%d are %s, want %d", page.Count, status, want)
				}
			}
			if w.get(plain).Status() != spec.Pinned {
				t.Error("a pin without cold copies is not pinned")
			}
		}
		count(w, n+1)
		w = start("active(1)")
		count(w, 2)
		// A rewrite that is broken off is done again, also when the old rule comes back.
		a.fail = func(call string) error {
			if len(a.calls)%2 == 0 && call == "standings" {
				return errors.New("broken off")
			}
			return nil
		}
		broken := newColdWorld(t, a, func(c *pins.Config) { c.PinnedWhen = rule(t, "hot") })
		a.calls = nil
		if err := pins.Begin(ctx, broken.Service); err == nil {
			t.Fatal("it went through")
		}
		a.fail = nil
		count(start("active(1)"), 2)
		count(start("hot"), n+1)
		count(start("active(1)"), 2)
		// Without an archive there is nothing to wait for.
		off := newWorld(t, db, pinstest.NewTier(), config())
		if err := pins.Begin(ctx, off.Service); err != nil {
			t.Fatal(err)
		}
		count(off, n+1)
	})
}

func TestWhatHappensWithoutTheArchiveIsToldToItLater(t *testing.T) {
	databasetest.Each(t, archiveMigrations(), func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		a := &archive{db: db}
		w := newColdWorld(t, a, nil)
		if err := pins.Begin(ctx, w.Service); err != nil {
			t.Fatal(err)
		}
		gone := w.addCold(alice, leaf(0), 1)
		w.addCold(alice, leaf(1), 2)
		shared, again := w.addCold(alice, leaf(2), 1), w.addCold(bob, leaf(2), 1)
		w.addCold(alice, leaf(3), 1)
		w.setHot(leaf(1), pins.HotHeld)

		off := newWorld(t, db, pinstest.NewTier(), config())
		if err := pins.Begin(ctx, off.Service); err != nil {
			t.Fatal(err)
		}
		off.delete(gone)
		off.delete(shared)
		off.setHot(leaf(1), pins.HotQueued)
		off.setHot(leaf(3), pins.HotHeld)
		if info := off.get(again).Info(); info["cold_status"] != "disabled" || info["replication_factor"] != "" {
			t.Errorf("info without an archive: %v", info)
		}

		w = newColdWorld(t, a, nil)
		if err := pins.Begin(ctx, w.Service); err != nil {
			t.Fatal(err)
		}
		if err := pins.CatchUp(ctx, w.Service); err != nil {
			t.Fatal(err)
		}
		a.mustAgree(t, w.Service, alice, bob)
		if wanted, err := a.wanted(ctx); err != nil || len(wanted) != 3 {
			t.Errorf("%v, %v", wanted, err)
		}
	})
}

func TestRunCatchesUpAtOnce(t *testing.T) {
	databasetest.Each(t, archiveMigrations(), func(t *testing.T, db *database.DB) {
		before := newWorld(t, db, pinstest.NewTier(), config())
		p := before.addCold(alice, leaf(0), pins.Undecided)
		w := newColdWorld(t, &archive{db: db}, nil)
		w.start()
		w.until("it has terms", func() bool { return w.get(p).Terms == 2 })
	})
}
