package pins

import "github.com/frostpin/frostpin/deals"

// A Residence says whether the hot copy of a pin stays once its cold copies are proven.
type Residence string

// Residences.
const (
	ResidenceAuto Residence = ""          // for as long as there is room, as it is read; in words: auto
	ResidenceKeep Residence = "keep"      // always
	ResidenceCold Residence = "cold-only" // not longer than the cold copies need it
)

// ParseResidence reads one in words. "auto" and nothing are the same.
func ParseResidence(text string) (r Residence, ok bool) {
	switch r := Residence(text); r {
	case ResidenceKeep, ResidenceCold:
		return r, true
	case ResidenceAuto, "auto":
		return ResidenceAuto, true
	}
	return "", false
}

// String is the residence in words.
func (r Residence) String() string {
	if r == ResidenceAuto {
		return "auto"
	}
	return string(r)
}

// A Decision is what was decided about a pin when it was made.
type Decision struct {
	Terms     deals.TermsID // of its cold copies
	Residence Residence     // of its hot copy
	Copies    int           // cold, as asked for; 0 where nobody has decided
	Expiry    Expiry        // when it is removed by itself
}
