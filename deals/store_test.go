package deals_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-gormigrate/gormigrate/v2"
	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
)

// TestWishesShareTheFateOfTheirTransaction rolls one back that has wanted, unwanted and held.
func TestWishesShareTheFateOfTheirTransaction(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		one, two := w.wish("one", 1), deals.Wish{Root: w.blocks.add([]byte("two")), Terms: w.terms(2)}
		broken := errors.New("broken")
		err := w.db.Write(t.Context(), func(tx *gorm.DB) error {
			ctx := tx.Statement.Context
			err := errors.Join(w.Want(ctx, true, two), w.Unwant(ctx, one), w.Held(ctx, one.Root, false))
			if err != nil {
				return err
			}
			seen, err := w.Standings(ctx, []deals.Wish{one, two})
			if err != nil || seen[one].Cold != deals.ColdDisabled || seen[two].Cold != deals.ColdPending {
				t.Errorf("inside it stands as %+v: %v", seen, err)
			}
			return broken
		})
		if !errors.Is(err, broken) {
			t.Fatal(err)
		}
		seen, err := w.Standings(t.Context(), []deals.Wish{one, two})
		if err != nil {
			t.Fatal(err)
		}
		if _, there := seen[two]; there || seen[one].Cold != deals.ColdPending {
			t.Errorf("after the rollback it stands as %+v", seen)
		}
	})
}

func TestManyWishesAreOneTransactionAndIdempotent(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		terms := w.terms(2)
		var wishes []deals.Wish
		for i := range 256 {
			wishes = append(wishes, deals.Wish{Root: w.blocks.add(fmt.Appendf(nil, "%d", i)), Terms: terms})
		}
		wishes = append(wishes, wishes[0]) // one twice
		for range 2 {
			if err := w.Want(t.Context(), false, wishes...); err != nil {
				t.Fatal(err)
			}
			seen, err := w.Standings(t.Context(), wishes)
			if err != nil || len(seen) != 256 {
				t.Fatalf("%d of 256 stand: %v", len(seen), err)
			}
		}
		if err := w.Want(t.Context(), false, deals.Wish{Root: wishes[0].Root, Terms: 99}); !errors.Is(err, deals.ErrNotFound) {
			t.Errorf("unknown terms: %v", err)
		}
	})
}

// TestWhoWaitedForADossierReadsItAsItIs lets somebody open a dossier while another transaction gives the archive its
// piece.
func TestWhoWaitedForADossierReadsItAsItIs(t *testing.T) {
	for _, dialect := range databasetest.Dialects(t) {
		t.Run(dialect, func(t *testing.T) {
			w := newWorld(t, dialect, 1)
			wish := w.wish("one", 1)
			opened := make(chan error, 1)
			err := w.db.Write(t.Context(), func(tx *gorm.DB) error {
				err := tx.Exec(`INSERT INTO pieces (cid_v1, cid_v2, size, raw_size, car_size) VALUES
					('baga6ea4seaqa4alxkc3y4iah7bhocv37qrilcxlxknnityii7e5l2elssh5ysay',
					'bafkzcibcaaba4alxkc3y4iah7bhocv37qrilcxlxknnityii7e5l2elssh5ysay', 128, 127, 112)`).Error
				if err != nil {
					return err
				}
				if err := tx.Exec(`UPDATE archives SET piece_id = (SELECT id FROM pieces)`).Error; err != nil {
					return err
				}
				go func() {
					has, err := deals.PieceInDossier(t.Context(), w.Service, wish.Root)
					if err == nil && !has {
						err = errors.New("the piece is not in it")
					}
					opened <- err
				}()
				return databasetest.AwaitWaiter(tx)
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := <-opened; err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestEqualTermsHaveOneNumber(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		a, err := w.Terms(t.Context(), deals.Terms{Replicas: 2, Days: 180, Providers: []deals.ProviderID{1001, 1000, 1001}})
		if err != nil {
			t.Fatal(err)
		}
		b, err := w.Terms(t.Context(), deals.Terms{Replicas: 2, Days: 180, Providers: []deals.ProviderID{1000, 1001}})
		if err != nil || a != b {
			t.Errorf("got %d and %d: %v", a, b, err)
		}
		if back, err := w.TermsOf(t.Context(), a); err != nil || len(back.Providers) != 2 {
			t.Errorf("got %+v: %v", back, err)
		}
		if _, err := w.Terms(t.Context(), deals.Terms{Replicas: 4, Days: 180}); !errors.Is(err, deals.ErrTerms) {
			t.Errorf("four copies with three providers: %v", err)
		}
	})
}

func TestOnlyTheHolderOfTheLeaseMakesDeals(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.start()
		first := w.Service
		pass(time.Second)
		w.cfg.Instance = "other"
		w.make()
		second := w.Service
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- second.Run(ctx) }()
		wish := w.wish("x", 2)
		w.untilActive(wish, 2)
		if deals.Leads(t.Context(), second) || !deals.Leads(t.Context(), first) {
			t.Error("the second one leads beside the first")
		}
		w.stop() // the first gives the lease back
		w.until("the second one leads", 5*time.Hour, func() bool { return deals.Leads(t.Context(), second) })
		other := w.wish("y", 2)
		w.untilActive(other, 2)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.mustBeSound()
	})
}

// TestADeadProcessOfTheSameInstanceDelaysNobody: an instance is a data directory, and has one process.
func TestADeadProcessOfTheSameInstanceDelaysNobody(t *testing.T) {
	for _, dialect := range databasetest.Dialects(t) {
		t.Run(dialect, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, dialect, 1)
				dead := w.Service
				for _, step := range []struct {
					instance string
					takes    bool
				}{{"test", true}, {"other", false}, {"tes", false}, {"test", true}} {
					w.cfg.Instance = step.instance
					w.make()
					if err := deals.Seize(t.Context(), dead); err != nil {
						t.Fatal(err)
					}
					if err := deals.Seize(t.Context(), w.Service); (err == nil) != step.takes {
						t.Errorf("%s takes the lease of test: %v", step.instance, err)
					}
				}
				// A process that has lost its lease writes nothing.
				if deals.Leads(t.Context(), dead) {
					t.Error("the dead one leads")
				}
			})
		})
	}
}

func TestAPlannedDealCanBeCancelledAndASentOneCannot(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		w.start()
		sent := w.wish("sent", 1)
		w.untilActive(sent, 1)
		w.net.Node(true, 0, 0)
		planned := w.wish("planned", 1)
		w.until("it is planned", time.Hour, func() bool { return len(w.attempts(planned)) == 1 })
		if err := w.Cancel(t.Context(), w.attempts(sent)[0].UUID); !errors.Is(err, deals.ErrSent) {
			t.Errorf("cancelling an active deal: %v", err)
		}
		if err := w.Cancel(t.Context(), uuid.New()); !errors.Is(err, deals.ErrNotFound) {
			t.Errorf("cancelling no deal: %v", err)
		}
		if err := w.Cancel(t.Context(), w.attempts(planned)[0].UUID); err != nil {
			t.Error(err)
		}
		if got := w.attempts(planned)[0]; got.State != deals.Cancelled || !got.Reserved.IsZero() {
			t.Errorf("got %s with %s reserved", got.State, got.Reserved)
		}
		if _, err := w.Retry(t.Context(), w.blocks.add([]byte("unknown"))); !errors.Is(err, deals.ErrNotFound) {
			t.Errorf("trying an unknown root again: %v", err)
		}
	})
}

func TestListsOfDealsArePaged(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.start()
		one, two := w.wish("one", 3), w.wish("two", 2)
		w.untilActive(one, 3)
		w.untilActive(two, 2)
		for _, test := range []struct {
			name   string
			filter deals.Filter
			want   int
		}{
			{"all", deals.Filter{}, 5},
			{"of a root", deals.Filter{Root: one.Root}, 3},
			{"active", deals.Filter{States: []deals.State{deals.Active}}, 5},
			{"failed", deals.Filter{States: []deals.State{deals.Failed, deals.Missed}}, 0},
			{"of an unknown provider", deals.Filter{Provider: 9}, 0},
			{"of a root in a state", deals.Filter{Root: two.Root, States: []deals.State{deals.Active}}, 2},
		} {
			found := 0
			for f := test.filter; ; {
				f.Limit = 2
				page, err := w.List(t.Context(), f)
				if err != nil {
					t.Fatal(err)
				}
				if found += len(page); len(page) < 2 {
					break
				}
				f.Before = page[1].ID
			}
			if found != test.want {
				t.Errorf("%s: got %d, want %d", test.name, found, test.want)
			}
		}
		of := 0
		for p := range deals.ProviderID(3) {
			page, err := w.List(t.Context(), deals.Filter{Provider: 1000 + p})
			if err != nil {
				t.Fatal(err)
			}
			of += len(page)
		}
		if of != 5 {
			t.Errorf("the providers have %d deals", of)
		}
	})
}

// TestTheLoopsUseIndexes asks the database how it would run what the loops ask again and again: with a million archives
// a look at each would be the end.
func TestTheLoopsUseIndexes(t *testing.T) {
	db := databasetest.Open(t, database.SQLite)
	if err := db.Migrate(t.Context(), deals.Migrations()...); err != nil {
		t.Fatal(err)
	}
	// These hold what is under way, or come in the order that is asked for.
	small := []string{
		"attempts_due", "attempts_active", "attempts_newcomers", "attempts_missing", "attempts_reserved", "attempts_busy", "slots_due", "slots_queued", "archives_due", "deal_costs_over",
	}
	recorded, err := deals.LoopQueries(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	if len(recorded) < 12 {
		t.Fatalf("%d queries were seen", len(recorded))
	}
	for _, q := range recorded {
		err := db.Read(t.Context(), func(tx *gorm.DB) error {
			var plan []struct{ Detail string }
			if err := tx.Raw(`EXPLAIN QUERY PLAN ` + q).Scan(&plan).Error; err != nil {
				return err
			}
			for _, p := range plan {
				_, index, _ := strings.Cut(p.Detail, "INDEX ")
				if strings.HasPrefix(p.Detail, "SCAN") && !slices.Contains(small, index) && !strings.Contains(p.Detail, "CONSTANT") {
					t.Errorf("%s\n\t%s", q, p.Detail)
				}
				if strings.Contains(p.Detail, "TEMP B-TREE FOR ORDER BY") && (strings.Contains(q, "next_ms LIMIT") || strings.Contains(q, "s.id LIMIT")) {
					t.Errorf("%s\n\tsorts: %s", q, p.Detail)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

// TestSlotsThatWereQueuedBeforeGetTheirTurns migrates a database from before the queue had an order.
func TestSlotsThatWereQueuedBeforeGetTheirTurns(t *testing.T) {
	for _, dialect := range databasetest.Dialects(t) {
		t.Run(dialect, func(t *testing.T) {
			db := databasetest.Open(t, dialect)
			all := deals.Migrations()
			queue := slices.IndexFunc(all, func(m *gormigrate.Migration) bool { return m.ID == "20261129_50_queue_by_importance" })
			if err := db.Migrate(t.Context(), all[:queue]...); err != nil {
				t.Fatal(err)
			}
			err := db.Write(t.Context(), func(tx *gorm.DB) error {
				for _, s := range []string{
					`INSERT INTO deal_terms (id, terms) VALUES (1, '{}')`,
					`INSERT INTO archives (id, root, terms_id, wanted, held, barred, reason, cold, standing, tries, next_ms, created_ms)
						VALUES (1, 'root', 1, 1, 1, 0, '', '', '', 0, 0, 0)`,
					`INSERT INTO slots (id, archive_id, idx, region, state, reason, exhausted, queued, forgiven_ms, next_ms)
						VALUES (1, 1, 0, '', 'open', '', 0, 1, 0, 0), (2, 1, 1, '', 'open', '', 0, 0, 0, 0)`,
				} {
					if err := tx.Exec(s).Error; err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Migrate(t.Context(), all...); err != nil {
				t.Fatal(err)
			}
			var turns []int64
			err = db.Read(t.Context(), func(tx *gorm.DB) error {
				return tx.Raw(`SELECT turn FROM slots ORDER BY id`).Scan(&turns).Error
			})
			if err != nil || !slices.Equal(turns, []int64{2_000_000_000_000, 0}) {
				t.Errorf("got %v, %v", turns, err)
			}
		})
	}
}
