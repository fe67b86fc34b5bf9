package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database"
)

// A memory is a source that remembers what has ended until it may forget it.
type memory struct {
	held []ledger.Holding
	fail error // what the next Forget answers, without forgetting
}

func (m *memory) Holdings(context.Context) iter.Seq2[ledger.Holding, error] {
	return func(yield func(ledger.Holding, error) bool) {
		for _, h := range slices.Clone(m.held) {
			if !yield(h, nil) {
				return
			}
		}
	}
}

func (m *memory) Forget(_ context.Context, ended []ledger.Holding) error {
	if err := m.fail; err != nil {
		m.fail = nil
		return err
	}
	m.held = slices.DeleteFunc(m.held, func(h ledger.Holding) bool { return slices.Contains(ended, h) })
	return nil
}

var storagePlan = everyone{Billed: true, Prices: ledger.Prices{
	ledger.StorageHot:  {Price: 3 * ledger.Credit},
	ledger.StorageCold: {Price: ledger.Credit},
}}

func used(t *testing.T, s *ledger.Service, account int64) map[ledger.Kind]int64 {
	t.Helper()
	days, err := s.Usage(t.Context(), account, time.Unix(0, 0), moment.AddDate(10, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	sums := make(map[ledger.Kind]int64)
	for _, d := range days {
		sums[d.Kind] += d.Qty.Int64()
	}
	return sums
}

func accrue(t *testing.T, s *ledger.Service, source ledger.Source) {
	t.Helper()
	if err := s.Accrue(t.Context(), source); err != nil {
		t.Fatal(err)
	}
}

func TestStorageIsAccruedOncePerSecond(t *testing.T) {
	for name, plan := range map[string]ledger.Plans{"billed": storagePlan, "counted": plans{}} {
		t.Run(name, func(t *testing.T) {
			each(t, plan, func(t *testing.T, s *ledger.Service, c *clock, _ *database.DB) {
				credit(t, s, 1, 1000*ledger.Credit, "in")
				since := time.Date(2026, 11, 20, 6, 0, 0, 0, time.UTC)
				source := &memory{held: []ledger.Holding{{Pin: "a", Account: 1, Bytes: 1 << 30, Hot: true, Copies: 2, Since: since}}}
				accrue(t, s, source)
				accrue(t, s, source)
				const gibSecond = 1 << 30
				midnight := int64(42 * 3600)
				if diff := cmp.Diff(map[ledger.Kind]int64{ledger.StorageHot: midnight * gibSecond, ledger.StorageCold: 2 * midnight * gibSecond}, used(t, s, 1)); diff != "" {
					t.Errorf("up to midnight: %s", diff)
				}

				// Deleted at ten past twelve: billed up to then, also if the source cannot forget at first.
				source.held[0].Until, source.held[0].Removed = moment.Add(10*time.Minute), true
				c.set(moment.Add(time.Hour))
				source.fail = errors.New("not now")
				if err := s.Accrue(t.Context(), source); err == nil {
					t.Error("the source's failure is not told")
				}
				accrue(t, s, source)
				accrue(t, s, source)
				total := midnight + 12*3600 + 600
				if got := used(t, s, 1)[ledger.StorageHot]; got != total*gibSecond {
					t.Errorf("after deletion %d GiB-seconds, want %d", got/gibSecond, total)
				}
				if len(source.held) != 0 {
					t.Errorf("still remembered: %+v", source.held)
				}
				if name == "billed" {
					want := 1000*ledger.Credit - ledger.Amount(total)*3*ledger.Credit/(30*86400) - ledger.Amount(total)*2*ledger.Credit/(30*86400)
					if got := balance(t, s, 1).Balance; got != want {
						t.Errorf("balance %s, want %s", got, want)
					}
				} else if got := entries(t, s, ledger.Filter{Account: 1}); len(got) != 1 {
					t.Errorf("entries of an account that is not billed: %+v", got)
				}
			})
		})
	}
}

// Another process has asked the source before the pin was forgotten, and books after.
func TestForgottenPinIsNotAccruedAgain(t *testing.T) {
	each(t, plans{}, func(t *testing.T, s *ledger.Service, c *clock, _ *database.DB) {
		ended := ledger.Holding{Pin: "a", Account: 1, Bytes: 1, Hot: true, Since: moment.Truncate(time.Hour).Add(-time.Hour), Until: moment.Truncate(time.Hour), Removed: true}
		late := &memory{held: []ledger.Holding{ended}}
		accrue(t, s, &memory{held: []ledger.Holding{ended}})
		accrue(t, s, &memory{held: []ledger.Holding{{Pin: "b", Account: 1, Since: ended.Since, Until: ended.Until, Removed: true}}})
		c.set(moment.Add(time.Minute))
		accrue(t, s, late)
		if got := used(t, s, 1)[ledger.StorageHot]; got != 3600 {
			t.Errorf("%d byte-seconds, want 3600", got)
		}
	})
}

func TestHoldingsOfAPinFollowEachOther(t *testing.T) {
	each(t, plans{}, func(t *testing.T, s *ledger.Service, c *clock, _ *database.DB) {
		day := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
		source := &memory{held: []ledger.Holding{
			{Pin: "a", Account: 1, Bytes: 10, Hot: true, Since: day, Until: day.Add(time.Hour)},
			{Pin: "a", Account: 1, Bytes: 10, Hot: true, Copies: 3, Since: day.Add(time.Hour)},
		}}
		accrue(t, s, source)
		accrue(t, s, source)
		c.set(day.Add(30 * time.Hour))
		accrue(t, s, source)
		if diff := cmp.Diff(map[ledger.Kind]int64{ledger.StorageHot: 10 * 86400, ledger.StorageCold: 30 * 23 * 3600}, used(t, s, 1)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestManyPinsAndALongPauseAreAccruedInParts(t *testing.T) {
	each(t, storagePlan, func(t *testing.T, s *ledger.Service, c *clock, _ *database.DB) {
		source := new(memory)
		const pins, days = 520, 9
		start := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		for i := range pins {
			source.held = append(source.held, ledger.Holding{Pin: fmt.Sprint("p", i), Account: int64(i % 3), Bytes: 7, Hot: true, Since: start})
		}
		c.set(start.AddDate(0, 0, days))
		accrue(t, s, source)
		accrue(t, s, source)
		var sum int64
		for account := range int64(3) {
			sum += used(t, s, account)[ledger.StorageHot]
		}
		if sum != pins*days*86400*7 {
			t.Errorf("%d byte-seconds, want %d", sum, pins*days*86400*7)
		}
	})
}

func TestWhenStorageIsLookedAtDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := func(name string) time.Time {
			return time.UnixMilli(rapid.Int64Range(1_790_000_000_000, 1_790_600_000_000).Draw(t, name)).UTC()
		}
		h := ledger.Holding{Pin: "p", Since: at("since")}
		if until := at("until"); rapid.Bool().Draw(t, "ended") && until.After(h.Since) {
			h.Until = until
		}
		end := time.Unix(1_790_700_000, 0).UTC()
		once := ledger.PlanIntervals(h, 0, end, 1000)
		var steps [][2]int64
		var accrued int64
		looks := rapid.SliceOf(rapid.Custom(func(t *rapid.T) time.Time {
			return time.Unix(rapid.Int64Range(1_790_000_000, 1_790_700_000).Draw(t, "look"), 0)
		})).Draw(t, "looks")
		slices.SortFunc(looks, time.Time.Compare)
		for _, now := range append(looks, end) {
			for {
				due := ledger.PlanIntervals(h, accrued, now, 1)
				if len(due) == 0 {
					break
				}
				steps = append(steps, due...)
				accrued = due[0][1]
			}
		}
		if diff := cmp.Diff(once, steps); diff != "" {
			t.Errorf("at once and in steps differ: %s", diff)
		}
		for i, s := range once {
			if s[0] >= s[1] || s[0]/86400 != (s[1]-1)/86400 || (i > 0 && once[i-1][1] != s[0]) {
				t.Errorf("interval %v of %v", s, once)
			}
		}
	})
}

// A lossy database commits, and then says that it did not.
type lossy struct {
	*database.DB
	lose bool
}

func (l *lossy) Write(ctx context.Context, fn func(tx *gorm.DB) error) error {
	err := l.DB.Write(ctx, fn)
	if err == nil && l.lose {
		l.lose = false
		return errors.New("the connection broke")
	}
	return err
}

func TestEgressIsBookedOnceWhateverTheDatabaseAnswers(t *testing.T) {
	for name, plan := range map[string]ledger.Plans{"billed": perByte, "counted": plans{}} {
		t.Run(name, func(t *testing.T) {
			each(t, plan, func(t *testing.T, healthy *ledger.Service, c *clock, db *database.DB) {
				credit(t, healthy, 1, 10_000, "in")
				broken := &lossy{DB: db}
				meter := ledger.New(broken, plan, c.now, slog.New(slog.DiscardHandler)).Egress()
				total := int64(0)
				for i := range int64(6) {
					meter.Add(1, ledger.EgressCold, 100+i)
					meter.Add(1, ledger.EgressHot, 1)
					meter.Add(1, ledger.EgressCold, -5)
					meter.Add(1, ledger.Topup, 5)
					total += 100 + i
					broken.lose = i%2 == 0
					if err := meter.Flush(t.Context()); (err != nil) != (i%2 == 0) {
						t.Errorf("flush %d: %v", i, err)
					}
				}
				if diff := cmp.Diff(map[ledger.Kind]int64{ledger.EgressCold: total, ledger.EgressHot: 6}, used(t, healthy, 1)); diff != "" {
					t.Error(diff)
				}
				want := ledger.Amount(10_000)
				if name == "billed" {
					want -= ledger.Amount(total)
				}
				if got := balance(t, healthy, 1).Balance; got != want {
					t.Errorf("balance %d, want %d", got, want)
				}
			})
		})
	}
}

func TestEgressIsFlushedWhenTheServerStops(t *testing.T) {
	each(t, perByte, func(t *testing.T, s *ledger.Service, _ *clock, _ *database.DB) {
		meter := s.Egress()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { meter.Run(ctx); close(done) }()
		meter.Add(1, ledger.EgressHot, 42)
		stop()
		<-done
		if got := used(t, s, 1)[ledger.EgressHot]; got != 42 {
			t.Errorf("%d bytes were booked", got)
		}
	})
}

func TestFreeAllowanceIsUsedOncePerMonth(t *testing.T) {
	plan := everyone{Billed: true, Prices: ledger.Prices{ledger.EgressCold: {Price: 1 << 30, Free: big.NewInt(100)}}}
	each(t, plan, func(t *testing.T, s *ledger.Service, c *clock, _ *database.DB) {
		credit(t, s, 1, 1000, "in")
		for i, use := range []struct {
			bytes int64
			month int
			want  ledger.Amount
		}{{60, 0, 0}, {60, 0, 20}, {60, 0, 60}, {60, 1, 0}, {50, 0, 50}, {60, 1, 20}} {
			before := balance(t, s, 1).Balance
			charge := egress(1, use.bytes, fmt.Sprint(i))
			charge.At = moment.AddDate(0, use.month, 0)
			if err := s.Charge(t.Context(), charge); err != nil {
				t.Fatal(err)
			}
			if got := before - balance(t, s, 1).Balance; got != use.want {
				t.Errorf("use %d cost %d, want %d", i, got, use.want)
			}
		}
	})
}
