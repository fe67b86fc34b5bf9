package main

import (
	"runtime"
	"testing"
)

// How many threads run belongs to the process, so that this test runs alone.
func TestThreadsAreSpreadUnlessProcessorsAreLimited(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	for _, c := range []struct{ set, want int }{
		{runtime.NumCPU(), max(runtime.NumCPU(), leastThreads)},
		{runtime.NumCPU() + 1, runtime.NumCPU() + 1},
		{max(1, runtime.NumCPU()-1), max(1, runtime.NumCPU()-1)},
	} {
		if runtime.NumCPU() == 1 && c.set == 1 && c.want == 1 {
			continue // no limit below all of them
		}
		runtime.GOMAXPROCS(c.set)
		spreadThreads()
		if got := runtime.GOMAXPROCS(0); got != c.want {
			t.Errorf("%d threads on %d processors become %d; want %d", c.set, runtime.NumCPU(), got, c.want)
		}
	}
}
