package piece

import "time"

// SetLinger changes how long a walk goes on for which nobody waits.
func SetLinger(s *Store, d time.Duration) { s.rooms.linger = d }

// Waiting counts those who wait for a layout that is being made.
func Waiting(s *Store) int {
	s.rooms.mu.Lock()
	defer s.rooms.mu.Unlock()
	n := 0
	for _, in := range s.rooms.open {
		n += in.waiting
	}
	return n
}
