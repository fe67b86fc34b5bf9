package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/events"
	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// A debtor is an account with an empty balance whose pin costs something, and another one that pays for the same DAG.
type debtor struct {
	notices
	t        *testing.T
	dsn      string
	clock    atomic.Int64 // of the ledger, in Unix milliseconds
	tier     *pinstest.Tier
	dag      pinstest.DAG
	ann, bob auth.Account
	hers     pins.Pin
	his      pins.Pin
}

const graceDay = 24 * time.Hour

// eachDatabase runs a test on a database of each kind that a command can be run on as well.
func eachDatabase(t *testing.T, test func(t *testing.T, dsn string, db *database.DB)) {
	for _, dialect := range databasetest.Dialects(t) {
		t.Run(dialect, func(t *testing.T) {
			dsn := databasetest.DSN(t, dialect)
			db, err := database.Open(t.Context(), dsn, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			})
			if err := db.Migrate(t.Context(), migrations()...); err != nil {
				t.Fatal(err)
			}
			test(t, dsn, db)
		})
	}
}

func eachDebtor(t *testing.T, test func(t *testing.T, d *debtor)) {
	eachDatabase(t, func(t *testing.T, dsn string, db *database.DB) {
		log := slog.New(slog.DiscardHandler)
		d := &debtor{t: t, dsn: dsn, tier: pinstest.NewTier(), dag: pinstest.Tree("it", 1100)}
		now := func() time.Time { return time.UnixMilli(d.clock.Load()).UTC() }
		d.goOn(0)
		d.notices = notices{db: db, accounts: auth.New(db, now), told: events.New(db, nil, log, now), now: now, log: log}
		d.books = newLedger(db, d.accounts, now, log)
		d.plan(30, map[string]string{"hot_gib_month": "1024"}) // a credit for a MiB and 30 days
		d.tier.AddLocal(d.dag.Blocks...)
		d.tier.AddNetwork(d.dag.Blocks...)
		d.pins = pins.New(pins.Config{
			FindSlice: time.Second, Slots: 4, FindRoots: 4, Policy: pins.Policy{Deadline: time.Hour, RetryFirst: time.Millisecond, RetryMax: time.Second},
			Sponsor: newSponsor(d.accounts, d.books, func() *pins.Service { return d.pins }, now), Journal: journal{d.told},
		}, db, d.tier, log, time.Now)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.pins.Run(ctx) }()
		t.Cleanup(func() { stop(); <-ended })
		<-d.pins.Ready()
		for name, of := range map[string]*auth.Account{"ann": &d.ann, "bob": &d.bob} {
			var err error
			if *of, err = d.accounts.CreateAccount(t.Context(), auth.Operator(), name, "paid"); err != nil {
				t.Fatal(err)
			}
			d.book(*of, 100*ledger.Credit)
		}
		d.hers, d.his = d.add(d.ann, d.dag), d.add(d.bob, d.dag)
		d.book(d.ann, -100*ledger.Credit)
		d.until("it is known what is stored", func() bool {
			stock, err := d.pins.Stock(t.Context(), pins.Account(d.ann.ID))
			return err == nil && stock.Hot > 0
		})
		test(t, d)
	})
}

// goOn sets the clock to a time since the beginning.
func (d *debtor) goOn(days float64) {
	d.clock.Store(time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(days * float64(graceDay))).UnixMilli())
}

func (d *debtor) plan(days int64, prices map[string]string) {
	d.t.Helper()
	if err := d.accounts.SetPlan(d.t.Context(), auth.Operator(), "paid", auth.Limits{GraceDays: days, Prices: prices}); err != nil {
		d.t.Fatal(err)
	}
}

var bookings atomic.Int64

func (d *debtor) book(a auth.Account, amount ledger.Amount) {
	d.t.Helper()
	if _, _, err := d.books.Adjust(d.t.Context(), a.ID, amount, fmt.Sprint("booking ", bookings.Add(1)), ""); err != nil {
		d.t.Error(err)
	}
}

func (d *debtor) add(a auth.Account, dag pinstest.DAG) pins.Pin {
	d.t.Helper()
	p, err := d.pins.Add(d.t.Context(), pins.Account(a.ID), spec.Request{CID: dag.Root.String(), Root: dag.Root}, pins.Decision{})
	if err != nil {
		d.t.Fatal(err)
	}
	d.until("it is pinned", func() bool { return d.status(p) == spec.Pinned })
	return p
}

func (d *debtor) status(p pins.Pin) spec.Status {
	d.t.Helper()
	p, err := d.pins.Get(d.t.Context(), p.Account, p.ID)
	if err != nil {
		d.t.Fatal(err)
	}
	return p.Status()
}

func (d *debtor) until(what string, holds func() bool) {
	d.t.Helper()
	tick, end := time.NewTicker(5*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-end:
			d.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// look does at a time what the server does every hour, and twice.
func (d *debtor) look(days float64) {
	d.t.Helper()
	d.goOn(days)
	for range 2 {
		if err := d.tell(d.t.Context()); err != nil {
			d.t.Fatal(err)
		}
	}
}

// are checks the pins of both accounts, and that the DAG is here for whoever has it.
func (d *debtor) are(when string, hers spec.Status) {
	d.t.Helper()
	held, err := d.tier.Held(d.t.Context(), d.dag.Root)
	if d.status(d.hers) != hers || d.status(d.his) != spec.Pinned || !held || err != nil {
		d.t.Errorf("%s: hers is %s, want %s; his is %s, held %t, %v", when, d.status(d.hers), hers, d.status(d.his), held, err)
	}
}

// notes are the states that ann was told with the days on which her pins go.
func (d *debtor) notes() (notes []string) {
	d.t.Helper()
	var texts []string
	err := d.db.Read(d.t.Context(), func(tx *gorm.DB) error {
		return tx.Raw(`SELECT data FROM events WHERE account = ? AND kind = ? ORDER BY id`, d.ann.ID, kindBalance).Scan(&texts).Error
	})
	if err != nil {
		d.t.Fatal(err)
	}
	for _, text := range texts {
		var note struct {
			State      string
			LetGoAfter time.Time `json:"let_go_after"`
		}
		if err := json.Unmarshal([]byte(text), &note); err != nil {
			d.t.Fatal(err)
		}
		if !note.LetGoAfter.IsZero() {
			note.State += note.LetGoAfter.Format(" 01-02")
		}
		notes = append(notes, note.State)
	}
	return notes
}

func TestPinsAreLetGoAfterThreeNoticesAndAPaymentBringsThemBack(t *testing.T) {
	eachDebtor(t, func(t *testing.T, d *debtor) {
		for _, day := range []float64{0, 1, 15, 20, 27, 29.9} {
			d.look(day)
			d.are(fmt.Sprintf("on day %v", day), spec.Pinned)
		}
		d.look(30)
		d.are("after the last day", spec.Failed)
		d.look(31)
		if got, want := d.notes(), []string{"empty 12-31", "empty 12-31", "empty 12-31"}; !slices.Equal(got, want) {
			t.Errorf("she was told %q, want %q", got, want)
		}
		d.book(d.ann, 50*ledger.Credit) // and whoever took it was killed before it tried her pins again
		d.look(31)
		d.until("it is back", func() bool { return d.status(d.hers) == spec.Pinned })
		d.look(32)
		d.are("paid", spec.Pinned)
		if got := d.notes(); got[len(got)-1] != "fine" || len(got) != 4 {
			t.Errorf("she was told %q", got)
		}
	})
}

// occupies sets what a pin occupies besides its bytes.
func (d *debtor) occupies(p pins.Pin, hot, copies int) {
	d.t.Helper()
	err := d.db.Write(d.t.Context(), func(tx *gorm.DB) error {
		return tx.Exec(`UPDATE holdings SET hot = ?, copies = ? WHERE pin = ?`, hot, copies, p.ID).Error
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

// TestWhatBeginsToCostAfterALettingGoHasAWholeGracePeriod leaves a pin behind whose deals run on, which costs something still.
func TestWhatBeginsToCostAfterALettingGoHasAWholeGracePeriod(t *testing.T) {
	for name, looks := range map[string]int{"before the next look": 0, "after many": 3} {
		t.Run(name, func(t *testing.T) {
			eachDebtor(t, func(t *testing.T, d *debtor) {
				d.plan(30, map[string]string{"hot_gib_month": "1024", "cold_gib_month": "1024"})
				d.book(d.ann, 100*ledger.Credit)
				dag := pinstest.Tree("later", 1100)
				d.tier.AddLocal(dag.Blocks...)
				later := d.add(d.ann, dag)
				d.book(d.ann, -100*ledger.Credit)
				d.occupies(later, 0, 0)
				d.occupies(d.hers, 1, 1)
				d.look(0)
				d.look(27)
				d.goOn(30)
				if err := d.tell(t.Context()); err != nil {
					t.Fatal(err)
				}
				d.are("after the last day", spec.Failed)
				for i := range looks {
					d.look(30 + float64(i)/24)
				}
				d.occupies(later, 1, 0)
				for _, day := range []float64{31, 32, 58, 60.9} {
					if d.look(day); d.status(later) != spec.Pinned {
						t.Fatalf("on day %v it was let go, told %q", day, d.notes())
					}
				}
				if d.look(61); d.status(later) != spec.Failed {
					t.Error("it is never let go")
				}
				if got, want := d.notes(), []string{"empty 12-31", "empty 12-31", "empty 01-31", "empty 01-31"}; !slices.Equal(got, want) {
					t.Errorf("she was told %q, want %q", got, want)
				}
			})
		})
	}
}

func TestHotCopyGoesWithTheLastWhoPaysForItAndIsFetchedAgain(t *testing.T) {
	eachDebtor(t, func(t *testing.T, d *debtor) {
		if err := d.pins.Delete(t.Context(), d.his.Account, d.his.ID); err != nil {
			t.Fatal(err)
		}
		for _, day := range []float64{0, 27, 30} {
			d.look(day)
		}
		held := func() bool { h, err := d.tier.Held(t.Context(), d.dag.Root); return h && err == nil }
		d.until("it is gone", func() bool { return !held() })
		d.until("what it wanted is settled", func() bool { return d.status(d.hers) == spec.Failed })
		d.book(d.ann, 50*ledger.Credit)
		if err := d.pins.Retry(t.Context(), pins.Account(d.ann.ID), spec.ReasonInsufficientFunds); err != nil {
			t.Fatal(err)
		}
		d.until("it is back", func() bool { return d.status(d.hers) == spec.Pinned && held() })
	})
}

func TestNothingIsLetGoOfWhoPaysOrHasTime(t *testing.T) {
	prices := map[string]string{"hot_gib_month": "1024"}
	for name, c := range map[string]struct {
		before func(d *debtor) // on day 29, after all notices
		day    float64
	}{
		"paid in time":             {func(d *debtor) { d.book(d.ann, 1) }, 60},
		"a credit line":            {func(d *debtor) { _ = d.books.SetFloor(d.t.Context(), d.ann.ID, -ledger.Credit) }, 60},
		"no prices any more":       {func(d *debtor) { d.plan(30, nil) }, 60},
		"covered by the allowance": {func(d *debtor) { d.plan(30, map[string]string{"hot_gib_month": "1024", "free_hot_gib_month": "1"}) }, 60},
		"another plan": {func(d *debtor) {
			_ = d.accounts.SetAccountPlan(d.t.Context(), auth.Operator(), "ann", auth.Trusted)
		}, 60},
		"no grace period any more": {func(d *debtor) { d.plan(0, prices) }, 60},
		"more time":                {func(d *debtor) { d.plan(60, prices) }, 59.9},
		"a clock that went back":   {func(*debtor) {}, -100},
	} {
		t.Run(name, func(t *testing.T) {
			eachDebtor(t, func(_ *testing.T, d *debtor) {
				d.look(0)
				d.look(29)
				c.before(d)
				d.look(c.day)
				d.are("then", spec.Pinned)
			})
		})
	}
}

// TestEachBatchAsksAgainWhetherItIsDue asks in a transaction, as each batch does, while the work is under way.
func TestEachBatchAsksAgainWhetherItIsDue(t *testing.T) {
	eachDebtor(t, func(t *testing.T, d *debtor) {
		prices := map[string]string{"hot_gib_month": "1024"}
		due := func() (due bool) {
			t.Helper()
			err := d.db.Write(t.Context(), func(tx *gorm.DB) error {
				dues, err := d.dues(tx.Statement.Context, d.ann.ID)
				due = dues != nil
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return due
		}
		d.look(0)
		d.look(29)
		if due() {
			t.Error("it is due too early")
		}
		d.goOn(33)
		for i, c := range []struct {
			do   func()
			want bool
		}{
			{func() {}, true},
			{func() { d.plan(60, prices) }, false},
			{func() { d.plan(30, prices) }, true},
			{func() { d.plan(30, nil) }, false},
			{func() { d.plan(0, prices) }, false},
			{func() { d.plan(30, prices) }, true},
			{func() { d.goOn(-3) }, false},
			{func() { d.goOn(33) }, true},
			{func() { d.book(d.ann, 1) }, false},
		} {
			if c.do(); due() != c.want {
				t.Errorf("step %d: due is %t", i, due())
			}
		}
	})
}

func TestAPaymentThatRacesWithLettingGoWins(t *testing.T) {
	eachDebtor(t, func(t *testing.T, d *debtor) {
		for round := range 15 {
			start := float64(100 * round)
			for _, day := range []float64{0, 29} {
				d.look(start + day)
			}
			d.goOn(start + 33)
			var both sync.WaitGroup
			for range 2 {
				both.Go(func() {
					if err := d.letGo(t.Context(), d.ann.ID); err != nil {
						t.Error(err)
					}
				})
			}
			both.Go(func() {
				d.book(d.ann, 50*ledger.Credit)
				if err := d.pins.Retry(t.Context(), pins.Account(d.ann.ID), spec.ReasonInsufficientFunds); err != nil {
					t.Error(err)
				}
			})
			both.Wait()
			if lapsed, err := d.pins.HasLapsed(t.Context(), pins.Account(d.ann.ID)); lapsed || err != nil {
				t.Fatalf("round %d: she has paid, and her pin is let go: %v", round, err)
			}
			d.are("paid", spec.Pinned)
			d.book(d.ann, -50*ledger.Credit) // before anybody looks
			d.look(start + 34)
			d.are("after the payment was used up", spec.Pinned)
		}
	})
}

func TestServersLetGoTogetherAndTellOnce(t *testing.T) {
	eachDebtor(t, func(t *testing.T, d *debtor) {
		for _, day := range []float64{0, 15, 27, 30} {
			d.goOn(day)
			var servers sync.WaitGroup
			for range 4 {
				servers.Go(func() {
					if err := d.tell(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			servers.Wait()
		}
		d.are("in the end", spec.Failed)
		if got := d.notes(); len(got) != 3 {
			t.Errorf("she was told %q", got)
		}
	})
}

// `frostpin account credit` does not know the settings of the server, and so not what state a pin is in.
func TestACreditByCommandLeavesThePinsToTheServer(t *testing.T) {
	eachDebtor(t, func(t *testing.T, d *debtor) {
		for _, day := range []float64{0, 15, 27, 30} {
			d.look(day)
		}
		d.are("let go", spec.Failed)
		before, told := d.states(), d.changes()
		code, _, stderr := command(t, []string{"HOME=" + t.TempDir(), "FROSTPIN_DATABASE=" + d.dsn, "FROSTPIN_PINNED_WHEN=hot"},
			"account", "credit", "ann", "50", "--key", "cash")
		if code != 0 {
			t.Fatalf("exit %d: %s", code, stderr)
		}
		if diff := cmp.Diff(before, d.states()); diff != "" {
			t.Errorf("the command has changed pins: %s", diff)
		}
		now := time.Now()
		server := d.server(&now)
		if err := server.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.are("paid", spec.Pinned)
		now = now.Add(topUpsFor)
		if err := server.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := d.changes() - told; n != 1 {
			t.Errorf("%d events tell that it is back, want 1", n)
		}
		if left, err := d.books.TopUps(t.Context(), 0, 10); err != nil || len(left) > 0 {
			t.Errorf("%v are to be tried again still, %v", left, err)
		}
	})
}

// What waits for one account must not wait for ever because another's cannot be tried again, and a payment in the same moment
// is not forgotten.
func TestWhatHasFailedForOneTopUpIsTriedAgain(t *testing.T) {
	eachDebtor(t, func(t *testing.T, d *debtor) {
		for _, day := range []float64{0, 15, 27, 30} {
			d.look(day)
		}
		d.book(d.ann, 50*ledger.Credit)
		ended, end := context.WithCancel(t.Context())
		end()
		now := time.Now()
		server := d.server(&now)
		if err := server.look(ended); err == nil {
			t.Error("nothing failed")
		}
		d.are("not tried yet", spec.Failed)
		list, err := d.books.TopUps(t.Context(), 0, 10)
		if err != nil || len(list) == 0 {
			t.Fatalf("to be tried again: %v, %v", list, err)
		}
		if err := server.settle(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		d.are("paid", spec.Pinned)
		d.book(d.ann, ledger.Credit) // after the server has read what there is
		now = now.Add(topUpsFor)
		if err := server.settle(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		if list, err := d.books.TopUps(t.Context(), 0, 10); err != nil || len(list) != 1 {
			t.Errorf("to be tried again: %v, %v; want the last payment", list, err)
		}
	})
}

// A pin for which the money was not there is not refused yet when it comes.
func TestAPinThatIsBeingRefusedWhenMoneyComesIsTriedAgain(t *testing.T) {
	eachDebtor(t, func(t *testing.T, d *debtor) {
		d.book(d.ann, 50*ledger.Credit)
		now := time.Now()
		server := d.server(&now)
		look := func(later time.Duration) {
			t.Helper()
			now = now.Add(later)
			if err := server.look(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		look(0)
		err := d.db.Write(t.Context(), func(tx *gorm.DB) error {
			return errors.Join(tx.Exec(`UPDATE roots SET hot = 'gave_up', reason = 'INSUFFICIENT_FUNDS: short'`).Error,
				tx.Exec(`UPDATE pins SET status = 'failed'`).Error)
		})
		if err != nil {
			t.Fatal(err)
		}
		look(topUpsFor - time.Second)
		if got := d.status(d.hers); got != spec.Failed {
			t.Errorf("it is %s while the payment rests", got)
		}
		look(time.Second)
		d.until("it is back", func() bool { return d.status(d.hers) == spec.Pinned })
		if left, err := d.books.TopUps(t.Context(), 0, 10); err != nil || len(left) > 0 {
			t.Errorf("%v are to be tried again still, %v", left, err)
		}
	})
}

func (d *debtor) server(now *time.Time) topUps {
	return topUps{d.books, d.pins, nil, func() time.Time { return *now }, d.log, map[int64]time.Time{}}
}

// states are the pins and their roots as they are written down.
func (d *debtor) states() (all []string) {
	d.t.Helper()
	err := d.db.Read(d.t.Context(), func(tx *gorm.DB) error {
		all = nil
		return tx.Raw(`SELECT concat_ws(' ', p.id, p.status, p.lapsed_ms, r.cid, r.hot, r.next_ms) FROM pins p JOIN roots r ON r.id = p.root_id
			ORDER BY p.id`).Scan(&all).Error
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return all
}

// changes is how many events of pins there are.
func (d *debtor) changes() (n int) {
	d.t.Helper()
	err := d.db.Read(d.t.Context(), func(tx *gorm.DB) error {
		return tx.Raw(`SELECT count(*) FROM events WHERE kind LIKE 'pin.%'`).Row().Scan(&n)
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return n
}
