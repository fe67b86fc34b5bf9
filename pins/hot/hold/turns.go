package hold

import (
	"context"
	"runtime"
	"sync"

	"github.com/frostpin/frostpin/pins"
)

// Turns keep those who store and walk from taking all processors: half of them work at a time, for one account after the
// other, so that whoever has little to do waits for one step of each of the others and not for all they want.
type Turns struct {
	mu     sync.Mutex
	free   int
	queues map[pins.Account][]chan struct{}
	order  []pins.Account // with a queue, the next first
}

// NewTurns returns Turns for the processors of this process.
func NewTurns() *Turns {
	return &Turns{free: max(1, runtime.GOMAXPROCS(0)/2), queues: make(map[pins.Account][]chan struct{})}
}

// Do calls f when it is the turn of the account of ctx. f must not wait for anything but the processor and the disk, and
// must not call Do.
func (t *Turns) Do(ctx context.Context, f func() error) error {
	if t == nil {
		return f()
	}
	if err := t.take(ctx); err != nil {
		return err
	}
	defer t.give()
	return f()
}

func (t *Turns) take(ctx context.Context) error {
	a := pins.BehalfOf(ctx)
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	if len(t.queues[a]) == 0 {
		t.order = append(t.order, a)
	}
	t.queues[a] = append(t.queues[a], mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-mine: // it has come in the same moment
		t.pass()
	default:
		t.leave(a, mine)
	}
	return context.Cause(ctx)
}

func (t *Turns) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pass()
}

// pass gives a turn to the next account. t.mu is held.
func (t *Turns) pass() {
	if len(t.order) == 0 {
		t.free++
		return
	}
	a := t.order[0]
	next := t.queues[a][0]
	t.order = t.order[1:]
	if t.queues[a] = t.queues[a][1:]; len(t.queues[a]) == 0 {
		delete(t.queues, a)
	} else {
		t.order = append(t.order, a)
	}
	close(next)
}

// leave forgets one who waits. t.mu is held.
func (t *Turns) leave(a pins.Account, mine chan struct{}) {
	for i, other := range t.queues[a] {
		if other == mine {
			t.queues[a] = append(t.queues[a][:i], t.queues[a][i+1:]...)
			break
		}
	}
	if len(t.queues[a]) > 0 {
		return
	}
	delete(t.queues, a)
	for i, other := range t.order {
		if other == a {
			t.order = append(t.order[:i], t.order[i+1:]...)
			return
		}
	}
}
