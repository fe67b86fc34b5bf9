package pins_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// everything says that whatever is stored is to go.
func everything(context.Context) (*pins.Dues, error) { return &pins.Dues{Hot: true, Cold: true}, nil }

// lapse lets pins go, of which there must be so many.
func (w *world) lapse(account pins.Account, may func(context.Context) (*pins.Dues, error), want int) {
	w.t.Helper()
	if n, err := w.Lapse(w.t.Context(), account, may); n != want || err != nil {
		w.t.Fatalf("%d pins were let go, want %d: %v", n, want, err)
	}
}

func (w *world) paid(account pins.Account) {
	w.t.Helper()
	if err := w.Retry(w.t.Context(), account, spec.ReasonInsufficientFunds); err != nil {
		w.t.Fatal(err)
	}
}

// holdTen adds a pin that is taken for one of ten bytes, without the time in which a DAG is held.
func (w *world) holdTen(account pins.Account, d pinstest.DAG) pins.Pin {
	w.t.Helper()
	w.tier.AddPin(d.Root) // or a comparison that comes meanwhile finds it lost
	p := w.add(account, request(d.Root))
	if err := pins.SetHeld(w.t.Context(), w.Service, d.Root, 1, 10); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// hold adds a pin whose blocks are here.
func (w *world) hold(account pins.Account, d pinstest.DAG) pins.Pin {
	w.t.Helper()
	w.tier.AddLocal(d.Blocks...)
	return w.untilStatus(w.add(account, request(d.Root)), spec.Pinned)
}

// counts are how many pins of an account a list finds per status.
func (w *world) counts(account pins.Account) map[spec.Status]int64 {
	w.t.Helper()
	counts := map[spec.Status]int64{}
	for _, status := range all().Statuses {
		q := all()
		q.Statuses = []spec.Status{status}
		if n := w.list(account, q).Count; n > 0 {
			counts[status] = n
		}
	}
	return counts
}

func TestLetGoPinStaysFailedAndAPaymentBringsItBack(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		d := pinstest.Tree("mine", 3)
		p := w.hold(alice, d)
		w.tier.AddNetwork(d.Blocks...)
		w.lapse(alice, everything, 1)
		got := w.get(p)
		details := got.Info()["status_details"]
		if got.Status() != spec.Failed || got.Lapsed.IsZero() || !strings.Contains(details, "INSUFFICIENT_FUNDS: ") || !strings.Contains(details, "payment") {
			t.Errorf("it is %s since %s: %q", got.Status(), got.Lapsed, details)
		}
		w.until("its hot copy is gone", func() bool { return !w.held(d.Root) })
		w.until("its root is given up", func() bool { return strings.Contains(pins.Dump(w.Service), "Hot:gave_up") })
		if c := w.counts(alice); c[spec.Failed] != 1 || len(c) != 1 {
			t.Errorf("a list has %v", c)
		}
		if usage, err := w.Usage(t.Context(), alice); err != nil || usage.Bytes != 0 || usage.Pins[spec.Failed] != 1 {
			t.Errorf("it uses %+v: %v", usage, err)
		}
		w.lapse(alice, everything, 0)
		w.paid(bob)
		if w.get(p).Status() != spec.Failed {
			t.Error("somebody else's payment brought it back")
		}
		w.paid(alice)
		if lapsed, err := w.HasLapsed(t.Context(), alice); lapsed || err != nil {
			t.Errorf("it is still let go: %v", err)
		}
		w.untilStatus(p, spec.Pinned)
		if !w.held(d.Root) {
			t.Error("it is pinned and not held")
		}
	})
}

func TestWhatOthersPinStaysHotAndTheirsWhenAnAccountIsLetGo(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		d := pinstest.Tree("shared", 3)
		mine, again, theirs := w.hold(alice, d), w.hold(alice, d), w.hold(bob, d)
		w.lapse(alice, everything, 2)
		check := func(when string) {
			t.Helper()
			if !w.held(d.Root) || w.get(theirs).Status() != spec.Pinned || w.get(theirs).DAG.Hot != pins.HotHeld {
				t.Errorf("%s: the other account's pin is %s, held %t", when, w.get(theirs).Status(), w.held(d.Root))
			}
			for _, p := range []pins.Pin{mine, again} {
				if got := w.get(p); got.Status() != spec.Failed || got.Info()["hot_status"] != "gave_up" {
					t.Errorf("%s: it is %s, %v", when, got.Status(), got.Info())
				}
			}
		}
		check("let go")
		if got := holdingsNow(t, w); !slices.Equal(got, []pins.ID{theirs.ID}) {
			t.Errorf("%v are paid for, want the other account's alone", got)
		}
		// What happens to the DAG from now on is nothing to the pins that were let go.
		w.setHot(d.Root, pins.HotFetching)
		if c := w.counts(alice); c[spec.Failed] != 2 {
			t.Errorf("a list has %v", c)
		}
		w.setHot(d.Root, pins.HotHeld)
		check("held again")
		if got := holdingsNow(t, w); !slices.Equal(got, []pins.ID{theirs.ID}) {
			t.Errorf("held again: %v are paid for", got)
		}
		w.delete(again)
		if err := pins.Compare(t.Context(), w.Service); err != nil {
			t.Fatal(err)
		}
		if !w.held(d.Root) {
			t.Error("deleting a pin that was let go took the other account's copy")
		}
		w.paid(alice)
		if got := w.get(mine); got.Status() != spec.Pinned || len(holdingsNow(t, w)) != 2 {
			t.Errorf("paid, it is %s, and %v are paid for", got.Status(), holdingsNow(t, w))
		}
		w.lapse(alice, everything, 1)
		w.delete(theirs)
		w.until("the last who paid has gone", func() bool { return !w.held(d.Root) })
		if got := w.get(mine); got.Status() != spec.Failed {
			t.Errorf("it is %s", got.Status())
		}
		w.delete(mine)
		w.until("nothing names it", func() bool { return pinsOfRoots(w) == 0 })
	})
}

// holdingsNow are the pins that occupy hot storage, in the order of their ids.
func holdingsNow(t *testing.T, w *world) (ids []pins.ID) {
	t.Helper()
	for h, err := range w.Holdings(t.Context(), true) {
		if err != nil {
			t.Fatal(err)
		}
		if h.Hot && h.Until.IsZero() {
			ids = append(ids, h.Pin)
		}
	}
	return ids
}

// pinsOfRoots is how many roots there are.
func pinsOfRoots(w *world) int { return strings.Count(pins.Dump(w.Service), "claimed by") }

func TestSomebodyWhoAsksForALetGoDAGGetsItAlone(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		d := pinstest.Tree("later", 3)
		p := w.hold(alice, d)
		w.lapse(alice, everything, 1)
		w.until("it is gone", func() bool { return !w.held(d.Root) })
		theirs := w.hold(bob, d)
		if got := w.get(p); got.Status() != spec.Failed {
			t.Errorf("it is %s", got.Status())
		}
		w.lapse(bob, func(context.Context) (*pins.Dues, error) { return nil, nil }, 0) //nolint:nilnil // nothing is due
		if w.get(theirs).Status() != spec.Pinned || !w.held(d.Root) {
			t.Error("a pin was let go without need")
		}
	})
}

// TestLettingGoGoesOnWhereAServerWasKilled ends a server between the rows and the hot tier, and within the batches.
func TestLettingGoGoesOnWhereAServerWasKilled(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		w := newWorld(t, db, pinstest.NewTier(), config())
		w.start()
		d, other := pinstest.Tree("killed", 3), pinstest.Tree("not yet", 3)
		w.hold(alice, other)
		p := w.hold(alice, d)
		w.tier.FailRelease(pins.ErrUnavailable)
		kept := w.hold(bob, pinstest.Tree("bob's", 3))
		killed := errors.New("killed")
		_, err := w.Lapse(t.Context(), alice, func(ctx context.Context) (*pins.Dues, error) {
			dues, err := everything(ctx)
			dues.Owes = func(s pins.Stock) bool { return s.Hot > other.Size() }
			return dues, err
		})
		if err != nil || w.get(p).Status() != spec.Failed {
			t.Fatalf("it is %s: %v", w.get(p).Status(), err)
		}
		if _, err := w.Lapse(t.Context(), alice, func(context.Context) (*pins.Dues, error) { return nil, killed }); !errors.Is(err, killed) {
			t.Fatal(err)
		}
		w.stop()
		if !w.held(d.Root) || !w.held(other.Root) {
			t.Fatal("the tier has let go of it although it cannot")
		}
		w.tier.FailRelease(nil)
		again := newWorld(t, db, w.tier, config())
		again.start()
		again.until("the rest of the work is done", func() bool { return !again.held(d.Root) })
		if !again.held(other.Root) || !again.held(kept.Root) {
			t.Error("more was let go than was to be")
		}
		again.lapse(alice, everything, 1)
		again.until("the next batch is done", func() bool { return !again.held(other.Root) })
		if !again.held(kept.Root) {
			t.Error("the other account's is gone")
		}
	})
}

func TestTheNewestPinsAreLetGoUntilTheRestCostsNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		list := make([]pins.Pin, 4)
		for i := range list {
			list[i] = w.hold(alice, pinstest.Tree(string(rune('a'+i)), 3))
		}
		size := list[0].DAG.Bytes
		w.lapse(alice, func(context.Context) (*pins.Dues, error) {
			return &pins.Dues{Hot: true, Owes: func(s pins.Stock) bool { return s.Hot > 2*size+size/2 }}, nil
		}, 2)
		for i, p := range list {
			if want := map[bool]spec.Status{true: spec.Pinned, false: spec.Failed}[i < 2]; w.get(p).Status() != want {
				t.Errorf("pin %d is %s, want %s", i, w.get(p).Status(), want)
			}
		}
		w.lapse(alice, func(context.Context) (*pins.Dues, error) { return &pins.Dues{Cold: true}, nil }, 0)
	})
}

// TestAPinThatIsRemovedMeanwhileCostsNoOtherOne removes the newest pin between the sum of what is kept and its own turn.
func TestAPinThatIsRemovedMeanwhileCostsNoOtherOne(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		list := make([]pins.Pin, 3)
		for i := range list {
			list[i] = w.hold(alice, pinstest.Tree(string(rune('a'+i)), 3))
		}
		size, asked := list[0].DAG.Bytes, 0
		_, err := w.Lapse(t.Context(), alice, func(context.Context) (*pins.Dues, error) {
			return &pins.Dues{Hot: true, Owes: func(s pins.Stock) bool {
				if asked++; asked == 1 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second) // in which it may succeed, or wait for its turn
					defer cancel()
					_ = w.Delete(ctx, alice, list[2].ID)
				}
				return s.Hot > size+size/2
			}}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := w.get(list[0]); got.Status() != spec.Pinned {
			t.Error("the oldest pin went, which costs nothing alone")
		}
		if got := w.get(list[1]); got.Status() != spec.Failed {
			t.Errorf("the second pin is %s", got.Status())
		}
	})
}

func TestOfManyPinsTheOldestStayThatCostNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		const many, free = 450, 100 // the last of them are in the second batch, which is not the last
		list := make([]pins.Pin, many)
		for i := range list {
			list[i] = w.holdTen(alice, pinstest.Tree(strings.Repeat("y", i+1), 1))
		}
		again := w.add(alice, request(list[0].Root)) // the newest pin and the oldest are of one DAG, and go together
		w.lapse(alice, func(context.Context) (*pins.Dues, error) {
			return &pins.Dues{Hot: true, Owes: func(s pins.Stock) bool { return s.Hot > 10*free }}, nil
		}, many-free+1)
		for i, p := range append(list, again) {
			want := spec.Failed
			if 1 <= i && i <= free {
				want = spec.Pinned
			}
			if got := w.get(p).Status(); got != want {
				t.Errorf("pin %d is %s, want %s", i, got, want)
			}
		}
	})
}

func TestManyPinsAreLetGoInBatchesAndEachAsksFirst(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		const many = 450
		for i := range many {
			w.holdTen(alice, pinstest.Tree(strings.Repeat("x", i+1), 1))
		}
		w.lapse(alice, func(ctx context.Context) (*pins.Dues, error) {
			if w.counts(alice)[spec.Failed] >= 400 { // and not after so many questions: what meets another is tried again
				return nil, nil //nolint:nilnil // the money has come
			}
			return everything(ctx)
		}, 400)
		if c := w.counts(alice); c[spec.Failed] != 400 {
			t.Errorf("a list has %v", c)
		}
		w.paid(alice)
		if lapsed, err := w.HasLapsed(t.Context(), alice); lapsed || err != nil {
			t.Errorf("some are still let go: %v", err)
		}
	})
}

func TestLetGoPinComesBackFromColdOnlyWhenItIsPaid(t *testing.T) {
	src := &source{dags: map[string]pinstest.DAG{}}
	eachCold(t, func(c *pins.Config) { c.ColdSource = src }, func(t *testing.T, w *world, a *archive) {
		src.tier = w.tier
		w.start()
		d := pinstest.Tree("cold", 3)
		w.tier.AddNetwork(d.Blocks...)
		p := w.addCold(alice, d.Root, 1)
		w.untilStatus(p, spec.Pinned)
		w.lapse(alice, everything, 1)
		w.until("its hot copy is gone", func() bool { return !w.held(d.Root) })
		w.until("its root is given up", func() bool { return strings.Contains(pins.Dump(w.Service), "Hot:gave_up") })
		if size, err := w.Size(t.Context(), d.Root); err != nil || size != d.Size() { // it may come back without a question
			t.Errorf("it has %d bytes, %v; want %d", size, err, d.Size())
		}
		for _, b := range d.Blocks {
			w.tier.RemoveNetwork(b.Cid())
		}
		if err := pins.Collect(t.Context(), w.Service); err != nil {
			t.Fatal(err)
		}
		// A deal that was on its way is proven now. That is no reason to fetch what nobody pays.
		src.dags[d.Root.KeyString()] = d
		stored := deals.Standing{Cold: deals.ColdStored, Wanted: 1, Active: 1, Ever: 1, Kept: true}
		if err := a.set(t.Context(), deals.Wish{Root: d.Root, Terms: 1}, stored); err != nil {
			t.Fatal(err)
		}
		if got := w.get(p); got.Status() != spec.Failed || strings.Contains(pins.Dump(w.Service), "Hot:restoring") {
			t.Fatalf("it is %s\n%s", got.Status(), pins.Dump(w.Service))
		}
		a.mustAgree(t, w.Service, alice)
		w.paid(alice)
		w.untilStatus(p, spec.Pinned)
		w.until("it is held again", func() bool { return w.held(d.Root) })
	})
}

func TestOnlyTheAccountIsToldWhatItHasLost(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		told := &journal{}
		cfg := config()
		cfg.Journal = told
		w := newWorld(t, db, pinstest.NewTier(), cfg)
		w.start()
		d := pinstest.Tree("told", 3)
		p, theirs := w.hold(alice, d), w.hold(bob, d)
		told.take()
		w.lapse(alice, everything, 1)
		w.paid(alice)
		if got, want := told.take(), []string{"pin.failed@1", "pin.pinned@1"}; !slices.Equal(got, want) {
			t.Errorf("was told %q, want %q", got, want)
		}
		w.delete(theirs)
		w.lapse(alice, everything, 1)
		w.until("it is given up", func() bool { return strings.Contains(pins.Dump(w.Service), "Hot:gave_up") })
		if got, want := told.take(), []string{"pin.failed@1"}; !slices.Equal(got, want) {
			t.Errorf("was told %q, want %q", got, want)
		}
		named := func(by time.Duration) int {
			t.Helper()
			list, err := w.Naming(t.Context(), alice, pins.Naming{Root: d.Root.String(), By: w.get(p).Lapsed.Add(by), Limit: 10})
			if err != nil {
				t.Fatal(err)
			}
			return len(list)
		}
		if named(time.Second) != 1 || named(time.Hour) != 0 {
			t.Errorf("%d and %d pins are told what happens just after and an hour after", named(time.Second), named(time.Hour))
		}
	})
}

func TestAPaymentDoesNotBringBlockedContentBack(t *testing.T) {
	t.Parallel()
	for name, releasing := range map[string]bool{"its copy is gone": false, "its copy is about to go": true} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				d := pinstest.Tree("bad", 3)
				p := w.hold(alice, d)
				w.tier.AddNetwork(d.Blocks...)
				if releasing {
					w.tier.FailRelease(pins.ErrUnavailable)
				}
				w.lapse(alice, everything, 1)
				if !releasing {
					w.until("its root is given up", func() bool { return strings.Contains(pins.Dump(w.Service), "Hot:gave_up") })
				}
				w.block(d.Root)
				w.paid(alice)
				hot, err := pins.HotOf(t.Context(), w.Service, d.Root)
				if lapsed, lapsedErr := w.HasLapsed(t.Context(), alice); hot != pins.HotGaveUp || lapsed || err != nil || lapsedErr != nil {
					t.Errorf("it is %s, let go %t: %v, %v", hot, lapsed, err, lapsedErr)
				}
				if got := w.get(p); got.Status() != spec.Failed || !strings.Contains(got.Info()["status_details"], pins.ReasonBlocked) {
					t.Errorf("it is %s: %v", got.Status(), got.Info())
				}
				w.tier.FailRelease(nil)
				w.until("nothing is held", func() bool { return !w.held(d.Root) })
			})
		})
	}
}

// TestALetGoPinIsReplacedWhileItsCopyGoes replaces it when the hot tier is too slow to have let it go.
func TestALetGoPinIsReplacedWhileItsCopyGoes(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		d := pinstest.Tree("slow", 3)
		p := w.hold(alice, d)
		w.tier.FailRelease(pins.ErrUnavailable)
		w.lapse(alice, everything, 1)
		if _, err := w.Replace(t.Context(), alice, p.ID, request(pinstest.Tree("nobody has it", 3).Root), pins.Decision{}); err != nil {
			t.Fatal(err)
		}
		if !w.Forgotten(d.Root) {
			t.Error("what was let go is kept")
		}
		w.tier.FailRelease(nil)
		w.until("its copy is gone", func() bool { return !w.held(d.Root) })
	})
}
