package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/go-gormigrate/gormigrate/v2"
	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/events"
	"github.com/frostpin/frostpin/auth/hooks"
	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/retrieval"
)

// migrations are those of every package, in no order: their ids order them.
func migrations() []*gormigrate.Migration {
	return slices.Concat(
		auth.Migrations(), events.Migrations(), hooks.Migrations(), ledger.Migrations(), pins.Migrations(), deals.Migrations(), retrieval.Migrations())
}

// A store is the database as the operator's commands use it, beside a running server or without one.
type store struct {
	db     *database.DB
	config *Config
	tokens *auth.Service
}

// withStore opens the database for the length of a command. create tells whether the command makes sense before the
// first start of a server.
func (p *program) withStore(c *cobra.Command, create bool, use func(ctx context.Context, s *store) error) error {
	settings, err := p.settings(c)
	if err != nil {
		return err
	}
	ctx := c.Context()
	if !create && !databaseExists(&settings.Config) {
		return fmt.Errorf("there is no database at %s yet: run `frostpin serve` first, or name another --data-dir",
			settings.Database)
	}
	db, err := database.Open(ctx, string(settings.Database), p.logger(&settings.Config))
	if err != nil {
		return err
	}
	err = prepare(ctx, db)
	if err == nil {
		err = use(ctx, &store{db: db, config: &settings.Config, tokens: auth.New(db, p.now)})
	}
	return errors.Join(err, db.Close())
}

// databaseExists is true for a server: only connecting can tell.
func databaseExists(c *Config) bool {
	if dialect, err := database.DialectOf(string(c.Database)); err != nil || dialect != database.SQLite {
		return true
	}
	_, err := os.Stat(string(c.Database))
	return !errors.Is(err, fs.ErrNotExist)
}

// prepare makes the tables of a new database. It does not upgrade one that a server uses: that is serve's business,
// and an older server may be running on it.
func prepare(ctx context.Context, db *database.DB) error {
	applied, err := db.Applied(ctx)
	if err != nil {
		return err
	}
	known := migrations()
	if len(applied) > 0 && len(applied) < len(known) {
		return errors.New("the database is of an older release: run `frostpin serve` of this release once, which upgrades it")
	}
	return db.Migrate(ctx, known...) // refuses a newer one; otherwise there is nothing to do
}
