package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"github.com/mattn/go-sqlite3"
	gormsqlite "gorm.io/driver/sqlite"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

// Bounds of the SQLite engine. The caches are upper limits, filled only by use.
const (
	sqliteReaders       = 6
	readerCacheKiB      = 8 << 10
	writerCacheKiB      = 16 << 10
	busyTimeoutMS       = 5000
	journalSizeLimit    = 64 << 20 // the WAL is cut back to this after a checkpoint
	checkpointPages     = 8000     // 32 MiB: a page that many commits change is copied back once, not every few commits
	sqliteFilePerm      = 0o600
	sqliteDirectoryPerm = 0o700
)

// A sqlite is the engine over one file: one writing connection, which belongs to the committer goroutine (group.go),
// and several reading ones.
type sqlite struct {
	base       *gorm.DB
	writerPool *sql.DB
	readerPool *sql.DB
	writer     *conn
	readers    chan *conn
	log        *slog.Logger

	queue     chan *write
	closing   chan struct{}
	stopped   chan struct{}
	closeOnce sync.Once
	closeErr  error
}

func openSQLite(ctx context.Context, path string, log *slog.Logger) (_ *sqlite, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	if err := createPrivately(path); err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	s := &sqlite{
		log:     log,
		readers: make(chan *conn, sqliteReaders),
		queue:   make(chan *write, maxGroup),
		closing: make(chan struct{}),
		stopped: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			_ = s.closePools() // the first error is the one to report
		}
	}()
	// The writer comes first: it creates the WAL that the readers need.
	s.writerPool = sqlitePool(path, 1, false)
	if s.writer, err = newConn(ctx, s.writerPool); err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	s.readerPool = sqlitePool(path, sqliteReaders, true)
	for range sqliteReaders {
		reader, err := newConn(ctx, s.readerPool)
		if err != nil {
			return nil, fmt.Errorf("opening the database: %w", err)
		}
		s.readers <- reader
	}
	s.base, err = gorm.Open(gormsqlite.New(gormsqlite.Config{Conn: s.writer}), gormConfig())
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	// From here on the committer polls a busy file by itself; see the package comment.
	if err := s.writer.exec(fmt.Sprintf("PRAGMA busy_timeout = %d", beginTimeout.Milliseconds())); err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	go s.commitLoop()
	return s, nil
}

// gormConfig is the same for both databases. gorm's default transaction and statement cache would double ours.
func gormConfig() *gorm.Config {
	return &gorm.Config{
		Logger:                 logger.Discard, // errors are returned; logging them here too would tell them twice
		TranslateError:         true,
		SkipDefaultTransaction: true,
	}
}

// createPrivately makes an empty file that only its owner can read; SQLite gives its WAL the same mode.
func createPrivately(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), sqliteDirectoryPerm); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, sqliteFilePerm)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return file.Close()
}

// sqlitePool describes connections to the file; it opens none yet.
func sqlitePool(path string, size int, readOnly bool) *sql.DB {
	settings := url.Values{
		"_busy_timeout": {fmt.Sprint(busyTimeoutMS)},
		"_foreign_keys": {"on"},
		"_journal_mode": {"WAL"},
		"_synchronous":  {"FULL"},
		"_cache_size":   {fmt.Sprint(-writerCacheKiB)},
	}
	if readOnly {
		settings.Del("_journal_mode") // set already, and a reader may not
		settings.Set("_query_only", "on")
		settings.Set("_cache_size", fmt.Sprint(-readerCacheKiB))
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: settings.Encode()}
	withPragmas := &sqlite3.SQLiteDriver{ConnectHook: func(c *sqlite3.SQLiteConn) error {
		_, err := c.Exec(fmt.Sprintf("PRAGMA temp_store = memory; PRAGMA journal_size_limit = %d; PRAGMA wal_autocheckpoint = %d", journalSizeLimit, checkpointPages), nil)
		return err
	}}
	pool := sql.OpenDB(sqliteConnector{driver: withPragmas, dsn: dsn.String()})
	pool.SetMaxOpenConns(size)
	pool.SetMaxIdleConns(size)
	return pool
}

// A sqliteConnector opens connections with a driver of our own, because database/sql knows drivers only by global names.
type sqliteConnector struct {
	driver *sqlite3.SQLiteDriver
	dsn    string
}

func (c sqliteConnector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }
func (c sqliteConnector) Driver() driver.Driver                        { return c.driver }

// read lends one of the reading connections to fn.
func (s *sqlite) read(ctx context.Context, fn func(tx *gorm.DB) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var c *conn
	select {
	case <-s.closing:
		return ErrClosed
	default:
	}
	select {
	case c = <-s.readers:
	case <-s.closing:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { s.readers <- c }()
	if err := c.exec("BEGIN"); err != nil {
		return fmt.Errorf("beginning to read: %w", err)
	}
	defer func() {
		// Nothing was changed. After an I/O error SQLite has ended the transaction already, and this fails.
		_ = c.exec("ROLLBACK")
		c.trim()
	}()
	return fn(s.session(context.WithoutCancel(ctx), c))
}

// session is a gorm.DB whose statements run on c under ctx.
func (s *sqlite) session(ctx context.Context, c *conn) *gorm.DB {
	tx := s.base.Session(&gorm.Session{NewDB: true, Context: ctx})
	tx.Statement.ConnPool = c
	return tx
}

// migrate is an ordinary Write: BEGIN IMMEDIATE excludes every other writer, in this process or another.
func (s *sqlite) migrate(ctx context.Context, fn func(tx *gorm.DB) error) error {
	return s.write(ctx, fn)
}

func (s *sqlite) ping(ctx context.Context) error {
	return s.read(ctx, func(tx *gorm.DB) error {
		var tables int64
		return tx.Raw("SELECT count(*) FROM sqlite_master").Scan(&tables).Error
	})
}

func (s *sqlite) close() error {
	s.closeOnce.Do(func() {
		close(s.closing)
		<-s.stopped
		for range sqliteReaders {
			c := <-s.readers // a running read brings its connection back
			s.closeErr = errors.Join(s.closeErr, c.close())
		}
		s.closeErr = errors.Join(s.closeErr, s.writer.close(), s.closePools())
	})
	return s.closeErr
}

// closePools closes the readers first: the last connection writes the WAL back into the file, and readers may not.
func (s *sqlite) closePools() error {
	var err error
	for _, pool := range []*sql.DB{s.readerPool, s.writerPool} {
		if pool != nil {
			err = errors.Join(err, pool.Close())
		}
	}
	return err
}
