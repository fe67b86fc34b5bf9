package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"

	"github.com/mattn/go-sqlite3"
	"gorm.io/gorm"
)

// maxStatements bounds the prepared statements that a connection keeps between two transactions.
const maxStatements = 256

// A conn is one SQLite connection with its prepared statements, in the shape gorm asks for. One goroutine uses it at
// a time, for one transaction at a time.
type conn struct {
	raw   *sql.Conn
	stmts map[string]*sql.Stmt
	own   map[string]driver.StmtExecContext // those that exec runs
}

func newConn(ctx context.Context, pool *sql.DB) (*conn, error) {
	raw, err := pool.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &conn{raw: raw, stmts: make(map[string]*sql.Stmt), own: make(map[string]driver.StmtExecContext)}, nil
}

// prepared returns the statement for query, or nil for one that must not be prepared: the driver would run only the
// first of several statements in one text and silently forget the others.
func (c *conn) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	if stmt, ok := c.stmts[query]; ok {
		return stmt, nil
	}
	if strings.IndexByte(query, ';') >= 0 {
		return nil, nil
	}
	stmt, err := c.raw.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	c.stmts[query] = stmt
	return stmt, nil
}

// trim forgets statements when there are too many. It is called between transactions: closing a statement whose rows
// are being read would end them early without an error.
func (c *conn) trim() {
	if len(c.stmts) <= maxStatements {
		return
	}
	for query, stmt := range c.stmts {
		_ = stmt.Close() // reading is over; nothing depends on it
		delete(c.stmts, query)
	}
}

// exec runs a statement of our own, without arguments and beyond cancellation. Transactions begin and end with these few,
// so that they go to the driver directly: database/sql takes longer to pass them on than SQLite to run them.
func (c *conn) exec(query string) error {
	return c.raw.Raw(func(raw any) error {
		stmt, ok := c.own[query]
		if !ok {
			prepared, err := raw.(driver.Conn).Prepare(query)
			if err != nil {
				return err
			}
			if stmt, ok = prepared.(driver.StmtExecContext); !ok {
				return fmt.Errorf("%T cannot run a statement under a context", prepared)
			}
			c.own[query] = stmt
		}
		_, err := stmt.ExecContext(context.Background(), nil)
		return err
	})
}

// inTransaction returns an error unless a transaction is open: SQLite ends one by itself after some failures, also when
// whoever met the failure says nothing of it.
func (c *conn) inTransaction() error {
	return c.raw.Raw(func(raw any) error {
		if sqlite, ok := raw.(*sqlite3.SQLiteConn); ok && !sqlite.AutoCommit() {
			return nil
		}
		return errors.New("the database has ended the transaction")
	})
}

// close gives the connection back, and with it every statement.
func (c *conn) close() error {
	for _, stmt := range c.stmts {
		_ = stmt.Close() // closing the connection reports what matters
	}
	_ = c.raw.Raw(func(any) error { // likewise
		for _, stmt := range c.own {
			_ = stmt.(driver.Stmt).Close()
		}
		return nil
	})
	return c.raw.Close()
}

// PrepareContext implements gorm.ConnPool.
func (c *conn) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	return c.raw.PrepareContext(ctx, query)
}

// ExecContext implements gorm.ConnPool.
func (c *conn) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	stmt, err := c.prepared(ctx, query)
	if err != nil {
		return nil, err
	}
	if stmt == nil {
		return c.raw.ExecContext(ctx, query, args...)
	}
	return stmt.ExecContext(ctx, args...)
}

// QueryContext implements gorm.ConnPool.
func (c *conn) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	stmt, err := c.prepared(ctx, query)
	if err != nil {
		return nil, err
	}
	if stmt == nil {
		return c.raw.QueryContext(ctx, query, args...)
	}
	return stmt.QueryContext(ctx, args...)
}

// QueryRowContext implements gorm.ConnPool.
func (c *conn) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	stmt, err := c.prepared(ctx, query)
	if err != nil || stmt == nil {
		return c.raw.QueryRowContext(ctx, query, args...) // reports err again, in a Row
	}
	return stmt.QueryRowContext(ctx, args...)
}

// Commit implements gorm.TxCommitter, which makes gorm's own Transaction use a savepoint inside ours.
func (c *conn) Commit() error { return errOwnTransaction }

// Rollback implements gorm.TxCommitter.
func (c *conn) Rollback() error { return errOwnTransaction }

var errOwnTransaction = errors.New("ending a transaction that belongs to the database package")

var (
	_ gorm.ConnPool    = (*conn)(nil)
	_ gorm.TxCommitter = (*conn)(nil)
)
