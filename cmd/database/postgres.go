package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	gormpostgres "gorm.io/driver/postgres"
	"gorm.io/gorm"
)

// Bounds of the PostgreSQL engine. A DSN may set its own run-time parameters.
const (
	postgresConns    = 24
	postgresIdleTime = 5 * time.Minute
	connectTimeout   = 5 * time.Second
	statementTimeout = 30 * time.Second
	writeTimeout     = time.Minute // a Write as a whole, so that a vanished server cannot hold it for ever
	maxAttempts      = 8
	firstPause       = 2 * time.Millisecond
)

// A postgres is the engine over a PostgreSQL server.
type postgres struct {
	base   *gorm.DB
	pool   *sql.DB
	closed atomic.Bool
}

// checkPostgres judges a DSN without connecting. pgx's own message would repeat it.
func checkPostgres(dsn string) error {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return errors.New("naming the database: the postgres:// address cannot be parsed")
	}
	if config.RuntimeParams["synchronous_commit"] == "off" {
		return errors.New("naming the database: synchronous_commit=off would lose pins that were acknowledged")
	}
	return nil
}

func openPostgres(ctx context.Context, dsn string) (*postgres, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, errors.New("opening the database: the postgres:// address cannot be parsed")
	}
	for name, value := range map[string]string{
		"application_name":                    "frostpin",
		"timezone":                            "UTC",
		"synchronous_commit":                  "on",
		"statement_timeout":                   fmt.Sprint(statementTimeout.Milliseconds()),
		"idle_in_transaction_session_timeout": fmt.Sprint(writeTimeout.Milliseconds()),
	} {
		if _, set := config.RuntimeParams[name]; !set {
			config.RuntimeParams[name] = value
		}
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	p := &postgres{pool: stdlib.OpenDB(*config)}
	p.pool.SetMaxOpenConns(postgresConns)
	p.pool.SetMaxIdleConns(postgresConns)
	p.pool.SetConnMaxIdleTime(postgresIdleTime)
	if err := p.pool.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to the database: %w", err), p.pool.Close())
	}
	p.base, err = gorm.Open(gormpostgres.New(gormpostgres.Config{Conn: p.pool}), gormConfig())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the database: %w", err), p.pool.Close())
	}
	return p, nil
}

func (p *postgres) read(ctx context.Context, fn func(tx *gorm.DB) error) error {
	return p.retry(ctx, func() (bool, error) {
		return p.attempt(ctx, ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}, fn)
	})
}

func (p *postgres) write(ctx context.Context, fn func(tx *gorm.DB) error) error {
	return p.retry(ctx, func() (bool, error) {
		// Once begun it goes on without the caller, as on SQLite: a cancelled statement costs the connection, and
		// a cancelled commit leaves nobody knowing.
		inside, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
		defer cancel()
		again, err := p.attempt(ctx, inside, nil, func(tx *gorm.DB) error { return runSafely(fn, tx) })
		if err != nil && inside.Err() != nil {
			return false, fmt.Errorf("%w: %w", ErrUnavailable, err) // our limit, not the caller's
		}
		return again, err
	})
}

// retry runs attempt until it succeeds, cannot succeed, or has committed with an unknown outcome.
func (p *postgres) retry(ctx context.Context, attempt func() (again bool, err error)) error {
	pause := firstPause
	for n := 1; ; n++ {
		again, err := attempt()
		if !again || n == maxAttempts || ctx.Err() != nil {
			return err
		}
		timer := time.NewTimer(pause/2 + rand.N(pause)) // apart from each other, or they collide again
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
		pause *= 2
	}
}

// attempt runs one transaction: it waits for a connection under ctx and runs under inside. again says that nothing
// was committed and another attempt may succeed.
func (p *postgres) attempt(ctx, inside context.Context, opts *sql.TxOptions, fn func(tx *gorm.DB) error) (again bool, err error) {
	c, err := p.pool.Conn(ctx)
	if err != nil {
		if p.closed.Load() {
			return false, ErrClosed
		}
		return retryable(err), fmt.Errorf("connecting to the database: %w", err)
	}
	defer func() { _ = c.Close() }() // goes back to the pool
	t, err := c.BeginTx(inside, opts)
	if err != nil {
		return retryable(err), fmt.Errorf("beginning a transaction: %w", err)
	}
	defer func() { _ = t.Rollback() }() // after Commit it does nothing
	tx := p.base.Session(&gorm.Session{NewDB: true, Context: inside})
	tx.Statement.ConnPool = t
	if err := fn(tx); err != nil {
		return retryable(err), err
	}
	if opts != nil && opts.ReadOnly {
		return false, nil
	}
	if err := t.Commit(); err != nil {
		// A serialization failure at commit is a clear no. A connection that broke here may have committed.
		return retryable(err) && !brokenConnection(err), fmt.Errorf("committing: %w", err)
	}
	return false, nil
}

// migrate holds an advisory lock of the schema for the whole transaction. Waiting for it and building an index may
// take longer than a statement may otherwise.
func (p *postgres) migrate(ctx context.Context, fn func(tx *gorm.DB) error) error {
	_, err := p.attempt(ctx, ctx, nil, func(tx *gorm.DB) error {
		for _, statement := range []string{
			"SET LOCAL statement_timeout = 0",
			"SELECT pg_advisory_xact_lock(hashtextextended('frostpin migrations ' || current_schema(), 0))",
		} {
			if err := tx.Exec(statement).Error; err != nil {
				return fmt.Errorf("locking the schema: %w", err)
			}
		}
		return runSafely(fn, tx)
	})
	return err
}

func (p *postgres) ping(ctx context.Context) error {
	if err := p.pool.PingContext(ctx); err != nil {
		if p.closed.Load() {
			return ErrClosed
		}
		return fmt.Errorf("asking the database: %w", err)
	}
	return nil
}

func (p *postgres) close() error {
	p.closed.Store(true)
	return p.pool.Close()
}
