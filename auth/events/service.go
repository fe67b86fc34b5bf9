package events

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Pins knows which pins name a root. Both run in the transaction of ctx.
type Pins interface {
	// Named returns which of the roots pins of an account name.
	Named(ctx context.Context, account int64, roots []string) (map[string]bool, error)
	// Naming returns pins of an account by their id, as many as limit, from the one after a given id on.
	Naming(ctx context.Context, account int64, of Naming, after string, limit int) ([]Pin, error)
}

// Naming says which pins are meant.
type Naming struct {
	Root string
	Part int64     // 0: all of the root
	By   time.Time // those that had been made by then
}

const (
	pause     = 500 * time.Millisecond // between two looks for events, ours and those of other servers
	keep      = 30 * 24 * time.Hour
	sweepEach = 10 * time.Minute
	skew      = time.Minute // that clocks of servers may differ
)

// A Service records events and reads them. Its methods may be called concurrently.
type Service struct {
	db   DB
	pins Pins
	log  *slog.Logger
	now  func() time.Time

	mu      sync.Mutex
	seen    int64         // the newest number that was announced
	changed chan struct{} // closed when there is a newer one
}

// New returns a Service. Its Run gives events their numbers: without it, here or in another process, none can be read.
func New(db DB, pins Pins, log *slog.Logger, now func() time.Time) *Service {
	return &Service{db: db, pins: pins, log: log, now: now, changed: make(chan struct{})}
}

// Changed returns a channel that is closed when there are newer events than now. Ask for it before reading.
func (s *Service) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// announce wakes those who wait, when last is newer than what they know.
func (s *Service) announce(last int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last <= s.seen {
		return
	}
	s.seen = last
	close(s.changed)
	s.changed = make(chan struct{})
}

// Run gives events their numbers and removes old ones until ctx ends, and returns its error.
func (s *Service) Run(ctx context.Context) error {
	look, sweep := time.NewTicker(pause), time.NewTicker(sweepEach)
	defer look.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
			s.attempt(ctx, "numbering events", s.number)
		case <-sweep.C:
			s.attempt(ctx, "removing old events", s.sweep)
		}
	}
}

// attempt logs what goes wrong: the next tick tries again.
func (s *Service) attempt(ctx context.Context, what string, do func(context.Context) error) {
	if err := do(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("events are kept waiting", "at", what, "err", err)
	}
}
