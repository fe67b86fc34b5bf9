package pins_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

func TestReliefIsGivenOnlyWhereNothingMoves(t *testing.T) {
	type look struct {
		after       time.Duration
		room        pins.Room
		failed      bool
		walking     int
		held        int64
		collections int64
		want        string
	}
	for name, looks := range map[string][]look{
		"plenty": {{want: "none"}, {after: time.Hour, want: "none"}},
		"none: collected first, then the younger go, again and again": {
			{room: pins.RoomNone, want: "none"},
			{after: 6 * time.Second, room: pins.RoomNone, want: "collect"},
			{after: time.Minute, room: pins.RoomNone, want: "none"},
			{after: time.Second, room: pins.RoomNone, collections: 1, want: "drop"},
			{after: time.Second, room: pins.RoomNone, collections: 1, want: "none"},
			{after: 6 * time.Second, room: pins.RoomNone, collections: 1, want: "collect"},
			{after: time.Second, room: pins.RoomNone, collections: 2, want: "drop"},
		},
		"scarce: the oldest goes on before any goes": {
			{room: pins.RoomScarce, want: "none"},
			{after: 6 * time.Second, room: pins.RoomScarce, want: "resume"},
			{after: time.Second, room: pins.RoomScarce, walking: 1, want: "none"},
			{after: time.Hour, room: pins.RoomScarce, walking: 1, want: "none"},
			{after: time.Second, room: pins.RoomScarce, want: "none"},
			{after: 6 * time.Second, room: pins.RoomScarce, want: "collect"},
			{after: time.Second, room: pins.RoomScarce, collections: 1, want: "drop"},
		},
		"scarce, and it has come whole: the next goes on": {
			{room: pins.RoomScarce, want: "none"},
			{after: 6 * time.Second, room: pins.RoomScarce, want: "resume"},
			{after: time.Second, room: pins.RoomScarce, held: 1, want: "none"},
			{after: time.Second, room: pins.RoomScarce, held: 1, want: "none"},
			{after: 6 * time.Second, room: pins.RoomScarce, held: 1, want: "resume"},
		},
		"collecting was enough": {
			{room: pins.RoomNone, want: "none"},
			{after: 6 * time.Second, room: pins.RoomNone, want: "collect"},
			{after: time.Second, collections: 1, want: "none"},
			{after: time.Second, room: pins.RoomNone, collections: 1, want: "none"},
		},
		"only walks say so": {
			{failed: true, walking: 3, want: "none"},
			{after: 50 * time.Second, failed: true, want: "none"},
			{after: 11 * time.Second, failed: true, walking: 2, want: "collect"},
			{after: time.Second, failed: true, collections: 1, want: "drop"},
		},
		"some walks say so, and others end": {
			{failed: true, want: "none"},
			{after: 50 * time.Second, failed: true, held: 1, want: "none"},
			{after: 50 * time.Second, failed: true, held: 1, want: "none"},
		},
	} {
		relieve, now := pins.Relieve(), time.Unix(1e9, 0)
		for i, l := range looks {
			now = now.Add(l.after)
			if got := relieve(l.room, l.failed, l.walking, l.held, l.collections, now); got != l.want {
				t.Errorf("%s: look %d: %s, want %s", name, i, got, l.want)
			}
		}
	}
}

// A cramped world has a disk of its own: the room is what the blocks that are stored leave of it.
type cramped struct {
	*world
	scarce, none atomic.Int64 // bytes; 0: no bound
	skip         atomic.Int64 // by how much the clock is ahead
}

func eachCramped(t *testing.T, stall time.Duration, test func(t *testing.T, w *cramped)) {
	t.Parallel() // tests here wait more than they work
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		w := &cramped{world: &world{t: t, db: db, tier: pinstest.NewTier(), stop: func() {}}}
		cfg := config()
		cfg.GCEvery = 50 * time.Millisecond
		cfg.Limits.Stall = stall
		cfg.Room = func() pins.Room {
			used, err := w.tier.Usage(t.Context())
			none, scarce := w.none.Load(), w.scarce.Load()
			switch {
			case err != nil:
				return pins.RoomPlenty
			case none > 0 && used.Bytes >= none:
				return pins.RoomNone
			case scarce > 0 && used.Bytes >= scarce:
				return pins.RoomScarce
			}
			return pins.RoomPlenty
		}
		w.Service = pins.New(cfg, db, w.tier, discard(), func() time.Time { return time.Now().Add(time.Duration(w.skip.Load())) })
		w.start()
		test(t, w)
		w.stop()
	})
}

// most puts a DAG on the network but for one block, and returns what puts that there.
func (w *cramped) most(d pinstest.DAG) (rest func()) {
	last := d.Blocks[len(d.Blocks)-1]
	if last.Cid().Equals(d.Root) {
		last = d.Blocks[0]
	}
	w.tier.AddNetwork(d.Blocks...)
	w.tier.RemoveNetwork(last.Cid())
	return func() { w.tier.AddNetwork(last) }
}

func TestDAGsThatWaitForEachOthersRoomAllEndInTime(t *testing.T) {
	eachCramped(t, time.Minute, func(t *testing.T, w *cramped) {
		var waiting []pins.Pin
		var rests []func()
		size := pinstest.Tree("first", 40).Size()
		w.scarce.Store(size * 22 / 10)
		w.none.Store(size * 25 / 10)
		for _, name := range []string{"first", "second", "third"} {
			d := pinstest.Tree(name, 40)
			rests = append(rests, w.most(d))
			waiting = append(waiting, w.add(alice, request(d.Root)))
		}
		w.until("all are stopped for want of room", func() bool {
			for _, p := range waiting {
				if !strings.Contains(w.get(p).Info()["status_details"], "no room") {
					return false
				}
			}
			return true
		})
		for _, rest := range rests {
			rest()
		}
		w.untilStatus(waiting[0], spec.Pinned)
		for _, p := range waiting[1:] {
			if p = w.get(p); p.Status() == spec.Failed {
				t.Errorf("%s has failed: %v", p.CID, p.Info())
			}
		}
		w.scarce.Store(0)
		w.none.Store(0)
		w.skip.Add(int64(time.Hour))
		for _, p := range waiting[1:] {
			w.untilStatus(p, spec.Pinned)
		}
	})
}

func TestDAGThatHasNoRoomEvenAloneSaysSoAndMakesRoomForOthers(t *testing.T) {
	eachCramped(t, 2*time.Second, func(t *testing.T, w *cramped) {
		large := pinstest.Tree("large", 200)
		rest := w.most(large)
		w.none.Store(large.Size() / 4)
		w.scarce.Store(large.Size() / 5)
		p := w.add(alice, request(large.Root))
		w.until("it says that it has no room", func() bool {
			p = w.get(p)
			return strings.Contains(p.Info()["status_details"], "no room on the disk for all of it") && p.Status() == spec.Queued
		})
		small := pinstest.Tree("small", 3)
		w.tier.AddNetwork(small.Blocks...)
		w.untilStatus(w.add(bob, request(small.Root)), spec.Pinned)

		rest()
		w.none.Store(0)
		w.scarce.Store(0)
		w.skip.Add(int64(2 * time.Hour))
		w.untilStatus(p, spec.Pinned)
	})
}

func TestWithLittleRoomTheOldestUnfinishedDAGGoesOn(t *testing.T) {
	eachCramped(t, 2*time.Second, func(t *testing.T, w *cramped) {
		d, fresh := pinstest.Tree("unfinished", 40), pinstest.Tree("fresh", 3)
		rest := w.most(d)
		w.tier.AddNetwork(fresh.Blocks...)
		p := w.add(alice, request(d.Root))
		w.until("most of it has come", func() bool { return w.get(p).DAG.Blocks > 10 })
		w.scarce.Store(1)
		q := w.add(alice, request(fresh.Root))
		w.until("it has stalled", func() bool { return strings.Contains(w.get(p).Info()["status_details"], "no new block") })
		rest()
		w.untilStatus(p, spec.Pinned)
		if w.get(q).Status() != spec.Queued {
			t.Errorf("the new pin is %s", w.get(q).Status())
		}
	})
}
