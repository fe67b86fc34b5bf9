package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/mattn/go-sqlite3"
)

var (
	// ErrUnavailable means that the database cannot do it now and may be able to later: it is locked, its disk is
	// full, its server does not answer. The outcome of a Write that returns it is unknown only if the connection to
	// PostgreSQL broke during the commit.
	ErrUnavailable = errors.New("the database is not available")

	// ErrFull is an ErrUnavailable: there is no room for the database to write. Reads go on.
	ErrFull = fmt.Errorf("%w: its disk is full", ErrUnavailable)

	// ErrText means that an argument has something in it that PostgreSQL has in no text: NUL, or what is not UTF-8.
	ErrText = errors.New("a text cannot be stored")

	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("the database is closed")

	// ErrNewer is returned by Migrate for a database that a newer release has written.
	ErrNewer = errors.New("the database was written by a newer release of frostpin")
)

// A PanicError is what a Write returns when its function has panicked.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("panic in a database transaction: %v\n%s", e.Value, e.Stack)
}

// translate marks driver errors that mean "not now" or "not this". It is the only place that knows them.
func translate(err error) error {
	if err == nil || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrClosed) {
		return err
	}
	if full(err) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	if unavailable(err) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if onPostgres, ok := errors.AsType[*pgconn.PgError](err); ok && (onPostgres.Code == "22021" || onPostgres.Code == "22P05") {
		return fmt.Errorf("%w: %w", ErrText, err)
	}
	return err
}

// full tells whether a write found no room. SQLite calls what its file system refuses in the log an I/O error.
func full(err error) bool {
	if onSQLite, ok := errors.AsType[sqlite3.Error](err); ok {
		return onSQLite.Code == sqlite3.ErrFull || onSQLite.SystemErrno == syscall.ENOSPC
	}
	onPostgres, ok := errors.AsType[*pgconn.PgError](err)
	return ok && onPostgres.Code == "53100" // disk_full
}

func unavailable(err error) bool {
	if onSQLite, ok := errors.AsType[sqlite3.Error](err); ok {
		switch onSQLite.Code {
		case sqlite3.ErrBusy, sqlite3.ErrLocked, sqlite3.ErrFull, sqlite3.ErrIoErr, sqlite3.ErrCantOpen,
			sqlite3.ErrNomem, sqlite3.ErrProtocol, sqlite3.ErrReadonly:
			return true
		}
		return false
	}
	if onPostgres, ok := errors.AsType[*pgconn.PgError](err); ok {
		return unavailableCode(onPostgres.Code)
	}
	return brokenConnection(err)
}

// unavailableCode judges an SQLSTATE.
func unavailableCode(code string) bool {
	if len(code) != 5 {
		return false
	}
	switch code[:2] {
	case "08", "53", "58": // connection, resources (disk full, too many connections), system
		return true
	}
	switch code {
	case "57P01", "57P02", "57P03", // shut down, crashed, starting up
		"57014",          // statement_timeout
		"25006",          // read-only: a standby after a failover
		"55P03",          // lock not available
		"40001", "40P01": // serialization and deadlock, after all retries
		return true
	}
	return false
}

// brokenConnection tells whether the link to the database broke, or never was.
func brokenConnection(err error) bool {
	if errors.Is(err, context.Canceled) {
		return false
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	_, onNetwork := errors.AsType[net.Error](err)
	return onNetwork || errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// retryable tells whether running a PostgreSQL transaction again may succeed, given that it was not committed.
func retryable(err error) bool {
	if onPostgres, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch onPostgres.Code {
		case "40001", "40P01", "57P01":
			return true
		}
		return false
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return false // nobody is there: say so at once
	}
	return brokenConnection(err)
}
