package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// Bounds of how far the heap may grow before garbage is collected.
const (
	heapRoom       = 160 << 20 // bytes: a smaller heap is let grow to this
	leastGCPercent = 200       // twice what is in use is little here
	mostGCPercent  = 400
)

// A heapTuner sets the garbage collector's percentage after each collection: a server with little in use would otherwise
// collect several times a second under load, and one with much in use must not take five times as much.
type heapTuner struct {
	mu      sync.Mutex
	stopped bool
	before  int
	percent int
}

// tuneHeap begins to tune, where the operator has not decided with GOGC. The caller stops it.
func tuneHeap() *heapTuner {
	t := new(heapTuner)
	t.percent = gcPercent(liveHeap())
	t.before = debug.SetGCPercent(t.percent)
	t.arm()
	return t
}

// stop puts back what was set before.
func (t *heapTuner) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.stopped {
		debug.SetGCPercent(t.before)
	}
	t.stopped = true
}

// arm lets the next collection find garbage that tells of it.
func (t *heapTuner) arm() {
	type sentinel struct{ _ [4]*byte }
	runtime.AddCleanup(new(sentinel), func(t *heapTuner) {
		if t.adjust() {
			t.arm()
		}
	}, t)
}

// adjust reports whether there is a next time.
func (t *heapTuner) adjust() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if percent := gcPercent(liveHeap()); percent != t.percent && !t.stopped {
		t.percent = percent
		debug.SetGCPercent(percent)
	}
	return !t.stopped
}

// liveHeap is what the last collection left, in bytes.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// gcPercent is by how much a heap of live bytes may grow, in steps of ten so that it is not set anew each time.
func gcPercent(live uint64) int {
	if live == 0 || live >= heapRoom {
		return leastGCPercent
	}
	percent := int(100*heapRoom/live) - 100
	return min(max(percent/10*10, leastGCPercent), mostGCPercent)
}
