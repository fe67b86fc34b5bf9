package database

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"

	"gorm.io/gorm"
)

// Names of dialects, as Dialect returns them.
const (
	SQLite   = "sqlite"
	Postgres = "postgres"
)

// An engine runs transactions on one kind of database. The transaction it passes to fn is a session made for it, which
// carries the context that statements shall run under.
type engine interface {
	read(ctx context.Context, fn func(tx *gorm.DB) error) error
	write(ctx context.Context, fn func(tx *gorm.DB) error) error
	// migrate runs fn in one transaction that excludes every other migrate on this database.
	migrate(ctx context.Context, fn func(tx *gorm.DB) error) error
	ping(ctx context.Context) error
	close() error
}

// A DB is an open database. All methods may be called concurrently.
type DB struct {
	engine  engine
	dialect string
	log     *slog.Logger
}

// Open opens the database that dsn names: PostgreSQL when it begins with postgres:// or postgresql://, else the SQLite
// file at that path, which is created when it does not exist. The caller closes it.
func Open(ctx context.Context, dsn string, log *slog.Logger) (*DB, error) {
	dialect, err := DialectOf(dsn)
	if err != nil {
		return nil, err
	}
	db := &DB{dialect: dialect, log: log}
	if dialect == Postgres {
		db.engine, err = openPostgres(ctx, dsn)
	} else {
		db.engine, err = openSQLite(ctx, dsn, log)
	}
	if err != nil {
		return nil, translate(err)
	}
	return db, nil
}

// DialectOf tells which kind of database dsn names, or what is wrong with it. It opens nothing and its errors never
// repeat the DSN, which may hold a password.
func DialectOf(dsn string) (string, error) {
	scheme, _, isURL := strings.Cut(dsn, "://")
	switch {
	case isURL && (scheme == "postgres" || scheme == "postgresql"):
		return Postgres, checkPostgres(dsn)
	case isURL:
		return "", errors.New("naming the database: the address must begin with postgres:// or be the path of a SQLite file")
	case dsn == "":
		return "", errors.New("naming the database: the path is empty")
	case strings.HasPrefix(dsn, ":memory:"), strings.HasPrefix(dsn, "file:"):
		return "", errors.New("naming the database: give the plain path of a SQLite file")
	}
	return SQLite, nil
}

// Dialect is SQLite or Postgres, for the few statements that must differ.
func (db *DB) Dialect() string { return db.dialect }

// Ping reports whether the database answers.
func (db *DB) Ping(ctx context.Context) error { return translate(db.engine.ping(ctx)) }

// Close waits for running transactions and closes the database. Writes that have not begun get ErrClosed.
func (db *DB) Close() error { return translate(db.engine.close()) }

// Read runs fn on one consistent snapshot.
func (db *DB) Read(ctx context.Context, fn func(tx *gorm.DB) error) error {
	if t := db.current(ctx); t != nil {
		return t.join(ctx, fn)
	}
	return translate(db.engine.read(ctx, db.transact(false, fn)))
}

// Write runs fn in a transaction and returns nil only after the commit is durable. When fn returns an error or
// panics, nothing of it remains and Write returns that error. fn must not wait for another Write or Read of the same
// database that does not join its transaction.
func (db *DB) Write(ctx context.Context, fn func(tx *gorm.DB) error) error {
	if t := db.current(ctx); t != nil {
		if !t.writable {
			return errors.New("writing inside a read-only transaction")
		}
		return t.join(ctx, fn)
	}
	return translate(db.engine.write(ctx, db.transact(true, fn)))
}

// transactionKey finds the running transaction of one database in a context.
type transactionKey struct{ db *DB }

// A transaction is what travels in the context of its statements.
type transaction struct {
	tx       *gorm.DB
	writable bool
	over     atomic.Bool
	failed   error
}

func (db *DB) current(ctx context.Context) *transaction {
	t, _ := ctx.Value(transactionKey{db}).(*transaction)
	return t
}

// transact makes fn's transaction joinable.
func (db *DB) transact(writable bool, fn func(tx *gorm.DB) error) func(tx *gorm.DB) error {
	return func(tx *gorm.DB) error {
		t := &transaction{writable: writable}
		defer t.over.Store(true)
		// The session is this transaction's own.
		tx.Statement.Context = context.WithValue(tx.Statement.Context, transactionKey{db}, t)
		t.tx = tx
		if err := fn(t.tx); err != nil {
			return err
		}
		return t.failed
	}
}

// join runs fn inside t. Its error is remembered, so that an outer function which overlooks it cannot commit half of
// what was meant.
func (t *transaction) join(ctx context.Context, fn func(tx *gorm.DB) error) error {
	if t.over.Load() {
		return errors.New("joining a transaction that has ended")
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	err := fn(t.tx)
	if err != nil && t.failed == nil && t.writable {
		t.failed = err
	}
	return translate(err)
}
