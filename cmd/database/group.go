package database

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/mattn/go-sqlite3"
	"gorm.io/gorm"
)

const (
	// maxGroup is the most Writes that share a transaction. More would save little and make the first wait.
	maxGroup = 256
	// beginTimeout is how long SQLite itself waits for a busy file in one attempt to begin.
	beginTimeout = 3 * time.Millisecond
	// slowGroup is how long a group may take before the operator hears of it.
	slowGroup = 2 * time.Second
)

// A write waits in the queue until the committer takes it or its caller gives up, whichever is first.
type write struct {
	ctx  context.Context
	fn   func(tx *gorm.DB) error
	mine atomic.Bool // whoever sets it decides: the committer takes the write, the caller drops it
	err  error       // what fn came to, kept until the group is committed
	done chan error  // holds one answer
}

func (w *write) take() bool { return w.mine.CompareAndSwap(false, true) }

// write hands fn to the committer and waits for the answer. Once fn runs we wait for it in any case: it uses the
// caller's variables.
func (s *sqlite) write(ctx context.Context, fn func(tx *gorm.DB) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	w := &write{ctx: ctx, fn: fn, done: make(chan error, 1)}
	select {
	case <-s.closing:
		return ErrClosed
	default:
	}
	select {
	case s.queue <- w:
	case <-s.closing:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-w.done:
		return err
	case <-s.stopped:
		if w.take() {
			return ErrClosed
		}
		return <-w.done
	case <-ctx.Done():
		if w.take() {
			return context.Cause(ctx)
		}
		return <-w.done
	}
}

// commitLoop owns the writing connection until the database is closed. A function that ends its goroutine
// (runtime.Goexit, as testing.T.FailNow does) ends this one; the loop then goes on in a new one.
func (s *sqlite) commitLoop() {
	closed := false
	defer func() {
		if !closed {
			go s.commitLoop()
		}
	}()
	for {
		select {
		case <-s.closing:
			closed = true
			close(s.stopped)
			return
		case w := <-s.queue:
			s.commitGroup(w)
		}
	}
}

// commitGroup runs first and whatever else is waiting in one transaction, and answers all of them after the commit:
// even the error of one member may rest on what another wrote.
func (s *sqlite) commitGroup(first *write) {
	started := time.Now()
	var members []*write
	outcome := errors.New("a function of this group ended its goroutine")
	defer func() {
		if outcome != nil {
			_ = s.writer.exec("ROLLBACK") // fails when SQLite has rolled back already
		}
		for _, w := range members {
			if outcome != nil && w.err == nil {
				w.err = outcome
			}
			w.done <- w.err
		}
		s.writer.trim()
		if took := time.Since(started); took > slowGroup {
			s.log.LogAttrs(context.Background(), slog.LevelWarn, "database commit was slow",
				slog.Duration("took", took), slog.Int("writes", len(members)))
		}
	}()
	begun := false
	for w := first; w != nil; w = s.next(len(members)) {
		if !w.take() {
			continue
		}
		members = append(members, w)
		if !begun {
			if err := s.begin(); err != nil {
				outcome = fmt.Errorf("beginning to write: %w", err)
				members = s.takeAll(members) // they would all wait as long in vain, one after another
				return
			}
			begun = true
		}
		run := s.runMember
		if len(members) == 1 {
			run = s.runFirst
		}
		if err := run(w); err != nil {
			outcome = fmt.Errorf("%w: losing a transaction: %w", ErrUnavailable, err)
			return
		}
	}
	outcome = nil
	if !begun {
		return
	}
	if err := s.writer.exec("COMMIT"); err != nil {
		outcome = fmt.Errorf("committing: %w", err)
	}
}

// next returns another waiting write, or nil when the group is full or nobody waits. Callers that were answered a
// moment ago get the processor once before the group is closed without them.
func (s *sqlite) next(size int) *write {
	if size >= maxGroup {
		return nil
	}
	for range 2 {
		select {
		case w := <-s.queue:
			return w
		default:
			runtime.Gosched()
		}
	}
	return nil
}

// takeAll adds everything that waits now to members.
func (s *sqlite) takeAll(members []*write) []*write {
	for {
		select {
		case w := <-s.queue:
			if w.take() {
				members = append(members, w)
			}
		default:
			return members
		}
	}
}

// begin starts the transaction, polling while another process writes.
func (s *sqlite) begin() error {
	deadline := time.Now().Add(busyTimeoutMS * time.Millisecond)
	for {
		err := s.writer.exec("BEGIN IMMEDIATE")
		busy, ok := errors.AsType[sqlite3.Error](err)
		if !ok || busy.Code != sqlite3.ErrBusy || time.Now().After(deadline) {
			return err
		}
	}
}

// runFirst runs the first write of a group, which needs no savepoint: SQLite would copy every page that is changed under
// one, and to undo this write is to undo the transaction, which then begins again. It returns an error when the
// transaction is lost.
func (s *sqlite) runFirst(w *write) error {
	w.err = runSafely(w.fn, s.session(context.WithoutCancel(w.ctx), s.writer))
	if w.err == nil {
		return s.writer.inTransaction()
	}
	err := s.writer.exec("ROLLBACK")
	if err == nil {
		err = s.begin()
	}
	if err != nil {
		return errors.Join(w.err, err)
	}
	return nil
}

// runMember runs one write inside a savepoint and leaves its result in w.err. It returns an error when the
// transaction as a whole is lost.
func (s *sqlite) runMember(w *write) error {
	if err := s.writer.exec("SAVEPOINT member"); err != nil {
		return err
	}
	// A statement that is interrupted would roll back the whole group.
	w.err = runSafely(w.fn, s.session(context.WithoutCancel(w.ctx), s.writer))
	if w.err != nil {
		if err := s.writer.exec("ROLLBACK TO member"); err != nil {
			return errors.Join(w.err, err)
		}
	}
	return s.writer.exec("RELEASE member")
}

// runSafely runs fn and makes a panic its error.
func runSafely(fn func(tx *gorm.DB) error, tx *gorm.DB) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{Value: p, Stack: debug.Stack()}
		}
	}()
	return fn(tx)
}
