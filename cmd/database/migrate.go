package database

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

const migrationsTable = "migrations"

// Migrate brings the schema up to date: every migration that has not run yet runs, in the order of the ids, all in one
// transaction that excludes every other Migrate. It refuses with ErrNewer a database that has seen migrations unknown
// here, and changes nothing when it fails.
func (db *DB) Migrate(ctx context.Context, migrations ...*gormigrate.Migration) error {
	migrations = slices.Clone(migrations)
	slices.SortFunc(migrations, func(a, b *gormigrate.Migration) int { return strings.Compare(a.ID, b.ID) })
	err := db.engine.migrate(ctx, func(tx *gorm.DB) error {
		if err := checkApplied(tx, migrations); err != nil {
			return err
		}
		return gormigrate.New(tx, &gormigrate.Options{
			TableName:                 migrationsTable,
			IDColumnName:              "id",
			IDColumnSize:              255,
			ValidateUnknownMigrations: true,
		}, migrations).Migrate()
	})
	if err != nil {
		return translate(fmt.Errorf("migrating the database: %w", err))
	}
	return nil
}

// Applied returns the ids of the migrations that have run, in order. A database that was never migrated has none.
func (db *DB) Applied(ctx context.Context) ([]string, error) {
	var ids []string
	err := db.Read(ctx, func(tx *gorm.DB) (err error) {
		ids, err = appliedIDs(tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the schema version: %w", err)
	}
	return ids, nil
}

func appliedIDs(tx *gorm.DB) ([]string, error) {
	if !tx.Migrator().HasTable(migrationsTable) {
		return nil, nil
	}
	var ids []string
	err := tx.Table(migrationsTable).Order("id").Pluck("id", &ids).Error
	return ids, err
}

// checkApplied compares what has run with what is known. Migrations only ever run in one order, on every database:
// one that would have to run before another that already did is a mistake of ours, found here and not in production.
func checkApplied(tx *gorm.DB, known []*gormigrate.Migration) error {
	applied, err := appliedIDs(tx)
	if err != nil {
		return err
	}
	var unknown []string
	last := ""
	for _, id := range applied {
		last = max(last, id)
		if !slices.ContainsFunc(known, func(m *gormigrate.Migration) bool { return m.ID == id }) {
			unknown = append(unknown, id)
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("%w (it has %s): start that release or a newer one, or restore the backup made before the upgrade",
			ErrNewer, strings.Join(unknown, ", "))
	}
	for _, m := range known {
		if m.ID < last && !slices.Contains(applied, m.ID) {
			return fmt.Errorf("migration %s would run after %s", m.ID, last)
		}
	}
	return nil
}
