package hold

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/frostpin/frostpin/pins"
)

// errIdle ends a walk that no blocks reach any more: a fresh session may do better (H4).
var errIdle = errors.New("no block arrived in this session")

// A watch keeps the progress of one Hold over all its attempts and ends those that stand still.
type watch struct {
	limits   pins.Limits
	progress *pins.Progress

	mu        sync.Mutex
	high      int64         // most blocks that any attempt has seen
	published int64         // bytes told to progress
	quiet     time.Duration // quiet time of earlier attempts since the last new block
	visited   time.Time     // when this attempt saw its last block
}

func newWatch(lim pins.Limits, p *pins.Progress) *watch {
	if p == nil {
		p = new(pins.Progress)
	}
	p.Reset()
	return &watch{limits: lim, progress: p}
}

// seen takes the totals of the running attempt. What users see only grows: a restarted walk is told to them when it
// has come further than those before.
func (w *watch) seen(blocks, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.visited = time.Now()
	if blocks <= w.high {
		return
	}
	more := max(bytes-w.published, 0)
	w.progress.Add(blocks-w.high, more)
	w.high, w.published, w.quiet = blocks, w.published+more, 0
}

// finish makes the totals exact.
func (w *watch) finish(t Totals) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.progress.Add(t.Blocks-w.high, t.Bytes-w.published)
	w.high, w.published = t.Blocks, t.Bytes
}

// attempt returns a context for one attempt. It ends with errIdle or pins.ErrStalled when no block was visited for
// too long. stop must be called.
func (w *watch) attempt(ctx context.Context) (inner context.Context, stop func()) {
	inner, cancel := context.WithCancelCause(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.visited = time.Now()
	left, _ := w.patience()
	if left < 0 {
		return inner, func() { cancel(nil) }
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		left, verdict := w.patience()
		if left > 0 {
			timer.Reset(left)
			return
		}
		cancel(verdict)
	})
	return inner, func() {
		timer.Stop()
		cancel(nil)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.quiet += time.Since(w.visited)
	}
}

// patience returns how long the attempt may stay quiet from now on, and what to say when that time is over. It is
// negative where there is no bound.
func (w *watch) patience() (left time.Duration, verdict error) {
	quiet := time.Since(w.visited)
	left = -1
	if w.limits.Idle > 0 {
		left, verdict = max(w.limits.Idle-quiet, 0), errIdle
	}
	if w.limits.Stall > 0 {
		if untilStall := max(w.limits.Stall-w.quiet-quiet, 0); left < 0 || untilStall <= left {
			left, verdict = untilStall, pins.ErrStalled
		}
	}
	return left, verdict
}
