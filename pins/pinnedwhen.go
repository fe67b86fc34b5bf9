package pins

import (
	"errors"
	"strconv"
	"strings"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/spec"
)

// A PinnedWhen says what more than a hot copy it takes for a pin to be `pinned`. The zero value asks for nothing more.
// A pin of which fewer cold copies are wanted than the rule names needs only those.
type PinnedWhen struct {
	proof  proof
	copies int // 0 while proof is none
}

// A proof is what counts as a cold copy.
type proof string

const (
	proofNone     proof = ""         // no cold copies are asked for
	proofAccepted proof = "accepted" // a provider has taken the deal
	proofActive   proof = "active"   // the chain has proven it
)

var errPinnedWhen = errors.New("it is not one of hot, accepted, accepted(N), active, active(N) with N from 1")

// ParsePinnedWhen reads hot, accepted(2) or active(1); without a number it is one copy.
func ParsePinnedWhen(text string) (PinnedWhen, error) {
	word, rest, counted := strings.Cut(strings.TrimSpace(text), "(")
	copies := 1
	if counted {
		digits, closed := strings.CutSuffix(rest, ")")
		n, err := strconv.ParseUint(digits, 10, 16)
		if err != nil || n == 0 || !closed {
			return PinnedWhen{}, errPinnedWhen
		}
		copies = int(n)
	}
	switch p := proof(word); {
	case word == "hot" && !counted:
		return PinnedWhen{}, nil
	case p == proofAccepted, p == proofActive:
		return PinnedWhen{p, copies}, nil
	}
	return PinnedWhen{}, errPinnedWhen
}

// String is the text that ParsePinnedWhen reads.
func (w PinnedWhen) String() string {
	if w.proof == proofNone {
		return "hot"
	}
	return string(w.proof) + "(" + strconv.Itoa(w.copies) + ")"
}

// MarshalText implements encoding.TextMarshaler.
func (w PinnedWhen) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (w *PinnedWhen) UnmarshalText(text []byte) (err error) {
	*w, err = ParsePinnedWhen(string(text))
	return err
}

// hotOnly tells whether cold copies never change a status.
func (w PinnedWhen) hotOnly() bool { return w.proof == proofNone }

// held is the status of a pin whose DAG is held hot.
func (w PinnedWhen) held(cold deals.Standing) spec.Status {
	have := 0
	switch w.proof {
	case proofNone:
		return spec.Pinned
	case proofAccepted:
		have = cold.Accepted
	case proofActive:
		have = cold.Active
	}
	need := min(w.copies, cold.Wanted)
	switch {
	case have >= need:
		return spec.Pinned
	case cold.GivenUp && cold.Ever < need:
		return spec.Failed
	}
	return spec.Pinning
}
