package deals

import (
	"strconv"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals/piece"
)

type (
	// An ArchiveID names an archive in the database.
	ArchiveID int64
	// A SlotID names a slot in the database.
	SlotID int64
)

// A Wish names an archive from outside: a DAG under recorded terms.
type Wish struct {
	Root  cid.Cid // canonical
	Terms TermsID
}

// An Archive is one DAG under one set of terms.
type Archive struct {
	ID     ArchiveID
	Root   cid.Cid
	Terms  Terms
	Wanted bool         // a pin asks for it
	Held   bool         // its bytes are on the hot tier
	Piece  *piece.Piece // nil until the CAR was walked
	Reason string       // why there is no piece
	Barred bool         // there can never be one: too large
}

// A SlotState says whether a promise is kept. The zero value is invalid.
type SlotState string

const (
	Open    SlotState = "open"    // no live attempt; the maker plans one
	Filling SlotState = "filling" // an attempt is under way
	Filled  SlotState = "filled"  // an attempt is active
	Closed  SlotState = "closed"  // final until wanted again
)

// A Slot is the promise of one copy.
type Slot struct {
	ID      SlotID
	Archive ArchiveID
	Index   int    // from 0
	Region  string // where the copy has to lie; empty: anywhere
	State   SlotState
	Reason  string // what it waits for, in words for the user
	// Exhausted tells that the cap of tries is reached; it is tried daily from then on.
	Exhausted bool
	// Wanting tells that a deal is to be proposed for it, now or when a pause is over, for which the bytes must be held.
	Wanting  bool
	Queued   bool      // it waits for others to be done, not for a time; NextAt is since when
	Turn     Epoch     // of those that are queued the lowest is first: the end of the copy to be renewed, or one of the turns below
	Waits    int       // looks in a row that found nobody to make a deal with, or to pay for it
	Forgiven time.Time // attempts that ended before do not count against it: the operator said so
	NextAt   time.Time
}

// The turns of slots without a copy. A renewal comes before them, for it can still come too late.
const (
	turnLost  Epoch = 1e12 // it had one
	turnFirst Epoch = 2e12
)

// A Cold is how an archive stands, for users. The zero value is invalid.
type Cold string

const (
	ColdDisabled   Cold = "disabled"    // nothing is wanted cold
	ColdPending    Cold = "pending"     // nothing under way yet
	ColdInProgress Cold = "in_progress" // attempts under way, none active
	ColdDegraded   Cold = "degraded"    // some active, fewer than wanted
	ColdStored     Cold = "stored"      // as many active as wanted
	ColdFailed     Cold = "failed"      // given up for now: tried daily, or never possible
)

// A Standing is what is known of an archive from outside. It is written with every change of a slot or an attempt.
type Standing struct {
	Cold     Cold         `json:"Cold"`
	Wanted   int          `json:"Wanted"`   // X
	Accepted int          `json:"Accepted"` // slots with an attempt that the provider accepted or better
	Active   int          `json:"Active"`   // slots with a proven deal
	Working  int          `json:"Working"`  // slots with an attempt under way and none active
	Kept     bool         `json:"Kept"`     // every copy that was promised has been active at some time
	Ever     int          `json:"Ever"`     // slots that have had a proven deal at some time
	GivenUp  bool         `json:"GivenUp"`  // nothing is under way for the copies that are missing, and they are tried daily or never possible
	Piece    *piece.Piece `json:"Piece"`
	Reason   string       `json:"Reason"` // what it waits for or why it failed, in words for the user; empty when there is nothing to say
	Deals    []Deal       `json:"Deals"`  // the latest attempt of each slot, and live ones beside it; at most 10
	NextAt   time.Time    `json:"NextAt"`
	// UsesBytes tells that letting the bytes go from the hot tier would keep a copy from being made: one is to be proposed
	// (the first, in place of a lost one, a renewal), or a provider has yet to fetch it.
	UsesBytes bool `json:"UsesBytes,omitempty"`
	// NeedsBytes tells that UsesBytes holds and that they are not held: that copy waits until they are.
	NeedsBytes bool `json:"NeedsBytes,omitempty"`
}

// A Deal is what users see of an attempt.
type Deal struct {
	Provider ProviderID `json:"provider"`
	State    State      `json:"state"`
	DealID   string     `json:"deal_id,omitempty"`
	Proposal string     `json:"proposal"` // the deal's UUID
	Start    Epoch      `json:"start,omitempty"`
	End      Epoch      `json:"end,omitempty"`
	Protocol string     `json:"protocol"`
	Error    string     `json:"error,omitempty"`
}

// StandingOf derives how an archive stands from its slots (those not closed) and their attempts. Nothing else decides
// it.
func StandingOf(a Archive, slots []Slot, attempts []Attempt) Standing {
	s := Standing{Wanted: a.Terms.Replicas, Piece: a.Piece, Reason: a.Reason}
	if !a.Wanted {
		s.Cold, s.Wanted = ColdDisabled, 0
		return s
	}
	exhausted, kept := 0, 0
	for _, slot := range slots {
		if slot.State == Closed {
			continue
		}
		active, accepted, live, ever := false, false, false, false
		for _, t := range attempts {
			if t.Slot != slot.ID {
				continue
			}
			active = active || t.State == Active
			live = live || !t.State.Final()
			accepted = accepted || !t.State.Final() && !t.State.before(Accepted)
			ever = ever || !t.ActiveAt.IsZero()
		}
		s.UsesBytes = s.UsesBytes || slot.Wanting || slot.feeds(attempts)
		switch {
		case active:
			s.Active++
		case live:
			s.Working++
		case slot.Exhausted:
			exhausted++
		}
		if accepted {
			s.Accepted++
		}
		if ever {
			kept++
		}
		if !active && slot.Reason != "" && s.Reason == "" {
			s.Reason = slot.Reason
		}
		if s.NextAt.IsZero() || slot.NextAt.Before(s.NextAt) {
			s.NextAt = slot.NextAt
		}
	}
	s.UsesBytes = !a.Barred && (s.UsesBytes || a.Piece == nil)
	s.NeedsBytes = s.UsesBytes && !a.Held
	s.Ever, s.Kept = kept, s.Wanted > 0 && kept >= s.Wanted
	s.GivenUp = s.Active < s.Wanted && (a.Barred || exhausted > 0 && s.Working == 0)
	switch {
	case s.Active >= s.Wanted:
		s.Cold = ColdStored
	case s.Active > 0:
		s.Cold = ColdDegraded
	case s.GivenUp:
		s.Cold = ColdFailed
	case s.Working > 0:
		s.Cold = ColdInProgress
	default:
		s.Cold = ColdPending
	}
	s.Deals = shown(attempts)
	return s
}

// feeds tells whether a provider has yet to fetch the bytes for a slot. One that got stuck before another filled the
// slot is not waited for.
func (s Slot) feeds(attempts []Attempt) bool {
	var active *Attempt
	for i, t := range attempts {
		if t.Slot == s.ID && t.State == Active && (active == nil || t.End > active.End) {
			active = &attempts[i]
		}
	}
	for _, t := range attempts {
		if t.Slot != s.ID || !t.PulledAt.IsZero() || active != nil && t.Renews != active.ID {
			continue
		}
		switch t.State {
		case Planned, Proposing, Accepted, Transferring:
			return true
		case Published, Sealing, Active, Rejected, Failed, Missed, Expired, Terminated, Cancelled:
		}
	}
	return false
}

// maxShown bounds the deals in a standing; the whole list has a route of its own.
const maxShown = 10

// shown picks the attempts that users see at once: live ones first, then the latest that ended.
func shown(attempts []Attempt) []Deal {
	deals := []Deal{}
	for _, live := range []bool{true, false} {
		for i := len(attempts) - 1; i >= 0 && len(deals) < maxShown; i-- {
			if t := attempts[i]; t.State.Final() != live {
				deals = append(deals, DealOf(t))
			}
		}
	}
	return deals
}

// DealOf is an attempt as users see it.
func DealOf(a Attempt) Deal {
	d := Deal{Provider: a.Provider, State: a.State, Proposal: a.UUID.String(), Start: a.Start, End: a.End, Protocol: a.Protocol}
	if a.DealID != 0 {
		d.DealID = strconv.FormatUint(uint64(a.DealID), 10)
	}
	if a.State.Final() && a.State != Expired {
		d.Error = a.Reason
	}
	return d
}
