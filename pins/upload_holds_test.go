package pins_test

import (
	"context"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
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

// slowTier holds releases up until a test lets them go on.
type slowTier struct {
	*pinstest.Tier
	begun, goOn chan struct{}
}

func (s slowTier) Release(ctx context.Context, c cid.Cid) error {
	select {
	case s.begun <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-s.goOn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return s.Tier.Release(ctx, c)
}

// upload holds a DAG as an upload does that has found all of it here.
func (w *world) upload(d pinstest.DAG) (id string, u pins.Upload) {
	w.t.Helper()
	id, err := w.BeginHold(w.t.Context(), []cid.Cid{d.Root})
	if err != nil {
		w.t.Fatal(err)
	}
	w.tier.AddLocal(d.Blocks...)
	var p pins.Progress
	if err := w.tier.Hold(w.t.Context(), d.Root, pins.Limits{Offline: true}, &p); err != nil {
		w.t.Fatal(err)
	}
	blocks, bytes := p.Totals()
	return id, pins.Upload{Of: 1, Hold: id, Size: pins.Extent{Blocks: blocks, Bytes: bytes}}
}

func (w *world) addUploaded(account pins.Account, d pinstest.DAG, u pins.Upload) pins.Pin {
	w.t.Helper()
	p, err := w.AddUploaded(w.t.Context(), account, request(d.Root), pins.Decision{Terms: pins.Undecided}, u)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// The last pin of a DAG goes while somebody else uploads it. Nobody but this server has it.
func TestReleaseThatIsUnderWayLosesNothingOfAnUpload(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		r, cfg := &room{}, config()
		cfg.Room = func() pins.Room { return pins.Room(r.now.Load()) }
		tier := slowTier{pinstest.NewTier(), make(chan struct{}), make(chan struct{})}
		w := newWorld(t, db, tier.Tier, cfg)
		w.Service = pins.New(cfg, db, tier, discard(), time.Now)
		w.start()
		d := pinstest.Tree("again", 3)
		tier.AddLocal(d.Blocks...)
		first := w.untilStatus(w.add(alice, request(d.Root)), spec.Pinned)
		r.set(pins.RoomScarce)
		w.delete(first)
		<-tier.begun // before the upload says what it holds
		id, u := w.upload(d)
		p := w.addUploaded(bob, d, u)
		w.EndHold(id)
		r.set(pins.RoomNone) // nothing is started: not what was uploaded either
		tier.goOn <- struct{}{}
		w.until("it was released", func() bool { return !w.held(d.Root) })
		if err := pins.Collect(t.Context(), w.Service); err != nil {
			t.Fatal(err)
		}
		for _, b := range d.Blocks {
			if !tier.Has(b.Cid()) {
				t.Errorf("block %s is gone", b.Cid())
			}
		}
		r.set(pins.RoomScarce)
		w.untilStatus(p, spec.Pinned)
	})
}

func TestReleaseLeavesWhatAnUploadHolds(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		tier := slowTier{pinstest.NewTier(), make(chan struct{}), make(chan struct{})}
		w := newWorld(t, db, tier.Tier, config())
		w.Service = pins.New(config(), db, tier, discard(), time.Now)
		w.start()
		d, other := pinstest.Tree("again", 3), pinstest.Tree("other", 3)
		tier.AddLocal(d.Blocks...)
		tier.AddLocal(other.Blocks...)
		first := w.untilStatus(w.add(alice, request(d.Root)), spec.Pinned)
		second := w.untilStatus(w.add(alice, request(other.Root)), spec.Pinned)
		id, u := w.upload(d)
		w.delete(first)
		w.delete(second)
		<-tier.begun
		tier.goOn <- struct{}{}
		w.until("the other is let go", func() bool { return !w.held(other.Root) })
		start := time.Now()
		w.until("the release had its time", func() bool {
			select {
			case <-tier.begun:
				t.Fatal("what an upload holds is being released")
			default:
			}
			return time.Since(start) > time.Second
		})
		p := w.addUploaded(bob, d, u)
		w.EndHold(id)
		w.untilStatus(p, spec.Pinned)
		if !w.held(d.Root) {
			t.Error("it is not held")
		}
	})
}

// An upload that has ended without a pin takes nothing away from another one that is at work.
func TestEndOfAnUploadLeavesWhatAnotherHolds(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		d := pinstest.Tree("twice", 3)
		ended, _ := w.upload(d)
		other, u := w.upload(d) // after those that have ended were listed
		if err := pins.EndListed(t.Context(), w.Service, ended, d.Root); err != nil {
			t.Fatal(err)
		}
		if known, err := pins.HotOf(t.Context(), w.Service, d.Root); err == nil {
			t.Errorf("what another upload holds is %s", known)
		}
		w.EndHold(ended)
		p := w.addUploaded(bob, d, u)
		w.EndHold(other)
		w.untilStatus(p, spec.Pinned)
		if !w.held(d.Root) {
			t.Error("it is not held")
		}
	})
}

func TestLargeUploadsAreHeldAlsoWithLittleRoom(t *testing.T) {
	eachRoom(t, nil, func(t *testing.T, w *world, r *room) {
		r.set(pins.RoomScarce)
		d := pinstest.Tree("large", 4200)
		id, u := w.upload(d)
		p := w.addUploaded(bob, d, u)
		w.EndHold(id)
		if p.Status() != spec.Pinned {
			t.Errorf("the answer says %s: %v", p.Status(), p.Info())
		}
		if got := w.get(p).DAG; got.Hot != pins.HotHeld || got.Blocks != u.Size.Blocks || got.Bytes != u.Size.Bytes {
			t.Errorf("held is %+v, uploaded was %+v", got, u.Size)
		}
	})
}

// Whose look has failed is held by the scheduler.
func TestUploadsThatWaitAreHeldAlsoWithLittleRoom(t *testing.T) {
	eachRoom(t, nil, func(t *testing.T, w *world, r *room) {
		r.set(pins.RoomScarce)
		d := pinstest.Tree("large", 4200)
		id, u := w.upload(d)
		w.tier.LosePin(d.Root)
		p := w.addUploaded(bob, d, u)
		w.EndHold(id)
		w.untilStatus(p, spec.Pinned)
	})
}

// What was uploaded and has gone is fetched like anything else.
func TestUploadsThatAreNotHereAreFetchedOnceThereIsRoom(t *testing.T) {
	eachRoom(t, nil, func(t *testing.T, w *world, r *room) {
		r.set(pins.RoomScarce)
		d := pinstest.Tree("gone", 3)
		id, u := w.upload(d)
		w.tier.LosePin(d.Root)
		w.tier.RemoveLocal(d.Blocks[1].Cid())
		p := w.addUploaded(bob, d, u)
		w.EndHold(id)
		w.tier.AddNetwork(d.Blocks...)
		r.set(pins.RoomPlenty)
		w.untilStatus(p, spec.Pinned)
	})
}
