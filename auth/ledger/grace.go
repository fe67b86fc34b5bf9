package ledger

import (
	"context"
	"fmt"
	"time"
)

// A Stage says what an account was told last about the time it has left.
type Stage int

// The stages of a grace period.
const (
	StageNone  Stage = iota // there is nothing to tell
	StageBegun              // its balance is empty, and when pins are let go
	StageHalf               // half of the time has gone
	StageFinal              // the last notice: what it says binds
)

// finalLead is how long before the end the last notice comes, and what is left after it at least. A grace period of less
// than two of it has half of itself.
const finalLead = 3 * 24 * time.Hour

// A Grace is how the grace period of an account stands. It begins when what the account stores is not paid any more.
type Grace struct {
	Since time.Time // zero: it is paid
	Stage Stage     // told last
	Told  time.Time // the end that was told then; zero: none
}

// End is when pins are let go in a grace period of such a length; zero: never. What the last notice has said, or would say
// now, is the least: neither a clock that leaps nor a plan that is changed takes the time to pay from anybody.
func (g Grace) End(length time.Duration, now time.Time) time.Time {
	if g.Since.IsZero() || length <= 0 {
		return time.Time{}
	}
	end, least := g.Since.Add(length), now.Add(lead(length))
	if g.Stage == StageFinal {
		least = g.Told
	}
	if end.Before(least) {
		return least
	}
	return end
}

func lead(length time.Duration) time.Duration { return min(finalLead, length/2) }

// stageAt is what there is to tell by a time.
func (g Grace) stageAt(length time.Duration, now time.Time) Stage {
	switch elapsed := now.Sub(g.Since); {
	case elapsed >= length-lead(length):
		return StageFinal
	case elapsed >= length/2:
		return StageHalf
	}
	return StageBegun
}

// next is the grace period as of now. A stage is told once; when the end has moved away, it is told anew.
func (g Grace) next(length time.Duration, now time.Time) Grace {
	if g.Since.IsZero() {
		g.Since = now
	}
	if length <= 0 {
		return Grace{Since: g.Since}
	}
	stage := g.stageAt(length, now)
	if stage <= g.Stage && !g.Since.Add(length).After(g.Told) {
		return g
	}
	end := Grace{Since: g.Since}.End(length, now)
	return Grace{Since: g.Since, Stage: stage, Told: end}
}

// told tells whether something was told since.
func (g Grace) told(before Grace) bool {
	return g.Stage != StageNone && (g.Stage != before.Stage || !g.Told.Equal(before.Told))
}

// A Standing is how an account stands.
type Standing struct {
	Mood   Mood
	Unpaid bool          // the balance is empty, and what is stored costs something
	Length time.Duration // of its grace period, after which pins are let go; 0: never
}

func (n notice) next(st Standing, now time.Time) notice {
	after := notice{mood: st.Mood}
	if st.Unpaid {
		after.grace = n.grace.next(st.Length, now)
	}
	return after
}

// Noticed remembers how an account stands, in the transaction of ctx when there is one, and tells whether there is news for
// the account: another mood than before, which is Fine at first, or another stage of its grace period.
func (s *Service) Noticed(ctx context.Context, account int64, st Standing) (g Grace, news bool, err error) {
	g, news, err = s.saveNotice(ctx, account, st)
	if err != nil {
		return Grace{}, false, fmt.Errorf("noticing the balance of account %d: %w", account, err)
	}
	return g, news, nil
}

// LetGoAfter is when pins of an account are let go in a grace period of such a length, by what was noticed last; zero: never.
func (s *Service) LetGoAfter(ctx context.Context, account int64, length time.Duration) (time.Time, error) {
	g, err := s.selectGrace(ctx, account)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the grace period of account %d: %w", account, err)
	}
	return g.End(length, s.now()), nil
}

// Unpaid is the grace period of an account for whoever is about to let its pins go: nothing is booked for the account before the transaction of ctx ends,
// and the zero Grace says that money has come.
func (s *Service) Unpaid(ctx context.Context, account int64) (Grace, error) {
	g, err := s.lockGrace(ctx, account)
	if err != nil {
		return Grace{}, fmt.Errorf("locking the grace period of account %d: %w", account, err)
	}
	return g, nil
}
