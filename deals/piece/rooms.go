package piece

import (
	"context"
	"sync"
)

// Rooms let callers with the same key wait for one run of a function instead of running it each. The run goes on while
// anyone waits for it, whoever came first, and is cancelled when nobody does.
type rooms struct {
	mu   sync.Mutex
	open map[string]*room
}

type room struct {
	waiting int
	cancel  context.CancelFunc
	done    chan struct{}
	err     error
}

// do runs f, or waits for the one that runs under this key.
func (r *rooms) do(ctx context.Context, key string, f func(context.Context) error) error {
	r.mu.Lock()
	in := r.open[key]
	if in == nil {
		run, cancel := context.WithCancel(context.WithoutCancel(ctx))
		in = &room{cancel: cancel, done: make(chan struct{})}
		if r.open == nil {
			r.open = make(map[string]*room)
		}
		r.open[key] = in
		go func() {
			in.err = Calm(func() error { return f(run) })
			cancel()
			r.mu.Lock()
			if r.open[key] == in {
				delete(r.open, key)
			}
			r.mu.Unlock()
			close(in.done)
		}()
	}
	in.waiting++
	r.mu.Unlock()

	select {
	case <-in.done:
		return in.err
	case <-ctx.Done():
	}
	r.mu.Lock()
	in.waiting--
	last := in.waiting == 0
	if last && r.open[key] == in {
		delete(r.open, key) // who comes now must not wait for a run that was cancelled
	}
	r.mu.Unlock()
	if last {
		in.cancel()
		<-in.done
	}
	return context.Cause(ctx)
}
