package e2e_test

import (
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver named pgx
)

// eachDatabase runs test on SQLite, which is the default, and on a PostgreSQL database of its own.
func eachDatabase(t *testing.T, test func(t *testing.T, settings ...string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t) })
	t.Run("postgres", func(t *testing.T) {
		dsn := newDatabase(t, needs(t, "FROSTPIN_TEST_POSTGRES"))
		test(t, "FROSTPIN_DATABASE="+dsn)
	})
}

// newDatabase makes an empty database on the server that dsn names, removes it when the test ends, and returns its DSN.
func newDatabase(t *testing.T, dsn string) string {
	t.Helper()
	target, err := url.Parse(dsn)
	if err != nil {
		t.Fatalf("FROSTPIN_TEST_POSTGRES: %v", err)
	}
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatalf("opening PostgreSQL: %v", err)
	}
	name := fmt.Sprintf("frostpin_e2e_%d_%s", os.Getpid(), strconv.FormatInt(time.Now().UnixNano(), 36))
	if _, err := db.ExecContext(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatalf("making a database: %v", err)
	}
	t.Cleanup(func() {
		defer db.Close()
		if _, err := db.Exec("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Errorf("removing the database: %v", err)
		}
	})
	target.Path = "/" + name
	return target.String()
}
