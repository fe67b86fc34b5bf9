// Package databasetest opens databases for tests: a SQLite file in a temporary directory always, and a schema of its
// own on the PostgreSQL server that FROSTPIN_TEST_POSTGRES names. It owns their creation and removal and must not know
// what is stored in them.
package databasetest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"hash/crc32"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-gormigrate/gormigrate/v2"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx" for creating schemas
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
)

// dsnVariable names the PostgreSQL server to test on.
const dsnVariable = "FROSTPIN_TEST_POSTGRES"

// Each runs fn once per dialect on a fresh, migrated database, as the subtests "sqlite" and "postgres". Without a
// server to test on the second one is left out, except in CI, where that is a failure.
func Each(t *testing.T, migrations []*gormigrate.Migration, fn func(t *testing.T, db *database.DB)) {
	t.Helper()
	for _, dialect := range Dialects(t) {
		t.Run(dialect, func(t *testing.T) {
			db := Open(t, dialect)
			if err := db.Migrate(t.Context(), migrations...); err != nil {
				t.Fatal(err)
			}
			fn(t, db)
		})
	}
}

// Dialects returns those that can be tested here. With -short, which is for the race detector, a test has one of them, by its
// name: what is looked at closely is our own code.
func Dialects(t testing.TB) []string {
	t.Helper()
	both := []string{database.SQLite, database.Postgres}
	switch {
	case !hasPostgres(t):
		t.Logf("%s is not set: testing on SQLite only", dsnVariable)
		return both[:1]
	case testing.Short():
		i := crc32.ChecksumIEEE([]byte(t.Name())) % 2
		return both[i : i+1]
	}
	return both
}

// NeedPostgres skips a test that is about PostgreSQL where there is none.
func NeedPostgres(t testing.TB) {
	t.Helper()
	if !hasPostgres(t) {
		t.Skipf("%s is not set", dsnVariable)
	}
}

// hasPostgres ends a test in CI that would have to do without.
func hasPostgres(t testing.TB) bool {
	t.Helper()
	has := os.Getenv(dsnVariable) != ""
	if !has && os.Getenv("CI") == "true" {
		t.Fatalf("%s must name a PostgreSQL server in CI", dsnVariable)
	}
	return has
}

// Open opens an empty database, not migrated, that is closed and removed when the test ends. The dialect is SQLite
// when none is given.
func Open(t testing.TB, dialect ...string) *database.DB {
	t.Helper()
	db, err := database.Open(t.Context(), DSN(t, dialect...), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("closing the test database: %v", err)
		}
	})
	return db
}

// DSN makes an empty database and returns its address, for a test that opens it more than once.
func DSN(t testing.TB, dialect ...string) string {
	t.Helper()
	if len(dialect) == 0 || dialect[0] == database.SQLite {
		return filepath.Join(t.TempDir(), "test.db")
	}
	server := os.Getenv(dsnVariable)
	if server == "" {
		t.Fatalf("%s is not set", dsnVariable)
	}
	schema := "test_" + strings.ToLower(rand.Text())
	execute(t, server, "CREATE SCHEMA "+schema)
	t.Cleanup(func() { execute(t, server, "DROP SCHEMA "+schema+" CASCADE") })
	address, err := url.Parse(server)
	if err != nil {
		t.Fatalf("parsing %s: it must be a postgres:// address", dsnVariable)
	}
	query := address.Query()
	query.Set("search_path", schema)
	address.RawQuery = query.Encode()
	return address.String()
}

// execute runs one statement on the server. Clean-ups come here when the test's own context has ended.
func execute(t testing.TB, dsn, statement string) {
	t.Helper()
	pool, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pool.ExecContext(context.WithoutCancel(t.Context()), statement); err != nil {
		t.Errorf("%s: %v", statement, err)
	}
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
}

// AwaitWaiter returns when somebody waits for the end of a transaction. On SQLite, where whoever writes waits anyway, that is
// at once.
func AwaitWaiter(tx *gorm.DB) error {
	if tx.Name() != database.Postgres {
		return nil
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-time.After(time.Millisecond) {
		var waiting int
		err := tx.Raw(`SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()
			AND transactionid = pg_current_xact_id()::xid`).Row().Scan(&waiting)
		if err != nil || waiting > 0 {
			return err
		}
	}
	return errors.New("nobody waits for the transaction")
}
