package hold

import (
	"context"
	"errors"
	"sync"
)

// errPaused ends a walk that has to make room for the collector.
var errPaused = errors.New("paused for the collector")

// A gate lets walks in until it is closed for a collection.
type gate struct {
	mu     sync.Mutex
	opened chan struct{} // nil while open; closed when the gate opens again
	left   chan struct{} // while closed: closed when the last one inside has left
	inside map[*visitor]struct{}
}

type visitor struct{ cancel context.CancelCauseFunc }

// enter waits until the gate is open. The context it returns ends with errPaused when the gate closes; leave must be
// called once.
func (g *gate) enter(ctx context.Context) (inner context.Context, leave func(), err error) {
	for {
		g.mu.Lock()
		if g.opened == nil {
			break
		}
		opened := g.opened
		g.mu.Unlock()
		select {
		case <-opened:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
	defer g.mu.Unlock()
	inner, cancel := context.WithCancelCause(ctx)
	v := &visitor{cancel}
	if g.inside == nil {
		g.inside = make(map[*visitor]struct{})
	}
	g.inside[v] = struct{}{}
	return inner, func() { cancel(nil); g.leave(v) }, nil
}

func (g *gate) leave(v *visitor) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.inside, v)
	if len(g.inside) == 0 && g.left != nil {
		close(g.left)
		g.left = nil
	}
}

// shut closes the gate, sends everyone inside out and waits until they have gone. The gate stays closed until open is
// called, unless shut fails.
func (g *gate) shut(ctx context.Context) (open func(), err error) {
	for {
		g.mu.Lock()
		if g.opened == nil {
			break
		}
		opened := g.opened // another collection runs
		g.mu.Unlock()
		select {
		case <-opened:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	g.opened = make(chan struct{})
	left := make(chan struct{})
	if len(g.inside) == 0 {
		close(left)
	} else {
		g.left = left
	}
	for v := range g.inside {
		v.cancel(errPaused)
	}
	g.mu.Unlock()
	select {
	case <-left:
		return g.open, nil
	case <-ctx.Done():
		g.open()
		return nil, context.Cause(ctx)
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.opened)
	g.opened, g.left = nil, nil
}
