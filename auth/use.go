package auth

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Run writes down, once a minute and at the end, when tokens were used last, until ctx ends. What could not be written is
// tried again a minute later; what could not be at the end is lost.
func (s *Service) Run(ctx context.Context) {
	ticker := time.NewTicker(usesEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			_ = s.writeUses(ctx)
		case <-ctx.Done():
			last, done := context.WithTimeout(context.WithoutCancel(ctx), usesAtEnd)
			defer done()
			_ = s.writeUses(last)
			return
		}
	}
}

const (
	usesEvery = time.Minute
	usesAtEnd = 2 * time.Second // the server is stopping
	usesBatch = 500             // tokens in one transaction: others write too
)

// uses are the tokens that were used since the last time they were written down, with when. A request only leaves its
// time here, and only when its token was looked up, so twice a second at most.
type uses struct {
	mu sync.Mutex
	at map[string]int64 // Unix milliseconds
}

func (u *uses) note(id string, at time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.at == nil {
		u.at = make(map[string]int64)
	}
	u.at[id] = max(u.at[id], at.UnixMilli())
}

func (u *uses) take() map[string]int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	taken := u.at
	u.at = nil
	return taken
}

func (s *Service) writeUses(ctx context.Context) error {
	taken := s.uses.take()
	ids := slices.Sorted(maps.Keys(taken)) // in one order, because the rows are locked
	for batch := range slices.Chunk(ids, usesBatch) {
		if err := s.updateUses(ctx, batch, taken); err != nil {
			for id, at := range taken {
				s.uses.note(id, time.UnixMilli(at))
			}
			return err
		}
	}
	return nil
}
