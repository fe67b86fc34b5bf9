package server

import (
	"context"
	"sync"

	"github.com/frostpin/frostpin/pins"
)

// fewNodes is how many nodes a read may decode before it takes turns with others: more than a page or a film needs.
const fewNodes = 32

// An effort is what one read asks of the processors. Once that is much, it has to be its reader's turn while boxo works on
// the nodes that it was given; no turn is kept while a block or the reader is waited for. boxo works on one read with
// several goroutines, which share the turn.
type effort struct {
	turns *pins.Turns
	who   any // the reader

	mu      sync.Mutex
	nodes   int
	waiting bool
	working bool // it has the turn
	away    bool // a turn would be kept while the reader takes what it is given
	ended   bool // there will be nobody to give a turn back
}

// work takes a turn for a node, if the read has had many. The error is the cause of ctx.
func (e *effort) work(ctx context.Context) error {
	e.mu.Lock()
	e.nodes++
	enough := e.nodes <= fewNodes || e.waiting || e.working
	e.waiting = e.waiting || !enough
	e.mu.Unlock()
	if enough {
		return nil
	}
	err := e.turns.Take(ctx, e.who)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting, e.working = false, err == nil
	if e.ended || e.away {
		e.giveBack() // one node is decoded without it
	}
	return err
}

// rest gives the turn back, if there is one.
func (e *effort) rest() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.giveBack()
}

// giving keeps turns from being kept until it is called with false: others of boxo's goroutines read ahead meanwhile, and a
// reader can be as slow as it likes.
func (e *effort) giving(away bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.giveBack()
	e.away = away
}

// end is for a read that was answered: what boxo's goroutines do after it keeps no turn.
func (e *effort) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
	e.giveBack()
}

// giveBack is rest. e.mu is held.
func (e *effort) giveBack() {
	if e.working {
		e.turns.Give()
	}
	e.working = false
}
