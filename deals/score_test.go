package deals_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/deals"
)

func afterEvents(p deals.Provider, now time.Time, events ...deals.Event) deals.Provider {
	for _, e := range events {
		p = deals.After(p, deals.Outcome{Event: e, Why: string(e)}, now)
	}
	return p
}

func TestAScoreRisesWithWhatWasServedAndFallsByWhatAFailureCosts(t *testing.T) {
	start := deals.Provider{Score: 0.5}
	last := 1.0
	for _, e := range []deals.Event{deals.Served, deals.Agreed, deals.Refused, deals.Unreached, deals.Declined, deals.Dropped, deals.Late, deals.Lost} {
		got := afterEvents(start, noon, e).Score
		if got >= last {
			t.Errorf("%s leaves a score of %v, which is not worse than %v", e, got, last)
		}
		last = got
	}
	if got := afterEvents(start, noon, deals.Agreed).Score; got != 0.5 {
		t.Errorf("a yes is no deal yet: the score is %v", got)
	}
}

func TestAProviderLosesByPublishingWhatItHasRefused(t *testing.T) {
	if got := afterEvents(deals.Provider{Score: 0.5}, noon, deals.Declined, deals.Sneaked, deals.Served).Score; got >= 0.45 {
		t.Errorf("the score is %v, and that of one that has only refused 0.45", got)
	}
}

func TestCountsAreOfAttemptsThatBecameActiveAndThatDidNot(t *testing.T) {
	p := afterEvents(deals.Provider{Score: 0.5}, noon, deals.Agreed, deals.Served, deals.Served, deals.Refused, deals.Declined,
		deals.Dropped, deals.Late, deals.Unreached, deals.Lost, deals.Sneaked)
	if p.Successes != 2 || p.Failures != 4 {
		t.Errorf("%d successes and %d failures, want 2 and 4", p.Successes, p.Failures)
	}
}

func TestTheBreakerOpensAfterFailuresInARowAndForTwiceAsLongEachTime(t *testing.T) {
	p := afterEvents(deals.Provider{}, noon, deals.Unreached, deals.Unreached)
	if !p.OpenUntil.IsZero() {
		t.Errorf("it is open after two failures until %s", p.OpenUntil)
	}
	now := noon
	for _, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute} {
		p = afterEvents(p, now, deals.Unreached)
		if got := p.OpenUntil.Sub(now); got != want {
			t.Errorf("open for %s, want %s", got, want)
		}
		// Calls that had begun before it opened make it no longer.
		if p = afterEvents(p, now, deals.Unreached, deals.Unreached); p.OpenUntil.Sub(now) != want {
			t.Errorf("late failures lengthened it to %s", p.OpenUntil.Sub(now))
		}
		now = p.OpenUntil
	}
	for range 50 {
		p = afterEvents(p, now, deals.Unreached)
		now = p.OpenUntil
	}
	if p = afterEvents(p, now, deals.Unreached); p.OpenUntil.Sub(now) != 6*time.Hour {
		t.Errorf("open for %s after many failures", p.OpenUntil.Sub(now))
	}
	if p = afterEvents(p, now, deals.Agreed); !p.OpenUntil.IsZero() || p.Streak != 0 {
		t.Errorf("still open until %s after an answer", p.OpenUntil)
	}
}

func TestAScoreStaysBetweenZeroAndOne(t *testing.T) {
	events := []deals.Event{deals.Agreed, deals.Served, deals.Unreached, deals.Refused, deals.Declined, deals.Dropped, deals.Late, deals.Lost, deals.Sneaked}
	rapid.Check(t, func(t *rapid.T) {
		p := afterEvents(deals.Provider{Score: 0.5}, noon, rapid.SliceOf(rapid.SampledFrom(events)).Draw(t, "events")...)
		if p.Score < 0 || p.Score > 1 || p.OpenUntil.Sub(noon) > 6*time.Hour {
			t.Fatalf("%+v", p)
		}
	})
}

func TestWhatTheEndOfAnAttemptSaysOfItsProvider(t *testing.T) {
	agreed := deals.Attempt{AcceptedAt: noon}
	for _, c := range []struct {
		name    string
		attempt deals.Attempt
		state   deals.State
		want    deals.Event
	}{
		{"accepted", agreed, deals.Accepted, deals.Agreed},
		{"active", agreed, deals.Active, deals.Served},
		{"rejected for good", deals.Attempt{}, deals.Rejected, deals.Declined},
		{"rejected for now", deals.Attempt{Retryable: true}, deals.Rejected, deals.Refused},
		{"given up", agreed, deals.Failed, deals.Dropped},
		{"never answered", deals.Attempt{}, deals.Failed, deals.Unreached},
		{"missed", agreed, deals.Missed, deals.Late},
		{"terminated", agreed, deals.Terminated, deals.Lost},
		{"expired", agreed, deals.Expired, ""},
		{"cancelled", deals.Attempt{}, deals.Cancelled, ""},
		{"sealing", agreed, deals.Sealing, ""},
	} {
		c.attempt.State, c.attempt.Reason = c.state, "why"
		got, ok := deals.OutcomeOf(c.attempt)
		if got.Event != c.want || ok != (c.want != "") || ok && got.Why != "why" {
			t.Errorf("%s: got %+v, %v", c.name, got, ok)
		}
	}
}
