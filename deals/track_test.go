package deals_test

import (
	"strings"
	"testing"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/deals"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const (
	start = deals.Epoch(10_000)
	last  = deals.Epoch(600_000)
)

// inState is an attempt as it looks in a state.
func inState(s deals.State) deals.Attempt {
	a := deals.Attempt{
		ID: 7, State: s, Start: start, End: last, Price: big.NewInt(3), Reserved: big.NewInt(1_770_000),
		PlannedAt: noon.Add(-3 * time.Hour), SentAt: noon.Add(-2 * time.Hour), ChangedAt: noon.Add(-2 * time.Hour),
		PendingAt: noon.Add(-time.Minute),
	}
	switch s {
	case deals.Planned:
		a.SentAt, a.PendingAt = time.Time{}, time.Time{}
	case deals.Accepted, deals.Transferring, deals.Failed:
		a.AcceptedAt = noon.Add(-2 * time.Hour)
	case deals.Published, deals.Sealing, deals.Active:
		a.AcceptedAt, a.PublishedAt, a.SeenPending, a.Reserved = noon.Add(-2*time.Hour), noon.Add(-time.Hour), true, big.Zero()
		if s != deals.Published {
			a.DealID = 5
		}
		if s == deals.Active {
			a.ActiveAt, a.Height, a.Sector = noon.Add(-time.Hour), start-10, 3
		}
	case deals.Proposing, deals.Rejected, deals.Missed, deals.Expired, deals.Terminated, deals.Cancelled:
	}
	return a
}

func heads(head, final deals.Epoch) deals.Heads { return deals.Heads{Head: head, Final: final} }

func onChain(sectorStart, slash deals.Epoch) *deals.OnChain {
	return &deals.OnChain{SectorStart: sectorStart, SlashEpoch: slash, Sector: 0, ObservedAt: 9000}
}

// TestTheTruthTableOfTheChain is section 3.2 of the reference, row by row, and the rules about who is believed.
func TestTheTruthTableOfTheChain(t *testing.T) {
	before, after := heads(9000, 8100), heads(start+1000, start+100)
	justAfter := heads(start+10, start-890) // the head is past the start, what is final is not
	dropped := heads(start+32*deals.EpochsPerDay, start+31*deals.EpochsPerDay)
	unknown := &deals.ProviderStatus{Unknown: true}
	for _, test := range []struct {
		name string
		is   deals.State
		o    deals.Observation
		want deals.State
	}{
		{"pending is published", deals.Accepted, deals.Observation{Heads: before, Pending: new(true)}, deals.Published},
		{"pending before any answer is published", deals.Proposing, deals.Observation{Heads: before, Pending: new(true)}, deals.Published},
		{"found and not activated before the start is sealing", deals.Published, deals.Observation{Heads: before, DealID: 5, Deal: onChain(-1, -1)}, deals.Sealing},
		{"not activated after the start at the head only is still sealing", deals.Sealing, deals.Observation{Heads: justAfter, Deal: onChain(-1, -1)}, deals.Sealing},
		{"not activated after the start for good is missed", deals.Sealing, deals.Observation{Heads: after, Deal: onChain(-1, -1), AtFinal: true}, deals.Missed},
		{"never pending before the start is in progress", deals.Accepted, deals.Observation{Heads: before, Pending: new(false)}, deals.Accepted},
		{"never pending after the start at the head only is in progress", deals.Accepted, deals.Observation{Heads: justAfter, Pending: new(false)}, deals.Accepted},
		{"never pending after the start is missed", deals.Accepted, deals.Observation{Heads: after, Pending: new(false)}, deals.Missed},
		{"not asked whether it is pending is not missed", deals.Accepted, deals.Observation{Heads: after}, deals.Accepted},
		{"once pending, of unknown id after the start, is no loss", deals.Published, deals.Observation{Heads: after, Pending: new(false)}, deals.Published},
		{"once pending, of unknown id when the market has dropped it, is missed", deals.Published, deals.Observation{Heads: dropped, Pending: new(false)}, deals.Missed},
		{"once pending and still so is no loss, however late", deals.Published, deals.Observation{Heads: dropped, Pending: new(true)}, deals.Published},
		{"not asked whether it is still pending is no loss, however late", deals.Published, deals.Observation{Heads: dropped}, deals.Published},
		{"activated is active, in sector 0 too", deals.Sealing, deals.Observation{Heads: before, Deal: onChain(8999, -1)}, deals.Active},
		{"activated is active, whatever was thought before", deals.Accepted, deals.Observation{Heads: before, DealID: 5, Deal: onChain(8999, -1)}, deals.Active},
		{"slashed at the head only is not lost", deals.Sealing, deals.Observation{Heads: before, Deal: onChain(8999, 9000)}, deals.Sealing},
		{"slashed for good is terminated", deals.Sealing, deals.Observation{Heads: before, Deal: onChain(8999, 9000), AtFinal: true}, deals.Terminated},
		{"gone before the start may come back", deals.Sealing, deals.Observation{Heads: before, Gone: true, AtFinal: true}, deals.Sealing},
		{"gone after the start for good is missed", deals.Sealing, deals.Observation{Heads: after, Gone: true, AtFinal: true}, deals.Missed},
		{"gone after the start at the head only is not", deals.Sealing, deals.Observation{Heads: after, Gone: true}, deals.Sealing},
		{"active and gone once is still active", deals.Active, deals.Observation{Heads: after, Gone: true, AtFinal: true}, deals.Active},
		{"active until its end", deals.Active, deals.Observation{Heads: heads(last+10, last-1)}, deals.Active},
		{"active up to its end is expired", deals.Active, deals.Observation{Heads: heads(last+900, last)}, deals.Expired},
		{"gone at its end is expired, not lost", deals.Active, deals.Observation{Heads: heads(last+900, last), Gone: true, AtFinal: true}, deals.Expired},
		{"without a chain nothing is concluded", deals.Active, deals.Observation{Gone: true, AtFinal: true}, deals.Active},
		{"without a chain nothing is missed", deals.Accepted, deals.Observation{Pending: new(false), Status: unknown}, deals.Accepted},

		{"yes is accepted", deals.Proposing, deals.Observation{Answer: &deals.Answer{Accepted: true}}, deals.Accepted},
		{"no is rejected", deals.Proposing, deals.Observation{Answer: &deals.Answer{Text: "no"}}, deals.Rejected},
		{"a late answer changes nothing", deals.Published, deals.Observation{Answer: &deals.Answer{Text: "no"}}, deals.Published},
		{"silence is no answer", deals.Proposing, deals.Observation{Silent: true}, deals.Proposing},
		{"out of reach later is no answer", deals.Proposing, deals.Observation{Unreachable: true}, deals.Proposing},
		{"out of reach at first has failed", deals.Proposing, deals.Observation{Unreachable: true, Unsent: true}, deals.Failed},
		{"what the provider knows it has accepted", deals.Proposing, deals.Observation{Status: &deals.ProviderStatus{Status: "Accepted"}}, deals.Accepted},
		{"what the provider does not know is not decided", deals.Proposing, deals.Observation{Heads: before, Status: unknown, Pending: new(false)}, deals.Proposing},
		{"never answered until the start has failed", deals.Proposing, deals.Observation{Heads: after, Status: unknown, Pending: new(false)}, deals.Failed},
		{"a provider that gives up has failed", deals.Accepted, deals.Observation{Heads: before, Status: &deals.ProviderStatus{Error: "no disk"}, Pending: new(false)}, deals.Failed},
		{"a provider that gives up what is on chain is not believed", deals.Sealing, deals.Observation{Heads: before, Status: &deals.ProviderStatus{Error: "no disk"}, Deal: onChain(-1, -1)}, deals.Sealing},
		{"nor while the chain was not asked", deals.Accepted, deals.Observation{Heads: before, Status: &deals.ProviderStatus{Error: "no disk"}}, deals.Accepted},
		{"unknown words are progress", deals.Accepted, deals.Observation{Heads: before, Status: &deals.ProviderStatus{Status: "Sealed and Indexed"}, Pending: new(false)}, deals.Accepted},
		{"one that fetches is transferring", deals.Accepted, deals.Observation{Pulling: true}, deals.Transferring},
		{"only who has accepted fetches", deals.Proposing, deals.Observation{Pulling: true}, deals.Transferring},
		{"fetching again changes nothing on chain", deals.Sealing, deals.Observation{Pulling: true, Pulled: true}, deals.Sealing},

		{"planned and unwanted is cancelled", deals.Planned, deals.Observation{}, deals.Cancelled},
		{"planned and wanted waits", deals.Planned, deals.Observation{Wanted: true, Heads: after}, deals.Planned},
		{"unwanted after it was sent goes on", deals.Accepted, deals.Observation{Heads: before, Pending: new(false)}, deals.Accepted},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := deals.Track(inState(test.is), test.o, deals.Defaults(), noon)
			if got.State != test.want {
				t.Fatalf("%s became %s (%s), want %s", test.is, got.State, got.Reason, test.want)
			}
			if got.State.Final() && (got.Reason == "" || !got.EndedAt.Equal(noon)) {
				t.Errorf("it ended at %s because of %q", got.EndedAt, got.Reason)
			}
			if !got.State.Final() && !got.NextAt.After(noon) {
				t.Errorf("the next look is at %s", got.NextAt)
			}
			if (got.State != test.is) != got.ChangedAt.Equal(noon) {
				t.Errorf("from %s to %s, changed at %s", test.is, got.State, got.ChangedAt)
			}
		})
	}
}

func TestADealIsLostWhenSeveralLaterFinalTipsetsAgree(t *testing.T) {
	gone := func(final deals.Epoch) deals.Observation {
		return deals.Observation{Heads: heads(final+900, final), Gone: true, AtFinal: true}
	}
	a := inState(deals.Active)
	a.Height = start + 500
	for _, final := range []deals.Epoch{start, start + 500} {
		if a = deals.Track(a, gone(final), deals.Defaults(), noon); a.Missing != 0 {
			t.Fatalf("the tipset at %d is older than the last proof at %d", final, start+500)
		}
	}
	a = deals.Track(a, gone(start+600), deals.Defaults(), noon)
	a = deals.Track(a, gone(start+600), deals.Defaults(), noon)
	a = deals.Track(a, gone(start+601), deals.Defaults(), noon)
	if a.State != deals.Active || a.Missing != 2 {
		t.Fatalf("got %s after %d tipsets without it", a.State, a.Missing)
	}
	back := deals.Track(a, deals.Observation{Heads: heads(start+2000, start+602), Deal: onChain(9500, -1), AtFinal: true}, deals.Defaults(), noon)
	if back.Missing != 0 || back.State != deals.Active {
		t.Fatalf("one that comes back has %d to go", back.Missing)
	}
	if a = deals.Track(a, gone(start+602), deals.Defaults(), noon); a.State != deals.Terminated {
		t.Fatalf("got %s", a.State)
	}
}

func TestAProviderHasToForgetADealSeveralTimesOverAWhile(t *testing.T) {
	p := deals.Defaults()
	o := deals.Observation{Heads: heads(9000, 8100), Status: &deals.ProviderStatus{Unknown: true}, Pending: new(false)}
	a := inState(deals.Accepted)
	for i := range 3 {
		if a = deals.Track(a, o, p, noon.Add(time.Duration(i)*time.Minute)); a.State != deals.Accepted {
			t.Fatalf("%d times in %d minutes was enough", i+1, i)
		}
	}
	known := deals.Track(a, deals.Observation{Heads: o.Heads, Status: &deals.ProviderStatus{Status: "Transferred"}}, p, noon)
	if known.Unknowns != 0 {
		t.Error("a provider that remembers is not given another chance")
	}
	if a = deals.Track(a, o, p, noon.Add(p.UnknownFor)); a.State != deals.Failed {
		t.Fatalf("got %s", a.State)
	}
	if a.Reserved.IsZero() {
		t.Error("the provider may still publish it, and its escrow is not reserved any more")
	}
}

// A proposal whose answer was lost, and that its provider says has failed, was accepted: it may still be published.
func TestAProposalThatTheProviderSaysHasFailedWasAccepted(t *testing.T) {
	o := deals.Observation{Heads: heads(9000, 8100), Status: &deals.ProviderStatus{Error: "no disk"}, Pending: new(false)}
	a := deals.Track(inState(deals.Proposing), o, deals.Defaults(), noon)
	if a.State != deals.Failed || a.Reserved.IsZero() {
		t.Errorf("it is %s, and reserves %s", a.State, a.Reserved)
	}
	if outcome, _ := deals.OutcomeOf(a); outcome.Event != deals.Dropped {
		t.Errorf("its provider counts as one that has %s it", outcome.Event)
	}
	o.Pending = nil // the chain was not asked yet
	if a = deals.Track(inState(deals.Proposing), o, deals.Defaults(), noon); a.State != deals.Accepted {
		t.Errorf("it is %s before the chain was asked", a.State)
	}
}

// TestWhoeverCouldNotLookDoesNotConcludeThatNothingWasThere: pending proposals vanish when they are activated.
func TestWhoeverCouldNotLookDoesNotConcludeThatNothingWasThere(t *testing.T) {
	a := inState(deals.Accepted)
	a.PendingAt = noon.Add(-12 * time.Hour)
	o := deals.Observation{Heads: heads(start+1000, start+100), Pending: new(false)}
	a = deals.Track(a, o, deals.Defaults(), noon)
	if a.State != deals.Accepted || a.Reason == "" {
		t.Fatalf("got %s: %q", a.State, a.Reason)
	}
	// Asked again at once it is as blind as before: what it has missed is past.
	if a = deals.Track(a, o, deals.Defaults(), noon.Add(time.Minute)); a.State != deals.Accepted {
		t.Fatalf("got %s: %q", a.State, a.Reason)
	}
	denied := o
	denied.Status = &deals.ProviderStatus{Unknown: true}
	if got := deals.Track(a, denied, deals.Defaults(), noon); got.State != deals.Missed {
		t.Errorf("the provider says that there is nothing, and it is %s", got.State)
	}
	late := o
	late.Heads = heads(start+32*deals.EpochsPerDay, start+31*deals.EpochsPerDay)
	if got := deals.Track(a, late, deals.Defaults(), noon); got.State != deals.Missed {
		t.Errorf("a month after its start it is %s", got.State)
	}
}

func TestADealOfAnotherUnderOurIDIsForgotten(t *testing.T) {
	a := deals.Track(inState(deals.Sealing), deals.Observation{Heads: heads(9000, 8100), Forget: true}, deals.Defaults(), noon)
	if a.DealID != 0 || a.State.Final() {
		t.Errorf("got deal %d, %s", a.DealID, a.State)
	}
}

func TestEscrowStaysReservedUntilItIsLockedOrNeverWillBe(t *testing.T) {
	for state, keeps := range map[deals.State]bool{
		deals.Proposing: true, deals.Accepted: true, deals.Transferring: true, deals.Published: false, deals.Sealing: false,
	} {
		if a := inState(state); a.Reserved.IsZero() == keeps {
			t.Errorf("%s: reserved %s", state, a.Reserved)
		}
	}
	published := deals.Track(inState(deals.Accepted), deals.Observation{Heads: heads(9000, 8100), Pending: new(true)}, deals.Defaults(), noon)
	rejected := deals.Track(inState(deals.Proposing), deals.Observation{Answer: &deals.Answer{}}, deals.Defaults(), noon)
	for _, a := range []deals.Attempt{published, rejected} {
		if !a.Reserved.IsZero() {
			t.Errorf("%s still reserves %s", a.State, a.Reserved)
		}
	}
}

// TestTrackNeverGoesBackNorOutOfAFinalState throws anything at attempts in any state.
func TestTrackNeverGoesBackNorOutOfAFinalState(t *testing.T) {
	order := map[deals.State]int{}
	for i, s := range deals.States() {
		order[s] = i
	}
	rapid.Check(t, func(t *rapid.T) {
		a := inState(rapid.SampledFrom(deals.States()).Draw(t, "state"))
		o := genObservation().Draw(t, "observation")
		got := deals.Track(a, o, deals.Defaults(), noon)
		switch {
		case (a.State == deals.Failed || a.State == deals.Rejected) && o.Heads.Head != 0 && (o.Pending != nil && *o.Pending || o.Deal != nil):
			if order[got.State] < order[deals.Published] || got.State == a.State {
				t.Fatalf("what was given up or refused, and is on chain, is %s", got.State)
			}
		case a.State.Final():
			if diff := cmp.Diff(a.State, got.State); diff != "" || !got.EndedAt.Equal(a.EndedAt) {
				t.Fatalf("a final attempt moved: %s", diff)
			}
		case order[got.State] < order[a.State]:
			t.Fatalf("from %s back to %s", a.State, got.State)
		case got.State == deals.Active && a.State != deals.Active && (o.Deal == nil || o.Deal.SectorStart < 0 || o.Deal.SlashEpoch >= 0):
			t.Fatalf("active without a proof: %+v", o)
		case o.Heads.Head == 0 && (got.State == deals.Missed || got.State == deals.Terminated || got.State == deals.Expired || got.State == deals.Active && a.State != deals.Active):
			t.Fatalf("%s without a chain", got.State)
		case a.State == deals.Active && got.State == deals.Terminated:
			t.Fatal("a proven deal was lost by one look")
		case a.State == deals.Active && got.State != deals.Active && got.State != deals.Expired:
			t.Fatalf("an active deal became %s", got.State)
		}
	})
}

func genObservation() *rapid.Generator[deals.Observation] {
	return rapid.Custom(func(t *rapid.T) deals.Observation {
		o := deals.Observation{
			Wanted: rapid.Bool().Draw(t, "wanted"), Unreachable: rapid.Bool().Draw(t, "unreachable"), Silent: rapid.Bool().Draw(t, "silent"),
			Pulled: rapid.Bool().Draw(t, "pulled"), Pulling: rapid.Bool().Draw(t, "pulling"), Gone: rapid.Bool().Draw(t, "gone"),
			AtFinal: rapid.Bool().Draw(t, "final"), Forget: rapid.Bool().Draw(t, "forget"), DealID: abi.DealID(rapid.IntRange(0, 5).Draw(t, "id")),
		}
		if rapid.Bool().Draw(t, "chain") {
			head := deals.Epoch(rapid.Int64Range(1000, int64(last)+2000).Draw(t, "head"))
			o.Heads = heads(head, max(0, head-900))
		}
		if rapid.Bool().Draw(t, "asked") {
			o.Pending = new(rapid.Bool().Draw(t, "pending"))
		}
		if rapid.Bool().Draw(t, "found") {
			o.Deal = onChain(deals.Epoch(rapid.Int64Range(-1, 1).Draw(t, "sector")), deals.Epoch(rapid.Int64Range(-1, 1).Draw(t, "slash")))
		}
		if rapid.Bool().Draw(t, "answered") {
			o.Answer = &deals.Answer{Accepted: rapid.Bool().Draw(t, "yes"), Text: "text"}
		}
		if rapid.Bool().Draw(t, "told") {
			o.Status = &deals.ProviderStatus{Unknown: rapid.Bool().Draw(t, "unknown"), Error: rapid.SampledFrom([]string{"", "broken"}).Draw(t, "error")}
		}
		return o
	})
}

func TestAProvidersWordsAreKeptAsTheyAreUpToABound(t *testing.T) {
	a := deals.Track(inState(deals.Proposing), deals.Observation{Answer: &deals.Answer{Text: strings.Repeat("é", 5000)}}, deals.Defaults(), noon)
	if n := len([]rune(a.Verbatim)); n != 1000 {
		t.Errorf("kept %d characters", n)
	}
}

// TestOnlyTheDealThatWasSignedMatches changes each field of a proposal in turn.
func TestOnlyTheDealThatWasSignedMatches(t *testing.T) {
	label := func(text string) market.DealLabel {
		l, err := market.NewLabelFromString(text)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	client := deals.Client{Key: deals.ProviderID(1).Address(), ID: deals.ProviderID(2).Address()}
	signed := market.DealProposal{
		PieceCID: testPiece().CIDv1, PieceSize: 256, Client: client.Key, Provider: deals.ProviderID(1000).Address(), Label: label("root"),
		StartEpoch: 1, EndEpoch: 2, StoragePricePerEpoch: big.NewInt(3), ProviderCollateral: big.NewInt(4), ClientCollateral: big.Zero(),
	}
	stored := signed
	stored.Client = client.ID
	if !deals.Matches(signed, client, 1000, deals.OnChain{Proposal: stored}) {
		t.Fatal("our own deal does not match")
	}
	for name, change := range map[string]func(p *market.DealProposal){
		"piece":      func(p *market.DealProposal) { p.PieceCID = testPiece().CIDv2 },
		"size":       func(p *market.DealProposal) { p.PieceSize *= 2 },
		"client":     func(p *market.DealProposal) { p.Client = deals.ProviderID(3).Address() },
		"provider":   func(p *market.DealProposal) { p.Provider = deals.ProviderID(1001).Address() },
		"label":      func(p *market.DealProposal) { p.Label = label("other") },
		"start":      func(p *market.DealProposal) { p.StartEpoch++ },
		"end":        func(p *market.DealProposal) { p.EndEpoch++ },
		"price":      func(p *market.DealProposal) { p.StoragePricePerEpoch = big.NewInt(4) },
		"collateral": func(p *market.DealProposal) { p.ProviderCollateral = big.NewInt(5) },
		"ours":       func(p *market.DealProposal) { p.ClientCollateral = big.NewInt(1) },
		"verified":   func(p *market.DealProposal) { p.VerifiedDeal = true },
	} {
		other := stored
		change(&other)
		if deals.Matches(signed, client, 1000, deals.OnChain{Proposal: other}) {
			t.Errorf("a deal with another %s matches", name)
		}
	}
}

func TestAMessageThatAProviderNamesIsKeptUntilTheDealIsFound(t *testing.T) {
	one, other := someRoot(t, "one"), someRoot(t, "other")
	p := deals.Defaults()
	named := deals.Track(inState(deals.Accepted), deals.Observation{Heads: heads(9000, 8100), Named: one}, p, noon)
	if named.PublishCID != one {
		t.Errorf("the message is %s, and the provider has named %s", named.PublishCID, one)
	}
	found := deals.Observation{Heads: heads(9000, 8100), DealID: 5, Deal: onChain(-1, -1)}
	unproven := deals.Track(named, found, p, noon)
	if unproven.PublishCID != one || !unproven.Claimed {
		t.Errorf("the message that could not be looked into became %s, claimed %v", unproven.PublishCID, unproven.Claimed)
	}
	denied := deals.Observation{Heads: heads(9000, 8100), Deal: onChain(-1, -1), Denied: true}
	if got := deals.Track(unproven, denied, p, noon).PublishCID; got.Defined() {
		t.Errorf("the message is %s, in which the deal was not found later", got)
	}
	found.Denied = true
	if got := deals.Track(named, found, p, noon).PublishCID; got.Defined() {
		t.Errorf("the message is %s, in which the deal was not found", got)
	}
	found.PublishCID, found.Denied = other, false
	published := deals.Track(named, found, p, noon)
	if published.PublishCID != other || published.Claimed {
		t.Errorf("the message is %s, and the deal was found in %s", published.PublishCID, other)
	}
	if got := deals.Track(published, deals.Observation{Heads: heads(9000, 8100), Named: one}, p, noon).PublishCID; got != other {
		t.Errorf("the message became %s when the provider named it", got)
	}
}
