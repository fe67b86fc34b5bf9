package deals_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/ipfs/go-cid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/dealstest"
)

// TestEveryFaultOfAProviderEndsWithAllCopiesElsewhere lets two of five providers misbehave in one way from the start.
func TestEveryFaultOfAProviderEndsWithAllCopiesElsewhere(t *testing.T) {
	faults := map[string]struct {
		change func(p *dealstest.Provider)
		leads  deals.State // of the attempts with them; empty: they serve us all the same
	}{
		"is offline":                        {func(p *dealstest.Provider) { p.Offline = true }, "none"},
		"refuses":                           {func(p *dealstest.Provider) { p.Reject = "client not allowed by provider" }, deals.Rejected},
		"refuses for now":                   {func(p *dealstest.Provider) { p.Reject, p.Later = "please retry in some time", true }, deals.Rejected},
		"takes and never answers":           {func(p *dealstest.Provider) { p.Hang, p.Silent = true, true }, deals.Failed},
		"loses every proposal":              {func(p *dealstest.Provider) { p.LoseProposal = true }, deals.Failed},
		"loses its answer":                  {func(p *dealstest.Provider) { p.LoseAnswer = true }, ""},
		"loses its answer, and never tells": {func(p *dealstest.Provider) { p.LoseAnswer, p.Silent = true, true }, ""},
		"never publishes":                   {func(p *dealstest.Provider) { p.NeverPublish = true }, deals.Missed},
		"never seals":                       {func(p *dealstest.Provider) { p.NeverSeal = true }, deals.Missed},
		"seals too late":                    {func(p *dealstest.Provider) { p.SealLate = true }, deals.Missed},
		"gives up":                          {func(p *dealstest.Provider) { p.GiveUp = true }, deals.Failed},
		"forgets":                           {func(p *dealstest.Provider) { p.Forget = true }, deals.Failed},
		"names another's deal":              {func(p *dealstest.Provider) { p.WrongID = true }, ""},
		"tells of another deal":             {func(p *dealstest.Provider) { p.OtherProposal = true }, ""},
		"says nothing but Processing":       {func(p *dealstest.Provider) { p.Curio = true }, ""},
		"never says anything":               {func(p *dealstest.Provider) { p.Silent = true }, ""},
		"asks too much":                     {func(p *dealstest.Provider) { p.Price = dealstest.FIL(1) }, "none"},
		"wants large pieces only":           {func(p *dealstest.Provider) { p.MinPiece = 16 << 30 }, "none"},
	}
	for name, fault := range faults {
		if testing.Short() && fault.leads != deals.Failed {
			continue // four of them go the longest way, through every state
		}
		t.Run(name, func(t *testing.T) {
			forLong(t, 5, func(t *testing.T, w *world) {
				bad := honest()
				fault.change(&bad)
				w.net.Add(1000, bad)
				w.net.Add(1001, bad)
				w.start()
				wish := w.wish(name, 3)
				w.untilActive(wish, 3)
				pass(2 * time.Hour)
				w.mustBeSound()
				if s := w.standing(wish); s.Active < 3 {
					t.Errorf("copies did not stay: %+v", s)
				}
				for _, a := range w.attempts(wish) {
					switch faulty := a.Provider <= 1001; {
					case !faulty && a.State != deals.Active:
						t.Errorf("%s is honest, and its deal is %s: %s", a.Provider, a.State, a.Reason)
					case faulty && fault.leads == "" && a.State != deals.Active:
						t.Errorf("%s serves us all the same, and its deal is %s: %s", a.Provider, a.State, a.Reason)
					case faulty && fault.leads != "" && a.State != fault.leads:
						t.Errorf("the deal with %s is %s, not %s: %s", a.Provider, a.State, fault.leads, a.Reason)
					case faulty && fault.leads != "" && a.Reason == "":
						t.Errorf("nothing says why the deal with %s is %s", a.Provider, a.State)
					}
				}
			})
		})
	}
}

// What a provider has given up and publishes all the same is a deal that costs.
func TestADealThatIsPublishedAfterItWasGivenUpIsTakenUpAgain(t *testing.T) {
	for name, lost := range map[string]bool{"answered": false, "answer lost": true} {
		t.Run(name, func(t *testing.T) { takesUpWhatWasGivenUp(t, lost) })
	}
}

func takesUpWhatWasGivenUp(t *testing.T, loseAnswer bool) {
	t.Helper()
	inWorld(t, 2, func(t *testing.T, w *world) {
		var mu sync.Mutex
		billed := map[string]abi.TokenAmount{}
		w.bill = func(_ context.Context, costs []deals.Cost) error {
			mu.Lock()
			defer mu.Unlock()
			for _, c := range costs {
				billed[c.Deal.String()] = big.Add(orZero(billed[c.Deal.String()]), c.Amount)
			}
			return nil
		}
		w.make()
		bad := honest()
		bad.GiveUp, bad.Relents, bad.LoseAnswer = true, deals.EpochsPerDay, loseAnswer
		w.net.Add(1000, bad)
		w.start()
		wish := w.wish("x", 2)
		var late deals.Attempt
		w.until("it is given up", time.Hour, func() bool {
			i := slices.IndexFunc(w.attempts(wish), func(a deals.Attempt) bool { return a.State == deals.Failed && a.Provider == 1000 })
			if i >= 0 {
				late = w.attempts(wish)[i]
			}
			return i >= 0
		})
		w.untilActive(wish, 2)
		w.mustBeSound()
		all := w.attempts(wish)
		if len(all) != 2 {
			t.Errorf("there are %d attempts", len(all))
		}
		i := slices.IndexFunc(all, func(a deals.Attempt) bool { return a.UUID == late.UUID })
		late = all[i]
		if !late.EndedAt.IsZero() || late.PublishedAt.IsZero() || late.Reserved.Sign() != 0 {
			t.Errorf("it has ended at %s, was published at %s and reserves %s", late.EndedAt, late.PublishedAt, late.Reserved)
		}
		var spent string
		err := w.db.Read(t.Context(), func(tx *gorm.DB) error {
			return tx.Raw(`SELECT deals FROM spend WHERE day = ?`, late.Day).Row().Scan(&spent)
		})
		if want := big.Add(all[0].Cost(), all[1].Cost()); err != nil || spent != want.String() {
			t.Errorf("%s are counted as spent, want %s: %v", spent, want, err)
		}
		w.until("it is charged", 5*time.Hour, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return orZero(billed[late.UUID.String()]).Sign() > 0
		})
	})
}

// spent is what all deals together are counted as.
func (w *world) spent() abi.TokenAmount {
	w.t.Helper()
	sum := big.Zero()
	err := w.db.Read(context.Background(), func(tx *gorm.DB) error {
		var days []string
		if err := tx.Raw(`SELECT deals FROM spend`).Scan(&days).Error; err != nil {
			return err
		}
		sum = big.Zero()
		for _, day := range days {
			amount, err := big.FromString(day)
			if err != nil {
				return err
			}
			sum = big.Add(sum, amount)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return sum
}

// onChain is what all deals on chain together cost.
func (w *world) onChain() abi.TokenAmount {
	sum := big.Zero()
	for _, d := range w.net.Deals() {
		sum = big.Add(sum, d.Cost)
	}
	return sum
}

// untilGivenUp waits for the first deal with a provider to be given up, or refused.
func (w *world) untilGivenUp(wish deals.Wish, id deals.ProviderID) (late deals.Attempt) {
	w.t.Helper()
	w.until("it is given up", time.Hour, func() bool {
		all := w.attempts(wish)
		i := slices.IndexFunc(all, func(a deals.Attempt) bool {
			return a.Provider == id && (a.State == deals.Failed || a.State == deals.Rejected)
		})
		if i >= 0 {
			late = all[i]
		}
		return i >= 0
	})
	return late
}

func (w *world) attempt(wish deals.Wish, id deals.AttemptID) deals.Attempt {
	w.t.Helper()
	all := w.attempts(wish)
	i := slices.IndexFunc(all, func(a deals.Attempt) bool { return a.ID == id })
	if i < 0 {
		w.t.Fatalf("attempt %d is not one of the wish", id)
	}
	return all[i]
}

func TestADealForNothingThatIsPublishedAfterItWasGivenUpIsTakenUpAgain(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		bad := honest()
		bad.Price, bad.GiveUp, bad.Relents = big.Zero(), true, deals.EpochsPerDay
		w.net.Add(1000, bad)
		w.start()
		wish := w.wish("x", 1)
		late := w.untilGivenUp(wish, 1000)
		if late.Cost().Sign() != 0 {
			t.Fatalf("it costs %s", late.Cost())
		}
		w.untilActive(wish, 1)
		if a := w.attempt(wish, late.ID); a.State != deals.Active || len(w.attempts(wish)) != 1 {
			t.Errorf("it is %s, of %d", a.State, len(w.attempts(wish)))
		}
		w.mustBeSound()
	})
}

// TestADealThatWasGivenUpAndActivatedWhileNobodyLookedIsTakenUp lets the process be away until after its start.
func TestADealThatWasGivenUpAndActivatedWhileNobodyLookedIsTakenUp(t *testing.T) {
	for name, refunded := range map[string]bool{"at once": false, "after it was refunded": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, 2, func(t *testing.T, w *world) {
				bad := honest()
				bad.GiveUp, bad.Relents = true, deals.EpochsPerDay
				w.net.Add(1000, bad)
				w.start()
				wish := w.wish("x", 2)
				late := w.untilGivenUp(wish, 1000)
				w.stop()
				pass(time.Duration(late.Start+1000-w.net.Height()) * epoch)
				if refunded {
					err := deals.NewRegistry(w.db, time.Now).Set(t.Context(), 1000, func(d deals.Decision) deals.Decision {
						d.Trust = deals.Denied // it would be asked again
						return d
					})
					if err != nil {
						t.Fatal(err)
					}
					w.chain = eventless{w.net}
					w.make()
					w.start()
					w.until("it is refunded", time.Hour, func() bool { return w.attempt(wish, late.ID).Reserved.Sign() == 0 })
					w.stop()
					w.chain = nil
				}
				w.make()
				w.start()
				w.untilActive(wish, 2)
				if a := w.attempt(wish, late.ID); a.State != deals.Active || a.Reserved.Sign() != 0 {
					t.Errorf("it is %s, and %s are reserved for it", a.State, a.Reserved)
				}
				w.spentOn(len(w.net.Deals()))
				w.mustBeSound()
			})
		})
	}
}

// An eventless chain does not tell which deals were published, as a node with Lotus' defaults.
type eventless struct{ deals.Chain }

func (e eventless) Events(ctx context.Context, _ deals.Epoch) ([]deals.Publication, deals.Epoch, error) {
	heads, err := e.Heads(ctx)
	return nil, heads.Head + 1, err
}

// What a provider has refused and publishes all the same is paid: it counts, and the provider is not asked for another.
func TestADealThatIsPublishedAfterItWasRefusedIsTakenUp(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		bad := honest()
		bad.Reject, bad.Sneaks, bad.Curio, bad.Publish = "client not allowed by provider", true, true, deals.EpochsPerDay
		w.net.Add(1000, bad)
		w.start()
		wish := w.wish("x", 3)
		w.until("it is refused", time.Hour, func() bool { return slices.Contains(w.states(wish), deals.Rejected) })
		w.untilActive(wish, 3)
		w.mustBeSound()
		want := big.Zero()
		for _, a := range w.attempts(wish) {
			want = big.Add(want, a.Cost())
		}
		var spent string
		err := w.db.Read(t.Context(), func(tx *gorm.DB) error {
			return tx.Raw(`SELECT deals FROM spend`).Row().Scan(&spent)
		})
		if len(w.attempts(wish)) != 3 || err != nil || spent != want.String() {
			t.Errorf("%s are counted as spent for %d deals, want %s for 3: %v", spent, len(w.attempts(wish)), want, err)
		}
		if bad, good := w.provider(1000).Score, w.provider(1001).Score; bad > 0.4 || bad >= good {
			t.Errorf("who has published what it had refused has a score of %v, and another %v", bad, good)
		}
	})
}

func TestAProviderThatHasRefusedForGoodIsNotSaidToHaveACopy(t *testing.T) {
	forLong(t, 1, func(t *testing.T, w *world) {
		bad := honest()
		bad.Reject = "client not allowed by provider"
		w.net.Add(1000, bad)
		w.start()
		wish := w.wish("x", 1)
		w.untilGivenUp(wish, 1000)
		w.until("it says why it waits", time.Hour, func() bool { return strings.Contains(w.standing(wish).Reason, "not asked again until") })
		if reason := w.standing(wish).Reason; strings.Contains(reason, "with a copy") {
			t.Errorf("it waits: %s", reason)
		}
	})
}

// Where the provider was asked again meanwhile, there is one copy, and both deals count as spent.
func TestADealThatWasRefusedForNowAndIsPublishedBesideAnotherCountsAsSpent(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		bad := honest()
		bad.Reject, bad.Later, bad.Sneaks, bad.Publish = "please retry in some time", true, true, deals.EpochsPerDay
		w.net.Add(1000, bad)
		w.start()
		wish := w.wish("x", 1)
		w.until("it is refused", time.Hour, func() bool { return slices.Contains(w.states(wish), deals.Rejected) })
		w.net.Add(1000, honest())
		w.untilActive(wish, 1)
		pass(20 * time.Minute)
		w.mustBeSound()
		want := big.Zero()
		for _, d := range w.net.Deals() {
			want = big.Add(want, d.Cost)
		}
		var spent string
		err := w.db.Read(t.Context(), func(tx *gorm.DB) error {
			return tx.Raw(`SELECT deals FROM spend`).Row().Scan(&spent)
		})
		if n := len(w.net.Deals()); n < 2 || err != nil || spent != want.String() {
			t.Errorf("%s are counted as spent, and the %d deals on chain cost %s: %v", spent, n, want, err)
		}
	})
}

// askedAgain is a world in which a provider has refused a deal for now, which it publishes a day later all the same, and
// then behaves in another way.
func (w *world) askedAgain(then dealstest.Provider) (wish deals.Wish, refused deals.Attempt) {
	w.t.Helper()
	bad := honest()
	bad.Reject, bad.Later, bad.Sneaks, bad.Curio, bad.Publish = "please retry in some time", true, true, true, deals.EpochsPerDay
	w.net.Add(1000, bad)
	w.start()
	wish = w.wish("x", 1)
	refused = w.untilGivenUp(wish, 1000)
	w.net.Add(1000, then)
	return wish, refused
}

func TestADealThatWasRefusedAndIsPublishedTakesThePlaceOfOneThatIsOnlyPlanned(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		var refused atomic.Bool
		hold := make(chan struct{})
		release := sync.OnceFunc(func() { close(hold) })
		defer release()
		w.cfg.At = func(step string) {
			if step == "asked" && refused.Load() {
				<-hold
			}
			refused.Store(refused.Load() || step == "rejected")
		}
		w.make()
		wish, first := w.askedAgain(honest())
		w.until("another one is planned", time.Hour, func() bool { return len(w.attempts(wish)) == 2 })
		w.until("the first is active", time.Hour, func() bool { return w.attempt(wish, first.ID).State == deals.Active })
		release()
		pass(10 * time.Minute)
		w.mustBeSound()
		if got, want := w.states(wish), []deals.State{deals.Active, deals.Cancelled}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		w.spentOn(1)
	})
}

func TestADealThatWasRefusedAndIsPublishedWaitsForAnotherThatWasSent(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		never := honest()
		never.NeverPublish = true
		wish, first := w.askedAgain(never)
		w.until("the first is on chain", time.Hour, func() bool { return len(w.net.Deals()) == 1 })
		pass(5 * time.Minute)
		if a := w.attempt(wish, first.ID); a.State != deals.Rejected || a.DealID != 0 || !a.PublishedAt.IsZero() {
			t.Errorf("while the other may be published it is %s, as deal %d: %s", a.State, a.DealID, a.Reason)
		}
		w.untilActive(wish, 1)
		w.mustBeSound()
		if got, want := w.states(wish), []deals.State{deals.Active, deals.Missed}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		w.spentOn(1)
	})
}

func TestADealThatWasRefusedAndIsPublishedWaitsForAnotherToBecomeActive(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		late := honest()
		late.NeverSeal = true
		wish, first := w.askedAgain(late)
		w.until("the other is on chain", time.Hour, func() bool {
			all := w.attempts(wish)
			return len(all) == 2 && !all[1].PublishedAt.IsZero()
		})
		w.until("the first is on chain", time.Hour, func() bool { return len(w.net.Deals()) == 2 })
		pass(5 * time.Minute)
		if a := w.attempt(wish, first.ID); a.State != deals.Rejected || !a.PublishedAt.IsZero() {
			t.Errorf("while the other may become active it is %s, as deal %d: %s", a.State, a.DealID, a.Reason)
		}
		w.untilActive(wish, 1)
		w.mustBeSound()
		if got, want := w.states(wish), []deals.State{deals.Active, deals.Missed}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		w.spentOn(2)
	})
}

// spentOn wants so many deals on chain, and what they cost to be what counts as spent.
func (w *world) spentOn(n int) {
	w.t.Helper()
	if spent, want := w.spent(), w.onChain(); !spent.Equals(want) || len(w.net.Deals()) != n {
		w.t.Errorf("%s are counted as spent, and the %d deals on chain cost %s", spent, len(w.net.Deals()), want)
	}
}

func orZero(a abi.TokenAmount) abi.TokenAmount {
	if a.Nil() {
		return big.Zero()
	}
	return a
}

func TestASlotThatCannotBeFilledSaysWhy(t *testing.T) {
	forLong(t, 2, func(t *testing.T, w *world) {
		id, err := w.Record(t.Context(), deals.Terms{Replicas: 3, Days: 180})
		if err != nil {
			t.Fatal(err)
		}
		w.start()
		wish := w.want(deals.Wish{Root: w.blocks.add([]byte("x")), Terms: id})
		w.untilActive(wish, 2)
		pass(time.Hour)
		s := w.standing(wish)
		if s.Cold != deals.ColdDegraded || !strings.Contains(s.Reason, "already with a copy") {
			t.Errorf("got %s: %q", s.Cold, s.Reason)
		}
		if n := len(w.attempts(wish)); n != 2 {
			t.Errorf("%d attempts were made with 2 providers", n)
		}
	})
}

func TestASlashedDealIsReplaced(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.start()
		wish := w.wish("x", 2)
		w.untilActive(wish, 2)
		lost := w.attempts(wish)[0]
		pass(10 * time.Minute)
		if !w.net.Slash(lost.Provider) {
			t.Fatal("nothing was slashed")
		}
		w.until("the loss is known", time.Hour, func() bool { return w.attempts(wish)[0].State == deals.Terminated })
		w.untilActive(wish, 2)
		if again := w.attempts(wish)[2]; again.Provider == lost.Provider || again.Slot != lost.Slot {
			t.Errorf("the loss with %s in slot %d was replaced with %s in slot %d", lost.Provider, lost.Slot, again.Provider, again.Slot)
		}
		w.mustBeSound()
	})
}

func TestADealIsRenewedWithTheSameProviderBeforeItEnds(t *testing.T) {
	forLong(t, 2, func(t *testing.T, w *world) {
		w.start()
		wish := w.wish("x", 1)
		w.untilActive(wish, 1)
		first := w.attempts(wish)[0]
		w.until("it is renewed", 20*time.Hour, func() bool { return len(w.attempts(wish)) == 2 && w.attempts(wish)[1].State == deals.Active })
		second := w.attempts(wish)[1]
		if second.Provider != first.Provider || second.Renews != first.ID || w.net.Height() >= first.End {
			t.Errorf("renewed by %+v at height %d", second, w.net.Height())
		}
		w.until("the first has ended", 20*time.Hour, func() bool { return w.attempts(wish)[0].State == deals.Expired })
		if s := w.standing(wish); s.Active != 1 || s.Cold != deals.ColdStored {
			t.Errorf("got %+v", s)
		}
		w.mustBeSound()
	})
}

func TestTermsThatChangeDuringARenewalBuyItOnce(t *testing.T) {
	forLong(t, 3, func(t *testing.T, w *world) {
		w.start()
		wish := w.wish("x", 1)
		w.untilActive(wish, 1)
		w.until("it is being renewed", 20*time.Hour, func() bool {
			all := w.attempts(wish)
			return len(all) == 2 && slices.Contains([]deals.State{deals.Accepted, deals.Transferring, deals.Published}, all[1].State)
		})
		first, second := w.attempts(wish)[0], w.attempts(wish)[1]
		terms, err := w.Terms(t.Context(), deals.Terms{Replicas: 1, Days: 200})
		if err != nil {
			t.Fatal(err)
		}
		w.unwant(wish)
		changed := w.want(deals.Wish{Root: wish.Root, Terms: terms})
		w.until("the first has ended", 20*time.Hour, func() bool {
			return slices.ContainsFunc(w.attempts(changed), func(a deals.Attempt) bool { return a.ID == first.ID && a.State == deals.Expired })
		})
		w.mustBeSound()
		all := w.attempts(changed)
		if s := w.standing(changed); s.Active != 1 || len(w.net.Deals()) != 2 || len(all) != 2 || all[1].ID != second.ID {
			t.Errorf("got %+v with %d deals on chain\n%s", s, len(w.net.Deals()), w.dump())
		}
	})
}

// What renews a copy may be with another provider, which the new terms may not allow.
func TestARenewalThatDoesNotSuitChangedTermsIsNotTakenOver(t *testing.T) {
	forLong(t, 1, func(t *testing.T, w *world) {
		w.start()
		wish := w.wish("x", 1)
		w.untilActive(wish, 1)
		first := w.attempts(wish)[0]
		unwilling := honest()
		unwilling.Reject = "no"
		w.net.Add(1000, unwilling)
		slow := honest()
		slow.Publish = 5000
		w.net.Add(1001, slow)
		if err := deals.NewRegistry(w.db, time.Now).Add(t.Context(), deals.Decision{ID: 1001}); err != nil {
			t.Fatal(err)
		}
		var second deals.Attempt
		w.until("another is renewing it", 20*time.Hour, func() bool {
			all := w.attempts(wish)
			second = all[len(all)-1]
			return second.Provider == 1001 && !second.State.Final() && !second.SentAt.IsZero()
		})
		if second.State == deals.Active {
			t.Fatal("the renewal is over already")
		}
		terms, err := w.Terms(t.Context(), deals.Terms{Replicas: 1, Days: 200, Providers: []deals.ProviderID{1000}})
		if err != nil {
			t.Fatal(err)
		}
		w.unwant(wish)
		changed := w.want(deals.Wish{Root: wish.Root, Terms: terms})
		w.until("the copy is taken over", time.Hour, func() bool {
			return slices.ContainsFunc(w.attempts(changed), func(a deals.Attempt) bool { return a.ID == first.ID })
		})
		for _, a := range w.attempts(changed) {
			if a.Provider != 1000 {
				t.Errorf("a deal with %s, which the terms do not name, is taken over", a.Provider)
			}
		}
		if !slices.ContainsFunc(w.attempts(wish), func(a deals.Attempt) bool { return a.ID == second.ID }) {
			t.Error("the renewal does not run out under the terms for which it was made")
		}
		w.mustBeSound()
	})
}

func TestNothingIsRenewedThatNobodyWants(t *testing.T) {
	forLong(t, 2, func(t *testing.T, w *world) {
		w.start()
		wish := w.wish("x", 2)
		w.untilActive(wish, 2)
		w.unwant(wish)
		if s := w.standing(wish); s.Cold != deals.ColdDisabled {
			t.Errorf("got %s", s.Cold)
		}
		pass(20 * time.Hour)
		if got, want := w.states(wish), []deals.State{deals.Expired, deals.Expired}; !slices.Equal(got, want) {
			t.Errorf("got %v", got)
		}
		w.want(wish)
		w.untilActive(wish, 2)
		w.mustBeSound()
	})
}

func TestWhatIsUnwantedBeforeItIsSentIsCancelled(t *testing.T) {
	forLong(t, 2, func(t *testing.T, w *world) {
		w.start()
		pass(time.Minute)      // providers are asked
		w.net.Node(true, 0, 0) // nothing can be signed
		wish := w.wish("x", 2)
		w.until("attempts are planned", time.Hour, func() bool { return len(w.attempts(wish)) == 2 })
		pass(5 * time.Minute)
		w.unwant(wish)
		pass(5 * time.Minute)
		w.net.Node(false, 0, 0)
		pass(time.Hour)
		if sent := w.net.Proposed(); len(sent) > 0 {
			t.Errorf("%d proposals were sent", len(sent))
		}
		for _, a := range w.attempts(wish) {
			if a.State != deals.Cancelled {
				t.Errorf("got %s", a.State)
			}
		}
		w.mustBeSound()
	})
}

// TestChangingTheNumberOfCopiesMakesOnlyThoseThatAreMissing raises two copies to three among three providers: a new
// deal for each would find nobody.
func TestChangingTheNumberOfCopiesMakesOnlyThoseThatAreMissing(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.start()
		two := w.wish("x", 2)
		w.untilActive(two, 2)
		three := w.want(deals.Wish{Root: two.Root, Terms: w.terms(3)})
		w.unwant(two)
		w.untilActive(three, 3)
		if n := len(w.net.Deals()); n != 3 {
			t.Errorf("%d deals were made for at most 3 copies", n)
		}
		w.want(two)
		w.unwant(three)
		w.until("two are wanted", time.Hour, func() bool { return w.standing(two).Active == 2 })
		pass(time.Hour)
		if n := len(w.net.Deals()); n != 3 {
			t.Errorf("%d deals were made for at most 3 copies", n)
		}
		w.mustBeSound()
	})
}

func TestANodeThatIsAwayForADayLosesNothing(t *testing.T) {
	forLong(t, 3, func(t *testing.T, w *world) {
		w.start()
		active, moving := w.wish("active", 2), w.wish("moving", 2)
		w.untilActive(active, 2)
		pass(time.Minute)
		w.net.Node(true, 0, 0)
		late := w.wish("late", 1)
		pass(5 * time.Hour)
		for _, wish := range []deals.Wish{active, moving} {
			for _, a := range w.attempts(wish) {
				if a.State.Final() {
					t.Errorf("without a node it was concluded that a deal is %s: %s", a.State, a.Reason)
				}
			}
		}
		w.net.Node(false, 0, 0)
		w.untilActive(late, 1)
		w.untilActive(moving, 2)
		w.untilActive(active, 2)
		w.mustBeSound()
	})
}

func TestDealsWaitForMoneyAndBurnNoAttempt(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		w.cfg.Caps.PerDay = dealstest.FIL(0)
		w.make()
		w.start()
		wish := w.wish("x", 1)
		pass(time.Hour)
		s := w.standing(wish)
		if s.Cold != deals.ColdPending || !strings.Contains(s.Reason, "today") || len(w.attempts(wish)) != 0 {
			t.Errorf("got %s: %q with %d attempts", s.Cold, s.Reason, len(w.attempts(wish)))
		}
		w.stop()
		w.cfg.Caps.PerDay = dealstest.FIL(1)
		w.make()
		w.start()
		w.untilActive(wish, 1)
		w.mustBeSound()
	})
}

func TestADAGTooLargeForAPieceIsRefusedWithTheReason(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		w.cfg.MaxPiece = 1024
		w.make()
		w.start()
		wish := w.want(deals.Wish{Root: w.blocks.add(make([]byte, 5000)), Terms: w.terms(1)})
		pass(time.Minute)
		if s := w.standing(wish); s.Cold != deals.ColdFailed || !strings.Contains(s.Reason, "1 KiB") {
			t.Errorf("got %s: %q", s.Cold, s.Reason)
		}
		w.stop()
		w.cfg.MaxPiece = 1 << 20
		w.make()
		w.start()
		if n, err := w.Retry(t.Context(), wish.Root); n != 1 || err != nil {
			t.Fatalf("got %d, %v", n, err)
		}
		w.untilActive(wish, 1)
	})
}

// A DAG that was too large once, and has its piece since, is stored under all terms for which it is wanted.
func TestADAGThatGotItsPieceIsNoLongerTooLarge(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.cfg.MaxPiece = 1024
		w.make()
		w.start()
		one := w.want(deals.Wish{Root: w.blocks.add(make([]byte, 5000)), Terms: w.terms(1)})
		w.until("it is too large", time.Hour, func() bool { return w.standing(one).Cold == deals.ColdFailed })
		w.stop()
		w.cfg.MaxPiece = 1 << 20
		w.make()
		w.start()
		two := w.want(deals.Wish{Root: one.Root, Terms: w.terms(2)})
		w.untilActive(two, 2)
		w.untilActive(one, 1)
	})
}

func TestRetryFreesWhatStayedTooLargeAfterItGotItsPiece(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		w.net.Add(1000, dealstest.Provider{Offline: true})
		w.net.Add(1001, dealstest.Provider{Offline: true})
		w.start()
		wish := w.wish("x", 2)
		w.until("its piece is made", time.Hour, func() bool { return w.standing(wish).Piece != nil })
		err := w.db.Write(t.Context(), func(tx *gorm.DB) error { return tx.Exec(`UPDATE archives SET barred = 1`).Error })
		if err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		w.net.Add(1000, honest())
		w.net.Add(1001, honest())
		if n, err := w.Retry(t.Context(), wish.Root); n != 2 || err != nil {
			t.Fatalf("got %d, %v", n, err)
		}
		w.untilActive(wish, 2)
	})
}

// TestWhatIsUnwantedWhileItIsSignedIsNotSent lets the last pin go between the signature and the record of it.
func TestWhatIsUnwantedWhileItIsSignedIsNotSent(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		var wish deals.Wish
		w.cfg.At = func(step string) {
			if step == "signed" {
				w.unwant(wish)
			}
		}
		w.make()
		wish = w.wish("x", 1)
		w.start()
		pass(10 * time.Minute)
		if sent := w.net.Proposed(); len(sent) > 0 {
			t.Errorf("%d proposals were sent", len(sent))
		}
		if got, want := w.states(wish), []deals.State{deals.Cancelled}; !slices.Equal(got, want) {
			t.Errorf("got %v", got)
		}
	})
}

func TestForbiddenContentIsNotProposed(t *testing.T) {
	for _, step := range []string{"planned", "signed"} {
		t.Run(step, func(t *testing.T) {
			inWorld(t, 2, func(t *testing.T, w *world) {
				var forbidden atomic.Bool
				w.cfg.At = func(at string) {
					if at == step {
						forbidden.Store(true)
					}
				}
				w.make()
				w.Forbid(func(cid.Cid) bool { return forbidden.Load() })
				wish := w.wish("x", 1)
				w.start()
				w.until("it ends", time.Hour, func() bool { return slices.Contains(w.states(wish), deals.Cancelled) })
				a := w.attempts(wish)[0]
				if a.Reserved.Sign() != 0 || !strings.Contains(a.Reason, "blocked") {
					t.Errorf("it ended as %q with %s reserved", a.Reason, a.Reserved)
				}
				if sent := w.net.Proposed(); len(sent) > 0 {
					t.Errorf("%d proposals were sent", len(sent))
				}
			})
		})
	}
}

// TestAPublishedDealWhoseIDNobodyTellsKeepsNoCopyFromBeingMade: one provider publishes, says nothing but Processing and
// never seals, and the node tells no events.
func TestAPublishedDealWhoseIDNobodyTellsKeepsNoCopyFromBeingMade(t *testing.T) {
	forLong(t, 2, func(t *testing.T, w *world) {
		bad := honest()
		bad.Curio, bad.NeverSeal = true, true
		w.net.Add(1000, bad)
		w.chain = eventless{w.net}
		w.make()
		w.start()
		wish := w.wish("x", 2)
		w.untilActive(wish, 1)
		w.net.Add(1002, honest())
		if err := deals.NewRegistry(w.db, time.Now).Add(t.Context(), deals.Decision{ID: 1002}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if n := len(w.attempts(wish)); n != 2 {
			t.Fatalf("%d attempts while the deal may still become active", n)
		}
		w.untilActive(wish, 2)
		of := func(p deals.ProviderID) deals.Attempt {
			all := w.attempts(wish)
			return all[slices.IndexFunc(all, func(a deals.Attempt) bool { return a.Provider == p })]
		}
		if a := of(1000); a.State != deals.Published {
			t.Errorf("as long as the market may have it, the deal is %s: %s", a.State, a.Reason)
		}
		w.until("the deal counts as missed", 4*time.Hour, func() bool { return of(1000).State == deals.Missed })
		if of(1000).Reason == "" {
			t.Error("nothing says why it was missed")
		}
		w.mustBeSound()
	})
}

// TestARenewalThatIsWithdrawnWaitsBeforeItIsPlannedAgain takes the node away, so that renewals stay planned.
func TestARenewalThatIsWithdrawnWaitsBeforeItIsPlannedAgain(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		w.cfg.Policy.RenewBefore = 178 * deals.EpochsPerDay // soon
		var renewing atomic.Bool
		w.cfg.At = func(step string) {
			if step == "planned" && renewing.Load() {
				w.net.Node(true, 0, 0)
			}
		}
		w.make()
		w.start()
		wish := w.wish("x", 1)
		w.untilActive(wish, 1)
		renewing.Store(true)
		w.until("a renewal is planned", 2*time.Hour, func() bool { return len(w.attempts(wish)) > 1 })
		if err := w.Cancel(t.Context(), w.attempts(wish)[1].UUID); err != nil {
			t.Fatal(err)
		}
		pass(w.cfg.Policy.RetryFirst / 2)
		if n := len(w.attempts(wish)); n != 2 {
			t.Errorf("%d attempts right after one was withdrawn", n)
		}
		w.until("it is planned again", time.Hour, func() bool { return len(w.attempts(wish)) == 3 })
	})
}

func (w *world) provider(id deals.ProviderID) deals.Provider {
	w.t.Helper()
	p, err := deals.NewRegistry(w.db, time.Now).Provider(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// TestANodeThatIsAwayIsNotHeldAgainstProviders restarts the service without the node: it can sign no questions.
func TestANodeThatIsAwayIsNotHeldAgainstProviders(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		slow := honest()
		slow.NeverPublish = true
		w.net.Add(1000, slow)
		w.start()
		wish := w.wish("x", 1)
		w.until("it is accepted", time.Minute, func() bool { return w.standing(wish).Accepted == 1 })
		before := w.provider(1000)
		w.stop()
		w.net.Node(true, 0, 0)
		w.make()
		w.start()
		pass(10 * time.Minute)
		if p := w.provider(1000); p.Score != before.Score || p.Streak != 0 || !p.OpenUntil.IsZero() {
			t.Errorf("its score fell from %v to %v, with a streak of %d: %s", before.Score, p.Score, p.Streak, p.LastError)
		}
	})
}

// TestAProviderThatIsLeftAloneIsNotBlamedForIt looks at its deals while it is not asked.
func TestAProviderThatIsLeftAloneIsNotBlamedForIt(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		away := honest()
		away.NeverPublish = true
		w.net.Add(1000, away)
		w.start()
		wish := w.wish("x", 1)
		w.until("it is accepted", time.Minute, func() bool { return w.standing(wish).Accepted == 1 })
		away.Offline = true
		w.net.Add(1000, away)
		w.until("it is left alone", time.Hour, func() bool { return w.provider(1000).OpenUntil.After(time.Now().Add(3 * time.Minute)) })
		before := w.provider(1000)
		pass(time.Until(before.OpenUntil) - time.Second)
		if p := w.provider(1000); p.Score != before.Score {
			t.Errorf("its score fell from %v to %v while it was not asked: %s", before.Score, p.Score, p.LastError)
		}
	})
}
