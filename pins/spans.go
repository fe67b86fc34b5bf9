package pins

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// spanSizes are the bounds of spans of names.
type spanSizes struct {
	pins    int   // of one span
	outside int64 // pins outside of all spans, up to which a search uses them
}

var usualSpans = spanSizes{pins: 4096, outside: 20_000}

// A span has the names of pins that follow each other in an account.
type span struct {
	firstMS, lastMS int64
	n               int // pins, with and without a name

	// The pins with a name, in order: by how much the created time of each is higher than that of the one before, and the
	// names as they are and without case, each with nameEnd behind it.
	created, exact, folded []byte
	namedMS                int64 // the highest of created
}

// nameEnd is a byte that is in no text.
const nameEnd = 0xFF

// add appends a pin, which was created after those before.
func (s *span) add(createdMS int64, name, folded *string) {
	if s.n == 0 {
		s.firstMS = createdMS
	}
	s.lastMS = createdMS
	s.n++
	if name == nil {
		return
	}
	s.created = binary.AppendUvarint(s.created, uint64(createdMS-s.namedMS)) //nolint:gosec // it only grows
	s.namedMS = createdMS
	s.exact = append(append(s.exact, *name...), nameEnd)
	s.folded = append(append(s.folded, *folded...), nameEnd)
}

// namesWith calls found with the place of each name that has part in it.
func namesWith(names, part []byte, found func(place int)) {
	place, counted := 0, 0 // the number of names before counted
	for from := 0; from < len(names); {
		at := bytes.Index(names[from:], part)
		if at < 0 {
			return
		}
		at += from
		length := bytes.IndexByte(names[at:], nameEnd)
		if length < 0 {
			return
		}
		place += bytes.Count(names[counted:at], []byte{nameEnd})
		found(place)
		from = at + length + 1
		place, counted = place+1, from
	}
}

var errDamagedSpan = errors.New("a span of names is damaged")

// createdAt returns the created times of the names at places, which are in order.
func createdAt(created []byte, places []int) ([]int64, error) {
	out := make([]int64, 0, len(places))
	var ms int64
	for place := 0; len(out) < len(places); place++ {
		step, n := binary.Uvarint(created)
		if n <= 0 {
			return nil, errDamagedSpan
		}
		created = created[n:]
		ms += int64(step) //nolint:gosec // as add wrote it
		if place == places[len(out)] {
			out = append(out, ms)
		}
	}
	return out, nil
}
