package piece

import (
	"context"
	"sync"
	"time"
)

const (
	layoutLinger  = time.Hour // how long a walk goes on for nobody: whoever has left comes again
	layoutsAtOnce = 4         // walks: each goes as fast as the disk
)

// Rooms let callers with the same key wait for one run of a function instead of running it each. The run goes on while
// anyone waits for it, whoever came first, and for a while after the last one has left: what takes longer than anybody
// waits would never end otherwise.
type rooms struct {
	linger time.Duration
	slots  chan struct{} // a place for each run

	mu     sync.Mutex
	open   map[string]*room
	closed bool
	runs   sync.WaitGroup
}

type room struct {
	waiting int
	leaving *time.Timer // runs while nobody waits
	cancel  context.CancelCauseFunc
	done    chan struct{}
	err     error
}

func newRooms() rooms {
	return rooms{linger: layoutLinger, slots: make(chan struct{}, layoutsAtOnce), open: make(map[string]*room)}
}

// do runs f, or waits for the one that runs under this key.
func (r *rooms) do(ctx context.Context, key string, f func(context.Context) error) error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return errStoreClosed
	}
	in := r.open[key]
	if in == nil {
		run, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		in = &room{cancel: cancel, done: make(chan struct{})}
		r.open[key] = in
		r.runs.Go(func() { r.run(run, key, in, f) })
	}
	if in.leaving != nil {
		in.leaving.Stop()
		in.leaving = nil
	}
	in.waiting++
	r.mu.Unlock()

	select {
	case <-in.done:
		return in.err
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if in.waiting--; in.waiting == 0 && r.open[key] == in {
		in.leaving = time.AfterFunc(r.linger, func() { r.abandon(key, in) })
	}
	return context.Cause(ctx)
}

// run runs f when there is a place for it.
func (r *rooms) run(ctx context.Context, key string, in *room, f func(context.Context) error) {
	select {
	case r.slots <- struct{}{}:
		in.err = Calm(func() error { return f(ctx) })
		<-r.slots
	case <-ctx.Done():
		in.err = context.Cause(ctx)
	}
	in.cancel(nil)
	r.mu.Lock()
	if r.open[key] == in {
		delete(r.open, key)
	}
	if in.leaving != nil {
		in.leaving.Stop()
	}
	r.mu.Unlock()
	close(in.done)
}

// abandon cancels a run for which nobody has come back.
func (r *rooms) abandon(key string, in *room) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if in.waiting > 0 || r.open[key] != in {
		return
	}
	delete(r.open, key) // who comes now must not wait for a run that was cancelled
	in.cancel(context.Canceled)
}

// close ends all runs, waits until they have ended, and lets none begin.
func (r *rooms) close() {
	r.mu.Lock()
	r.closed = true
	for _, in := range r.open {
		in.cancel(errStoreClosed)
	}
	r.mu.Unlock()
	r.runs.Wait()
}
