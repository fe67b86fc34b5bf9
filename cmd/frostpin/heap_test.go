package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

func TestSmallHeapsAreCollectedLessOften(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{
		{0, 200}, {1 << 20, 400}, {32 << 20, 400}, {40 << 20, 300}, {50 << 20, 220}, {64 << 20, 200}, {8 << 30, 200},
	} {
		if got := gcPercent(c.live); got != c.want {
			t.Errorf("a heap of %d MiB is let grow by %d %%; want %d", c.live>>20, got, c.want)
		}
	}
}

// The percentage belongs to the process, so that this test runs alone.
func TestHeapIsTunedAfterEachCollection(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	tuner := tuneHeap()
	defer tuner.stop()
	set := func() int {
		sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(sample)
		return int(sample[0].Value.Uint64()) //nolint:gosec // a percentage
	}
	becomes := func(want func(percent int) bool) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for !want(set()) {
			runtime.GC()
			select {
			case <-deadline:
				t.Fatalf("the percentage stays at %d", set())
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	becomes(func(percent int) bool { return percent > 200 })
	large := make([]byte, heapRoom)
	becomes(func(percent int) bool { return percent == 200 })
	runtime.KeepAlive(large)
	becomes(func(percent int) bool { return percent > 200 })
	tuner.stop()
	if got := set(); got != 100 {
		t.Errorf("after it was stopped the percentage is %d; it was 100", got)
	}
}
