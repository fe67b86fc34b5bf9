package ledger_test

import (
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database"
)

const day = 24 * time.Hour

// A look is what an account is told when somebody looks at it, and when its pins would be let go.
type look struct {
	day   float64 // since its balance was seen empty
	grace int     // days
	news  bool
	end   float64 // day; below zero: never
}

func TestEveryNoticeOfAGracePeriodComesOnceAndTheLastOneBinds(t *testing.T) {
	for name, looks := range map[string][]look{
		"as planned": {
			{0, 30, true, 30},
			{0.04, 30, false, 30},
			{14.9, 30, false, 30},
			{15, 30, true, 30},
			{26.9, 30, false, 30},
			{27, 30, true, 30},
			{27, 30, false, 30},
			{30, 30, false, 30},
			{31, 30, false, 30},
		},
		"the server was away":             {{0, 30, true, 30}, {40, 30, true, 43}, {42, 30, false, 43}, {43, 30, false, 43}},
		"a clock leaps and comes back":    {{0, 30, true, 30}, {100, 30, true, 103}, {1, 30, false, 103}, {31, 30, false, 103}},
		"a clock goes back":               {{0, 30, true, 30}, {15, 30, true, 30}, {-90, 30, false, 30}, {15, 30, false, 30}, {27, 30, true, 30}},
		"a short one has half of itself":  {{0, 2, true, 2}, {0.9, 2, false, 2}, {1, 2, true, 2}, {2, 2, false, 2}},
		"raised after the last notice":    {{0, 30, true, 30}, {27, 30, true, 30}, {29, 60, true, 60}, {30, 60, true, 60}, {57, 60, true, 60}},
		"shortened, and the notice binds": {{0, 60, true, 60}, {57, 60, true, 60}, {57.1, 2, false, 60}, {60, 2, false, 60}},
		"shortened long ago":              {{0, 60, true, 60}, {20, 10, true, 23}, {22, 10, false, 23}},
		"nothing is ever let go":          {{0, 0, true, -1}, {365, 0, false, -1}, {366, 30, true, 369}, {367, 0, false, -1}},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, perByte, func(t *testing.T, s *ledger.Service, c *clock, db *database.DB) {
				at := func(d float64) time.Time { return moment.Add(time.Duration(d * float64(day))) }
				for i, l := range looks {
					c.set(at(l.day))
					s := ledger.New(db, perByte, c.now, slog.New(slog.DiscardHandler)) // as after a restart
					st := ledger.Standing{Mood: ledger.Empty, Unpaid: true, Length: time.Duration(l.grace) * day}
					g, news, err := s.Noticed(t.Context(), 1, st)
					if err != nil {
						t.Fatal(err)
					}
					var end time.Time
					if l.end >= 0 {
						end = at(l.end)
					}
					if got := g.End(st.Length, c.now()); news != l.news || !got.Equal(end) {
						t.Errorf("look %d, day %v: news %t, let go at %s; want %t, %s", i, l.day, news, got, l.news, end)
					}
					kept, err := s.LetGoAfter(t.Context(), 1, st.Length)
					locked, lockErr := s.Unpaid(t.Context(), 1)
					if !kept.Equal(end) || locked != g || err != nil || lockErr != nil {
						t.Errorf("look %d: let go after %s and %+v locked of %+v: %v, %v", i, kept, locked, g, err, lockErr)
					}
				}
			})
		})
	}
}

func TestAPaymentEndsAGracePeriodAndTheNextOneIsWhole(t *testing.T) {
	each(t, perByte, func(t *testing.T, s *ledger.Service, c *clock, _ *database.DB) {
		empty := ledger.Standing{Mood: ledger.Empty, Unpaid: true, Length: 30 * day}
		note := func(st ledger.Standing) (ledger.Grace, bool) {
			t.Helper()
			g, news, err := s.Noticed(t.Context(), 1, st)
			if err != nil {
				t.Fatal(err)
			}
			return g, news
		}
		note(empty)
		c.set(moment.Add(29 * day))
		note(empty)
		credit(t, s, 1, 5, "in")
		if g, err := s.Unpaid(t.Context(), 1); err != nil || g != (ledger.Grace{}) {
			t.Errorf("with money in it, its grace period is %+v: %v", g, err)
		}
		// Whoever looked before the payment is late, and says nothing.
		c.set(moment.Add(29*day + time.Hour))
		if g, news := note(empty); news || g != (ledger.Grace{}) {
			t.Errorf("it is told that it is empty: %+v", g)
		}
		if _, news := note(ledger.Standing{Mood: ledger.Fine, Length: 30 * day}); !news {
			t.Error("it is not told that all is well")
		}
		if _, _, err := s.Adjust(t.Context(), 1, -5, "out", ""); err != nil {
			t.Fatal(err)
		}
		c.set(moment.Add(40 * day))
		if g, news := note(empty); !news || !g.End(30*day, c.now()).Equal(moment.Add(70*day)) {
			t.Errorf("the next one is %+v, told %t", g, news)
		}
	})
}

// TestAPaymentThatIsUsedUpBeforeTheNextLookEndsAGracePeriod has nobody look while there is something left.
func TestAPaymentThatIsUsedUpBeforeTheNextLookEndsAGracePeriod(t *testing.T) {
	for name, c := range map[string]struct {
		pay, use func(t *testing.T, s *ledger.Service) error
		ends     bool
	}{
		"a payment": {
			func(t *testing.T, s *ledger.Service) error { credit(t, s, 1, 5, "in"); return nil },
			func(t *testing.T, s *ledger.Service) error {
				_, _, err := s.Adjust(t.Context(), 1, -5, "out", "")
				return err
			}, true,
		},
		"a credit line": {
			func(t *testing.T, s *ledger.Service) error { return s.SetFloor(t.Context(), 1, -5) },
			func(t *testing.T, s *ledger.Service) error { return s.SetFloor(t.Context(), 1, 0) }, true,
		},
		"nothing": {
			func(t *testing.T, s *ledger.Service) error { return s.SetFloor(t.Context(), 1, 0) },
			func(*testing.T, *ledger.Service) error { return nil }, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, perByte, func(t *testing.T, s *ledger.Service, clk *clock, _ *database.DB) {
				note := func(d int) ledger.Grace {
					t.Helper()
					clk.set(moment.Add(time.Duration(d) * day))
					g, _, err := s.Noticed(t.Context(), 1, ledger.Standing{Mood: ledger.Empty, Unpaid: true, Length: 30 * day})
					if err != nil {
						t.Fatal(err)
					}
					return g
				}
				note(0)
				note(27)
				if err := errors.Join(c.pay(t, s), c.use(t, s)); err != nil {
					t.Fatal(err)
				}
				want := map[bool]time.Time{true: moment.Add(61 * day), false: moment.Add(30 * day)}[c.ends]
				if g := note(31); !g.End(30*day, clk.now()).Equal(want) {
					t.Errorf("it ends on %s, want %s: %+v", g.End(30*day, clk.now()), want, g)
				}
			})
		})
	}
}

func TestServersTellEachNoticeOnceBetweenThem(t *testing.T) {
	each(t, perByte, func(t *testing.T, _ *ledger.Service, c *clock, db *database.DB) {
		for _, d := range []int{0, 15, 27, 30} {
			c.set(moment.Add(time.Duration(d) * day))
			var told int
			var mu sync.Mutex
			var servers sync.WaitGroup
			for range 8 {
				servers.Go(func() {
					s := ledger.New(db, perByte, c.now, slog.New(slog.DiscardHandler))
					_, news, err := s.Noticed(t.Context(), 1, ledger.Standing{Mood: ledger.Empty, Unpaid: true, Length: 30 * day})
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						t.Error(err)
					}
					if news {
						told++
					}
				})
			}
			servers.Wait()
			if want := map[bool]int{true: 0, false: 1}[d == 30]; told != want {
				t.Errorf("on day %d it was told %d times, want %d", d, told, want)
			}
		}
	})
}
