package deals_test

import (
	"context"
	"testing"
	"time"

	"github.com/frostpin/frostpin/deals"
)

// TestWhoNeedsTheBytes: what uses them is the same whether they are held or not, and they are needed when they are not.
func TestWhoNeedsTheBytes(t *testing.T) {
	open := deals.Slot{ID: 1, State: deals.Open}
	wanting := deals.Slot{ID: 1, State: deals.Open, Wanting: true}
	filled := deals.Slot{ID: 1, State: deals.Filled}
	in := func(s deals.State, change ...func(a *deals.Attempt)) deals.Attempt {
		a := inState(s)
		a.ID, a.Slot = 2, 1
		for _, c := range change {
			c(&a)
		}
		return a
	}
	pulled := func(a *deals.Attempt) { a.PulledAt = noon }
	renews := func(a *deals.Attempt) { a.ID, a.Renews = 3, 2 }
	for _, test := range []struct {
		name     string
		change   func(a *deals.Archive)
		slot     deals.Slot
		attempts []deals.Attempt
		want     bool
	}{
		{"nothing was made of them yet", func(a *deals.Archive) { a.Piece = nil }, open, nil, true},
		{"a copy is to be proposed", nil, wanting, nil, true},
		{"a lost copy is to be proposed again", nil, wanting, []deals.Attempt{in(deals.Terminated)}, true},
		{"a renewal is to be proposed", nil, deals.Slot{ID: 1, State: deals.Filled, Wanting: true}, []deals.Attempt{in(deals.Active)}, true},
		{"a proposal is on its way", nil, open, []deals.Attempt{in(deals.Proposing)}, true},
		{"a provider has yet to fetch", nil, open, []deals.Attempt{in(deals.Accepted)}, true},
		{"a provider has fetched", nil, open, []deals.Attempt{in(deals.Accepted, pulled)}, false},
		{"a provider seals", nil, open, []deals.Attempt{in(deals.Sealing)}, false},
		{"the copy is active", nil, filled, []deals.Attempt{in(deals.Active)}, false},
		{"a renewal has yet to be fetched", nil, filled, []deals.Attempt{in(deals.Active), in(deals.Accepted, renews)}, true},
		{"active, with one that got stuck before", nil, filled, []deals.Attempt{in(deals.Active), in(deals.Accepted)}, false},
		{"never possible", func(a *deals.Archive) { a.Barred = true }, wanting, nil, false},
		{"not wanted", func(a *deals.Archive) { a.Wanted = false }, wanting, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := deals.Archive{Wanted: true, Held: true, Piece: testPiece(), Terms: deals.Terms{Replicas: 1}}
			if test.change != nil {
				test.change(&a)
			}
			s := deals.StandingOf(a, []deals.Slot{test.slot}, test.attempts)
			if s.UsesBytes != test.want || s.NeedsBytes {
				t.Errorf("held: uses %v, needs %v", s.UsesBytes, s.NeedsBytes)
			}
			a.Held = false
			s = deals.StandingOf(a, []deals.Slot{test.slot}, test.attempts)
			if s.UsesBytes != test.want || s.NeedsBytes != test.want {
				t.Errorf("not held: uses %v, needs %v", s.UsesBytes, s.NeedsBytes)
			}
		})
	}
}

// TestASlotThatWouldProposeSaysSo: while it waits for the bytes, and while it waits to try again.
func TestASlotThatWouldProposeSaysSo(t *testing.T) {
	gone := func(v *deals.View) { v.Archive.Held = false }
	renewal := inState(deals.Active)
	renewal.End = start + deals.EpochsPerDay
	for name, test := range map[string]struct {
		view deals.View
		want bool
	}{
		"nothing yet":                 {wantedView(), true},
		"not held":                    {with(wantedView(), gone), true},
		"failed, in a pause":          {wantedView(ended(deals.Failed, time.Second)), true},
		"failed often, in a pause":    {wantedView(failures(10, time.Hour)...), true},
		"near the end":                {wantedView(renewal), true},
		"near the end, not held":      {with(wantedView(renewal), gone), true},
		"under way":                   {wantedView(changed(deals.Accepted, time.Hour)), false},
		"active":                      {wantedView(inState(deals.Active)), false},
		"active, not held":            {with(wantedView(inState(deals.Active)), gone), false},
		"not wanted, not held":        {with(wantedView(), func(v *deals.View) { v.Archive.Wanted = false; gone(v) }), false},
		"too large to be stored ever": {with(wantedView(), func(v *deals.View) { v.Archive.Barred = true }), false},
	} {
		if got := deals.Next(test.view, deals.Defaults(), noon, start); got.Wanting != test.want {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func (w *world) letGo(wish deals.Wish, held bool) {
	w.t.Helper()
	if err := w.Held(context.Background(), wish.Root, held); err != nil {
		w.t.Fatal(err)
	}
}

// TestAnOffloadedRootStaysStored: letting the bytes go is no loss, and nothing is undone because of it.
func TestAnOffloadedRootStaysStored(t *testing.T) {
	inWorld(t, 3, func(_ *testing.T, w *world) {
		w.start()
		wish := w.wish("offloaded", 2)
		w.untilActive(wish, 2)
		before := w.standing(wish)
		if before.UsesBytes || before.NeedsBytes {
			w.t.Fatalf("everything is stored, and the bytes are in use: %+v", before)
		}
		w.letGo(wish, false)
		w.blocks.forget(wish.Root)
		pass(time.Hour)
		if s := w.standing(wish); s.Cold != deals.ColdStored || s.Active != 2 || s.NeedsBytes || s.Reason != "" {
			w.t.Errorf("got %+v", s)
		}
		if got := w.states(wish); len(got) != 2 || got[0] != deals.Active || got[1] != deals.Active {
			w.t.Errorf("got attempts that are %v", got)
		}
		w.mustBeSound()
	})
}

// TestALostCopyOfAnOffloadedRootIsRepairedOnceItsBytesAreBack: and not before, since there would be nothing to fetch.
func TestALostCopyOfAnOffloadedRootIsRepairedOnceItsBytesAreBack(t *testing.T) {
	inWorld(t, 3, func(_ *testing.T, w *world) {
		w.start()
		wish := w.wish("offloaded and lost", 2)
		w.untilActive(wish, 2)
		w.letGo(wish, false)
		data := w.blocks.forget(wish.Root)
		lost := w.attempts(wish)[0]
		if !w.net.Slash(lost.Provider) {
			w.t.Fatal("nothing was slashed")
		}
		w.until("the loss is seen", 2*time.Hour, func() bool { return w.standing(wish).Active == 1 })
		w.until("the bytes are asked for", time.Hour, func() bool { return w.standing(wish).NeedsBytes })
		if told := w.follow.told(wish); !told.NeedsBytes || told.Cold != deals.ColdDegraded {
			w.t.Errorf("the follower was told %+v", told)
		}
		pass(time.Hour)
		if got := len(w.attempts(wish)); got != 2 {
			w.t.Errorf("without bytes there are %d attempts", got)
		}
		w.blocks.add(data)
		w.letGo(wish, true)
		w.untilActive(wish, 2)
		if s := w.standing(wish); s.Cold != deals.ColdStored || s.NeedsBytes || s.UsesBytes {
			w.t.Errorf("got %+v", s)
		}
		w.mustBeSound()
	})
}

// TestARenewalOfAnOffloadedRootAsksForItsBytes: in time, while the deal that it renews still runs.
func TestARenewalOfAnOffloadedRootAsksForItsBytes(t *testing.T) {
	forLong(t, 2, func(_ *testing.T, w *world) {
		w.start()
		wish := w.wish("offloaded and ending", 1)
		w.untilActive(wish, 1)
		w.letGo(wish, false)
		data := w.blocks.forget(wish.Root)
		w.until("the bytes are asked for", 20*time.Hour, func() bool { return w.standing(wish).NeedsBytes })
		if s := w.standing(wish); s.Cold != deals.ColdStored || s.Active != 1 {
			w.t.Errorf("got %+v", s)
		}
		w.blocks.add(data)
		w.letGo(wish, true)
		w.until("it is renewed", 2*time.Hour, func() bool {
			all := w.states(wish)
			return len(all) == 2 && all[1] == deals.Active
		})
		if s := w.standing(wish); s.UsesBytes {
			w.t.Errorf("got %+v", s)
		}
		w.mustBeSound()
	})
}

// TestBytesThatAreLetGoInUseAreMissedAtOnce: whoever lets them go learns it in the transaction in which he does.
func TestBytesThatAreLetGoInUseAreMissedAtOnce(t *testing.T) {
	inWorld(t, 1, func(_ *testing.T, w *world) {
		wish := w.wish("in use", 1)
		if s := w.standing(wish); !s.UsesBytes || s.NeedsBytes {
			w.t.Errorf("at first: %+v", s)
		}
		w.letGo(wish, false)
		if s := w.standing(wish); !s.UsesBytes || !s.NeedsBytes {
			w.t.Errorf("let go: %+v", s)
		}
		if !w.follow.told(wish).NeedsBytes {
			w.t.Error("the follower was not told")
		}
	})
}
