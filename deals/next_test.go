package deals_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/piece"
)

// testPiece is the piece of some bytes.
func testPiece() *piece.Piece {
	p, err := piece.Sum(bytes.NewReader(bytes.Repeat([]byte("x"), 200)))
	if err != nil {
		panic(err)
	}
	return &p
}

// wantedView is a slot of an archive that is wanted, held and ready, with attempts.
func wantedView(attempts ...deals.Attempt) deals.View {
	v := deals.View{
		Slot:     deals.Slot{ID: 1, Index: 0, State: deals.Open},
		Archive:  deals.Archive{Wanted: true, Held: true, Piece: testPiece(), Terms: deals.Terms{Replicas: 1, Days: 180}},
		Attempts: attempts,
	}
	for i := range v.Attempts {
		v.Attempts[i].ID, v.Attempts[i].Slot, v.Attempts[i].Provider = deals.AttemptID(i+1), 1, deals.ProviderID(1000+i)
	}
	return v
}

// ended is an attempt that ended some time ago.
func ended(s deals.State, ago time.Duration) deals.Attempt {
	a := inState(s)
	a.EndedAt, a.Reason = noon.Add(-ago), "a reason"
	return a
}

func changed(s deals.State, ago time.Duration) deals.Attempt {
	a := inState(s)
	a.ChangedAt = noon.Add(-ago)
	return a
}

func with(v deals.View, change func(v *deals.View)) deals.View {
	change(&v)
	return v
}

func failures(n int, ago time.Duration) (out []deals.Attempt) {
	for range n {
		out = append(out, ended(deals.Failed, ago))
	}
	return out
}

func TestTheNextStepOfASlot(t *testing.T) {
	const head = start
	nameless := func(start deals.Epoch) deals.Attempt {
		a := changed(deals.Published, 48*time.Hour)
		a.Start = start
		return a
	}
	renewal := func() deals.View {
		a := inState(deals.Active)
		a.End = head + 30*deals.EpochsPerDay
		return wantedView(a)
	}
	unwanted := func(v *deals.View) { v.Archive.Wanted = false }
	for _, test := range []struct {
		name  string
		view  deals.View
		do    deals.Do
		state deals.SlotState
	}{
		{"nothing yet: plan", wantedView(), deals.DoPlan, deals.Open},
		{"no piece yet: wait", with(wantedView(), func(v *deals.View) { v.Archive.Piece = nil }), deals.DoWait, deals.Open},
		{"not held: wait", with(wantedView(), func(v *deals.View) { v.Archive.Held = false }), deals.DoWait, deals.Open},
		{"never a piece: wait", with(wantedView(), func(v *deals.View) { v.Archive.Barred, v.Archive.Reason = true, "too large" }), deals.DoWait, deals.Open},
		{"under way: wait", wantedView(changed(deals.Accepted, time.Hour)), deals.DoWait, deals.Filling},
		{"stuck: plan another", wantedView(changed(deals.Accepted, 25*time.Hour)), deals.DoPlan, deals.Filling},
		{"never answered for a day: plan another", wantedView(changed(deals.Proposing, 25*time.Hour)), deals.DoPlan, deals.Filling},
		{"planned for days, because the node is away: wait", wantedView(changed(deals.Planned, 72*time.Hour)), deals.DoWait, deals.Filling},
		{"sealing for days: wait", wantedView(changed(deals.Sealing, 48*time.Hour)), deals.DoWait, deals.Filling},
		{"published under an unknown id, before its start is final: wait", wantedView(nameless(head - 900)), deals.DoWait, deals.Filling},
		{"published under an unknown id, after its start is final: plan another", wantedView(nameless(head - 901)), deals.DoPlan, deals.Filling},
		{"one stuck, another under way: wait", wantedView(changed(deals.Accepted, 25*time.Hour), changed(deals.Accepted, time.Hour)), deals.DoWait, deals.Filling},
		{"active: wait", wantedView(inState(deals.Active)), deals.DoWait, deals.Filled},
		{"active and near its end: plan the renewal", renewal(), deals.DoPlan, deals.Filled},
		{"active and near its end, not held: wait", with(renewal(), func(v *deals.View) { v.Archive.Held = false }), deals.DoWait, deals.Filled},
		{"renewal under way: wait", with(renewal(), func(v *deals.View) {
			next := changed(deals.Accepted, time.Hour)
			next.ID, next.Renews = 2, 1
			v.Attempts = append(v.Attempts, next)
		}), deals.DoWait, deals.Filled},
		{"renewal stuck: plan another", with(renewal(), func(v *deals.View) {
			next := changed(deals.Accepted, 25*time.Hour)
			next.ID, next.Renews = 2, 1
			v.Attempts = append(v.Attempts, next)
		}), deals.DoPlan, deals.Filled},
		{"renewed: wait", with(renewal(), func(v *deals.View) {
			next := inState(deals.Active)
			next.ID, next.Renews, next.End = 2, 1, last
			v.Attempts = append(v.Attempts, next)
		}), deals.DoWait, deals.Filled},
		{"expired: plan", wantedView(ended(deals.Expired, time.Minute)), deals.DoPlan, deals.Open},
		{"failed just now: wait", wantedView(ended(deals.Failed, time.Second)), deals.DoWait, deals.Open},
		{"failed a while ago: plan", wantedView(ended(deals.Failed, time.Hour)), deals.DoPlan, deals.Open},
		{"lost a while ago: plan", wantedView(ended(deals.Terminated, time.Hour)), deals.DoPlan, deals.Open},
		{"cancelled: plan", wantedView(ended(deals.Cancelled, time.Second)), deals.DoPlan, deals.Open},
		{"too many failures: wait a day", wantedView(failures(10, 20*time.Hour)...), deals.DoWait, deals.Open},
		{"too many failures, a day ago: plan", wantedView(failures(10, 25*time.Hour)...), deals.DoPlan, deals.Open},
		{"too many failures, forgiven: plan", with(wantedView(failures(10, time.Hour)...), func(v *deals.View) { v.Slot.Forgiven = noon }), deals.DoPlan, deals.Open},
		{"unwanted and empty: close", with(wantedView(), unwanted), deals.DoClose, deals.Closed},
		{"unwanted and all over: close", with(wantedView(ended(deals.Expired, time.Hour)), unwanted), deals.DoClose, deals.Closed},
		{"unwanted and under way: let it run", with(wantedView(inState(deals.Sealing)), unwanted), deals.DoWait, deals.Filling},
		{"unwanted and near its end: no renewal", with(renewal(), unwanted), deals.DoWait, deals.Filled},
		{"surplus: close", with(wantedView(), func(v *deals.View) { v.Slot.Index = 1 }), deals.DoClose, deals.Closed},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := deals.Next(test.view, deals.Defaults(), noon, head)
			if got.Do != test.do || got.State != test.state {
				t.Fatalf("got %s with %s (%s), want %s with %s", got.Do, got.State, got.Reason, test.do, test.state)
			}
			if got.Do == deals.DoWait && !got.Until.After(noon) {
				t.Errorf("it waits until %s", got.Until)
			}
		})
	}
}

func TestARenewalPrefersTheProviderThatHasTheCopy(t *testing.T) {
	a := inState(deals.Active)
	a.End = start + deals.EpochsPerDay
	got := deals.Next(wantedView(a), deals.Defaults(), noon, start)
	if got.Renews != 1 || got.Prefer != 1000 {
		t.Errorf("got %+v", got)
	}
}

func TestASlotIsExhaustedAfterItsTriesAndGoesOnDaily(t *testing.T) {
	got := deals.Next(wantedView(failures(10, time.Hour)...), deals.Defaults(), noon, start)
	if !got.Exhausted || !strings.Contains(got.Reason, "a reason") || !got.Until.Equal(noon.Add(23*time.Hour)) {
		t.Errorf("got %+v", got)
	}
	// Providers out of reach were not tried.
	var unsent []deals.Attempt
	for _, a := range failures(10, time.Hour) {
		a.SentAt = time.Time{}
		unsent = append(unsent, a)
	}
	if got := deals.Next(wantedView(unsent...), deals.Defaults(), noon, start); got.Exhausted {
		t.Errorf("got %+v", got)
	}
	// What succeeded after the failures forgives them.
	active := inState(deals.Active)
	active.End, active.ActiveAt = start+deals.EpochsPerDay, noon.Add(-time.Minute)
	if got := deals.Next(wantedView(append(failures(10, time.Hour), active)...), deals.Defaults(), noon, start); got.Do != deals.DoPlan || got.Exhausted {
		t.Errorf("got %+v", got)
	}
}

func TestEachFailureDoublesTheWait(t *testing.T) {
	p := deals.Defaults()
	before := time.Duration(0)
	for n := 1; n < 9; n++ {
		got := deals.Next(wantedView(failures(n, 0)...), p, noon, start).Until.Sub(noon)
		if got <= before || got > p.RetryMax {
			t.Errorf("after %d failures it waits %s, and %s before", n, got, before)
		}
		if before = got; got >= p.RetryMax/2 {
			break // from here on jitter is larger than the growth
		}
	}
}

// TestNextIsTotal gives any slot, and wants a step that can be taken.
func TestNextIsTotal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var attempts []deals.Attempt
		for i := range rapid.IntRange(0, 5).Draw(t, "attempts") {
			a := inState(rapid.SampledFrom(deals.States()).Draw(t, fmt.Sprint("state", i)))
			ago := time.Duration(rapid.IntRange(0, 300).Draw(t, "hours")) * time.Hour
			a.ChangedAt = noon.Add(-ago)
			if a.State.Final() {
				a.EndedAt = noon.Add(-ago)
			}
			attempts = append(attempts, a)
		}
		v := wantedView(attempts...)
		v.Archive.Wanted, v.Archive.Held = rapid.Bool().Draw(t, "wanted"), rapid.Bool().Draw(t, "held")
		head := deals.Epoch(rapid.Int64Range(0, int64(last)).Draw(t, "head"))
		got := deals.Next(v, deals.Defaults(), noon, head)
		moving, live := 0, 0
		for _, a := range attempts {
			if !a.State.Final() {
				live++
			}
			if !a.State.Final() && a.State != deals.Active && noon.Sub(a.ChangedAt) < 24*time.Hour && (a.State != deals.Published || head <= a.Start) {
				moving++
			}
		}
		switch got.Do {
		case deals.DoPlan:
			if !v.Archive.Wanted || !v.Archive.Held || moving > 0 && got.Renews == 0 {
				t.Fatalf("planned: %+v", v)
			}
		case deals.DoClose:
			if v.Archive.Wanted || live > 0 {
				t.Fatalf("closed: %+v", v)
			}
		case deals.DoWait:
			if !got.Until.After(noon) {
				t.Fatalf("waits until %s at %s", got.Until, noon)
			}
		default:
			t.Fatalf("does %q", got.Do)
		}
	})
}
