package server

import "sync"

// shares keep one from taking all places: each key has so many at once.
type shares[K comparable] struct {
	most int

	mu    sync.Mutex
	taken map[K]int
}

func newShares[K comparable](most int) *shares[K] {
	return &shares[K]{most: most, taken: make(map[K]int)}
}

// enter takes a place, if there is one for the key; leave gives it back.
func (s *shares[K]) enter(key K) (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[key] >= s.most {
		return nil, false
	}
	s.taken[key]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.taken[key]--; s.taken[key] == 0 {
			delete(s.taken, key)
		}
	}, true
}
