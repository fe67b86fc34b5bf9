package piece

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"sync"

	"github.com/ipfs/go-cid"
)

const (
	fetchers  = 8       // blocks that one line asks for at once
	queued    = 256     // blocks that may stand in a line, however small
	aheadWalk = 2 << 20 // bytes in a line of Build
	aheadRead = 4 << 20 // and of a Reader: many of them run at once
	firstRead = 512 << 10
	guessSize = 256 << 10 // a block is taken to be as large as this until larger ones have come
)

// A line fetches blocks ahead of their use, so that a store that answers slowly, or a network on the way to it, does
// not set the pace. One goroutine (fill) says which blocks, in order; another (next) takes them, in that order.
type line struct {
	ctx     context.Context
	cancel  context.CancelFunc
	blocks  Blocks
	slots   chan struct{}
	queue   chan *fetch
	freed   chan struct{} // there may be room again
	running sync.WaitGroup
	taken   *fetch // what next returned last

	mu      sync.Mutex
	used    int64 // bytes in the line
	limit   int64 // of used
	most    int64 // what limit grows to
	largest int64 // block so far
	err     error // of fill
}

// A fetch is a block on its way.
type fetch struct {
	cid     cid.Cid
	started bool
	done    chan struct{} // closed when data or err is there
	data    []byte
	err     error

	in   bool  // it stands in the line; under line.mu
	cost int64 // bytes that it counts for; under line.mu
}

// newLine returns a line that holds limit bytes at first, and more the more is taken from it, up to most.
func newLine(ctx context.Context, blocks Blocks, limit, most int64) *line {
	ctx, cancel := context.WithCancel(ctx)
	return &line{
		ctx: ctx, cancel: cancel, blocks: blocks,
		slots: make(chan struct{}, fetchers),
		queue: make(chan *fetch, queued),
		freed: make(chan struct{}, 1),
		limit: limit, most: most, largest: guessSize,
	}
}

// fill runs f, which puts blocks into the line. What f returns next returns after the last block; nil is the end.
func (l *line) fill(f func() error) {
	l.running.Go(func() {
		err := Calm(f)
		l.mu.Lock()
		l.err = err
		l.mu.Unlock()
		close(l.queue)
	})
}

// fetch returns a block that nobody has asked for yet. size is -1 where it is not known.
func (l *line) fetch(c cid.Cid, size int64) *fetch {
	l.mu.Lock()
	defer l.mu.Unlock()
	if size < 0 {
		size = l.largest
	}
	return &fetch{cid: c, done: make(chan struct{}), cost: size}
}

// start asks for a block.
func (l *line) start(f *fetch) *fetch {
	f.started = true
	l.running.Go(func() {
		defer close(f.done)
		select {
		case l.slots <- struct{}{}:
		case <-l.ctx.Done():
			f.err = context.Cause(l.ctx)
			return
		}
		f.err = Calm(func() (err error) {
			f.data, err = l.blocks.Block(l.ctx, f.cid)
			return err
		})
		<-l.slots
		l.arrived(f, int64(len(f.data)))
	})
	return f
}

func (l *line) arrived(f *fetch, size int64) {
	l.mu.Lock()
	l.largest = max(l.largest, size)
	if f.in {
		l.used += size - f.cost
	}
	f.cost = size
	l.mu.Unlock()
	l.wake()
}

// put appends a block to the line when there is room for it, and asks for it then unless that was done before.
func (l *line) put(f *fetch) error {
	for !l.reserve(f) {
		select {
		case <-l.freed:
		case <-l.ctx.Done():
			return context.Cause(l.ctx)
		}
	}
	if !f.started {
		l.start(f)
	}
	select {
	case l.queue <- f:
		return nil
	case <-l.ctx.Done():
		return context.Cause(l.ctx)
	}
}

// reserve lets a block into an empty line however large it is.
func (l *line) reserve(f *fetch) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.used > 0 && l.used+f.cost > l.limit {
		return false
	}
	l.used += f.cost
	f.in = true
	return true
}

func (l *line) wake() {
	select {
	case l.freed <- struct{}{}:
	default:
	}
}

// next returns the next block, until io.EOF. The one before it leaves the line.
func (l *line) next() (*fetch, error) {
	l.mu.Lock()
	if l.taken != nil {
		l.used -= l.taken.cost
		l.limit = min(l.limit+2*l.taken.cost, l.most)
		l.taken = nil
	}
	l.mu.Unlock()
	l.wake()
	f, more := <-l.queue
	if !more {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.err != nil {
			return nil, l.err
		}
		return nil, io.EOF
	}
	<-f.done
	l.taken = f
	if f.err != nil {
		return nil, fmt.Errorf("reading block %s: %w", f.cid, f.err)
	}
	return f, nil
}

// Calm makes a panic an error. Strangers choose the blocks, and the code that decodes them is not ours.
func Calm(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return f()
}

// close ends all fetching and waits for it.
func (l *line) close() {
	l.cancel()
	l.running.Wait()
}
