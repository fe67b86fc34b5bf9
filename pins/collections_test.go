package pins_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// collecting makes a service that collects all the time, if there is a reason. The first collection needs none, and is over.
func collecting(t *testing.T, db *database.DB, change func(*pins.Config)) *world {
	t.Helper()
	cfg := config()
	cfg.GCEvery = 10 * time.Millisecond
	change(&cfg)
	w := newWorld(t, db, pinstest.NewTier(), cfg)
	before := pinstest.Leaf("before")
	w.tier.AddLocal(before.Blocks...)
	w.start()
	w.untilCollected(before)
	return w
}

func (w *world) untilCollected(dag pinstest.DAG) {
	w.t.Helper()
	w.until("what nothing needs is collected", func() bool {
		for _, b := range dag.Blocks {
			if w.tier.Has(b.Cid()) {
				return false
			}
		}
		return true
	})
}

// Nobody deletes anything here: what is given up has to make its own room.
func TestWhatIsGivenUpIsCollectedWithoutARelease(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*pins.Config)
		fails  func(w *world, dag pinstest.DAG) // has it fail, with a part of it here
	}{
		{"too large", func(c *pins.Config) { c.Limits.Blocks = 5 }, func(w *world, dag pinstest.DAG) {
			w.tier.AddNetwork(dag.Blocks...)
		}},
		{"past the deadline", func(c *pins.Config) {
			c.Policy.Deadline = 500 * time.Millisecond
			c.Limits.Idle, c.Limits.Stall = 100*time.Millisecond, 200*time.Millisecond
		}, func(w *world, dag pinstest.DAG) {
			w.tier.AddNetwork(dag.Blocks[:len(dag.Blocks)-1]...)
		}},
		{"past the deadline while it is looked for", func(c *pins.Config) {
			c.Policy.Deadline = 5 * time.Second
			c.Limits.Idle, c.Limits.Stall = 50*time.Millisecond, 100*time.Millisecond
		}, func(w *world, dag pinstest.DAG) {
			w.tier.AddNetwork(dag.Blocks[:len(dag.Blocks)-1]...)
			w.until("a part is here", func() bool { return w.tier.Has(dag.Blocks[1].Cid()) })
			w.tier.SetDown(true)
			w.until("its pin fails", func() bool {
				page := w.list(alice, all())
				return page.Pins[0].Status() == spec.Failed
			})
			w.tier.SetDown(false)
		}},
		{"what nobody can pay", func(c *pins.Config) {
			c.Sponsor = newPurses()
		}, func(w *world, dag pinstest.DAG) {
			w.tier.AddNetwork(dag.Blocks...)
		}},
		{"what is blocked", func(c *pins.Config) {
			c.Limits.Idle, c.Limits.Stall = time.Hour, time.Hour
		}, func(w *world, dag pinstest.DAG) {
			w.tier.AddNetwork(dag.Blocks[:len(dag.Blocks)-1]...)
			w.until("a part is here", func() bool { return w.tier.Has(dag.Blocks[1].Cid()) })
			w.block(dag.Root)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
				w := collecting(t, db, c.change)
				dag := pinstest.Tree("given up", 10)
				p := w.add(alice, request(dag.Root))
				c.fails(w, dag)
				w.untilStatus(p, spec.Failed)
				w.untilCollected(dag)
			})
		})
	}
}

// What lost its pin is here whole, and with little room nothing is fetched that would have it pinned again.
func TestWhatLostItsPinOutlivesCollectionsUntilItIsPinnedAgain(t *testing.T) {
	eachRoom(t, nil, func(t *testing.T, w *world, r *room) {
		dag := pinstest.Tree("lost", 3)
		w.tier.AddNetwork(dag.Blocks...)
		p := w.untilStatus(w.add(alice, request(dag.Root)), spec.Pinned)
		w.tier.Silence(true) // nobody else has it any more
		r.set(pins.RoomScarce)
		w.tier.LosePin(dag.Root)
		if err := pins.Compare(t.Context(), w.Service); err != nil {
			t.Fatal(err)
		}
		w.untilStatus(p, spec.Queued)
		collect := func(wish bool, why string) {
			t.Helper()
			if err := pins.Collect(t.Context(), w.Service); err != nil {
				t.Fatal(err)
			}
			for _, b := range dag.Blocks {
				if w.tier.Has(b.Cid()) != wish {
					t.Fatalf("%s: a block is here: %t", why, !wish)
				}
			}
		}
		collect(true, "lost")
		r.set(pins.RoomPlenty)
		w.untilStatus(p, spec.Pinned)
		w.delete(p)
		w.until("it is let go", func() bool { return !w.held(dag.Root) })
		collect(false, "let go")
	})
}

// The comparison of every hour may come after the collection.
func TestCollectionKeepsWhatTheDatabaseHoldsAndTheTierHasLostJustNow(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		lost, gone := pinstest.Tree("lost just now", 3), pinstest.Tree("gone", 3)
		w.tier.AddNetwork(lost.Blocks...)
		p := w.untilStatus(w.add(alice, request(lost.Root)), spec.Pinned)
		w.tier.Silence(true) // nobody else has it any more
		w.tier.AddLocal(gone.Blocks...)
		w.stop()
		w.tier.LosePin(lost.Root)
		for range 2 { // the first leaves time to pin it again
			if err := pins.Collect(t.Context(), w.Service); err != nil {
				t.Fatal(err)
			}
			for _, b := range lost.Blocks {
				if !w.tier.Has(b.Cid()) {
					t.Fatalf("block %s of a held dag was removed", b.Cid())
				}
			}
		}
		w.untilCollected(gone)
		again := newWorld(t, w.db, w.tier, config())
		again.start()
		again.until("it is pinned again", func() bool { return again.held(lost.Root) && again.get(p).DAG.Hot == pins.HotHeld })
	})
}

// A collection makes fetches pause, so it waits for a quiet moment; but not while it is what makes room.
func TestCollectionWaitsForQuietOnlyWhileThereIsRoom(t *testing.T) {
	change := func(c *pins.Config) {
		c.GCEvery = time.Hour
		c.Limits.Idle, c.Limits.Stall = time.Hour, time.Hour
	}
	eachRoom(t, change, func(t *testing.T, w *world, r *room) {
		dag := pinstest.Tree("never whole", 3)
		w.tier.AddNetwork(dag.Blocks[0])
		p := w.add(alice, request(dag.Root))
		w.until("it is being fetched", func() bool { return w.get(p).DAG.Hot == pins.HotFetching })
		quiet := func(patience time.Duration) (came bool) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			pins.Quiet(ctx, w.Service)
			return ctx.Err() == nil
		}
		if quiet(300 * time.Millisecond) {
			t.Error("with room, the fetch is disturbed at once")
		}
		for _, little := range []pins.Room{pins.RoomScarce, pins.RoomNone} {
			r.set(little)
			if !quiet(20 * time.Second) {
				t.Errorf("with little room (%d), the collection waits for the fetch", little)
			}
		}
	})
}

// A million held roots cost a collection nothing.
func TestWhatIsHereInPartIsFoundByIndexesOnly(t *testing.T) {
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), pins.Migrations()...); err != nil {
		t.Fatal(err)
	}
	err := db.Read(t.Context(), func(tx *gorm.DB) error {
		var plan []struct{ Detail string }
		if err := tx.Raw(`EXPLAIN QUERY PLAN ` + pins.PartialRoots).Scan(&plan).Error; err != nil {
			return err
		}
		text := fmt.Sprint(plan)
		for _, index := range []string{"roots_fresh", "roots_retry", "roots_claimed", "SEARCH r USING INTEGER PRIMARY KEY"} {
			if !strings.Contains(text, index) {
				t.Errorf("no %s in the plan %s", index, text)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
