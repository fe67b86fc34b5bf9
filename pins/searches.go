package pins

import (
	"context"
	"sync"
	"time"
)

const (
	// searchesAtOnce is how many lists by meta or parts of names run at a time, and accountSearches how many of one
	// account: SQLite has six readers, and everybody's tokens are looked up by them too.
	searchesAtOnce  = 4
	accountSearches = 2

	searchTimeout = 30 * time.Second
)

// searches keep lists that may have to look at every pin of an account from taking all connections.
type searches struct {
	all *Turns

	mu sync.Mutex
	of map[Account]*searcher
}

// A searcher is an account that searches or waits to.
type searcher struct {
	seats chan struct{}
	users int
}

func newSearches() *searches {
	return &searches{all: newTurns(searchesAtOnce), of: make(map[Account]*searcher)}
}

// do calls f when there is room for another search of an account. The error of waiting is the cause of ctx.
func (s *searches) do(ctx context.Context, account Account, f func() error) error {
	s.mu.Lock()
	a := s.of[account]
	if a == nil {
		a = &searcher{seats: make(chan struct{}, accountSearches)}
		s.of[account] = a
	}
	a.users++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if a.users--; a.users == 0 {
			delete(s.of, account)
		}
	}()
	select {
	case a.seats <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-a.seats }()
	return s.all.Do(ctx, account, f)
}
