package hot

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errTurnOver ends a turn that others wait for.
var errTurnOver = errors.New("the turn is over")

// slots lets a number of requests be on their way at once, first come first served. A request that gets no answer
// gives its slot back when its time is over and someone waits, and joins the end of the line: each request that waits
// holds a socket on both sides (H20), so there are few, and no one may keep them from the others.
type slots struct {
	turn time.Duration

	mu    sync.Mutex
	free  int
	queue []chan struct{}
}

func newSlots(n int, turn time.Duration) *slots { return &slots{free: n, turn: turn} }

// do calls f in a slot, as often as it takes, until it answers in time or ctx ends.
func (s *slots) do(ctx context.Context, f func(context.Context) error) error {
	for {
		if err := s.acquire(ctx); err != nil {
			return err
		}
		err := s.once(ctx, f)
		s.release()
		if !errors.Is(err, errTurnOver) {
			return err
		}
	}
}

// once calls f and ends its context when the turn is over.
func (s *slots) once(ctx context.Context, f func(context.Context) error) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	tick := time.NewTicker(s.turn)
	defer tick.Stop()
	left := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-left:
				return
			case <-tick.C:
				if s.wanted() {
					cancel(errTurnOver)
					return
				}
			}
		}
	})
	err := f(inner)
	close(left)
	watching.Wait()
	if err != nil && errors.Is(context.Cause(inner), errTurnOver) {
		return errTurnOver
	}
	return err
}

func (s *slots) wanted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) > 0
}

func (s *slots) acquire(ctx context.Context) error {
	s.mu.Lock()
	if s.free > 0 {
		s.free--
		s.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	s.queue = append(s.queue, mine)
	s.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for i, waiting := range s.queue {
		if waiting == mine {
			s.queue = append(s.queue[:i], s.queue[i+1:]...)
			s.mu.Unlock()
			return context.Cause(ctx)
		}
	}
	s.mu.Unlock()
	s.release() // it came at the same moment
	return context.Cause(ctx)
}

func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		s.free++
		return
	}
	close(s.queue[0])
	s.queue = s.queue[1:]
}
