package main

import "runtime"

// leastThreads is how many threads run Go code at once, however few processors there are.
const leastThreads = 4

// spreadThreads lets more threads run Go code than a small machine has processors. Go lets a goroutine that computes keep
// its thread for ten milliseconds, and a request that has little to do waits for it at each of its steps; the system
// shares processors among threads much finer, and favours who has slept. Where the operator or a container's quota has
// limited the processors, that stands.
func spreadThreads() {
	if runtime.GOMAXPROCS(0) == runtime.NumCPU() && runtime.NumCPU() < leastThreads {
		runtime.GOMAXPROCS(leastThreads)
	}
}
