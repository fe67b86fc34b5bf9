package pins_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

func TestPinnedWhenReadsWhatItWrites(t *testing.T) {
	for text, want := range map[string]string{
		"hot": "hot", "accepted": "accepted(1)", "accepted(2)": "accepted(2)", "active": "active(1)", " active(10) ": "active(10)",
	} {
		got := rule(t, text)
		if got.String() != want || rule(t, want) != got {
			t.Errorf("%q reads as %s, want %s", text, got, want)
		}
		var again pins.PinnedWhen
		if b, err := got.MarshalText(); err != nil || again.UnmarshalText(b) != nil || again != got {
			t.Errorf("%s comes back as %s", got, again)
		}
	}
	for _, text := range []string{"", "cold", "hot(1)", "active(0)", "active(-1)", "active()", "active(1", "active(1))", "active(1)x", "active(99999999)", "Active"} {
		if got, err := pins.ParsePinnedWhen(text); err == nil {
			t.Errorf("%q reads as %s", text, got)
		}
	}
}

func TestColdCopiesCountOnlyAsTheRuleSays(t *testing.T) {
	st := func(wanted, accepted, active, ever int, givenUp bool) deals.Standing {
		return deals.Standing{Cold: deals.ColdInProgress, Wanted: wanted, Accepted: accepted, Active: active, Ever: ever, GivenUp: givenUp}
	}
	for _, c := range []struct {
		rule string
		cold deals.Standing
		want spec.Status
	}{
		{"hot", st(2, 0, 0, 0, true), spec.Pinned},
		{"active(1)", deals.Standing{}, spec.Pinned}, // nothing is wanted cold
		{"active(1)", deals.Standing{Cold: deals.ColdDisabled}, spec.Pinned},
		{"active(1)", st(2, 2, 0, 0, false), spec.Pinning},
		{"active(1)", st(2, 2, 1, 1, false), spec.Pinned},
		{"active(2)", st(2, 2, 1, 1, false), spec.Pinning},
		{"active(2)", st(2, 2, 2, 2, false), spec.Pinned},
		{"active(3)", st(2, 2, 2, 2, false), spec.Pinned}, // no more are wanted
		{"active(2)", st(2, 1, 1, 1, true), spec.Failed},  // the second never came
		{"active(1)", st(2, 1, 1, 1, true), spec.Pinned},
		{"active(1)", st(2, 0, 0, 0, true), spec.Failed},
		{"active(1)", st(2, 0, 0, 1, true), spec.Pinning}, // had it and lost it
		{"active(2)", st(2, 0, 0, 2, true), spec.Pinning},
		{"accepted(1)", st(2, 0, 0, 0, false), spec.Pinning},
		{"accepted(1)", st(2, 1, 0, 0, false), spec.Pinned},
		{"accepted(2)", st(2, 1, 1, 1, false), spec.Pinning},
		{"accepted(1)", st(2, 0, 0, 0, true), spec.Failed},
	} {
		if got := pins.StatusOf(pins.HotHeld, c.cold, rule(t, c.rule)); got != c.want {
			t.Errorf("%s with %+v is %s, want %s", c.rule, c.cold, got, c.want)
		}
		for _, hot := range pins.Hots() {
			if hot == pins.HotHeld {
				continue
			}
			plain := pins.StatusOf(hot, deals.Standing{}, pins.PinnedWhen{})
			if (hot == pins.HotOffloaded || hot == pins.HotRestoring) && c.cold.Active > 0 {
				plain = c.want // as good as held: it is read from there
			}
			if got := pins.StatusOf(hot, c.cold, rule(t, c.rule)); got != plain {
				t.Errorf("%s: %s with %+v is %s", c.rule, hot, c.cold, got)
			}
		}
	}
}

// TestArchiveIsToldWhatPinsAskFor runs random histories of requests, of roots that are held and lost, and of standings,
// under every rule: the archive knows exactly the wishes of the pins that are there, and a list by status finds what
// the derived status says.
func TestArchiveIsToldWhatPinsAskFor(t *testing.T) {
	databasetest.Each(t, archiveMigrations(), func(t *testing.T, db *database.DB) {
		rapid.Check(t, func(rt *rapid.T) {
			ctx := context.Background()
			err := db.Write(ctx, func(tx *gorm.DB) error {
				for _, table := range []string{"model_archives", "retained", "holdings", "pins", "pin_meta", "roots", "cold_owed"} {
					if err := tx.Exec(`DELETE FROM ` + table).Error; err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				rt.Fatal(err)
			}
			a := &archive{db: db}
			w := newColdWorld(t, a, func(c *pins.Config) {
				c.PinnedWhen = rule(rt, rapid.SampledFrom([]string{"hot", "accepted(1)", "active(1)", "active(2)"}).Draw(rt, "rule"))
			})
			live := map[pins.ID]pins.Pin{}
			pick := func(t *rapid.T) (pins.Pin, bool) {
				ids := make([]pins.ID, 0, len(live))
				for id := range live {
					ids = append(ids, id)
				}
				if len(ids) == 0 {
					return pins.Pin{}, false
				}
				return live[rapid.SampledFrom(ids).Draw(t, "pin")], true
			}
			asked := func(t *rapid.T) (pins.Account, spec.Request, deals.TermsID) {
				return rapid.SampledFrom([]pins.Account{alice, bob}).Draw(t, "account"), request(leaf(rapid.IntRange(0, 2).Draw(t, "root"))),
					rapid.SampledFrom([]deals.TermsID{pins.Undecided, pins.Uncopied, 1, 2}).Draw(t, "terms")
			}
			rt.Repeat(map[string]func(*rapid.T){
				"add": func(t *rapid.T) {
					account, r, terms := asked(t)
					p, err := w.Add(ctx, account, r, pins.Decision{Terms: terms})
					if err != nil {
						t.Fatal(err)
					}
					live[p.ID] = p
				},
				"replace": func(t *rapid.T) {
					old, ok := pick(t)
					if !ok {
						return
					}
					_, r, terms := asked(t)
					p, err := w.Replace(ctx, old.Account, old.ID, r, pins.Decision{Terms: terms})
					if err != nil {
						t.Fatal(err)
					}
					delete(live, old.ID)
					live[p.ID] = p
				},
				"delete": func(t *rapid.T) {
					p, ok := pick(t)
					if !ok {
						return
					}
					if err := w.Delete(ctx, p.Account, p.ID); err != nil {
						t.Fatal(err)
					}
					delete(live, p.ID)
				},
				"let go": func(t *rapid.T) {
					if _, err := w.Lapse(ctx, rapid.SampledFrom([]pins.Account{alice, bob}).Draw(t, "account"), everything); err != nil {
						t.Fatal(err)
					}
				},
				"pay": func(t *rapid.T) {
					account := rapid.SampledFrom([]pins.Account{alice, bob}).Draw(t, "account")
					if err := w.Retry(ctx, account, spec.ReasonInsufficientFunds); err != nil {
						t.Fatal(err)
					}
				},
				"move": func(t *rapid.T) {
					p, ok := pick(t)
					if !ok {
						return
					}
					hot := rapid.SampledFrom([]pins.Hot{pins.HotQueued, pins.HotFetching, pins.HotHeld, pins.HotHeld, pins.HotGaveUp}).Draw(t, "to")
					if err := pins.SetHot(ctx, w.Service, p.Root, hot); err != nil {
						t.Fatal(err)
					}
				},
				"deal": func(t *rapid.T) {
					p, ok := pick(t)
					if !ok || p.Terms <= 0 {
						return
					}
					st := deals.Standing{Cold: deals.ColdInProgress, Wanted: int(p.Terms), GivenUp: rapid.Bool().Draw(t, "given up")}
					st.Ever = rapid.IntRange(0, st.Wanted).Draw(t, "ever")
					st.Active = rapid.IntRange(0, st.Ever).Draw(t, "active")
					st.Accepted = rapid.IntRange(st.Active, st.Wanted).Draw(t, "accepted")
					wish, _ := p.Wish()
					if err := a.set(ctx, wish, st); err != nil {
						t.Fatal(err)
					}
				},
				"": func(t *rapid.T) {
					a.mustAgree(t, w.Service, alice, bob)
					for _, account := range []pins.Account{alice, bob} {
						everything := w.list(account, all())
						for _, status := range all().Statuses {
							var want []pins.ID
							for _, p := range everything.Pins {
								if p.Status() == status {
									want = append(want, p.ID)
								}
							}
							q := all()
							q.Statuses = []spec.Status{status}
							page := w.list(account, q)
							var got []pins.ID
							for _, p := range page.Pins {
								got = append(got, p.ID)
							}
							if diff := cmp.Diff(want, got); diff != "" || page.Count != int64(len(want)) {
								t.Fatalf("%s of %d: count %d (-derived +listed):\n%s", status, account, page.Count, diff)
							}
						}
					}
				},
			})
		})
	})
}

func TestPinAndWishAreWrittenTogetherOrNotAtAll(t *testing.T) {
	broken := errors.New("the archive breaks")
	failOn := func(call string) func(string) error {
		return func(c string) error {
			if c == call {
				return broken
			}
			return nil
		}
	}
	eachCold(t, nil, func(t *testing.T, w *world, a *archive) {
		ctx := context.Background()
		kept := w.addCold(alice, leaf(0), 2)
		for _, call := range []string{"want", "standings"} {
			a.fail = failOn(call)
			if _, err := w.Add(ctx, alice, request(leaf(1)), pins.Decision{Terms: 1}); !errors.Is(err, broken) {
				t.Fatalf("adding while %s fails: %v", call, err)
			}
			if _, err := w.Replace(ctx, alice, kept.ID, request(leaf(1)), pins.Decision{Terms: 1}); !errors.Is(err, broken) {
				t.Fatalf("replacing while %s fails: %v", call, err)
			}
		}
		a.fail = failOn("unwant")
		if _, err := w.Replace(ctx, alice, kept.ID, request(leaf(1)), pins.Decision{Terms: 1}); !errors.Is(err, broken) {
			t.Fatalf("replacing while unwant fails: %v", err)
		}
		if err := w.Delete(ctx, alice, kept.ID); !errors.Is(err, broken) {
			t.Fatalf("deleting while unwant fails: %v", err)
		}
		a.fail = failOn("held")
		if err := pins.SetHot(ctx, w.Service, kept.Root, pins.HotHeld); !errors.Is(err, broken) {
			t.Fatalf("holding while held fails: %v", err)
		}
		a.fail = nil
		if p := w.get(kept); p.DAG.Hot != pins.HotQueued || p.Status() != spec.Queued {
			t.Errorf("the root is %s", p.DAG.Hot)
		}
		if page := w.list(alice, all()); page.Count != 1 {
			t.Errorf("%d pins, want 1", page.Count)
		}
		a.mustAgree(t, w.Service, alice)
		// One that fails takes no other with it.
		w.delete(kept)
		a.mustAgree(t, w.Service, alice)
	})
}

func TestPinsAddedTogetherAreWantedTogether(t *testing.T) {
	eachCold(t, nil, func(t *testing.T, w *world, a *archive) {
		var group sync.WaitGroup
		for i := range 64 {
			group.Go(func() {
				if _, err := w.Add(context.Background(), pins.Account(i%2+1), request(leaf(i%8)), pins.Decision{Terms: deals.TermsID(i % 3)}); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		a.mustAgree(t, w.Service, alice, bob)
	})
}

// Whoever adds a pin and whoever changes how its wish stands do not see each other's rows before they are committed. The
// status must be right all the same.
func TestStatusIsRightWhoeverComesFirst(t *testing.T) {
	eachCold(t, func(c *pins.Config) { c.PinnedWhen = rule(t, "active(1)") }, func(t *testing.T, w *world, a *archive) {
		ctx := context.Background()
		p := w.addCold(alice, leaf(0), 1)
		w.setHot(p.Root, pins.HotHeld)
		wish, _ := p.Wish()
		for round := range 40 {
			var group sync.WaitGroup
			group.Go(func() {
				st := deals.Standing{Cold: deals.ColdInProgress, Wanted: 1, Active: round % 2, Ever: round % 2}
				if err := a.set(ctx, wish, st); err != nil {
					t.Error(err)
				}
			})
			for range 4 {
				group.Go(func() {
					if _, err := w.Add(ctx, bob, request(leaf(0)), pins.Decision{Terms: 1}); err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
			for _, status := range all().Statuses {
				q := all()
				q.Statuses = []spec.Status{status}
				for _, p := range w.list(bob, q).Pins {
					if p.Status() != status {
						t.Fatalf("round %d: %s is listed as %s and is %s", round, p.ID, status, p.Status())
					}
				}
			}
		}
	})
}

// recorded is a database that notes the statements of the writes it runs.
type recorded struct {
	*database.DB
	mu  sync.Mutex
	sql []string
}

func (r *recorded) Write(ctx context.Context, fn func(tx *gorm.DB) error) error {
	return r.DB.Write(ctx, func(tx *gorm.DB) error {
		pool := tx.Statement.ConnPool
		defer func() { tx.Statement.ConnPool = pool }()
		tx.Statement.ConnPool = &recordingPool{pool, r}
		return fn(tx)
	})
}

type recordingPool struct {
	gorm.ConnPool
	into *recorded
}

func (p *recordingPool) note(statement string) {
	p.into.mu.Lock()
	defer p.into.mu.Unlock()
	p.into.sql = append(p.into.sql, statement)
}

func (p *recordingPool) ExecContext(ctx context.Context, statement string, args ...any) (sql.Result, error) {
	p.note(statement)
	return p.ConnPool.ExecContext(ctx, statement, args...)
}

func (p *recordingPool) QueryContext(ctx context.Context, statement string, args ...any) (*sql.Rows, error) {
	p.note(statement)
	return p.ConnPool.QueryContext(ctx, statement, args...)
}

func (p *recordingPool) QueryRowContext(ctx context.Context, statement string, args ...any) *sql.Row {
	p.note(statement)
	return p.ConnPool.QueryRowContext(ctx, statement, args...)
}

func TestWithoutArchiveAPinCostsNoStatementMore(t *testing.T) {
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), pins.Migrations()...); err != nil {
		t.Fatal(err)
	}
	rec := &recorded{DB: db}
	s := pins.New(config(), rec, pinstest.NewTier(), discard(), time.Now)
	if err := pins.Begin(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	statements := func(what string, most int, do func() error) {
		t.Helper()
		rec.sql = nil
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if len(rec.sql) != most || strings.Contains(strings.Join(rec.sql, " "), "cold") || strings.Contains(strings.Join(rec.sql, " "), "pin_settings") {
			t.Errorf("%s takes %d statements, want %d:\n%s", what, len(rec.sql), most, strings.Join(rec.sql, "\n"))
		}
	}
	var p pins.Pin
	statements("adding", 5, func() (err error) { // created, root, pin, three counters in two
		decided, err := s.Decide(t.Context(), pins.Choice{}, map[string]string{"app": "x"})
		if err != nil {
			return err
		}
		p, err = s.Add(t.Context(), alice, request(leaf(0)), decided)
		return err
	})
	statements("holding", 5, func() error { return pins.SetHot(t.Context(), s, p.Root, pins.HotHeld) }) // lock, root, two of holdings, status
	statements("deleting", 8, func() error { return s.Delete(t.Context(), alice, p.ID) })               // pin, two of holdings, retained, lock, others, root, status
}

func TestInfoTellsHowColdCopiesStand(t *testing.T) {
	eachCold(t, nil, func(t *testing.T, w *world, a *archive) {
		p := w.addCold(alice, leaf(0), 2)
		if diff := cmp.Diff(map[string]string{
			"hot_status": "queued", "status_details": "waiting for the root block; cold: 0/2 active",
			"cold_status": "pending", "replication_factor": "2", "replicas_active": "0", "replicas_in_progress": "0",
		}, p.Info()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		w.setHot(p.Root, pins.HotHeld)
		var list []deals.Deal
		for i := range 12 {
			list = append(list, deals.Deal{Provider: 1000 + deals.ProviderID(i), State: deals.Sealing, Proposal: "u", Protocol: "mk12"})
		}
		list[0].State, list[0].DealID = deals.Active, "7"
		list[1].State = deals.Failed
		list[1].Error = "sealing failed"
		wish, _ := p.Wish()
		err := a.set(t.Context(), wish, deals.Standing{
			Cold: deals.ColdDegraded, Wanted: 2, Accepted: 2, Active: 1, Working: 1, Ever: 1, Deals: list,
			Reason: "waits for a provider", NextAt: time.Date(2026, 11, 22, 12, 0, 0, 5, time.UTC),
		})
		if err != nil {
			t.Fatal(err)
		}
		info := w.get(p).Info()
		for key, want := range map[string]string{
			"cold_status": "degraded", "replication_factor": "2", "replicas_active": "1", "replicas_in_progress": "1",
			"cold_next_check": "2026-11-22T12:00:00Z",
			"status_details":  "held: the whole DAG is stored and verified; cold: 1/2 active, 10 sealing; waits for a provider",
		} {
			if info[key] != want {
				t.Errorf("%s is %q, want %q", key, info[key], want)
			}
		}
		if n := strings.Count(info["deals"], `"provider"`); n != 10 || !strings.HasPrefix(info["deals"], `[{"provider":"f01000","state":"active","deal_id":"7"`) {
			t.Errorf("%d deals: %s", n, info["deals"])
		}
		if diff := cmp.Diff(info, w.list(alice, all()).Pins[0].Info()); diff != "" {
			t.Errorf("(-get +list):\n%s", diff)
		}
	})
}

func TestListAsksForAllStandingsAtOnce(t *testing.T) {
	eachCold(t, nil, func(t *testing.T, w *world, a *archive) {
		for i := range 30 {
			w.addCold(alice, leaf(i%10), deals.TermsID(i%3))
		}
		a.calls = nil
		w.list(alice, all())
		if diff := cmp.Diff([]string{"standings"}, a.calls); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestTermsAreLookedUpInTheirIndex(t *testing.T) {
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), archiveMigrations()...); err != nil {
		t.Fatal(err)
	}
	a := &archive{db: db}
	rec := &recorded{DB: db}
	cfg := config()
	cfg.Archive, cfg.PinnedWhen = a, rule(t, "active(1)")
	s := pins.New(cfg, rec, pinstest.NewTier(), discard(), time.Now)
	p, err := s.Add(t.Context(), alice, request(leaf(0)), pins.Decision{Terms: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(pins.SetHot(t.Context(), s, p.Root, pins.HotHeld), pins.Begin(t.Context(), s)); err != nil {
		t.Fatal(err)
	}
	wish, _ := p.Wish()
	a.follower = s
	if _, err := s.Add(t.Context(), bob, request(leaf(1)), pins.Decision{Terms: pins.Undecided}); err != nil {
		t.Fatal(err)
	}
	if err := pins.CatchUp(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.set(t.Context(), wish, deals.Standing{Wanted: 1}), s.Delete(t.Context(), alice, p.ID)); err != nil {
		t.Fatal(err)
	}
	looked := 0
	for _, statement := range rec.sql {
		var index string
		switch {
		case strings.Contains(statement, "terms > 0"):
			index = "pins_terms ("
		case strings.Contains(statement, "terms IS NULL"):
			index = "PRIMARY KEY ((account,created_ms)>(?,?))"
		default:
			continue
		}
		looked++
		var plan []struct{ Detail string }
		err := db.Read(t.Context(), func(tx *gorm.DB) error {
			args := make([]any, strings.Count(statement, "?"))
			for i := range args {
				args[i] = 0
			}
			return tx.Raw(`EXPLAIN QUERY PLAN `+statement, args...).Scan(&plan).Error
		})
		if err != nil {
			t.Fatal(err)
		}
		if text := fmt.Sprint(plan); !strings.Contains(text, index) {
			t.Errorf("no %s in the plan of %s\n%s", index, statement, text)
		}
	}
	if looked < 5 {
		t.Errorf("only %d statements look for terms:\n%s", looked, strings.Join(rec.sql, "\n"))
	}
}
