package deals

import (
	"math/rand/v2"
	"sync"
)

// A lane bounds how much is worked on at once, in all and with each provider, and keeps two workers from the same row.
type lane[K comparable] struct {
	state *laneState[K]
}

type laneState[K comparable] struct {
	mu       sync.Mutex
	all      int
	each     int
	running  map[K]struct{}
	provider map[ProviderID]int
}

func newLane[K comparable](all, each int) lane[K] {
	return lane[K]{&laneState[K]{all: all, each: each, running: map[K]struct{}{}, provider: map[ProviderID]int{}}}
}

// enter takes a place for a row; false when there is none, or somebody works on it.
func (l lane[K]) enter(k K, p ProviderID) bool {
	s := l.state
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, busy := s.running[k]; busy || len(s.running) >= s.all || s.provider[p] >= s.each {
		return false
	}
	s.running[k] = struct{}{}
	s.provider[p]++
	return true
}

// leave gives it back.
func (l lane[K]) leave(k K, p ProviderID) {
	s := l.state
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, k)
	if s.provider[p]--; s.provider[p] <= 0 {
		delete(s.provider, p)
	}
}

// full names the providers with whom no more can be done, and size is how many rows are worked on.
func (l lane[K]) full() (providers []ProviderID, size int) {
	s := l.state
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, n := range s.provider {
		if n >= s.each {
			providers = append(providers, p)
		}
	}
	return providers, len(s.running)
}

// newRand decides between equal providers.
func newRand() *rand.Rand {
	return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) //nolint:gosec // a choice, not a secret
}
