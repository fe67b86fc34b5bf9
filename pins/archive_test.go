package pins_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/go-gormigrate/gormigrate/v2"
	"github.com/ipfs/go-cid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
)

// An archive is a model of one: what it was told stands in a table, so that it shares the fate of the transactions it
// is told in. Terms number n are n copies.
type archive struct {
	db       *database.DB
	follower *pins.Service
	fail     func(call string) error // nil: nothing fails

	mu    sync.Mutex
	calls []string
}

func archiveMigrations() []*gormigrate.Migration {
	return append(pins.Migrations(), &gormigrate.Migration{
		ID: "99999999_model",
		Migrate: func(tx *gorm.DB) error {
			return tx.Exec(`CREATE TABLE model_archives (root TEXT NOT NULL, terms BIGINT NOT NULL, wanted BIGINT NOT NULL,
				held BIGINT NOT NULL, standing TEXT NOT NULL, PRIMARY KEY (root, terms))`).Error
		},
	})
}

// maxCopies is what the model says can be had.
const maxCopies = 5

func (a *archive) Terms(ctx context.Context, t deals.Terms) (deals.TermsID, error) {
	if t.Replicas > maxCopies {
		return 0, &deals.UnmetError{Field: "replicas", Reason: fmt.Sprintf("at most %d copies are made here", maxCopies)}
	}
	if slices.Contains(t.Regions, "MOON") {
		return 0, &deals.UnmetError{Field: "regions", Reason: "no provider is in MOON"}
	}
	return a.Record(ctx, t)
}

func (a *archive) Record(_ context.Context, t deals.Terms) (deals.TermsID, error) {
	return deals.TermsID(t.Replicas), a.failing("record")
}

func (a *archive) failing(call string) error {
	a.mu.Lock()
	a.calls = append(a.calls, call)
	a.mu.Unlock()
	if a.fail == nil {
		return nil
	}
	return a.fail(call)
}

func (a *archive) Want(ctx context.Context, held bool, wishes ...deals.Wish) error {
	return a.db.Write(ctx, func(tx *gorm.DB) error {
		for _, w := range wishes {
			var same int64
			err := tx.Raw(`SELECT count(*) FROM model_archives WHERE root = ? AND terms = ? AND wanted = 1 AND held = ?`,
				w.Root.String(), w.Terms, bit(held)).Row().Scan(&same)
			if err != nil {
				return err
			}
			if same > 0 {
				continue
			}
			standing, err := json.Marshal(deals.Standing{Cold: deals.ColdPending, Wanted: int(w.Terms)})
			if err != nil {
				return err
			}
			err = tx.Exec(`INSERT INTO model_archives (root, terms, wanted, held, standing) VALUES (?, ?, 1, ?, ?)
				ON CONFLICT (root, terms) DO UPDATE SET wanted = 1, held = excluded.held`,
				w.Root.String(), w.Terms, bit(held), string(standing)).Error
			if err != nil {
				return err
			}
		}
		return a.failing("want")
	})
}

func (a *archive) Unwant(ctx context.Context, wishes ...deals.Wish) error {
	return a.db.Write(ctx, func(tx *gorm.DB) error {
		for _, w := range wishes {
			if err := tx.Exec(`UPDATE model_archives SET wanted = 0 WHERE root = ? AND terms = ?`, w.Root.String(), w.Terms).Error; err != nil {
				return err
			}
		}
		return a.failing("unwant")
	})
}

func (a *archive) Held(ctx context.Context, root cid.Cid, held bool) error {
	return a.db.Write(ctx, func(tx *gorm.DB) error {
		if err := tx.Exec(`UPDATE model_archives SET held = ? WHERE root = ?`, bit(held), root.String()).Error; err != nil {
			return err
		}
		return a.failing("held")
	})
}

func (a *archive) Standings(ctx context.Context, wishes []deals.Wish) (map[deals.Wish]deals.Standing, error) {
	if len(wishes) > pins.MaxStandings {
		return nil, errors.New("too many wishes")
	}
	found := map[deals.Wish]deals.Standing{}
	err := a.db.Read(ctx, func(tx *gorm.DB) error {
		for _, w := range wishes {
			var texts []string
			err := tx.Raw(`SELECT standing FROM model_archives WHERE root = ? AND terms = ?`, w.Root.String(), w.Terms).Scan(&texts).Error
			if err != nil {
				return err
			}
			for _, text := range texts {
				var st deals.Standing
				if err := json.Unmarshal([]byte(text), &st); err != nil {
					return err
				}
				found[w] = st
			}
		}
		return a.failing("standings")
	})
	return found, err
}

// set changes how a wish stands, as the archive itself would.
func (a *archive) set(ctx context.Context, w deals.Wish, st deals.Standing) error {
	text, err := json.Marshal(st)
	if err != nil {
		return err
	}
	return a.db.Write(ctx, func(tx *gorm.DB) error {
		err := tx.Exec(`UPDATE model_archives SET standing = ? WHERE root = ? AND terms = ?`, string(text), w.Root.String(), w.Terms).Error
		if err != nil || a.follower == nil {
			return err
		}
		return a.follower.Archived(tx.Statement.Context, w, st)
	})
}

// wanted returns what is wanted, and whether it is held.
func (a *archive) wanted(ctx context.Context) (map[deals.Wish]bool, error) {
	found := map[deals.Wish]bool{}
	err := a.db.Read(ctx, func(tx *gorm.DB) error {
		clear(found)
		rows, err := tx.Raw(`SELECT root, terms, held FROM model_archives WHERE wanted = 1`).Rows()
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var text string
			var terms deals.TermsID
			var held bool
			if err := rows.Scan(&text, &terms, &held); err != nil {
				return err
			}
			root, err := cid.Decode(text)
			if err != nil {
				return err
			}
			found[deals.Wish{Root: root, Terms: terms}] = held
		}
		return rows.Err()
	})
	return found, err
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// wishesOf is what the pins of some accounts ask for, and whether it is held.
func wishesOf(ctx context.Context, s *pins.Service, accounts ...pins.Account) (map[deals.Wish]bool, error) {
	found := map[deals.Wish]bool{}
	for _, account := range accounts {
		page, err := s.List(ctx, account, all())
		if err != nil {
			return nil, err
		}
		for _, p := range page.Pins {
			if w, ok := p.Wish(); ok {
				hot, err := pins.HotOf(ctx, s, p.Root) // a pin that was let go does not know it
				if err != nil {
					return nil, err
				}
				found[w] = hot == pins.HotHeld
			}
		}
	}
	return found, nil
}

// mustAgree checks that the archive was told exactly what pins of these accounts ask for.
func (a *archive) mustAgree(t fataler, s *pins.Service, accounts ...pins.Account) {
	t.Helper()
	want, err := wishesOf(context.Background(), s, accounts...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	got, err := a.wanted(context.Background())
	if err != nil {
		t.Fatalf("%v", err)
	}
	if !maps.Equal(got, want) {
		t.Fatalf("the archive was told\n%v\npins ask for\n%v", got, want)
	}
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// eachCold runs a test on every database with a service on the model of an archive, which does not work by itself.
func eachCold(t *testing.T, change func(*pins.Config), test func(t *testing.T, w *world, a *archive)) {
	t.Parallel() // tests here wait more than they work
	databasetest.Each(t, archiveMigrations(), func(t *testing.T, db *database.DB) {
		a := &archive{db: db}
		test(t, newColdWorld(t, a, change), a)
	})
}

func newColdWorld(t *testing.T, a *archive, change func(*pins.Config)) *world {
	t.Helper()
	cfg := config()
	cfg.Archive = a
	cfg.Cold = pins.ColdPolicy{Terms: deals.Terms{Replicas: 2}}
	if change != nil {
		change(&cfg)
	}
	w := newWorld(t, a.db, pinstest.NewTier(), cfg)
	a.follower = w.Service
	return w
}

func (w *world) addCold(account pins.Account, root cid.Cid, terms deals.TermsID) pins.Pin {
	w.t.Helper()
	p, err := w.Add(context.Background(), account, request(root), pins.Decision{Terms: terms})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) setHot(root cid.Cid, hot pins.Hot) {
	w.t.Helper()
	if err := pins.SetHot(context.Background(), w.Service, root, hot); err != nil {
		w.t.Fatal(err)
	}
}

func rule(t fataler, text string) pins.PinnedWhen {
	t.Helper()
	r, err := pins.ParsePinnedWhen(text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return r
}
