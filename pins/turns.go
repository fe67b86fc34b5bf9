package pins

import (
	"context"
	"runtime"
	"slices"
	"sync"
)

type behalfKey struct{}

// OnBehalf says in a context for whom something is done, so that a tier can be fair to accounts.
func OnBehalf(ctx context.Context, a Account) context.Context {
	return context.WithValue(ctx, behalfKey{}, a)
}

// BehalfOf returns what OnBehalf has said; zero for nobody.
func BehalfOf(ctx context.Context) Account {
	a, _ := ctx.Value(behalfKey{}).(Account)
	return a
}

// Turns keep long work, such as storing, walking and decoding, from taking all processors: half of them do it at a time,
// for one who wants it after the other, so that whoever has little to do waits for one step of each of the others and not
// for all they want. Nil lets everybody go on at once.
type Turns struct {
	mu     sync.Mutex
	free   int
	queues map[any][]chan struct{}
	order  []any // who has a queue, the next first
}

// NewTurns returns Turns for the processors of this process.
func NewTurns() *Turns { return newTurns(max(1, min(runtime.NumCPU(), runtime.GOMAXPROCS(0))/2)) }

func newTurns(free int) *Turns { return &Turns{free: free, queues: make(map[any][]chan struct{})} }

// Do calls f when it is the turn of who, which is comparable. f should be short, wait for nothing but the processor and
// the disk, and must not take another turn.
func (t *Turns) Do(ctx context.Context, who any, f func() error) error {
	if err := t.Take(ctx, who); err != nil {
		return err
	}
	defer t.Give()
	return f()
}

// Take waits for the turn of who; Give ends it. The error is the cause of ctx.
func (t *Turns) Take(ctx context.Context, who any) error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	if len(t.queues[who]) == 0 {
		t.order = append(t.order, who)
	}
	t.queues[who] = append(t.queues[who], mine)
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
		t.leave(who, mine)
	}
	return context.Cause(ctx)
}

// Give ends a turn.
func (t *Turns) Give() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pass()
}

// pass gives a turn to the next in order. t.mu is held.
func (t *Turns) pass() {
	if len(t.order) == 0 {
		t.free++
		return
	}
	who := t.order[0]
	next := t.queues[who][0]
	t.order = t.order[1:]
	if t.queues[who] = t.queues[who][1:]; len(t.queues[who]) == 0 {
		delete(t.queues, who)
	} else {
		t.order = append(t.order, who)
	}
	close(next)
}

// leave forgets one who waits. t.mu is held.
func (t *Turns) leave(who any, mine chan struct{}) {
	queue := slices.DeleteFunc(t.queues[who], func(other chan struct{}) bool { return other == mine })
	if len(queue) > 0 {
		t.queues[who] = queue
		return
	}
	delete(t.queues, who)
	t.order = slices.DeleteFunc(t.order, func(other any) bool { return other == who })
}
