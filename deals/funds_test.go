package deals_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
)

var funding = deals.Funding{Floor: fil(2), TopUp: fil(5), PerDay: fil(12)}

// steps makes a keeper step until it has nothing more to do at once.
func steps(t *testing.T, k deals.Keeper) error {
	t.Helper()
	for range 10 {
		again, err := k.Step(t.Context())
		if err != nil || !again {
			return err
		}
	}
	t.Fatal("the keeper does not come to rest")
	return nil
}

func TestEscrowIsKeptAboveTheFloor(t *testing.T) {
	eachMoney(t, at(noon), func(t *testing.T, m *deals.Money, db *database.DB) {
		b := newBank(fil(100))
		k := m.Keeper(funding, b, quiet, nil)
		for _, want := range []int64{5, 5, 5} {
			if err := steps(t, k); err != nil {
				t.Fatal(err)
			}
			if got := b.moved(); !got.Equals(fil(want)) {
				t.Fatalf("moved %s, want %d FIL", deals.FIL(got), want)
			}
			b.advance(10)
		}
		b.advance(30)
		if err := steps(t, k); err != nil || !b.moved().Equals(fil(5)) {
			t.Fatalf("moved %s, %v", deals.FIL(b.moved()), err)
		}
		b.funds.Locked = fil(4) // a deal was published
		if err := steps(t, k); err != nil || !b.moved().Equals(fil(10)) {
			t.Errorf("moved %s, %v", deals.FIL(b.moved()), err)
		}
		books, err := deals.NewTreasury(db, at(noon)).Books(t.Context(), 5)
		if err != nil || len(books.Ops) != 2 || books.Ops[0].State != deals.FundSent || books.Ops[1].State != deals.FundDone ||
			!books.Today.Escrow.Equals(fil(10)) {
			t.Errorf("got %+v, %v", books, err)
		}
	})
}

func TestWhatSlotsWaitForIsMovedToo(t *testing.T) {
	eachMoney(t, at(noon), func(t *testing.T, m *deals.Money, db *database.DB) {
		b := newBank(fil(100))
		b.funds.Escrow = fil(3)
		k := m.Keeper(funding, b, quiet, nil)
		k.Want(1, fil(4))
		k.Want(2, fil(4))
		k.Want(2, fil(5))
		k.Want(3, fil(4))
		k.Want(3, abi.TokenAmount{})
		if err := steps(t, k); err != nil || !b.moved().Equals(fil(8)) { // 2 + 4 + 5 - 3
			t.Errorf("moved %s, %v", deals.FIL(b.moved()), err)
		}
		// What is reserved for proposals on their way is not free.
		busyWith(t, db, 1000, "accepted") // reserves 25 attoFIL
		b.advance(40)
		k.Want(1, abi.TokenAmount{})
		k.Want(2, fil(9))
		if err := steps(t, k); err != nil || !b.moved().Equals(fil(12)) {
			t.Errorf("moved %s, %v", b.moved(), err)
		}
	})
}

func TestTheDaysBoundHolds(t *testing.T) {
	now := noon
	eachMoney(t, func() time.Time { return now }, func(t *testing.T, m *deals.Money, _ *database.DB) {
		now = noon
		b := newBank(fil(1000))
		k := m.Keeper(funding, b, quiet, nil)
		k.Want(1, fil(100))
		for range 5 {
			if err := steps(t, k); err != nil {
				t.Fatal(err)
			}
			b.advance(40)
		}
		if got := b.moved(); !got.Equals(fil(12)) || k.Alarm().Code != "day" {
			t.Errorf("moved %s in a day, alarm %+v", deals.FIL(got), k.Alarm())
		}
		now = noon.Add(24 * time.Hour)
		k.Want(1, fil(15))
		if err := steps(t, k); err != nil {
			t.Fatal(err)
		}
		b.advance(40)
		if err := steps(t, k); err != nil {
			t.Fatal(err)
		}
		if got := b.moved(); !got.Equals(fil(17)) || k.Alarm().Code != "" {
			t.Errorf("moved %s by the next day, alarm %+v", deals.FIL(got), k.Alarm())
		}
	})
}

// The keeper decides on what it has read; the transaction that writes looks again.
func TestAMovementIsRecordedOnlyAloneAndWithinTheDay(t *testing.T) {
	eachMoney(t, at(noon), func(t *testing.T, m *deals.Money, db *database.DB) {
		for i, c := range []struct {
			amount int64
			want   bool
		}{{13, false}, {12, true}, {1, false}} { // too much, the whole day, one is under way
			op := deals.FundOp{UUID: uuid.New(), Amount: fil(c.amount), Day: "2026-11-22", State: deals.FundPlanned, Created: noon, Changed: noon}
			if got, err := m.Plan(t.Context(), op, funding.PerDay); err != nil || got != c.want {
				t.Errorf("%d: recorded is %v, %v", i, got, err)
			}
		}
		books, err := deals.NewTreasury(db, at(noon)).Books(t.Context(), 9)
		if err != nil || len(books.Ops) != 1 || !books.Today.Escrow.Equals(fil(12)) {
			t.Errorf("got %+v, %v", books, err)
		}
	})
}

func TestTheOperatorIsToldWhatIsMissing(t *testing.T) {
	for _, c := range []struct {
		name    string
		funding deals.Funding
		wallet  abi.TokenAmount
		escrow  int64
		want    string
		moved   abi.TokenAmount
	}{
		{"enough", funding, fil(6), 2, "", fil(0)},
		{"wallet below the next movement", funding, fil(5), 2, "wallet", fil(0)}, // there is no gas left
		{"wallet too low now", funding, fil(1), 0, "wallet", big.Sub(fil(1), big.NewInt(1e16))},
		{"wallet empty", funding, fil(0), 0, "wallet", fil(0)},
		{"moves nothing by configuration", deals.Funding{Floor: fil(1)}, fil(100), 0, "off", fil(0)},
		{"no top-up by configuration", deals.Funding{Floor: fil(1), PerDay: fil(9)}, fil(100), 0, "off", fil(0)},
		{"free deals only", deals.Funding{}, fil(0), 0, "", fil(0)},
		{"day bound below the need", deals.Funding{Floor: fil(9), TopUp: fil(1), PerDay: fil(3)}, fil(100), 0, "day", fil(3)},
		{"less than wanted, enough for now", deals.Funding{Floor: fil(2), TopUp: fil(9), PerDay: fil(3)}, fil(100), 0, "", fil(3)},
	} {
		eachMoney(t, at(noon), func(t *testing.T, m *deals.Money, _ *database.DB) {
			b := newBank(c.wallet)
			b.funds.Escrow = fil(c.escrow)
			k := m.Keeper(c.funding, b, quiet, nil)
			if err := steps(t, k); err != nil {
				t.Fatal(err)
			}
			if got := k.Alarm(); got.Code != c.want || !b.moved().Equals(c.moved) {
				t.Errorf("%s: alarm %+v, want %q; moved %s", c.name, got, c.want, deals.FIL(b.moved()))
			}
		})
	}
}

func TestAMovementIsNeverMadeTwiceWhateverIsLost(t *testing.T) {
	type crash struct{}
	for _, point := range []string{"escrow-planned", "escrow-sent", "escrow-stored"} {
		eachMoney(t, at(noon), func(t *testing.T, m *deals.Money, db *database.DB) {
			b := newBank(fil(100))
			func() {
				defer func() {
					if _, ok := recover().(crash); !ok {
						t.Fatalf("%s was never reached", point)
					}
				}()
				_ = steps(t, m.Keeper(funding, b, quiet, func(step string) {
					if step == point {
						panic(crash{})
					}
				}))
			}()
			k := m.Keeper(funding, b, quiet, nil) // after the restart
			for range 3 {
				if err := steps(t, k); err != nil {
					t.Fatal(err)
				}
				b.advance(40)
			}
			books, err := deals.NewTreasury(db, at(noon)).Books(t.Context(), 5)
			if err != nil || len(b.messages) != 1 || !b.moved().Equals(fil(5)) || !books.Today.Escrow.Equals(fil(5)) || books.Ops[0].State != deals.FundDone {
				t.Errorf("%s: %d messages, moved %s, books %+v, %v", point, len(b.messages), deals.FIL(b.moved()), books, err)
			}
		})
	}
}

func TestALostAnswerIsAskedForAgain(t *testing.T) {
	eachMoney(t, at(noon), func(t *testing.T, m *deals.Money, _ *database.DB) {
		b := newBank(fil(100))
		b.deaf = true
		k := m.Keeper(funding, b, quiet, nil)
		for range 3 {
			if err := steps(t, k); err == nil || k.Alarm().Code != "node" {
				t.Fatalf("got %v, alarm %+v", err, k.Alarm())
			}
		}
		b.deaf = false
		for range 3 {
			if err := steps(t, k); err != nil {
				t.Fatal(err)
			}
			b.advance(40)
		}
		if len(b.messages) != 1 || k.Alarm().Code != "" {
			t.Errorf("%d messages, alarm %+v", len(b.messages), k.Alarm())
		}
	})
}

func TestAMessageThatMovedNothingGivesTheBudgetBack(t *testing.T) {
	eachMoney(t, at(noon), func(t *testing.T, m *deals.Money, db *database.DB) {
		b := newBank(fil(100))
		b.fail = true
		k := m.Keeper(funding, b, quiet, nil)
		if err := steps(t, k); err != nil {
			t.Fatal(err)
		}
		b.advance(40)
		if err := steps(t, k); err == nil || !strings.Contains(err.Error(), "exit code 6") || k.Alarm().Code != "node" {
			t.Fatalf("got %v, alarm %+v", err, k.Alarm())
		}
		books, err := deals.NewTreasury(db, at(noon)).Books(t.Context(), 1)
		if err != nil || !books.Today.Escrow.Equals(fil(0)) || books.Ops[0].State != deals.FundFailed {
			t.Errorf("got %+v, %v", books, err)
		}
	})
}

func TestAMessageCountsOnlyAtADepth(t *testing.T) {
	eachMoney(t, at(noon), func(t *testing.T, m *deals.Money, db *database.DB) {
		state := func() deals.FundState {
			books, err := deals.NewTreasury(db, at(noon)).Books(t.Context(), 1)
			if err != nil || len(books.Ops) == 0 {
				t.Fatal(books, err)
			}
			return books.Ops[0].State
		}
		b := newBank(fil(100))
		k := m.Keeper(funding, b, quiet, nil)
		for _, c := range []struct {
			epochs deals.Epoch
			want   deals.FundState
		}{{1, deals.FundSent}, {29, deals.FundSent}, {1, deals.FundDone}} {
			if err := steps(t, k); err != nil {
				t.Fatal(err)
			}
			b.advance(c.epochs)
			if err := steps(t, k); err != nil || state() != c.want {
				t.Errorf("after %d epochs more it is %s, %v, want %s", c.epochs, state(), err, c.want)
			}
		}
		b.funds.Locked = b.funds.Escrow
		if err := steps(t, k); err != nil {
			t.Fatal(err)
		}
		b.advance(2)
		b.final = b.head // with fast finality there is nothing to wait for
		if err := steps(t, k); err != nil || state() != deals.FundDone {
			t.Errorf("it is %s, %v", state(), err)
		}
	})
}

func TestAMessageThatGetsLostIsAlarmedAndCanBeGivenUp(t *testing.T) {
	now := noon
	eachMoney(t, func() time.Time { return now }, func(t *testing.T, m *deals.Money, db *database.DB) {
		now = noon
		treasury := deals.NewTreasury(db, at(noon))
		b := newBank(fil(100))
		b.hold = true
		k := m.Keeper(funding, b, quiet, nil)
		if err := steps(t, k); err != nil {
			t.Fatal(err)
		}
		now = noon.Add(2 * time.Hour)
		if err := steps(t, k); err != nil || k.Alarm().Code != "stuck" || len(b.messages) != 1 {
			t.Fatalf("alarm %+v, %d messages, %v", k.Alarm(), len(b.messages), err)
		}
		if err := treasury.GiveUp(t.Context(), uuid.New()); !errors.Is(err, deals.ErrNotFound) {
			t.Errorf("got %v", err)
		}
		books, err := treasury.Books(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := treasury.GiveUp(t.Context(), books.Ops[0].UUID); err != nil {
			t.Fatal(err)
		}
		if err := steps(t, k); err != nil || len(b.messages) != 2 || k.Alarm().Code != "" {
			t.Errorf("%d messages, alarm %+v, %v", len(b.messages), k.Alarm(), err)
		}
	})
}

func TestAMessageThatTheNodeCannotFindIsAlarmedAndCanBeGivenUp(t *testing.T) {
	now := noon
	eachMoney(t, func() time.Time { return now }, func(t *testing.T, m *deals.Money, db *database.DB) {
		now = noon
		treasury := deals.NewTreasury(db, at(noon))
		b := newBank(fil(100))
		b.hold, b.strange = true, true
		k := m.Keeper(funding, b, quiet, nil)
		_ = steps(t, k)
		now = noon.Add(59 * time.Minute)
		if err := steps(t, k); err == nil || k.Alarm().Code != "" {
			t.Fatalf("alarm %+v, %v", k.Alarm(), err)
		}
		now = noon.Add(2 * time.Hour)
		b.down = true
		if err := steps(t, k); err == nil || k.Alarm().Code != "" {
			t.Fatalf("alarm %+v while the node is away, %v", k.Alarm(), err)
		}
		b.down = false
		err := steps(t, k)
		books, failed := treasury.Books(t.Context(), 1)
		if failed != nil {
			t.Fatal(failed)
		}
		op := books.Ops[0].UUID
		if alarm := k.Alarm(); err == nil || alarm.Code != "stuck" || !strings.Contains(alarm.Text, "funds give-up "+op.String()) || len(b.messages) != 1 {
			t.Fatalf("alarm %+v, %d messages, %v", alarm, len(b.messages), err)
		}
		if err := treasury.GiveUp(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		b.hold = false
		if err := steps(t, k); err != nil || len(b.messages) != 2 {
			t.Fatalf("%d messages, %v", len(b.messages), err)
		}
		b.advance(40)
		if err := steps(t, k); err != nil || k.Alarm().Code != "" {
			t.Errorf("alarm %+v, %v", k.Alarm(), err)
		}
	})
}

func TestWhoeverHasLostTheLeaseMovesNothing(t *testing.T) {
	eachMoney(t, at(noon), func(t *testing.T, m *deals.Money, _ *database.DB) {
		b := newBank(fil(100))
		if err := m.LoseLease(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := steps(t, m.Keeper(funding, b, quiet, nil)); err == nil || len(b.messages) != 0 {
			t.Errorf("%d messages, %v", len(b.messages), err)
		}
	})
}

func TestTheKeeperActsWhenPokedAndByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := databasetest.Open(t)
		if err := db.Migrate(t.Context(), deals.Migrations()...); err != nil {
			t.Fatal(err)
		}
		m, err := deals.NewMoney(t.Context(), db, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		b := newBank(fil(100))
		b.funds.Escrow = fil(2)
		ctx, stop := context.WithCancel(t.Context())
		k := m.Keeper(funding, b, quiet, nil)
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		synctest.Wait()
		if !b.moved().Equals(fil(0)) {
			t.Errorf("moved %s without need", deals.FIL(b.moved()))
		}
		k.Want(1, fil(6))
		synctest.Wait()
		if !b.moved().Equals(fil(6)) {
			t.Errorf("moved %s when poked", deals.FIL(b.moved()))
		}
		b.advance(40)
		b.mu.Lock()
		b.funds.Locked = fil(8)
		b.mu.Unlock()
		<-time.After(2 * time.Minute)
		synctest.Wait()
		if !b.moved().Equals(fil(12)) {
			t.Errorf("moved %s after two minutes, alarm %+v", deals.FIL(b.moved()), k.Alarm())
		}
		<-time.After(2 * time.Hour) // the need was not repeated
		b.advance(40)
		<-time.After(2 * time.Minute)
		synctest.Wait()
		if k.Alarm().Code != "" {
			t.Errorf("alarm %+v", k.Alarm())
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Whatever happens, what gets to the market in a day is within the day's bound, and each recorded movement has at most
// one message.
func TestFundsHistories(t *testing.T) {
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), deals.Migrations()...); err != nil {
		t.Fatal(err)
	}
	now := noon
	clock := func() time.Time { return now }
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		now = now.Add(48 * time.Hour) // a day of its own
		m, err := deals.NewMoney(ctx, db, clock)
		if err != nil {
			t.Fatal(err)
		}
		treasury := deals.NewTreasury(db, clock)
		if books, err := treasury.Books(ctx, 1); err == nil && len(books.Ops) > 0 {
			_ = treasury.GiveUp(ctx, books.Ops[0].UUID) // of the history before
		}
		b := newBank(fil(40))
		k := m.Keeper(funding, b, quiet, nil)
		day, before := now.Format(time.DateOnly), big.Zero()
		t.Repeat(map[string]func(*rapid.T){
			"step":   func(*rapid.T) { _, _ = k.Step(ctx) },
			"epochs": func(t *rapid.T) { b.advance(deals.Epoch(rapid.IntRange(1, 50).Draw(t, "n"))) },
			"deal": func(t *rapid.T) {
				b.funds.Locked = big.Min(b.funds.Escrow, big.Add(b.funds.Locked, fil(rapid.Int64Range(0, 3).Draw(t, "fil"))))
			},
			"want": func(t *rapid.T) {
				k.Want(deals.SlotID(rapid.IntRange(1, 3).Draw(t, "slot")), fil(rapid.Int64Range(0, 9).Draw(t, "fil")))
			},
			"node":    func(t *rapid.T) { b.down = rapid.Bool().Draw(t, "down") },
			"answers": func(t *rapid.T) { b.deaf = rapid.Bool().Draw(t, "deaf") },
			"chain":   func(t *rapid.T) { b.fail = rapid.Bool().Draw(t, "fail") },
			"restart": func(*rapid.T) { k = m.Keeper(funding, b, quiet, nil) },
			"hours": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 8).Draw(t, "hours")) * time.Hour)
			},
			"": func(t *rapid.T) {
				if d := now.Format(time.DateOnly); d != day {
					day, before = d, b.moved()
				}
				// A movement that was planned yesterday and sent today is yesterday's, which may add one.
				if in := big.Sub(b.moved(), before); in.GreaterThan(big.Add(funding.PerDay, fil(12))) {
					t.Fatalf("%s moved on %s", deals.FIL(in), day)
				}
				books, err := treasury.Books(ctx, 1000)
				if err != nil || books.Today.Escrow.GreaterThan(funding.PerDay) {
					t.Fatalf("charged %s to %s, %v", deals.FIL(books.Today.Escrow), day, err)
				}
				known := map[uuid.UUID]bool{}
				for _, op := range books.Ops {
					known[op.UUID] = true
				}
				for key := range b.messages {
					if !known[key] {
						t.Fatalf("message %s was never recorded", key)
					}
				}
			},
		})
	})
}

func TestMetricsShowWhatTheKeeperSaw(t *testing.T) {
	eachMoney(t, at(noon), func(t *testing.T, m *deals.Money, _ *database.DB) {
		b := newBank(fil(7))
		b.funds.Escrow, b.funds.Locked, b.funds.Datacap = fil(9), fil(4), atto(1<<40)
		k := m.Keeper(deals.Funding{Floor: fil(20)}, b, quiet, nil)
		if err := steps(t, k); err != nil {
			t.Fatal(err)
		}
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(k.Metrics()...)
		want := `
# HELP frostpin_deals_datacap_bytes Bytes of datacap.
# TYPE frostpin_deals_datacap_bytes gauge
frostpin_deals_datacap_bytes 1.099511627776e+12
# HELP frostpin_deals_escrow_fil FIL in the market: locked by deals, reserved for proposals, or free.
# TYPE frostpin_deals_escrow_fil gauge
frostpin_deals_escrow_fil{part="free"} 5
frostpin_deals_escrow_fil{part="locked"} 4
frostpin_deals_escrow_fil{part="reserved"} 0
# HELP frostpin_deals_funds_alarm 1 while funds need the operator for this reason.
# TYPE frostpin_deals_funds_alarm gauge
frostpin_deals_funds_alarm{alarm="day"} 0
frostpin_deals_funds_alarm{alarm="node"} 0
frostpin_deals_funds_alarm{alarm="off"} 1
frostpin_deals_funds_alarm{alarm="stuck"} 0
frostpin_deals_funds_alarm{alarm="wallet"} 0
# HELP frostpin_deals_wallet_fil FIL in the wallet.
# TYPE frostpin_deals_wallet_fil gauge
frostpin_deals_wallet_fil 7
`
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
			t.Error(err)
		}
	})
}
