package deals_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/deals"
)

func TestHowAnArchiveStands(t *testing.T) {
	slot := func(id deals.SlotID, change ...func(s *deals.Slot)) deals.Slot {
		s := deals.Slot{ID: id, State: deals.Open, NextAt: noon}
		for _, c := range change {
			c(&s)
		}
		return s
	}
	exhausted := func(s *deals.Slot) { s.Exhausted, s.Reason = true, "nobody is left" }
	in := func(slot deals.SlotID, s deals.State) deals.Attempt {
		a := inState(s)
		a.Slot = slot
		return a
	}
	type counts struct {
		cold                      deals.Cold
		accepted, active, working int
		kept                      bool
		reason                    string
	}
	for _, test := range []struct {
		name     string
		change   func(a *deals.Archive)
		slots    []deals.Slot
		attempts []deals.Attempt
		want     counts
	}{
		{"before there is a piece", nil, nil, nil, counts{cold: deals.ColdPending}},
		{"nothing under way", nil, []deals.Slot{slot(1), slot(2)}, nil, counts{cold: deals.ColdPending}},
		{"one proposed", nil, []deals.Slot{slot(1), slot(2)}, []deals.Attempt{in(1, deals.Proposing)}, counts{cold: deals.ColdInProgress, working: 1}},
		{"both accepted", nil, []deals.Slot{slot(1), slot(2)}, []deals.Attempt{in(1, deals.Accepted), in(2, deals.Sealing)}, counts{cold: deals.ColdInProgress, working: 2, accepted: 2}},
		{"one active", nil, []deals.Slot{slot(1), slot(2)}, []deals.Attempt{in(1, deals.Active)}, counts{cold: deals.ColdDegraded, active: 1, accepted: 1}},
		{"both active", nil, []deals.Slot{slot(1), slot(2)}, []deals.Attempt{in(1, deals.Active), in(2, deals.Active)}, counts{cold: deals.ColdStored, active: 2, accepted: 2, kept: true}},
		{"two in one slot count once", nil, []deals.Slot{slot(1), slot(2)}, []deals.Attempt{in(1, deals.Active), in(1, deals.Active)}, counts{cold: deals.ColdDegraded, active: 1, accepted: 1}},
		{"one exhausted, one under way", nil, []deals.Slot{slot(1, exhausted), slot(2)}, []deals.Attempt{in(2, deals.Accepted)}, counts{cold: deals.ColdInProgress, working: 1, accepted: 1, reason: "nobody is left"}},
		{"all exhausted", nil, []deals.Slot{slot(1, exhausted), slot(2, exhausted)}, nil, counts{cold: deals.ColdFailed, reason: "nobody is left"}},
		{"too large", func(a *deals.Archive) { a.Barred, a.Reason = true, "too large" }, nil, nil, counts{cold: deals.ColdFailed, reason: "too large"}},
		{"not wanted", func(a *deals.Archive) { a.Wanted = false }, []deals.Slot{slot(1)}, []deals.Attempt{in(1, deals.Active)}, counts{cold: deals.ColdDisabled}},
		{"closed slots do not count", nil, []deals.Slot{slot(1, func(s *deals.Slot) { s.State = deals.Closed })}, []deals.Attempt{in(1, deals.Active)}, counts{cold: deals.ColdPending}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := deals.Archive{Wanted: true, Terms: deals.Terms{Replicas: 2}}
			if test.change != nil {
				test.change(&a)
			}
			s := deals.StandingOf(a, test.slots, test.attempts)
			got := counts{cold: s.Cold, accepted: s.Accepted, active: s.Active, working: s.Working, kept: s.Kept, reason: s.Reason}
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestALostCopyWasKeptOnce(t *testing.T) {
	lost := inState(deals.Active)
	lost.State, lost.Slot = deals.Terminated, 1
	s := deals.StandingOf(deals.Archive{Wanted: true, Terms: deals.Terms{Replicas: 1}}, []deals.Slot{{ID: 1, State: deals.Open}}, []deals.Attempt{lost})
	if !s.Kept || s.Active != 0 {
		t.Errorf("got %+v", s)
	}
}

// TestAStandingSurvivesItsRow: lists of pins read it from there.
func TestAStandingSurvivesItsRow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var attempts []deals.Attempt
		for range rapid.IntRange(0, 30).Draw(t, "attempts") {
			attempts = append(attempts, inState(rapid.SampledFrom(deals.States()).Draw(t, "state")))
		}
		a := deals.Archive{Wanted: true, Piece: testPiece(), Terms: deals.Terms{Replicas: 3}}
		s := deals.StandingOf(a, []deals.Slot{{ID: 0, State: deals.Open, NextAt: noon}}, attempts)
		if len(s.Deals) > 10 {
			t.Fatalf("it shows %d deals", len(s.Deals))
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var back deals.Standing
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, back, cmp.Comparer(func(a, b cid.Cid) bool { return a == b })); diff != "" {
			t.Fatal(diff)
		}
	})
}
