package database_test

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-gormigrate/gormigrate/v2"
	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
)

func migration(id, statement string) *gormigrate.Migration {
	return &gormigrate.Migration{ID: id, Migrate: func(tx *gorm.DB) error { return tx.Exec(statement).Error }}
}

func TestMigrationsRunOnceInTheOrderOfTheirIDs(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		later := append([]*gormigrate.Migration{
			migration("20200103_01_index", "CREATE INDEX items_size ON items (size)"), // needs the next one first
			migration("20200102_01_size", "ALTER TABLE items ADD COLUMN size BIGINT"),
		}, schema()...)
		for range 2 {
			if err := db.Migrate(t.Context(), later...); err != nil {
				t.Fatal(err)
			}
		}
		got, err := db.Applied(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"20200101_01_items", "20200102_01_size", "20200103_01_index"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestFailedMigrationChangesNothing(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		broken := append(schema(),
			migration("20200102_01_good", "CREATE TABLE good (id BIGINT)"),
			migration("20200103_01_bad", "CREATE NONSENSE"))
		if err := db.Migrate(t.Context(), broken...); err == nil {
			t.Fatal("nonsense migrated")
		}
		if err := db.Read(t.Context(), func(tx *gorm.DB) error { return tx.Exec("SELECT * FROM good").Error }); err == nil {
			t.Error("half of a failed migration remains")
		}
		if err := db.Migrate(t.Context(), schema()...); err != nil {
			t.Errorf("after a failed migration: %v", err)
		}
	})
}

func TestNewerSchemaIsRefusedWithAdvice(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		newer := append(schema(), migration("20990101_01_future", "CREATE TABLE future (id BIGINT)"))
		if err := db.Migrate(t.Context(), newer...); err != nil {
			t.Fatal(err)
		}
		err := db.Migrate(t.Context(), schema()...)
		if !errors.Is(err, database.ErrNewer) {
			t.Fatalf("got %v, want %v", err, database.ErrNewer)
		}
		for _, part := range []string{"20990101_01_future", "start that release or a newer one"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not say %q", err, part)
			}
		}
	})
}

func TestMigrationThatComesTooLateIsRefused(t *testing.T) {
	databasetest.Each(t, schema(), func(t *testing.T, db *database.DB) {
		early := append(schema(), migration("20190101_01_early", "CREATE TABLE early (id BIGINT)"))
		if err := db.Migrate(t.Context(), early...); err == nil {
			t.Error("a migration ran after one that it should have preceded")
		}
	})
}

func TestConcurrentMigrateOfSeveralServersRunsEachMigrationOnce(t *testing.T) {
	for _, dialect := range databasetest.Dialects(t) {
		t.Run(dialect, func(t *testing.T) {
			dsn := databasetest.DSN(t, dialect)
			var servers []*database.DB
			for range 4 {
				db, err := database.Open(t.Context(), dsn, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := db.Close(); err != nil {
						t.Error(err)
					}
				}()
				servers = append(servers, db)
			}
			steps := schema()
			for _, id := range []string{"20200102_01", "20200103_01", "20200104_01"} {
				steps = append(steps, migration(id, "CREATE TABLE t"+id+" (id BIGINT)"))
			}
			var wg sync.WaitGroup
			for _, db := range servers {
				wg.Go(func() {
					if err := db.Migrate(t.Context(), slices.Clone(steps)...); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		})
	}
}
