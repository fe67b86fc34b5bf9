package deals

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/ipfs/go-cid"
	"gorm.io/gorm"
)

func aRoot() cid.Cid { return cid.MustParse("bafkqaaa") }

// Leads tells whether a service holds the lease.
func Leads(ctx context.Context, s *Service) bool {
	return s.store.db.Write(ctx, s.store.mine) == nil
}

// Seize makes a service take the lease, or says why it cannot.
func Seize(ctx context.Context, s *Service) error {
	held, err := s.store.seize(ctx, s.cfg.LeaseTTL)
	if err == nil && !held {
		err = errLease
	}
	return err
}

// HandLease makes somebody else the holder of the lease, or nobody.
func HandLease(ctx context.Context, s *Service, to string) error {
	return s.store.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`UPDATE maker SET holder = ?, until_ms = CASE WHEN ? = '' THEN 0 ELSE until_ms END`, to, to).Error
	})
}

// PieceInDossier opens the dossier of a root and tells whether its first archive has a piece.
func PieceInDossier(ctx context.Context, s *Service, root cid.Cid) (has bool, err error) {
	err = s.store.db.Write(ctx, func(tx *gorm.DB) error {
		d, err := s.store.open(tx, root)
		if err != nil {
			return err
		}
		has = d.archives[0].Piece != nil
		return nil
	})
	return has, err
}

// A recorder is a DB that notes what is asked, with the values in it.
type recorder struct {
	DB
	queries []string
}

func (r *recorder) Read(ctx context.Context, fn func(tx *gorm.DB) error) error {
	return r.DB.Read(ctx, func(tx *gorm.DB) error {
		tx = tx.Session(&gorm.Session{})
		note := func(tx *gorm.DB) {
			r.queries = append(r.queries, tx.Dialector.Explain(tx.Statement.SQL.String(), tx.Statement.Vars...))
		}
		if err := tx.Callback().Row().After("gorm:row").Replace("note", note); err != nil {
			return err
		}
		return fn(tx)
	})
}

func (r *recorder) Write(ctx context.Context, fn func(tx *gorm.DB) error) error {
	return r.Read(ctx, fn)
}

// LoopQueries runs what the loops ask the database in each pass, on an empty one, and returns it.
func LoopQueries(ctx context.Context, db DB) ([]string, error) {
	r := &recorder{DB: db}
	s, err := New(Config{Policy: Defaults(), Secret: make([]byte, minSecret)}, r, Parts{}, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		return nil, err
	}
	st := s.store
	for _, ask := range []func() error{
		func() error { _, err := st.dueArchives(ctx, 10); return err },
		func() error { _, err := st.dueSlots(ctx, 10); return err },
		func() error { _, err := st.queue(ctx, place{}, turnLost, 10); return err },
		func() error { _, err := st.dueAttempts(ctx, nil, 10); return err },
		func() error { _, err := st.dueAttempts(ctx, []ProviderID{1, 2}, 10); return err },
		func() error { _, err := st.snapshot(ctx); return err },
		func() error { _, err := st.inSnapshot(ctx, 5, 10); return err },
		func() error { _, err := st.newcomers(ctx, 1000); return err },
		func() error { _, err := st.activeByDeal(ctx, []abi.DealID{1, 2, 3}); return err },
		func() error { _, err := st.recorded(ctx, []abi.DealID{1, 2, 3}); return err },
		func() error { _, err := st.doubtful(ctx, 1000, 10); return err },
		func() error { _, err := st.unpublished(ctx, aRoot(), 1000); return err },
		func() error { _, err := st.givenUp(ctx, 1000, 5, 10); return err },
		func() error { _, err := st.oldestDue(ctx); return err },
		func() error { _, _, err := st.oldestCost(ctx); return err },
		func() error {
			return r.Read(ctx, func(tx *gorm.DB) error { _, err := bills(tx, st.calendar(1000), 1000, 10); return err })
		},
		func() error { _, err := st.pieceOf(ctx, aRoot()); return err },
		func() error { _, err := st.standings(ctx, []Wish{{Root: aRoot(), Terms: 1}}); return err },
		func() error { _, err := st.dealsOf(ctx, Wish{Root: aRoot(), Terms: 1}); return err },
		func() error { _, err := st.mayRemind(ctx, Attempt{Archive: 1, Slot: 1}); return err },
		func() error {
			return r.Read(ctx, func(tx *gorm.DB) error {
				if _, err := st.open(tx, aRoot()); err != nil {
					return err
				}
				if _, _, err := busyProviders(tx); err != nil {
					return err
				}
				if _, err := st.reserved(tx); err != nil {
					return err
				}
				_, err := nextGeneration(tx, 1)
				return err
			})
		},
	} {
		if err := ask(); err != nil {
			return nil, err
		}
	}
	return r.queries, nil
}

// PlansOfHolders are how the database finds holders and copies; the test fails where it reads a whole table.
func PlansOfHolders(t testing.TB, db DB, c CopyRef) (plans []string) {
	t.Helper()
	explain := func(tx *gorm.DB, sql string, args ...any) error {
		prefix := `EXPLAIN QUERY PLAN `
		if tx.Name() == "postgres" {
			prefix = `EXPLAIN `
		}
		return query(tx, func(r row) error {
			var line string
			var id, parent, unused int64
			dest := []any{&id, &parent, &unused, &line}
			if tx.Name() == "postgres" {
				dest = []any{&line}
			}
			err := r.Scan(dest...)
			plans = append(plans, line)
			if tx.Name() == "sqlite" && (strings.HasPrefix(line, "SCAN") || strings.Contains(line, "TEMP B-TREE FOR ORDER BY") && sql == copiesQuery) {
				t.Errorf("a whole table is read or sorted: %s", line)
			}
			return err
		}, prefix+sql, args...)
	}
	err := db.Read(t.Context(), func(tx *gorm.DB) error {
		if err := explain(tx, holdersQuery, text(c.Root)); err != nil {
			return err
		}
		return explain(tx, copiesQuery, text(c.Root), int64(c.Provider), 7) //nolint:gosec // a provider's number fits
	})
	if err != nil {
		t.Fatal(err)
	}
	return plans
}
