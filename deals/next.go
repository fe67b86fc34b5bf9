package deals

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// A Policy says how the service keeps promises. Durations are wall-clock; epochs are the chain's.
type Policy struct {
	EpochTime   time.Duration // 30 s; a devnet's clock is faster
	StartDelay  Epoch         // from the proposal to the epoch by which the provider must have sealed
	RenewBefore Epoch         // how long before its end a deal is renewed
	Stuck       time.Duration // an accepted proposal without progress for so long no longer keeps others from being tried
	Tries       int           // attempts of a slot in a week, then daily
	RetryFirst  time.Duration // wait after a slot's first failed attempt; it doubles with each
	RetryMax    time.Duration
	CoolDown    time.Duration // a provider that failed a piece is not asked for it again; doubles with each failure
	Poll        time.Duration // between two looks at an attempt that moves
	PollSlow    time.Duration // between two looks at one that waits for the chain, or for a provider that does not answer
	Missing     int           // final observations without an active deal before it counts as lost
	Unknown     int           // answers of a provider that it does not know an accepted deal, and
	UnknownFor  time.Duration // how long these must span, before it counts as dropped
}

// Defaults are the policy of a service about which nobody has decided anything.
func Defaults() Policy {
	return Policy{
		EpochTime:   30 * time.Second,
		StartDelay:  3 * EpochsPerDay,
		RenewBefore: 30 * EpochsPerDay,
		Stuck:       24 * time.Hour,
		Tries:       10,
		RetryFirst:  time.Minute,
		RetryMax:    6 * time.Hour,
		CoolDown:    24 * time.Hour,
		Poll:        time.Minute,
		PollSlow:    time.Hour,
		Missing:     3,
		Unknown:     3,
		UnknownFor:  30 * time.Minute,
	}
}

// A View is what Next decides on: a slot, what it belongs to, and its attempts, those that are live and those of the
// last week.
type View struct {
	Slot     Slot
	Archive  Archive
	Attempts []Attempt
}

// A Do is what is to be done for a slot. The zero value is invalid.
type Do string

const (
	DoWait  Do = "wait"  // nothing before Until
	DoPlan  Do = "plan"  // choose a provider and record the intent
	DoClose Do = "close" // the promise is over
)

// A Step is the next thing to do for a slot, with the slot as it is now.
type Step struct {
	Do        Do
	State     SlotState
	Exhausted bool
	Wanting   bool   // a deal is to be proposed, now or when a pause is over
	Reason    string // what it waits for, in words for the user
	Until     time.Time
	Renews    AttemptID  // with DoPlan: the active attempt that the new one follows
	Prefer    ProviderID // with DoPlan: whom to ask first, or 0
}

const (
	week = 7 * 24 * time.Hour
	day  = 24 * time.Hour
)

// waitsForBytes is the reason of a slot that would propose.
const waitsForBytes = "waiting for the data to be held hot"

// Next says the next step of a slot at a time and a height of the chain. It has no side effects.
func Next(v View, p Policy, now time.Time, head Epoch) Step {
	s := v.survey(p, now, head)
	state := Open
	switch {
	case s.active != nil:
		state = Filled
	case s.live > 0:
		state = Filling
	}
	wait := func(until time.Time, reason string) Step {
		return Step{Do: DoWait, State: state, Until: until, Reason: reason}
	}
	switch {
	case !v.Archive.Wanted || v.Slot.Index >= v.Archive.Terms.Replicas:
		// A deal on chain cannot be cancelled: it runs out, and nothing follows it.
		if s.live == 0 && s.active == nil {
			return Step{Do: DoClose, State: Closed, Until: now}
		}
		return wait(now.Add(day), "no longer wanted: what is on chain runs out")
	case v.Archive.Barred:
		return wait(now.Add(week), v.Archive.Reason)
	case s.active != nil && s.renewal > 0:
		return wait(now.Add(p.Stuck), "")
	case s.active != nil:
		if left := s.active.End - head - p.RenewBefore; left > 0 {
			return wait(now.Add(min(week, time.Duration(left)*p.EpochTime)), "")
		}
	case s.moving > 0:
		return wait(now.Add(p.Stuck), "")
	}
	if v.Archive.Piece == nil {
		return wait(now.Add(day), waitsForBytes) // whoever makes the piece wakes the slot
	}
	pausing := func(until time.Time, reason string) Step {
		step := wait(until, reason)
		step.Wanting = true
		return step
	}
	if s.tries >= p.Tries {
		if retry := s.last.Add(day); now.Before(retry) {
			step := pausing(retry, fmt.Sprintf("%d attempts failed in a week, trying daily; last: %s", s.tries, s.why))
			step.Exhausted = s.active == nil
			return step
		}
	} else if s.failures > 0 {
		if retry := s.last.Add(pause(s.failures, p.RetryFirst, p.RetryMax)); now.Before(retry) {
			return pausing(retry, "trying again after: "+s.why)
		}
	}
	exhausted := s.tries >= p.Tries && s.active == nil
	if !v.Archive.Held {
		// Whoever has them held again wakes the slot. A renewal needs the bytes too.
		step := pausing(now.Add(day), waitsForBytes)
		step.Exhausted = exhausted
		return step
	}
	step := Step{Do: DoPlan, State: state, Until: now, Exhausted: exhausted, Wanting: true, Reason: s.why}
	if s.active != nil {
		step.Renews, step.Prefer = s.active.ID, s.active.Provider
	}
	return step
}

// A survey is what matters of a slot's attempts.
type survey struct {
	active   *Attempt // the one that ends last
	live     int      // not final, not active
	moving   int      // live, and not stuck
	renewal  int      // live ones that renew the active one and are not stuck
	failures int      // since the last success
	tries    int      // failures within a week
	last     time.Time
	why      string
}

func (v View) survey(p Policy, now time.Time, head Epoch) survey {
	var s survey
	for i := range v.Attempts {
		a := &v.Attempts[i]
		if a.State == Active && (s.active == nil || a.End > s.active.End) {
			s.active = a
		}
	}
	for i := range v.Attempts {
		a := &v.Attempts[i]
		switch {
		case a.State == Active, a.State == Expired, a.State == Cancelled:
		case !a.State.Final():
			s.live++
			if !stuck(*a, p, now, head) {
				s.moving++
				if s.active != nil && a.Renews == s.active.ID {
					s.renewal++
				}
			}
		default:
			if s.active != nil && a.EndedAt.Before(s.active.ActiveAt) || !a.EndedAt.After(v.Slot.Forgiven) {
				continue // forgiven by what succeeded after it, or by the operator
			}
			s.failures++
			if now.Sub(a.EndedAt) < week && !a.SentAt.IsZero() {
				s.tries++ // a provider out of reach was not tried
			}
			if !a.EndedAt.Before(s.last) {
				s.last, s.why = a.EndedAt, fmt.Sprintf("%s: %s", a.Provider, a.Reason)
			}
		}
	}
	return s
}

// stuck tells whether a slot should no longer wait for an attempt. It stays live: it may still become a deal.
func stuck(a Attempt, p Policy, now time.Time, head Epoch) bool {
	switch a.State {
	case Published:
		// Whoever has activated it names it. Once its start is final, rather a copy too many than none.
		return a.DealID == 0 && head > a.Start+eventDepth
	case Proposing, Accepted, Transferring:
		return now.Sub(a.ChangedAt) >= p.Stuck
	case Planned: // only the maker and the node keep it waiting: with others it would be the same
		return false
	case Sealing, Active, Rejected, Failed, Missed, Expired, Terminated, Cancelled:
		return false
	}
	return false
}

// pause is how long to wait after n failures in a row, with up to a fifth of jitter.
func pause(n int, first, limit time.Duration) time.Duration {
	d := min(first, limit)
	for i := 1; i < n && d < limit; i++ {
		d = min(2*d, limit)
	}
	return d - time.Duration(rand.Int64N(int64(d)/5+1)) //nolint:gosec // jitter, not a secret
}
