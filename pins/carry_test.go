package pins_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// purses are a Sponsor: what each account can have, in bytes, and what is set aside.
type purses struct {
	mu    sync.Mutex
	can   map[pins.Account]int64
	most  int64 // blocks of a DAG; 0: no bound
	full  map[pins.Account]bool
	aside map[pins.ID]int64
	asked map[pins.Account]int
	err   error

	refusing func()       // called once, before the first refusal is told
	hangs    pins.Account // is never told once another was told that it can
	hung     bool         // that has happened
}

func newPurses() *purses {
	return &purses{can: map[pins.Account]int64{}, aside: map[pins.ID]int64{}, asked: map[pins.Account]int{}}
}

func (p *purses) Carry(ctx context.Context, account pins.Account, pin pins.ID, known pins.Extent, _ int) error {
	p.mu.Lock()
	hangs := account == p.hangs && len(p.aside) > 0
	p.hung = p.hung || hangs
	p.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	err := p.carry(account, pin, known)
	p.mu.Lock()
	refusing := p.refusing
	if err != nil {
		p.refusing = nil
	}
	p.mu.Unlock()
	if err != nil && refusing != nil {
		refusing()
	}
	return err
}

func (p *purses) carry(account pins.Account, pin pins.ID, known pins.Extent) error {
	bytes := known.Bytes
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[account]++
	if p.err != nil {
		return p.err
	}
	if p.full[account] {
		return &pins.ShortError{Reason: spec.ReasonQuotaExceeded, Problem: "the store is full"}
	}
	if bytes > p.can[account] || p.most > 0 && known.Blocks > p.most {
		return &pins.ShortError{Reason: spec.ReasonInsufficientFunds, Problem: "the purse is empty"}
	}
	p.aside[pin] = bytes
	return nil
}

func (p *purses) Settle(_ context.Context, list []pins.ID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range list {
		delete(p.aside, id)
	}
	return nil
}

func (p *purses) give(account pins.Account, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.can[account] = bytes
}

// fill has an account have no room, or room again.
func (p *purses) fill(account pins.Account, full bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.full = map[pins.Account]bool{account: full}
}

func (p *purses) timesAsked(account pins.Account) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[account]
}

func (p *purses) held() map[pins.ID]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.aside)
}

func eachSponsored(t *testing.T, test func(t *testing.T, w *world, p *purses)) {
	eachSponsoredWith(t, func(*pins.Config) {}, test)
}

func eachSponsoredWith(t *testing.T, change func(*pins.Config), test func(t *testing.T, w *world, p *purses)) {
	t.Parallel() // tests here wait more than they work
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		p := newPurses()
		cfg := config()
		cfg.Sponsor = p
		change(&cfg)
		w := newWorld(t, db, pinstest.NewTier(), cfg)
		w.start()
		test(t, w, p)
	})
}

func (w *world) nothingAside(p *purses) {
	w.t.Helper()
	w.until("nothing is set aside", func() bool { return len(p.held()) == 0 })
}

func TestPinsThatNobodyCanPayFailWithTheReasonAndAreTriedAgain(t *testing.T) {
	eachSponsored(t, func(t *testing.T, w *world, p *purses) {
		d := pinstest.Tree("dear", 3)
		w.tier.AddNetwork(d.Blocks...)
		p.give(alice, d.Size()-1)
		pin := w.untilStatus(w.add(alice, request(d.Root)), spec.Failed)
		if details := pin.Info()["status_details"]; !strings.Contains(details, "INSUFFICIENT_FUNDS: the purse is empty") {
			t.Errorf("it says %q", details)
		}
		w.nothingAside(p)
		if w.held(d.Root) {
			t.Error("it is held all the same")
		}
		p.give(alice, d.Size())
		if err := w.Retry(t.Context(), bob, spec.ReasonInsufficientFunds); err != nil || w.get(pin).Status() != spec.Failed {
			t.Errorf("somebody else's money: %v, %s", err, w.get(pin).Status())
		}
		if err := w.Retry(t.Context(), alice, spec.ReasonInsufficientFunds); err != nil {
			t.Fatal(err)
		}
		w.untilStatus(pin, spec.Pinned)
		w.nothingAside(p)
	})
}

// What was refused before reasons were kept by account, or to very many, may tell the one of another.
func TestMoneyTriesAgainWhatAnotherAccountPerhapsHadNoRoomFor(t *testing.T) {
	patient := func(c *pins.Config) { c.FindSlice = time.Minute } // the search that finds it is bob's
	eachSponsoredWith(t, patient, func(t *testing.T, w *world, p *purses) {
		d := pinstest.Tree("too much for both", 3)
		p.full = map[pins.Account]bool{bob: true}
		told, first := w.add(bob, request(d.Root)), w.add(alice, request(d.Root))
		w.tier.AddNetwork(d.Blocks...)
		w.untilStatus(first, spec.Failed)
		w.untilStatus(told, spec.Failed)
		if err := w.db.Write(t.Context(), func(tx *gorm.DB) error { return tx.Exec(`DELETE FROM refusals`).Error }); err != nil {
			t.Fatal(err)
		}
		if details := w.get(first).Info()["status_details"]; !strings.Contains(details, "QUOTA_EXCEEDED: ") {
			t.Fatalf("it says %q, so that this proves nothing", details)
		}
		p.give(alice, d.Size())
		if err := w.Retry(t.Context(), alice, spec.ReasonInsufficientFunds); err != nil {
			t.Fatal(err)
		}
		w.untilStatus(first, spec.Pinned)
	})
}

// A small payment must not fetch all again that an account has no room for, only to refuse it again.
func TestMoneyTriesNothingAgainThatTheAccountItselfHadNoRoomFor(t *testing.T) {
	eachSponsored(t, func(t *testing.T, w *world, p *purses) {
		large, dear := pinstest.Tree("too large", 3), pinstest.Tree("too dear", 3)
		w.tier.AddNetwork(slices.Concat(large.Blocks, dear.Blocks)...)
		unpaid := w.untilStatus(w.add(alice, request(dear.Root)), spec.Failed)
		p.fill(alice, true)
		full := w.untilStatus(w.add(alice, request(large.Root)), spec.Failed)
		if details := full.Info()["status_details"]; !strings.Contains(details, "QUOTA_EXCEEDED: ") {
			t.Fatalf("it says %q, so that this proves nothing", details)
		}
		p.fill(alice, false)
		p.give(alice, large.Size()+dear.Size())
		if err := w.Retry(t.Context(), alice, spec.ReasonInsufficientFunds); err != nil {
			t.Fatal(err)
		}
		if status := w.get(full).Status(); status != spec.Failed {
			t.Errorf("with money it is %s", status)
		}
		w.untilStatus(unpaid, spec.Pinned)
		if err := w.Retry(t.Context(), alice, spec.ReasonQuotaExceeded); err != nil {
			t.Fatal(err)
		}
		w.untilStatus(full, spec.Pinned)
	})
}

// What was paid for as it went must not need a month in advance because a copy of it broke.
func TestWhatWasHeldIsFetchedAgainWhateverIsLeftInThePurse(t *testing.T) {
	eachSponsored(t, func(t *testing.T, w *world, p *purses) {
		d := pinstest.Tree("held", 3)
		w.tier.AddNetwork(d.Blocks...)
		p.give(alice, d.Size())
		pin := w.untilStatus(w.add(alice, request(d.Root)), spec.Pinned)
		p.give(alice, 0)
		bad := d.Blocks[2].Cid()
		w.tier.Corrupt(bad)
		w.Doubt(d.Root)
		w.until("the block is right again", func() bool {
			_, err := w.tier.Block(t.Context(), bad)
			return err == nil
		})
		w.untilStatus(pin, spec.Pinned)
		if !w.held(d.Root) {
			t.Error("it is not held")
		}
		if err := w.Delete(t.Context(), alice, pin.ID); err != nil {
			t.Fatal(err)
		}
		w.until("it is let go", func() bool { return !w.held(d.Root) })
		if p := w.untilStatus(w.add(alice, request(d.Root)), spec.Failed); p.DAG.Hot != pins.HotGaveUp {
			t.Errorf("asked for anew it is %s", p.DAG.Hot)
		}
	})
}

// Nor because the cold copies that it was let go for cannot be read at the moment.
func TestWhatWasOffloadedIsLookedForWhateverIsLeftInThePurse(t *testing.T) {
	src, p := &source{}, newPurses()
	eachCold(t, func(c *pins.Config) { c.ColdSource, c.Sponsor = src, p }, func(t *testing.T, w *world, a *archive) {
		src.tier = w.tier
		d := pinstest.Tree("offloaded", 3)
		w.tier.AddNetwork(d.Blocks...)
		pin := w.addCold(alice, d.Root, 1)
		w.setHot(d.Root, pins.HotOffloaded)
		stored := deals.Standing{Cold: deals.ColdStored, Wanted: 1, Active: 1, Ever: 1, Kept: true, NeedsBytes: true}
		if err := a.set(t.Context(), deals.Wish{Root: d.Root, Terms: 1}, stored); err != nil {
			t.Fatal(err)
		}
		if got := w.get(pin).DAG.Hot; got != pins.HotRestoring {
			t.Fatalf("it is %s", got)
		}
		w.start()
		w.until("it is held", func() bool { return w.get(pin).DAG.Hot == pins.HotHeld })
	})
}

func TestDAGIsFetchedForWhoCanPay(t *testing.T) {
	eachSponsored(t, func(t *testing.T, w *world, p *purses) {
		d := pinstest.Tree("shared", 3)
		w.tier.Silence(true)
		w.tier.AddNetwork(d.Blocks...)
		p.give(bob, d.Size())
		w.add(alice, request(d.Root))
		pin := w.add(bob, request(d.Root))
		w.tier.Silence(false)
		w.untilStatus(pin, spec.Pinned)
		w.nothingAside(p)
	})
}

func TestManyPinsOfAnAccountThatCannotPayDoNotHideThatAnotherCan(t *testing.T) {
	eachSponsored(t, func(t *testing.T, w *world, p *purses) {
		d := pinstest.Tree("dear", 3)
		w.tier.Silence(true)
		w.tier.AddNetwork(d.Blocks...)
		p.give(bob, d.Size())
		pin := w.add(bob, request(d.Root))
		for i := range 150 {
			w.add(alice, named(d.Root, fmt.Sprint(i)))
		}
		w.tier.Silence(false)
		w.untilStatus(pin, spec.Pinned)
		w.nothingAside(p)
		if n := p.timesAsked(alice); n != 1 {
			t.Errorf("it was asked %d times what one account can have", n)
		}
	})
}

func TestDAGIsFetchedForTheOneOfManyAccountsThatCanPay(t *testing.T) {
	eachSponsored(t, func(t *testing.T, w *world, p *purses) {
		const others, rich = 250, pins.Account(135)
		d := pinstest.Tree("dear", 3)
		w.tier.Silence(true)
		w.tier.AddNetwork(d.Blocks...)
		var list []pins.Pin
		for i := range others {
			list = append(list, w.add(pins.Account(10+i), request(d.Root)))
		}
		p.give(rich, d.Size())
		w.tier.Silence(false)
		for _, pin := range list {
			w.untilStatus(pin, spec.Pinned)
		}
		w.nothingAside(p)
		for i := range others {
			if n := p.timesAsked(pins.Account(10 + i)); n > 1 {
				t.Errorf("account %d was asked %d times", 10+i, n)
			}
		}
	})
}

func TestPinsFailWhenNoneOfManyAccountsCanPay(t *testing.T) {
	eachSponsored(t, func(t *testing.T, w *world, p *purses) {
		const others = 210
		d := pinstest.Tree("dear", 3)
		w.tier.Silence(true)
		w.tier.AddNetwork(d.Blocks...)
		var list []pins.Pin
		for i := range others {
			list = append(list, w.add(pins.Account(10+i), request(d.Root)))
		}
		w.tier.Silence(false)
		for _, pin := range list {
			w.untilStatus(pin, spec.Failed)
			if n := p.timesAsked(pin.Account); n != 1 {
				t.Errorf("account %d was asked %d times", pin.Account, n)
			}
		}
		if w.held(d.Root) {
			t.Error("it is held all the same")
		}
	})
}

func TestPinThatComesWhileAnotherAccountIsRefusedIsNotRefusedWithIt(t *testing.T) {
	eachSponsored(t, func(t *testing.T, w *world, p *purses) {
		d := pinstest.Tree("dear", 3)
		w.tier.AddNetwork(d.Blocks...)
		p.give(bob, d.Size())
		came := make(chan pins.Pin, 1)
		p.refusing = func() { came <- w.add(bob, request(d.Root)) }
		first := w.add(alice, request(d.Root))
		w.untilStatus(<-came, spec.Pinned)
		w.untilStatus(first, spec.Pinned)
		w.nothingAside(p)
	})
}

func TestPinThatComesWhileAWalkIsEndedForAnotherAccountIsAskedAbout(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		p := newPurses()
		p.give(bob, 1<<30)
		cfg := config()
		cfg.Sponsor = p
		w := &world{t: t, db: db, tier: pinstest.NewTier(), stop: func() {}}
		w.Service = pins.New(cfg, db, endless{w.tier, pins.Extent{Blocks: 1, Bytes: 4 << 20}}, discard(), time.Now)
		w.start()
		d := pinstest.Tree("it", 3)
		w.tier.AddNetwork(d.Blocks...)
		came := make(chan pins.Pin, 1)
		p.refusing = func() { came <- w.add(bob, request(d.Root)) }
		w.add(alice, request(d.Root))
		pin := <-came
		w.until("it is asked about", func() bool { return p.timesAsked(bob) > 0 })
		if got := w.get(pin).Status(); got != spec.Pinning {
			t.Errorf("it is %s", got)
		}
	})
}

func (w *world) uploadHold(hold string, c cid.Cid) pins.Pin {
	w.t.Helper()
	p, err := w.AddUploaded(context.Background(), bob, request(c), pins.Decision{Terms: pins.Undecided}, pins.Upload{Of: 1, Hold: hold})
	if err != nil {
		w.t.Errorf("adding what was uploaded: %v", err)
	}
	return p
}

func (w *world) beginHold(c cid.Cid) string {
	w.t.Helper()
	id, err := w.BeginHold(context.Background(), []cid.Cid{c})
	if err != nil {
		w.t.Errorf("beginning to hold: %v", err)
	}
	return id
}

// keepsAll collects blocks and looks whether those of a DAG are still there.
func (w *world) keepsAll(d pinstest.DAG) {
	w.t.Helper()
	if err := pins.Collect(context.Background(), w.Service); err != nil {
		w.t.Fatal(err)
	}
	for _, b := range d.Blocks {
		if !w.tier.Has(b.Cid()) {
			w.t.Errorf("%s was collected", b.Cid())
		}
	}
}

func (w *world) onlyHere(d pinstest.DAG) {
	for _, b := range d.Blocks {
		w.tier.RemoveNetwork(b.Cid())
	}
}

func TestBytesUploadedWhileAnotherAccountIsRefusedStay(t *testing.T) {
	eachSponsored(t, func(t *testing.T, w *world, p *purses) {
		d := pinstest.Tree("dear", 3)
		w.tier.AddNetwork(d.Blocks...)
		p.give(bob, d.Size())
		came := make(chan pins.Pin, 1)
		p.refusing = func() {
			w.onlyHere(d)
			id := w.beginHold(d.Root)
			pin := w.uploadHold(id, d.Root)
			w.EndHold(id)
			came <- pin
		}
		w.add(alice, request(d.Root))
		pin := <-came
		w.keepsAll(d)
		w.untilStatus(pin, spec.Pinned)
		w.keepsAll(d)
	})
}

func TestBytesOfAnUploadUnderWayStayWhenAnotherAccountIsRefused(t *testing.T) {
	eachSponsored(t, func(t *testing.T, w *world, p *purses) {
		d := pinstest.Tree("dear", 3)
		w.tier.AddNetwork(d.Blocks...)
		p.give(bob, d.Size())
		begun := make(chan string, 1)
		p.refusing = func() {
			w.onlyHere(d)
			begun <- w.beginHold(d.Root)
		}
		first := w.add(alice, request(d.Root))
		id := <-begun
		w.until("the refusal is put off", func() bool { return w.get(first).DAG.Attempts > 0 })
		w.keepsAll(d)
		pin := w.uploadHold(id, d.Root)
		w.EndHold(id)
		w.untilStatus(pin, spec.Pinned)
		w.keepsAll(d)
	})
}

func TestUploadThatEndsWithoutAPinPutsARefusalOffOnly(t *testing.T) {
	eachSponsored(t, func(t *testing.T, w *world, p *purses) {
		d := pinstest.Tree("dear", 3)
		w.tier.AddNetwork(d.Blocks...)
		begun := make(chan string, 1)
		p.refusing = func() { begun <- w.beginHold(d.Root) }
		pin := w.add(alice, request(d.Root))
		id := <-begun
		w.until("the refusal is put off", func() bool { return w.get(pin).DAG.Attempts > 0 })
		w.EndHold(id)
		w.untilStatus(pin, spec.Failed)
		w.until("it is let go", func() bool { return !w.held(d.Root) })
	})
}

func TestPinsAreNotRefusedBecauseNobodyCouldBeAsked(t *testing.T) {
	eachSponsored(t, func(t *testing.T, w *world, p *purses) {
		p.err = errors.New("the ledger is away")
		d := pinstest.Tree("it", 3)
		w.tier.AddNetwork(d.Blocks...)
		w.untilStatus(w.add(alice, request(d.Root)), spec.Pinned)
	})
}

// To be sure of a refusal can take a while, and the time in which the DAG was to be fetched ends meanwhile.
func TestARefusalThatIsOvertakenByTheDeadlineIsNoConsent(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		p := &slowPurse{newPurses()}
		cfg := config()
		cfg.Sponsor, cfg.Policy.Deadline = p, 2*time.Second
		w := newWorld(t, db, pinstest.NewTier(), cfg)
		w.start()
		d := pinstest.Tree("it", 3)
		w.tier.AddNetwork(d.Blocks...)
		pin := w.add(alice, request(d.Root))
		w.untilStatus(pin, spec.Failed)
		w.until("nothing is held", func() bool { return !w.held(d.Root) })
		w.nothingAside(p.purses)
	})
}

// A slowPurse says nothing before nobody waits for it any more.
type slowPurse struct{ *purses }

func (p *slowPurse) Carry(ctx context.Context, _ pins.Account, _ pins.ID, _ pins.Extent, _ int) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// Once one account can have a DAG, it does not wait for what another one says.
func TestADAGThatIsPaidForDoesNotWaitForOthers(t *testing.T) {
	eachSponsored(t, func(t *testing.T, w *world, p *purses) {
		p.can[bob] = 1 << 30
		p.hangs = alice
		d := pinstest.Tree("it", 3)
		his := w.add(bob, request(d.Root))
		hers := w.add(alice, request(d.Root))
		w.tier.AddNetwork(d.Blocks...)
		w.untilStatus(his, spec.Pinned)
		w.untilStatus(hers, spec.Pinned)
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.hung {
			t.Fatal("so that this proves nothing")
		}
	})
}

// Nobody can tell what the account may have before its plan can be read: it gets nothing until then, and loses nothing.
func TestNothingIsFetchedWhileItIsUndecidedWhatAnAccountMayHave(t *testing.T) {
	eachSponsored(t, func(t *testing.T, w *world, p *purses) {
		p.err = fmt.Errorf("its plan: %w", pins.ErrUndecided)
		d := pinstest.Tree("it", 3)
		w.tier.AddNetwork(d.Blocks...)
		pin := w.add(alice, request(d.Root))
		w.until("the pin says what it waits for", func() bool {
			pin = w.get(pin)
			return strings.Contains(fmt.Sprint(pin.Info()["status_details"]), "is not known now")
		})
		if pin.Status() == spec.Failed || pin.Status() == spec.Pinned || w.held(d.Root) {
			t.Errorf("it is %s, and held: %t", pin.Status(), w.held(d.Root))
		}
		w.nothingAside(p)
	})
}

// An endless tier goes on fetching until it is told to stop.
type endless struct {
	*pinstest.Tier
	comes pins.Extent // at once
}

func (e endless) Hold(ctx context.Context, _ cid.Cid, lim pins.Limits, p *pins.Progress) error {
	if lim.Offline {
		return pins.ErrAbsent
	}
	p.Add(e.comes.Blocks, e.comes.Bytes)
	<-ctx.Done()
	return context.Cause(ctx)
}

func TestWalkEndsWhenThePurseIsEmpty(t *testing.T) {
	walkEnds(t, pins.Extent{Blocks: 1, Bytes: 4 << 20})
}

func TestWalkEndsWhenThereAreTooManyBlocks(t *testing.T) {
	walkEnds(t, pins.Extent{Blocks: 5000, Bytes: 5000})
}

// walkEnds has an account that can have 3 MiB or 4,000 blocks.
func walkEnds(t *testing.T, comes pins.Extent) {
	t.Helper()
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		p := newPurses()
		p.most = 4000
		p.give(alice, 3<<20)
		cfg := config()
		cfg.Sponsor = p
		w := &world{t: t, db: db, tier: pinstest.NewTier(), stop: func() {}}
		w.Service = pins.New(cfg, db, endless{w.tier, comes}, discard(), time.Now)
		w.start()
		d := pinstest.Tree("it", 3)
		w.tier.AddNetwork(d.Blocks...)
		w.untilStatus(w.add(alice, request(d.Root)), spec.Failed)
		w.nothingAside(p)
	})
}

// TestPinThatIsHereAlreadyIsPaidForToo takes the way by which a request is answered `pinned` at once.
func TestPinThatIsHereAlreadyIsPaidForToo(t *testing.T) {
	eachSponsored(t, func(t *testing.T, w *world, p *purses) {
		d := pinstest.Tree("here", 3)
		w.tier.AddLocal(d.Blocks...)
		pin := w.untilStatus(w.add(alice, request(d.Root)), spec.Failed)
		if w.held(d.Root) {
			t.Error("it is held")
		}
		p.give(alice, d.Size())
		if err := w.Retry(t.Context(), alice, spec.ReasonInsufficientFunds); err != nil {
			t.Fatal(err)
		}
		w.untilStatus(pin, spec.Pinned)
	})
}

func TestWhatIsSetAsideForAReplacedPinIsThereForTheNewOne(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		p := newPurses()
		p.give(alice, 10)
		cfg := config()
		cfg.Sponsor = p
		w := newWorld(t, db, pinstest.NewTier(), cfg)
		old := w.add(alice, request(leaf(1)))
		var renamed pins.Pin
		err := pins.CarryTwice(t.Context(), w.Service, leaf(1), pins.Extent{Blocks: 1, Bytes: 10}, func() {
			var err error
			if renamed, err = w.Replace(t.Context(), alice, old.ID, named(leaf(1), "new"), pins.Decision{Terms: pins.Undecided}); err != nil {
				t.Fatal(err)
			}
		})
		held := p.held()
		if _, still := held[old.ID]; err != nil || still || held[renamed.ID] != 10 {
			t.Errorf("%v is set aside: %v", held, err)
		}
	})
}
