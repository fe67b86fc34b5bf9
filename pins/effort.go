package pins

import (
	"context"
	"sync"
	"time"
)

// A read takes turns with others after this many nodes, or nodes of this many bytes: more than a page or a film needs.
const (
	fewNodes = 32
	fewBytes = 256 << 10
)

// maxWait is how long a step waits for a turn. What is looked for on the disk longer than the time of a hot read would be
// looked for with providers.
const maxWait = time.Second

// An Effort is what one read asks of the processors. Once that is much, it has to be its reader's turn while blocks are read
// from the disk and worked on; no turn is kept while a block from afar or the reader is waited for. Several goroutines can
// work on one read: they share the turn. Nil is the effort of what is no read, which takes no turns.
type Effort struct {
	turns *Turns
	who   any // the reader

	mu      sync.Mutex
	nodes   int
	bytes   int
	waiting bool
	working bool // it has the turn
	away    bool // a turn would be kept while the reader takes what it is given
	ended   bool // there will be nobody to give a turn back
}

// NewEffort is the effort of a read that begins. Who is comparable.
func NewEffort(turns *Turns, who any) *Effort { return &Effort{turns: turns, who: who} }

type effortKey struct{}

// WithEffort says in a context whose effort reading blocks is.
func WithEffort(ctx context.Context, e *Effort) context.Context {
	return context.WithValue(ctx, effortKey{}, e)
}

// EffortOf returns what WithEffort has said; nil for nothing.
func EffortOf(ctx context.Context) *Effort {
	e, _ := ctx.Value(effortKey{}).(*Effort)
	return e
}

// Node counts a node of so many bytes that is to be decoded.
func (e *Effort) Node(bytes int) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.nodes++
	e.bytes += bytes
}

// Work takes a turn and keeps it until Rest, if the read has had many nodes. Where turns are very slow to come, a step is
// done without one in the end. The error is the cause of ctx.
func (e *Effort) Work(ctx context.Context) error {
	if e == nil {
		return nil
	}
	e.mu.Lock()
	enough := e.nodes <= fewNodes && e.bytes <= fewBytes || e.waiting || e.working
	e.waiting = e.waiting || !enough
	e.mu.Unlock()
	if enough {
		return nil
	}
	inTime, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	err := e.turns.Take(inTime, e.who)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting, e.working = false, err == nil
	if e.ended || e.away {
		e.giveBack() // one step is done without it
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Rest gives the turn back, if there is one.
func (e *Effort) Rest() {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.giveBack()
}

// Giving keeps turns from being kept until it is called with false: a read goes on ahead while its reader is given what
// there is, and a reader can be as slow as it likes.
func (e *Effort) Giving(away bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.giveBack()
	e.away = away
}

// End is for a read that was answered: what still goes on for it keeps no turn.
func (e *Effort) End() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
	e.giveBack()
}

// giveBack is Rest. e.mu is held.
func (e *Effort) giveBack() {
	if e.working {
		e.turns.Give()
	}
	e.working = false
}
