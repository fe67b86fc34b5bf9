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
// work on one read: they share the turn.
type Effort struct {
	turns *Turns
	who   any // the reader

	mu      sync.Mutex
	nodes   int
	bytes   int
	afar    int // steps that wait for a block from afar
	waiting bool
	working bool // it has the turn
	away    bool // a turn would be kept while the reader takes what it is given
	ended   bool // there will be nobody to give a turn back
}

// NewEffort is the effort of a read that begins. Who is comparable.
func NewEffort(turns *Turns, who any) *Effort { return &Effort{turns: turns, who: who} }

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

// giveBack gives the turn back, if there is one. e.mu is held.
func (e *Effort) giveBack() {
	if e.working {
		e.turns.Give()
	}
	e.working = false
}

// A Step is the reading of one block. Nil is that of what is no read, which takes no turns.
type Step struct {
	effort *Effort
	afar   bool
	done   bool
}

// Step begins a step, out of turn. Done ends it.
func (e *Effort) Step() *Step {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.giveBack()
	return &Step{effort: e}
}

type stepKey struct{}

// WithStep says in a context which step reading a block is.
func WithStep(ctx context.Context, s *Step) context.Context {
	return context.WithValue(ctx, stepKey{}, s)
}

// StepOf returns what WithStep has said; nil for nothing.
func StepOf(ctx context.Context) *Step {
	s, _ := ctx.Value(stepKey{}).(*Step)
	return s
}

// Work takes a turn, if the read has had many nodes. It is kept until the read takes another step, gives its reader
// something, or waits for what is afar. Where turns are very slow to come, a step is done without one in the end. The error
// is the cause of ctx.
func (s *Step) Work(ctx context.Context) error {
	if s == nil {
		return nil
	}
	return s.effort.work(ctx, func() bool { return s.done })
}

// GoOn takes a turn as Work does, for a read that has given its reader something and composes more of what it has.
func (e *Effort) GoOn(ctx context.Context) error {
	return e.work(ctx, func() bool { return e.afar > 0 })
}

// work takes a turn unless over says that it would not be given back, which is asked with e.mu held.
func (e *Effort) work(ctx context.Context, over func() bool) error {
	e.mu.Lock()
	enough := e.nodes <= fewNodes && e.bytes <= fewBytes || e.waiting || e.working || over()
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
	if e.ended || e.away || ctx.Err() != nil || over() {
		e.giveBack() // one step is done without it
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Node counts the block as a node of so many bytes, which is decoded next.
func (s *Step) Node(bytes int) {
	e := s.effort
	e.mu.Lock()
	defer e.mu.Unlock()
	e.nodes++
	e.bytes += bytes
}

// Afar gives the turn back: the block is not here, and is waited for.
func (s *Step) Afar() {
	if s == nil {
		return
	}
	e := s.effort
	e.mu.Lock()
	defer e.mu.Unlock()
	e.giveBack()
	if !s.afar && !s.done {
		s.afar = true
		e.afar++
	}
}

// Done ends the step. The turn is kept for what the read does with the block, unless that may be to wait for another one
// from afar: storing what comes from there takes a turn itself.
func (s *Step) Done() {
	e := s.effort
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.done = true; s.afar {
		e.afar--
	}
	if e.afar > 0 {
		e.giveBack()
	}
}
