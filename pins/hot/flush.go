package hot

import (
	"context"
	"sync"
)

// A flusher makes pins durable together: while one flush runs, everyone who pins waits for the next, which one of
// them runs for all. A pin costs two syncs of the disk, or a share of them.
type flusher struct {
	flush func(context.Context) error

	mu      sync.Mutex
	next    *flush // who waits for the flush after the running one; nil if no one does
	running bool
}

type flush struct {
	done chan struct{}
	err  error
}

// wait returns when a flush that began after the call is over. When ctx ends first it returns the cause; the flush
// goes on.
func (f *flusher) wait(ctx context.Context) error {
	f.mu.Lock()
	if f.next == nil {
		f.next = &flush{done: make(chan struct{})}
	}
	mine := f.next
	if !f.running {
		f.running = true
		go f.run(context.WithoutCancel(ctx))
	}
	f.mu.Unlock()
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *flusher) run(ctx context.Context) {
	for {
		f.mu.Lock()
		batch := f.next
		f.next = nil
		if batch == nil {
			f.running = false
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		batch.err = f.flush(ctx)
		close(batch.done)
	}
}
