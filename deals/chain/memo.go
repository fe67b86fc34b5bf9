package chain

import (
	"context"
	"sync"

	"github.com/filecoin-project/lotus/chain/types"

	"github.com/frostpin/frostpin/deals/piece"
)

// A memo remembers what was learned under one head, and lets those who ask for the same thing wait for one answer.
// The zero value is empty.
type memo struct {
	mu      sync.Mutex
	at      types.TipSetKey
	of      *session
	entries map[any]any
}

// An entry is an answer, or the wait for one.
type entry[V any] struct {
	done chan struct{}
	v    V
	err  error
}

// remember returns what get returned under this head of this connection. Errors are not remembered. get runs until the
// connection ends, whoever of those who wait gives up.
func remember[V any](ctx context.Context, m *memo, s *session, at types.TipSetKey, key any, get func(context.Context) (V, error)) (V, error) {
	m.mu.Lock()
	if m.at != at || m.of != s || m.entries == nil {
		m.at, m.of, m.entries = at, s, make(map[any]any)
	}
	entries := m.entries
	e, ok := entries[key].(*entry[V])
	if !ok {
		e = &entry[V]{done: make(chan struct{})}
		entries[key] = e
		go func() {
			e.err = piece.Calm(func() (err error) { // it says what strangers have written
				e.v, err = get(s.ctx)
				return err
			})
			if e.err != nil {
				m.mu.Lock()
				delete(entries, key)
				m.mu.Unlock()
			}
			close(e.done)
		}()
	}
	m.mu.Unlock()
	select {
	case <-e.done:
		return e.v, e.err
	case <-ctx.Done():
		var zero V
		return zero, context.Cause(ctx)
	}
}
