package server

import (
	"context"
	"sync"
	"time"
)

// shares bound how much of something each has under way at once, an account as a rule, so that none keeps others out.
type shares[K comparable] struct {
	most int // of one

	mu sync.Mutex
	of map[K]*share
}

type share struct {
	taken  chan struct{} // one for each that is under way
	askers int           // who hold one or wait for one; without them it is forgotten
}

func newShares[K comparable](most int) *shares[K] {
	return &shares[K]{most: most, of: make(map[K]*share)}
}

// enter takes a place of the key's, if one is free; leave gives it back.
func (s *shares[K]) enter(key K) (leave func(), ok bool) {
	return s.await(context.Background(), key, 0)
}

// await waits for a place, at most for so long. ok is false when none came.
func (s *shares[K]) await(ctx context.Context, key K, wait time.Duration) (leave func(), ok bool) {
	s.mu.Lock()
	own := s.of[key]
	if own == nil {
		own = &share{taken: make(chan struct{}, s.most)}
		s.of[key] = own
	}
	own.askers++
	s.mu.Unlock()
	forget := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if own.askers--; own.askers == 0 {
			delete(s.of, key)
		}
	}
	if !own.take(ctx, wait) {
		forget()
		return nil, false
	}
	return func() { <-own.taken; forget() }, true
}

func (s *share) take(ctx context.Context, wait time.Duration) bool {
	select {
	case s.taken <- struct{}{}:
		return true
	default:
	}
	if wait <= 0 {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case s.taken <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}
