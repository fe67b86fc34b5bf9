package server

import (
	"context"
	"sync"
	"time"
)

// turns bounds how much of something each account has under way at once, so that none of them keeps others out.
type turns struct {
	most int // of one account

	mu sync.Mutex
	of map[int64]*accountTurns
}

type accountTurns struct {
	taken  chan struct{} // one for each that is under way
	askers int           // who hold one or wait for one; without them the account is forgotten
}

func newTurns(most int) *turns { return &turns{most: most, of: map[int64]*accountTurns{}} }

// take waits until the account has a turn, at most for so long; end gives it back. ok is false when none came.
func (t *turns) take(ctx context.Context, account int64, wait time.Duration) (end func(), ok bool) {
	t.mu.Lock()
	own := t.of[account]
	if own == nil {
		own = &accountTurns{taken: make(chan struct{}, t.most)}
		t.of[account] = own
	}
	own.askers++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if own.askers--; own.askers == 0 {
			delete(t.of, account)
		}
	}
	if !own.take(ctx, wait) {
		leave()
		return nil, false
	}
	return func() { <-own.taken; leave() }, true
}

func (a *accountTurns) take(ctx context.Context, wait time.Duration) bool {
	select {
	case a.taken <- struct{}{}:
		return true
	default:
	}
	if wait <= 0 {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case a.taken <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}
