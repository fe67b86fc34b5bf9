package deals

import (
	"time"
)

// An Event is what has happened with a provider. The zero value is invalid.
type Event string

const (
	Agreed    Event = "agreed"    // it accepted a proposal
	Served    Event = "served"    // a deal became active
	Unreached Event = "unreached" // it could not be reached, or did not answer
	Refused   Event = "refused"   // it rejected a proposal for a reason that may pass
	Declined  Event = "declined"  // it rejected a proposal for good
	Dropped   Event = "dropped"   // it accepted a proposal and gave it up before publishing
	Late      Event = "late"      // it did not activate a deal by its start epoch
	Lost      Event = "lost"      // an active deal was terminated
	Sneaked   Event = "sneaked"   // it published a deal that it had refused
)

// An Outcome is an event and what it says, for the operator.
type Outcome struct {
	Event Event
	Why   string
}

// OutcomeOf is what the end of an attempt, or its becoming active, says of its provider; false when it says nothing.
func OutcomeOf(a Attempt) (Outcome, bool) {
	o := Outcome{Why: a.Reason}
	switch a.State {
	case Accepted:
		o.Event = Agreed
	case Active:
		o.Event = Served
	case Rejected:
		o.Event = Declined
		if a.Retryable {
			o.Event = Refused
		}
	case Failed:
		o.Event = Dropped
		if a.AcceptedAt.IsZero() {
			o.Event = Unreached // it never answered
		}
	case Missed:
		o.Event = Late
	case Terminated:
		o.Event = Lost
	case Planned, Proposing, Transferring, Published, Sealing, Expired, Cancelled:
		return Outcome{}, false
	}
	return o, true
}

// How the circuit breaker works: after so many failures in a row a provider is left alone for a while, which doubles.
const (
	streakOpens = 3
	openFirst   = time.Minute
	openMax     = 6 * time.Hour
)

// newScore is that of a provider of which nothing is known.
const newScore = 0.5

// weigh says how far an event moves a score, from 0 (not at all) to 1 (all the way), and towards what. Failures count
// by what they cost us: being refused costs a minute, a deal that is lost costs weeks without a copy. To publish what was
// refused must not pay: it takes money for a deal that nobody counts on any more.
func (e Event) weigh() (weight, towards float64) {
	switch e {
	case Agreed:
		return 0, 1
	case Served:
		return 0.2, 1
	case Refused:
		return 0.02, 0
	case Unreached:
		return 0.05, 0
	case Declined:
		return 0.1, 0
	case Dropped:
		return 0.2, 0
	case Late:
		return 0.3, 0
	case Lost, Sneaked:
		return 0.5, 0
	}
	return 0, 0
}

// After is the provider after an outcome. Score is an exponentially weighted mean of outcomes. Failures that arrive
// while the breaker is open are those of calls that had begun before: they do not lengthen the pause.
func After(p Provider, o Outcome, now time.Time) Provider {
	weight, towards := o.Event.weigh()
	p.Score = min(1, max(0, p.Score+weight*(towards-p.Score)))
	switch o.Event {
	case Agreed, Served:
		p.Streak, p.OpenUntil = 0, time.Time{}
		if o.Event == Served {
			p.Successes++
		}
		return p
	case Refused, Declined, Dropped, Late:
		p.Failures++
	case Unreached, Lost, Sneaked:
		// The first ended no attempt; the others are of one that had counted already.
	}
	p.LastError = clip(o.Why)
	if now.Before(p.OpenUntil) {
		return p
	}
	if p.Streak++; p.Streak >= streakOpens {
		p.OpenUntil = now.Add(openFor(p.Streak))
	}
	return p
}

// openFor is how long the breaker stays open after so many failures in a row.
func openFor(streak int) time.Duration {
	d := openFirst
	for range streak - streakOpens {
		if d *= 2; d >= openMax {
			return openMax
		}
	}
	return d
}
