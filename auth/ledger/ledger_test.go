package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
)

func TestMain(m *testing.M) {
	if dsn := os.Getenv(childDSN); dsn != "" {
		os.Exit(child(dsn))
	}
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// moment is a time that milliseconds can hold, in the middle of a month.
var moment = time.Date(2026, 11, 22, 12, 0, 0, 123_000_000, time.UTC)

// plans are the plans of accounts; all others are not billed.
type plans map[int64]ledger.Plan

func (p plans) Plan(_ context.Context, account int64) (ledger.Plan, error) { return p[account], nil }

func (plans) Past(context.Context, int64, time.Time) ([]ledger.Plan, error) { return nil, nil }

// everyone has one plan.
type everyone ledger.Plan

func (e everyone) Plan(context.Context, int64) (ledger.Plan, error) { return ledger.Plan(e), nil }

func (everyone) Past(context.Context, int64, time.Time) ([]ledger.Plan, error) { return nil, nil }

// A clock is set by the test.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.set(moment)
	return c
}

func (c *clock) now() time.Time  { return time.Unix(0, c.ns.Load()).UTC() }
func (c *clock) set(t time.Time) { c.ns.Store(t.UnixNano()) }

// perByte charges 10^-9 credits for a byte of egress, which is easy to count with.
var perByte = everyone{Billed: true, Prices: ledger.Prices{ledger.EgressCold: {Price: 1 << 30}}}

func each(t *testing.T, p ledger.Plans, fn func(t *testing.T, s *ledger.Service, c *clock, db *database.DB)) {
	t.Helper()
	databasetest.Each(t, ledger.Migrations(), func(t *testing.T, db *database.DB) {
		c := newClock()
		s := ledger.New(db, p, c.now, slog.New(slog.DiscardHandler))
		fn(t, s, c, db)
		verify(t, s)
	})
}

func verify(t *testing.T, s *ledger.Service) {
	t.Helper()
	wrong, err := s.Verify(context.WithoutCancel(t.Context()))
	if err != nil || len(wrong) > 0 {
		t.Errorf("the books are wrong: %+v, %v", wrong, err)
	}
}

func credit(t *testing.T, s *ledger.Service, account int64, amount ledger.Amount, key string) {
	t.Helper()
	if _, fresh, err := s.Credit(t.Context(), account, amount, key, ""); err != nil || !fresh {
		t.Fatalf("crediting: %t, %v", fresh, err)
	}
}

func balance(t *testing.T, s *ledger.Service, account int64) ledger.Balance {
	t.Helper()
	b, err := s.Balance(t.Context(), account)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func entries(t *testing.T, s *ledger.Service, f ledger.Filter) []ledger.Entry {
	t.Helper()
	f.Limit = ledger.MaxPage
	got, err := s.Entries(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// egress is a charge that costs as many 10^-9 credits as it has bytes.
func egress(account, bytes int64, key string) ledger.Charge {
	return ledger.Charge{Account: account, Kind: ledger.EgressCold, Qty: big.NewInt(bytes), At: moment, Key: key, Ref: "r"}
}

func TestCreditIsBookedOncePerKey(t *testing.T) {
	each(t, perByte, func(t *testing.T, s *ledger.Service, _ *clock, _ *database.DB) {
		credit(t, s, 7, 5*ledger.Credit, "a")
		e, fresh, err := s.Credit(t.Context(), 7, 5*ledger.Credit, "a", "")
		if err != nil || fresh || e.Amount != 5*ledger.Credit || e.Balance != 5*ledger.Credit {
			t.Errorf("the repetition: %+v, %t, %v", e, fresh, err)
		}
		for _, other := range []struct {
			account int64
			amount  ledger.Amount
		}{{7, 6}, {8, 5 * ledger.Credit}} {
			if _, _, err := s.Credit(t.Context(), other.account, other.amount, "a", ""); !errors.Is(err, ledger.ErrKeyReused) {
				t.Errorf("another credit under the key: %v", err)
			}
		}
		if _, _, err := s.Adjust(t.Context(), 7, 5*ledger.Credit, "a", ""); !errors.Is(err, ledger.ErrKeyReused) {
			t.Errorf("an adjustment under the key: %v", err)
		}
		if b := balance(t, s, 7); b.Balance != 5*ledger.Credit {
			t.Errorf("balance %s", b.Balance)
		}
	})
}

func TestAdjustmentStopsAtTheFloor(t *testing.T) {
	each(t, perByte, func(t *testing.T, s *ledger.Service, _ *clock, _ *database.DB) {
		credit(t, s, 1, 100, "a")
		if _, _, err := s.Adjust(t.Context(), 1, -101, "b", ""); !errors.Is(err, ledger.ErrFunds) {
			t.Errorf("below zero: %v", err)
		}
		if err := s.SetFloor(t.Context(), 1, -50); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Adjust(t.Context(), 1, -150, "b", ""); err != nil {
			t.Errorf("down to a credit line: %v", err)
		}
		if err := s.SetFloor(t.Context(), 1, 0); !errors.Is(err, ledger.ErrFunds) {
			t.Errorf("a floor above the balance: %v", err)
		}
		if b := balance(t, s, 1); b.Balance != -50 || b.Available() != 0 || !b.Empty.Equal(moment) {
			t.Errorf("%+v", b)
		}
		credit(t, s, 1, 1, "c")
		if b := balance(t, s, 1); !b.Empty.IsZero() {
			t.Errorf("after a top-up it is empty since %s", b.Empty)
		}
	})
}

func TestWhatIsWrittenWithACreditIsWrittenOnceOrNothingIsBooked(t *testing.T) {
	each(t, perByte, func(t *testing.T, s *ledger.Service, _ *clock, db *database.DB) {
		ctx := t.Context()
		if err := db.Write(ctx, func(tx *gorm.DB) error { return tx.Exec(`CREATE TABLE notes (n BIGINT)`).Error }); err != nil {
			t.Fatal(err)
		}
		broken := errors.New("broken")
		note := func(fails error) func(context.Context) error {
			return func(ctx context.Context) error {
				return errors.Join(fails, db.Write(ctx, func(tx *gorm.DB) error { return tx.Exec(`INSERT INTO notes VALUES (1)`).Error }))
			}
		}
		if _, _, err := s.Credit(ctx, 1, 5, "in", "", note(broken)); !errors.Is(err, broken) {
			t.Errorf("a note that fails: %v", err)
		}
		for i := range 2 {
			if _, fresh, err := s.Credit(ctx, 1, 5, "in", "", note(nil)); err != nil || fresh != (i == 0) {
				t.Errorf("booking %d: fresh %t, %v", i, fresh, err)
			}
		}
		var notes int
		err := db.Read(ctx, func(tx *gorm.DB) error { return tx.Raw(`SELECT count(*) FROM notes`).Row().Scan(&notes) })
		if b, balanceErr := s.Balance(ctx, 1); err != nil || balanceErr != nil || notes != 1 || b.Balance != 5 {
			t.Errorf("%d notes, balance %s, %v, %v", notes, b.Balance, err, balanceErr)
		}
	})
}

func TestChargeIsBookedOncePerKeyAndAllOrNothing(t *testing.T) {
	each(t, perByte, func(t *testing.T, s *ledger.Service, _ *clock, _ *database.DB) {
		credit(t, s, 1, 1000, "in1")
		credit(t, s, 2, 1000, "in2")
		batch := []ledger.Charge{egress(1, 10, "x"), egress(2, 20, "y"), egress(1, 10, "x"), egress(1, 5, "z")}
		for range 3 {
			if err := s.Charge(t.Context(), batch...); err != nil {
				t.Fatal(err)
			}
		}
		if a, b := balance(t, s, 1).Balance, balance(t, s, 2).Balance; a != 985 || b != 980 {
			t.Errorf("balances %d and %d", a, b)
		}
		err := s.Charge(t.Context(), egress(1, 7, "new"), egress(1, 11, "x"))
		if !errors.Is(err, ledger.ErrKeyReused) {
			t.Errorf("another quantity under a key: %v", err)
		}
		if got := balance(t, s, 1).Balance; got != 985 {
			t.Errorf("half of a refused batch was booked: %d", got)
		}
		usage, err := s.Usage(t.Context(), 1, moment, moment)
		if err != nil || len(usage) != 1 || usage[0].Qty.Int64() != 15 || usage[0].Day != "2026-11-22" {
			t.Errorf("usage %+v, %v", usage, err)
		}
	})
}

func TestChargeBeyondTheFloorIsWaived(t *testing.T) {
	each(t, perByte, func(t *testing.T, s *ledger.Service, c *clock, _ *database.DB) {
		credit(t, s, 1, 100, "in")
		if err := s.Charge(t.Context(), egress(1, 70, "a"), egress(1, 70, "b"), egress(1, 70, "c")); err != nil {
			t.Fatal(err)
		}
		got := entries(t, s, ledger.Filter{Account: 1, Kind: ledger.EgressCold})
		var amounts [][2]ledger.Amount
		for _, e := range got {
			amounts = append(amounts, [2]ledger.Amount{e.Amount, e.Waived})
		}
		if diff := cmp.Diff([][2]ledger.Amount{{-70, 0}, {-30, 40}, {0, 70}}, amounts); diff != "" {
			t.Error(diff)
		}
		if b := balance(t, s, 1); b.Balance != 0 || !b.Empty.Equal(c.now()) {
			t.Errorf("%+v", b)
		}
	})
}

func TestUsageIsCountedWhereNothingIsBilled(t *testing.T) {
	each(t, plans{}, func(t *testing.T, s *ledger.Service, _ *clock, _ *database.DB) {
		huge := new(big.Int).Exp(big.NewInt(10), big.NewInt(27), nil)
		for _, key := range []string{"a", "b", "b"} {
			err := s.Charge(t.Context(), ledger.Charge{Account: 3, Kind: ledger.DealCost, Qty: huge, At: moment, Key: key})
			if err != nil {
				t.Fatal(err)
			}
		}
		usage, err := s.Usage(t.Context(), 3, moment, moment)
		if err != nil || len(usage) != 1 || usage[0].Qty.Cmp(new(big.Int).Mul(huge, big.NewInt(2))) != 0 {
			t.Errorf("%+v, %v", usage, err)
		}
		if err := s.Hold(t.Context(), 3, "pin", ledger.Credit); err != nil {
			t.Errorf("a hold of an account that is not billed: %v", err)
		}
		if b := balance(t, s, 3); b.Balance != 0 || b.Holds != 0 {
			t.Errorf("%+v", b)
		}
	})
}

func TestHoldsNeverExceedWhatIsAvailable(t *testing.T) {
	each(t, perByte, func(t *testing.T, s *ledger.Service, _ *clock, _ *database.DB) {
		credit(t, s, 1, 100, "in")
		for _, step := range []struct {
			what string
			do   func() error
			want error
			left ledger.Amount
		}{
			{"hold", func() error { return s.Hold(t.Context(), 1, "p", 60) }, nil, 40},
			{"again", func() error { return s.Hold(t.Context(), 1, "p", 60) }, nil, 40},
			{"too much", func() error { return s.Hold(t.Context(), 1, "q", 41) }, ledger.ErrFunds, 40},
			{"grow", func() error { return s.Hold(t.Context(), 1, "p", 90) }, nil, 10},
			{"outgrow", func() error { return s.Hold(t.Context(), 1, "p", 101) }, ledger.ErrFunds, 10},
			{"shrink", func() error { return s.Hold(t.Context(), 1, "p", 1) }, nil, 10},
			{"another's", func() error { return s.Hold(t.Context(), 2, "p", 0) }, ledger.ErrKeyReused, 10},
			{"nothing", func() error { return s.Hold(t.Context(), 2, "free", 0) }, nil, 10},
			{"release", func() error { return s.ReleaseHold(t.Context(), "p") }, nil, 100},
			{"release again", func() error { return s.ReleaseHold(t.Context(), "p") }, nil, 100},
			{"without a reference", func() error {
				_, err := s.HoldStock(t.Context(), 1, "", ledger.Stock{}, ledger.Stock{Hot: 1})
				return err
			}, ledger.ErrInvalid, 100},
		} {
			if err := step.do(); !errors.Is(err, step.want) {
				t.Errorf("%s: %v, want %v", step.what, err, step.want)
			}
			if got := balance(t, s, 1).Available(); got != step.left {
				t.Errorf("%s: %d available, want %d", step.what, got, step.left)
			}
		}
	})
}

// The transactions collide on one account: exactly as many holds fit as the balance carries.
func Test64WritersCannotOverdrawOneAccount(t *testing.T) {
	each(t, perByte, func(t *testing.T, s *ledger.Service, _ *clock, _ *database.DB) {
		const writers, rounds = 64, 6
		credit(t, s, 1, 100, "in")
		var won atomic.Int64
		var all sync.WaitGroup
		for w := range writers {
			all.Go(func() {
				for i := range rounds {
					err := s.Hold(t.Context(), 1, fmt.Sprintf("p%d-%d", w, i), 3)
					if err == nil {
						won.Add(1)
					} else if !errors.Is(err, ledger.ErrFunds) {
						t.Error(err)
					}
					_, _, err = s.Credit(t.Context(), 1, 1, fmt.Sprintf("c%d", i), "") // the same for all
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		b := balance(t, s, 1)
		if b.Balance != 100+rounds || b.Holds != ledger.Amount(3*won.Load()) || b.Available() < 0 || b.Available() >= 3 {
			t.Errorf("%+v after %d holds", b, won.Load())
		}
	})
}

// Different accounts wait for different rows: only the key itself keeps them apart.
func TestKeyIsBookedForOneOf64Accounts(t *testing.T) {
	each(t, perByte, func(t *testing.T, s *ledger.Service, _ *clock, _ *database.DB) {
		var won atomic.Int64
		var all sync.WaitGroup
		for account := range int64(64) {
			all.Go(func() {
				_, fresh, err := s.Credit(t.Context(), account, 5, "the key", "")
				if fresh {
					won.Add(1)
				} else if !errors.Is(err, ledger.ErrKeyReused) {
					t.Errorf("account %d: %v", account, err)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 {
			t.Errorf("%d accounts were credited", won.Load())
		}
	})
}

func TestEntriesCannotBeChangedOrRemoved(t *testing.T) {
	each(t, perByte, func(t *testing.T, s *ledger.Service, _ *clock, db *database.DB) {
		credit(t, s, 1, 100, "in")
		statements := []string{
			`UPDATE ledger_entries SET amount = 1`,
			`UPDATE ledger_entries SET ref = 'x' WHERE id = 1`,
			`DELETE FROM ledger_entries`,
		}
		if db.Dialect() == database.Postgres {
			statements = append(statements, `TRUNCATE ledger_entries`)
		} else {
			statements = append(statements, `INSERT OR REPLACE INTO ledger_entries SELECT id, account, kind, qty, free, unit, price, 1, waived, balance, ref, idem_key, at_ms FROM ledger_entries`)
		}
		for _, statement := range statements {
			if err := db.Write(t.Context(), func(tx *gorm.DB) error { return tx.Exec(statement).Error }); err == nil {
				t.Errorf("%s: was done", statement)
			}
		}
		if got := entries(t, s, ledger.Filter{Account: 1}); len(got) != 1 || got[0].Amount != 100 {
			t.Errorf("%+v", got)
		}
	})
}

func TestVerifyFindsWhatWasChanged(t *testing.T) {
	databasetest.Each(t, ledger.Migrations(), func(t *testing.T, db *database.DB) {
		s := ledger.New(db, perByte, newClock().now, slog.New(slog.DiscardHandler))
		for account := range int64(4) {
			credit(t, s, account, 100, fmt.Sprint(account))
		}
		err := db.Write(t.Context(), func(tx *gorm.DB) error {
			return errors.Join(tx.Exec(`UPDATE balances SET balance = 99 WHERE account = 1`).Error,
				tx.Exec(`UPDATE balances SET holds = 1 WHERE account = 2`).Error)
		})
		if err != nil {
			t.Fatal(err)
		}
		wrong, err := s.Verify(t.Context())
		if err != nil || len(wrong) != 2 || wrong[0].Account != 1 || wrong[1].Account != 2 {
			t.Errorf("%+v, %v", wrong, err)
		}
	})
}

func TestEntriesArePagedAndFiltered(t *testing.T) {
	each(t, perByte, func(t *testing.T, s *ledger.Service, c *clock, _ *database.DB) {
		for day := range 5 {
			c.set(moment.AddDate(0, 0, day))
			credit(t, s, 1, 1000, fmt.Sprint("c", day))
			credit(t, s, 2, 1000, fmt.Sprint("other", day))
			charge := egress(1, 1, fmt.Sprint("e", day))
			charge.Ref = fmt.Sprint("pin", day%2)
			if err := s.Charge(t.Context(), charge); err != nil {
				t.Fatal(err)
			}
		}
		for name, test := range map[string]struct {
			filter ledger.Filter
			want   []string
		}{
			"all":        {ledger.Filter{}, []string{"c0", "e0", "c1", "e1", "c2", "e2", "c3", "e3", "c4", "e4"}},
			"kind":       {ledger.Filter{Kind: ledger.Topup}, []string{"c0", "c1", "c2", "c3", "c4"}},
			"ref":        {ledger.Filter{Ref: "pin1"}, []string{"e1", "e3"}},
			"from":       {ledger.Filter{From: moment.AddDate(0, 0, 4)}, []string{"c4", "e4"}},
			"before":     {ledger.Filter{To: moment.AddDate(0, 0, 1)}, []string{"c0", "e0"}},
			"a day":      {ledger.Filter{From: moment.AddDate(0, 0, 2), To: moment.AddDate(0, 0, 3)}, []string{"c2", "e2"}},
			"kind, from": {ledger.Filter{Kind: ledger.EgressCold, From: moment.AddDate(0, 0, 3)}, []string{"e3", "e4"}},
			"nothing":    {ledger.Filter{To: moment}, nil},
		} {
			for _, limit := range []int{1, 3, ledger.MaxPage} {
				f := test.filter
				f.Account, f.Limit = 1, limit
				var keys []string
				for {
					page, err := s.Entries(t.Context(), f)
					if err != nil {
						t.Fatal(err)
					}
					if len(page) == 0 {
						break
					}
					for _, e := range page {
						keys = append(keys, e.Key)
					}
					f.After = page[len(page)-1].ID
				}
				if diff := cmp.Diff(test.want, keys); diff != "" {
					t.Errorf("%s by %d: %s", name, limit, diff)
				}
			}
		}
	})
}

func TestTextsThatADatabaseRefusesAreNotAcceptable(t *testing.T) {
	each(t, nil, func(t *testing.T, s *ledger.Service, _ *clock, _ *database.DB) {
		for _, text := range []string{"a\x00", "\xff"} {
			for what, call := range map[string]func() error{
				"the key of a credit": func() error { _, _, err := s.Credit(t.Context(), 1, 1, text, ""); return err },
				"its reference":       func() error { _, _, err := s.Credit(t.Context(), 1, 1, "k", text); return err },
				"of a correction":     func() error { _, _, err := s.Adjust(t.Context(), 1, 1, "k", text); return err },
			} {
				if err := call(); !errors.Is(err, ledger.ErrInvalid) {
					t.Errorf("%s is %q: %v", what, text, err)
				}
			}
			for _, f := range []ledger.Filter{{Account: 1, Ref: text, Limit: 1}, {Account: 1, Kind: ledger.Kind(text), Limit: 1}} {
				if got, err := s.Entries(t.Context(), f); len(got) > 0 || err != nil {
					t.Errorf("entries with %q: %v, %v", text, got, err)
				}
			}
		}
	})
}

func TestStatementIsTheDifferenceOfItsBalances(t *testing.T) {
	each(t, perByte, func(t *testing.T, s *ledger.Service, c *clock, _ *database.DB) {
		credit(t, s, 1, 100, "nov")
		c.set(time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC))
		credit(t, s, 1, 50, "dec")
		if err := s.Charge(t.Context(), egress(1, 120, "e"), egress(1, 40, "f")); err != nil {
			t.Fatal(err)
		}
		c.set(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC))
		credit(t, s, 1, 7, "jan")
		st, err := s.Statement(t.Context(), 1, time.Date(2026, 12, 31, 0, 0, 0, 0, time.UTC))
		if err != nil {
			t.Fatal(err)
		}
		if st.Opening != 100 || st.Closing != 0 || len(st.Lines) != 2 {
			t.Fatalf("%+v", st)
		}
		used := st.Lines[0]
		if used.Kind != ledger.EgressCold || used.Entries != 2 || used.Qty.Int64() != 160 || used.Amount != -150 || used.Waived != 10 {
			t.Errorf("%+v", used)
		}
		if in := st.Lines[1]; in.Kind != ledger.Topup || in.Amount != 50 {
			t.Errorf("%+v", in)
		}
	})
}

// Ids and times of an account grow together even if a clock goes back, or a page by time would miss entries.
func TestTimeOfEntriesNeverGoesBack(t *testing.T) {
	each(t, perByte, func(t *testing.T, s *ledger.Service, c *clock, _ *database.DB) {
		credit(t, s, 1, 1, "a")
		c.set(moment.Add(-time.Hour))
		credit(t, s, 1, 1, "b")
		got := entries(t, s, ledger.Filter{Account: 1, From: moment})
		if len(got) != 2 || got[1].At.Before(got[0].At) {
			t.Errorf("%+v", got)
		}
	})
}

func isFunds(err error) bool { return errors.Is(err, ledger.ErrFunds) }

// Forty DAGs grow at once within an allowance and a balance that carry half of them.
func TestHoldsForStockShareTheAllowance(t *testing.T) {
	prices, err := ledger.ParsePrices(map[string]string{"hot_gib_month": "1024", "free_hot_gib_month": "0.009765625"}) // a credit a MiB, 10 free
	if err != nil {
		t.Fatal(err)
	}
	each(t, plans{1: {Billed: true, Prices: prices}}, func(t *testing.T, s *ledger.Service, _ *clock, _ *database.DB) {
		credit(t, s, 1, 30*ledger.Credit, "in")
		var granted atomic.Int64 // MiB
		var fetches sync.WaitGroup
		for i := range 40 {
			fetches.Go(func() {
				for mib := int64(1); mib <= 2; mib++ {
					_, err := s.HoldStock(t.Context(), 1, fmt.Sprint("p", i), ledger.Stock{}, ledger.Stock{Hot: mib << 20})
					if err == nil {
						granted.Add(1)
					} else if !errors.Is(err, ledger.ErrFunds) {
						t.Error(err)
					}
				}
			})
		}
		fetches.Wait()
		b, err := s.Balance(t.Context(), 1)
		coming, failed := s.Coming(t.Context(), 1)
		if granted.Load() != 40 || b.Holds != 30*ledger.Credit || coming != (ledger.Stock{Hot: 40 << 20}) || err != nil || failed != nil {
			t.Errorf("%d MiB were granted and %s is held for %+v: %v, %v", granted.Load(), b.Holds, coming, err, failed)
		}
	})
}
