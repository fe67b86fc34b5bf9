package pins_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// A room is how much there is, as a test has it.
type room struct{ now atomic.Int64 }

func (r *room) set(now pins.Room) { r.now.Store(int64(now)) }

// eachRoom runs a test on every database, with a service whose disk the test fills and empties.
func eachRoom(t *testing.T, change func(*pins.Config), test func(t *testing.T, w *world, r *room)) {
	t.Parallel() // tests here wait more than they work
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		r := &room{}
		cfg := config()
		cfg.Room = func() pins.Room { return pins.Room(r.now.Load()) }
		if change != nil {
			change(&cfg)
		}
		w := newWorld(t, db, pinstest.NewTier(), cfg)
		w.start()
		test(t, w, r)
	})
}

func (w *world) waitsForSpace(p pins.Pin) bool {
	info := w.get(p).Info()
	return info["waiting_for"] == "disk space" && strings.Contains(info["status_details"], "waiting for disk space")
}

func TestWithLittleRoomNewPinsWaitSaySoAndGoOnByThemselves(t *testing.T) {
	eachRoom(t, nil, func(t *testing.T, w *world, r *room) {
		before := pinstest.Tree("before", 3)
		w.tier.AddNetwork(before.Blocks...)
		held := w.untilStatus(w.add(alice, request(before.Root)), spec.Pinned)

		r.set(pins.RoomScarce)
		dag := pinstest.Tree("waits", 3)
		w.tier.AddNetwork(dag.Blocks...)
		p := w.add(alice, request(dag.Root))
		if p.Status() != spec.Queued || p.Info()["waiting_for"] != "disk space" {
			t.Errorf("%s %v", p.Status(), p.Info())
		}
		if !w.waitsForSpace(p) || w.waitsForSpace(held) {
			t.Errorf("%v, and of what is held %v", w.get(p).Info(), w.get(held).Info())
		}
		// Removing goes on, and by it the scheduler has made its passes.
		w.delete(held)
		w.until("what was removed is let go", func() bool { return !w.held(before.Root) })
		if n := w.tier.Holds(dag.Root); n != 0 {
			t.Errorf("fetched %d times", n)
		}
		// What is here already takes no room.
		here := pinstest.Leaf("here")
		w.tier.AddLocal(here.Blocks...)
		if p := w.add(alice, request(here.Root)); p.Status() != spec.Pinned {
			t.Errorf("what is here is %s", p.Status())
		}

		r.set(pins.RoomPlenty)
		p = w.untilStatus(p, spec.Pinned)
		if p.Info()["waiting_for"] != "" {
			t.Errorf("it still says that it waits: %v", p.Info())
		}
	})
}

func TestWithoutRoomWhatIsBeingFetchedStopsAndGoesOnLater(t *testing.T) {
	slow := func(c *pins.Config) { c.Limits.Stall, c.Limits.Idle = time.Hour, time.Hour }
	eachRoom(t, slow, func(t *testing.T, w *world, r *room) {
		dag := pinstest.Tree("stopped", 5)
		last := dag.Blocks[len(dag.Blocks)-1]
		w.tier.AddNetwork(dag.Blocks...)
		w.tier.RemoveNetwork(last.Cid())
		p := w.untilStatus(w.add(alice, request(dag.Root)), spec.Pinning)
		w.until("it is being fetched", func() bool { return w.tier.Holds(dag.Root) > 0 })

		r.set(pins.RoomNone)
		w.until("it says why it stopped", func() bool {
			return strings.Contains(w.get(p).Info()["status_details"], "no room") && w.waitsForSpace(p)
		})
		w.tier.AddNetwork(last)
		r.set(pins.RoomPlenty)
		w.untilStatus(p, spec.Pinned)
	})
}

// However long there is no room, nobody has tried meanwhile.
func TestWantOfRoomFailsNoPin(t *testing.T) {
	const deadline = 4 * time.Second
	short := func(c *pins.Config) { c.Policy.Deadline = deadline }
	eachRoom(t, short, func(t *testing.T, w *world, r *room) {
		r.set(pins.RoomScarce)
		var waiting []pins.Pin
		for i := range 8 {
			dag := pinstest.Leaf(fmt.Sprint("patient ", i))
			w.tier.AddNetwork(dag.Blocks...)
			waiting = append(waiting, w.add(alice, request(dag.Root)))
		}
		start := time.Now()
		w.until("the deadline has passed", func() bool { return time.Since(start) > deadline+time.Second })
		r.set(pins.RoomPlenty)
		for _, p := range waiting {
			w.until(p.CID+" is pinned or failed", func() bool {
				s := w.get(p).Status()
				return s == spec.Pinned || s == spec.Failed
			})
			if p = w.get(p); p.Status() != spec.Pinned {
				t.Fatalf("%s: %v", p.Status(), p.Info())
			}
		}
	})
}

func TestANodeThatFindsTheDiskFullFailsNoPinEither(t *testing.T) {
	short := func(c *pins.Config) { c.Policy.Deadline = 2 * time.Second }
	eachRoom(t, short, func(t *testing.T, w *world, _ *room) {
		dag := pinstest.Tree("full", 3)
		w.tier.AddNetwork(dag.Blocks...)
		w.tier.FailHold(dag.Root, fmt.Errorf("%w: %w", pins.ErrNoSpace, syscall.ENOSPC))
		p := w.add(alice, request(dag.Root))
		w.until("it says that there was no room", func() bool {
			return strings.Contains(w.get(p).Info()["status_details"], "no room")
		})
		start := time.Now()
		w.until("the deadline has passed", func() bool { return time.Since(start) > 3*time.Second })
		w.tier.FailHold(dag.Root, nil)
		w.until("it is pinned", func() bool {
			if w.get(p).Status() == spec.Failed {
				t.Fatal(w.get(p).Info())
			}
			return w.get(p).Status() == spec.Pinned
		})
	})
}

// The claim on a root whose outcome could not be recorded is given back with the next write that succeeds.
func TestRootsAreGivenBackAsSoonAsTheDatabaseTakesIt(t *testing.T) {
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), pins.Migrations()...); err != nil {
		t.Fatal(err)
	}
	flaky := &flakyDB{DB: db}
	tier := pinstest.NewTier()
	w := &world{t: t, db: db, tier: tier, stop: func() {}}
	w.Service = pins.New(config(), flaky, tier, discard(), time.Now)
	w.start()
	dag := pinstest.Tree("unrecorded", 3)
	tier.AddNetwork(dag.Blocks...)
	p := w.add(alice, request(dag.Root))
	flaky.full.Store(true)
	start := time.Now()
	w.until("some writes have failed", func() bool { return flaky.refused.Load() > 3 && time.Since(start) > time.Second })
	if s := w.get(p).Status(); s == spec.Failed {
		t.Errorf("the pin is %s", s)
	}
	flaky.full.Store(false)
	w.untilStatus(p, spec.Pinned)
}

// A flakyDB refuses writes while it is full.
type flakyDB struct {
	*database.DB
	full    atomic.Bool
	refused atomic.Int64
}

func (f *flakyDB) Write(ctx context.Context, fn func(tx *gorm.DB) error) error {
	if f.full.Load() {
		f.refused.Add(1)
		return database.ErrFull
	}
	return f.DB.Write(ctx, fn)
}
