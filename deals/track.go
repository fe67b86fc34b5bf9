package deals

import (
	"fmt"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/ipfs/go-cid"
)

// An Observation is what one look at an attempt has shown. What was not asked, or not answered, is zero.
type Observation struct {
	Heads  Heads // zero: the chain did not answer, and Pending, Deal and Gone mean nothing
	Wanted bool  // somebody still wants the copy

	// Forbidden says that our own endpoint does not give the bytes away: that a deal does not come about is not the
	// provider's fault.
	Forbidden bool

	Unreachable bool            // the provider could not be reached
	Unasked     bool            // it was not asked: the breaker is open, or the question could not be signed
	Unsent      bool            // so the proposal has certainly never left this process
	Silent      bool            // the proposal was sent, and there was no answer
	Answer      *Answer         // to the proposal
	Status      *ProviderStatus // the provider's word
	Pulled      bool            // our own endpoint has served every byte
	Pulling     bool            // our own endpoint has served some

	Pending    *bool      // the chain knows the proposal as published, at the head
	PublishCID cid.Cid    // the message in which the chain has the proposal
	Named      cid.Cid    // the message in which its provider says that it is
	Denied     bool       // the chain says that it is not in that one
	DealID     abi.DealID // found, and equal to what was signed
	Deal       *OnChain   // under DealID, at the head or (AtFinal) in the final tipset
	Forget     bool       // the id by which the deal was known is that of another one
	Gone       bool       // there is no deal under DealID, at the head or (AtFinal) in the final tipset
	AtFinal    bool
}

// Track is the attempt after an observation. It has no side effects. See the package comment for what moves what.
func Track(a Attempt, o Observation, p Policy, now time.Time) Attempt {
	before := a.State
	switch {
	case takenUp(a, o):
		a.State, a.Reason, a.EndedAt = Accepted, "", time.Time{}
	case a.State.Final():
		return a
	}
	a = track(a, o, p, now)
	if a.State != before {
		a.ChangedAt = now
	}
	if a.State.Final() {
		a.EndedAt = now
		if a.State != Failed || a.AcceptedAt.IsZero() {
			a.Reserved = big.Zero()
		} // else the provider may still publish it until its start: the store releases it then
		return a
	}
	a.NextAt = now.Add(lookAgain(a, o, p, now))
	return a
}

// takenUp tells whether the chain has a deal that its provider had given up or refused: it costs, and it is a copy.
func takenUp(a Attempt, o Observation) bool {
	return a.mayYet() && o.Heads.Head != 0 && (o.Pending != nil && *o.Pending || o.Deal != nil)
}

// mayYet tells whether a provider that has given up an accepted deal, or refused it, may still publish what we signed, or
// have done so unseen.
func (a Attempt) mayYet() bool {
	givenUp := a.State == Failed && !a.AcceptedAt.IsZero()
	return (givenUp || a.State == Rejected) && a.PublishedAt.IsZero()
}

func track(a Attempt, o Observation, p Policy, now time.Time) Attempt {
	if a.State == Planned {
		if !o.Wanted {
			return end(a, Cancelled, "no longer wanted before it was proposed")
		}
		return a
	}
	a = hear(a, o, now)
	if a.State.Final() || o.Heads.Head == 0 {
		return a
	}
	if a.State == Active {
		return watch(a, o, p)
	}
	a, settled := look(a, o, p, now)
	if settled {
		return a
	}
	return doubt(a, o, p, now)
}

// hear takes in what the provider and our own endpoint say.
func hear(a Attempt, o Observation, now time.Time) Attempt {
	if o.Unsent && a.State == Proposing {
		a.SentAt, a.Retryable = time.Time{}, true
		return end(a, Failed, "the provider could not be reached")
	}
	if o.Answer != nil && a.State == Proposing {
		a.Verbatim = clip(o.Answer.Text)
		if !o.Answer.Accepted {
			a.Retryable = o.Answer.Retryable
			return end(a, Rejected, "the provider refused: "+a.Verbatim)
		}
		a.State, a.AcceptedAt = Accepted, now
	}
	if s := o.Status; s != nil && !s.Unknown {
		a.Unknowns, a.UnknownAt = 0, time.Time{}
		if s.Error != "" {
			a.Verbatim = clip(s.Error)
		}
		if a.State == Proposing {
			// Who knows it has accepted it, also where it has failed since: it may be published after all.
			a.State, a.AcceptedAt = Accepted, now
		}
		if a.State == Accepted && (s.Transferring || s.Transferred) {
			a.State = Transferring
		}
		if s.Transferred && a.PulledAt.IsZero() {
			a.PulledAt = now
		}
	}
	if o.Pulling && a.State == Proposing {
		a.State, a.AcceptedAt = Accepted, now // only who accepts it learns where the bytes are, and fetches them
	}
	if o.Pulling && a.State == Accepted {
		a.State = Transferring
	}
	if o.Pulled && a.PulledAt.IsZero() {
		a.PulledAt = now
	}
	switch {
	case o.PublishCID.Defined():
		a.PublishCID, a.Claimed = o.PublishCID, false
	case o.Denied && (o.DealID != 0 || a.DealID != 0 && a.Claimed):
		a.PublishCID, a.Claimed = cid.Undef, false
	case o.DealID != 0 || a.DealID == 0:
		if o.Named.Defined() {
			a.PublishCID = o.Named // to be looked into, also when nobody names it any more
		}
		a.Claimed = a.PublishCID.Defined()
	}
	return a
}

// look takes in what the chain says of a deal that is not active yet; done means that it settles the matter for now.
func look(a Attempt, o Observation, p Policy, now time.Time) (Attempt, bool) {
	if o.Forget {
		a.DealID, a.Claimed = 0, a.PublishCID.Defined()
	}
	if o.Pending != nil {
		a.Blind = a.Blind || !*o.Pending && now.Sub(lastAsked(a)) > p.blindAfter()
		a.PendingAt = now
		if *o.Pending {
			a.SeenPending = true
			a = publish(a, now)
		}
	}
	if o.DealID != 0 {
		a.DealID = o.DealID
	}
	if d := o.Deal; d != nil {
		a = publish(a, now)
		a.State, a.Height = Sealing, d.ObservedAt
		switch {
		case d.SlashEpoch >= 0:
			if o.AtFinal {
				a = end(a, Terminated, fmt.Sprintf("the chain slashed the deal at epoch %d", d.SlashEpoch))
			}
		case d.SectorStart >= 0:
			a.State, a.ActiveAt, a.Sector, a.Missing, a.Reason = Active, now, d.Sector, 0, ""
		case o.AtFinal && o.Heads.Final > a.Start:
			a = end(a, Missed, fmt.Sprintf("the provider did not seal it by its start epoch %d", a.Start))
		}
		return a, true
	}
	if o.Gone && o.AtFinal && a.DealID != 0 && o.Heads.Final > a.Start {
		return end(a, Missed, fmt.Sprintf("the deal is not on chain after its start epoch %d", a.Start)), true
	}
	return a, a.DealID != 0 || o.Pending != nil && *o.Pending
}

// marketKeeps is how long after its start epoch a deal that was not activated may still be in the market's state.
const marketKeeps = 30 * EpochsPerDay

// lastAsked is when the chain was last asked whether a proposal is published, or when that question began.
func lastAsked(a Attempt) time.Time {
	for _, t := range []time.Time{a.PendingAt, a.SentAt} {
		if !t.IsZero() {
			return t
		}
	}
	return a.ChangedAt
}

// blindAfter is how long the chain may not be asked before a proposal could have been published, sealed and activated
// unseen: a published proposal shows as such until it is activated, which takes longer.
func (p Policy) blindAfter() time.Duration { return 4 * p.PollSlow }

// publish notes that the chain has the proposal: escrow is locked there, and no longer reserved here.
func publish(a Attempt, now time.Time) Attempt {
	if a.State.before(Published) {
		a.State = Published
	}
	if a.PublishedAt.IsZero() {
		a.PublishedAt = now
	}
	if a.AcceptedAt.IsZero() {
		a.AcceptedAt = now
	}
	a.Reserved = big.Zero()
	return a
}

// doubt decides about an attempt of which the chain shows nothing.
func doubt(a Attempt, o Observation, p Policy, now time.Time) Attempt {
	if o.Heads.Final > a.Start && !a.SeenPending && o.Pending != nil {
		// After its start epoch a proposal can no longer be published. Whether it was is certain if the chain was asked
		// all the time, or if the provider says so, or if nothing was heard of it for as long as the market keeps what
		// was not activated.
		denied := o.Status != nil && (o.Status.Unknown || o.Status.Error != "")
		switch {
		case a.Blind && !denied && o.Heads.Final <= a.Start+marketKeeps:
			a.Reason = "not known whether the provider published it: the chain could not be asked for a while"
			return a
		case a.State == Proposing:
			return end(a, Failed, "the provider never answered the proposal")
		}
		return end(a, Missed, fmt.Sprintf("the provider never published it before its start epoch %d", a.Start))
	}
	if a.SeenPending {
		if o.Pending != nil && !*o.Pending && o.Heads.Final > a.Start+marketKeeps {
			// The market has dropped it unactivated, or its publication was undone: who had activated it would have named
			// it, to us or by an event, in all that time.
			return end(a, Missed, fmt.Sprintf("it was published, and nobody has named an active deal a month after its start epoch %d", a.Start))
		}
		a.Reason = "published, and waiting to learn the deal's id"
		return a
	}
	s := o.Status
	if s == nil || o.Pending == nil || *o.Pending {
		return a
	}
	switch {
	case s.Unknown && !a.State.before(Accepted):
		if a.Unknowns++; a.Unknowns == 1 {
			a.UnknownAt = now
		}
		if a.Unknowns >= p.Unknown && now.Sub(a.UnknownAt) >= p.UnknownFor {
			return end(a, Failed, "the provider no longer knows the deal it had accepted")
		}
	case !s.Unknown && s.Error != "":
		return end(a, Failed, "the provider gave up: "+a.Verbatim)
	}
	return a
}

// watch decides about an active deal. One that is not to be seen is lost only when several final tipsets agree, all of
// them later than the one in which it was last seen.
func watch(a Attempt, o Observation, p Policy) Attempt {
	if o.AtFinal && o.Heads.Final >= a.End || o.Heads.Final >= a.End {
		return end(a, Expired, fmt.Sprintf("it ended at epoch %d", a.End))
	}
	switch {
	case o.Deal != nil && o.Deal.SlashEpoch < 0 && o.Deal.SectorStart >= 0:
		a.Missing, a.Height, a.Sector = 0, max(a.Height, o.Deal.ObservedAt), o.Deal.Sector
	case o.Deal != nil || o.Gone:
		if !o.AtFinal || o.Heads.Final <= a.Height {
			return a
		}
		a.Missing++
		a.Height = o.Heads.Final // the next one must come from a later tipset
		if a.Missing >= p.Missing {
			return end(a, Terminated, fmt.Sprintf("the chain no longer has the deal, which should have run to epoch %d", a.End))
		}
	}
	return a
}

func end(a Attempt, s State, reason string) Attempt {
	a.State, a.Reason = s, reason
	return a
}

// lookAgain says how long to wait before the next look.
func lookAgain(a Attempt, o Observation, p Policy, now time.Time) time.Duration {
	switch a.State {
	case Planned:
		return p.Poll
	case Proposing:
		if o.Unreachable || o.Unasked {
			return pause(1+int(now.Sub(a.ChangedAt)/max(p.Poll, 1)), p.Poll, p.PollSlow)
		}
		return p.Poll
	case Accepted, Transferring, Published, Sealing:
		// A provider takes hours to days: the longer nothing has moved, the less often we ask.
		return min(max(p.Poll, now.Sub(a.ChangedAt)/10), p.PollSlow)
	case Active:
		return p.PollSlow
	case Rejected, Failed, Missed, Expired, Terminated, Cancelled:
		return 0
	}
	return p.PollSlow
}

// maxVerbatim bounds what is kept of a provider's words.
const maxVerbatim = 1000

func clip(text string) string {
	runes := []rune(text)
	if len(runes) > maxVerbatim {
		runes = runes[:maxVerbatim]
	}
	return string(runes)
}

// Matches tells whether a deal on chain is the one that was signed. client is our ID address.
func Matches(signed market.DealProposal, client Client, provider ProviderID, d OnChain) bool {
	c := d.Proposal
	return c.PieceCID == signed.PieceCID && c.PieceSize == signed.PieceSize && c.VerifiedDeal == signed.VerifiedDeal &&
		c.StartEpoch == signed.StartEpoch && c.EndEpoch == signed.EndEpoch &&
		c.StoragePricePerEpoch.Equals(signed.StoragePricePerEpoch) && c.ProviderCollateral.Equals(signed.ProviderCollateral) &&
		c.ClientCollateral.Equals(signed.ClientCollateral) && c.Label.Equals(signed.Label) &&
		c.Client == client.ID && c.Provider == provider.Address()
}
