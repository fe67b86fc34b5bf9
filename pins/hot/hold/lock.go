package hold

import (
	"context"
	"sync"

	"github.com/ipfs/go-cid"
)

// locks hold one lock per CID while someone wants it.
type locks struct {
	mu   sync.Mutex
	byID map[cid.Cid]*lock
}

type lock struct {
	token chan struct{}
	users int
}

func (l *locks) lock(ctx context.Context, c cid.Cid) (unlock func(), err error) {
	l.mu.Lock()
	if l.byID == nil {
		l.byID = make(map[cid.Cid]*lock)
	}
	k := l.byID[c]
	if k == nil {
		k = &lock{token: make(chan struct{}, 1)}
		l.byID[c] = k
	}
	k.users++
	l.mu.Unlock()

	forget := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.users--; k.users == 0 {
			delete(l.byID, c)
		}
	}
	select {
	case k.token <- struct{}{}:
		return func() { <-k.token; forget() }, nil
	case <-ctx.Done():
		forget()
		return nil, context.Cause(ctx)
	}
}
