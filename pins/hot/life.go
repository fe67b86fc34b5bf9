package hot

import (
	"context"
	"sync"

	"github.com/frostpin/frostpin/pins"
)

// A life lets calls in until it ends, and ends those that are in.
type life struct {
	mu    sync.Mutex
	over  bool
	calls sync.WaitGroup
	ctx   context.Context
	stop  context.CancelFunc
}

func newLife() *life {
	l := new(life)
	l.ctx, l.stop = context.WithCancel(context.Background())
	return l
}

// begin returns a context that also ends with the life; done must be called.
func (l *life) begin(ctx context.Context) (inner context.Context, done func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return nil, nil, pins.ErrUnavailable
	}
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	l.calls.Add(1)
	inner, cancel := context.WithCancelCause(ctx)
	forget := context.AfterFunc(l.ctx, func() { cancel(pins.ErrUnavailable) })
	return inner, func() { forget(); cancel(nil); l.calls.Done() }, nil
}

// visit is begin for a call so short that nothing needs to end it.
func (l *life) visit() (done func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return nil, false
	}
	l.calls.Add(1)
	return l.calls.Done, true
}

// end waits until all calls have returned and then, the first time, calls f.
func (l *life) end(f func() error) error {
	l.mu.Lock()
	again := l.over
	l.over = true
	l.mu.Unlock()
	l.stop()
	l.calls.Wait()
	if again {
		return nil
	}
	return f()
}
