package hot

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/multiformats/go-multihash"
)

// seenSlots is of how many blocks a seen remembers that they were right: 1 MiB, and 32 GiB of large blocks.
const seenSlots = 1 << 17

// A seen remembers which blocks of a store were hashed and found right since the program began. A store that keeps a
// checksum with its bytes, as pebble does, needs it once: what rots afterwards does not pass the checksum, which is read
// anyway, and hashing takes a quarter of what a hot read costs. Nil remembers nothing. Of two blocks with one place the
// later is remembered.
type seen struct {
	seed  maphash.Seed
	slots []atomic.Uint64 // 0: none
}

func newSeen() *seen { return &seen{seed: maphash.MakeSeed(), slots: make([]atomic.Uint64, seenSlots)} }

func (s *seen) place(hash multihash.Multihash) (slot *atomic.Uint64, mark uint64) {
	mark = maphash.Bytes(s.seed, hash)
	return &s.slots[mark%seenSlots], mark | 1
}

func (s *seen) has(hash multihash.Multihash) bool {
	if s == nil {
		return false
	}
	slot, mark := s.place(hash)
	return slot.Load() == mark
}

func (s *seen) add(hash multihash.Multihash) {
	if s == nil {
		return
	}
	slot, mark := s.place(hash)
	slot.Store(mark)
}

func (s *seen) forget(hash multihash.Multihash) {
	if s == nil {
		return
	}
	slot, mark := s.place(hash)
	slot.CompareAndSwap(mark, 0)
}
