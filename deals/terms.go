package deals

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/filecoin-project/go-address"
)

// TermsID names recorded terms. Zero means that nothing is wanted cold.
type TermsID int64

// Terms are what is asked of the cold copies of a DAG.
type Terms struct {
	Replicas  int          `json:"replicas"`            // X, the number of copies
	Regions   []string     `json:"regions,omitempty"`   // copy i lies in region i mod n; empty: anywhere
	Providers []ProviderID `json:"providers,omitempty"` // only these; empty: whoever the operator trusts
	Days      int          `json:"days"`                // duration of each deal
}

// Days a deal may last: the market actor's bounds.
const (
	MinDays = 180
	MaxDays = 1278
)

// Canonical is t in the one form in which it is recorded: equal terms have equal text.
func (t Terms) Canonical() Terms {
	out := t
	out.Regions = make([]string, len(t.Regions))
	for i, r := range t.Regions {
		out.Regions[i] = CanonicalRegion(r) // the order says which copy goes where
	}
	out.Providers = slices.Clone(t.Providers)
	slices.Sort(out.Providers)
	out.Providers = slices.Compact(out.Providers)
	return out
}

// String is the text that is recorded.
func (t Terms) String() string {
	b, err := json.Marshal(t.Canonical())
	if err != nil {
		return fmt.Sprintf("%#v", t) // numbers and strings always marshal
	}
	return string(b)
}

// Region is where copy index (from 0) has to lie; empty means anywhere.
func (t Terms) Region(index int) string {
	if len(t.Regions) == 0 {
		return ""
	}
	return t.Regions[index%len(t.Regions)]
}

// CanonicalRegion is the spelling under which regions are compared.
func CanonicalRegion(r string) string { return strings.ToUpper(strings.TrimSpace(r)) }

// ErrTerms is wrapped by every UnmetError.
var ErrTerms = errors.New("the cold storage asked for cannot be had here")

// An UnmetError says why terms can never be met here. Field is what is wrong: replicas, regions, providers, days, or
// empty when it is the whole.
type UnmetError struct{ Field, Reason string }

func (e *UnmetError) Error() string { return e.Reason }
func (e *UnmetError) Unwrap() error { return ErrTerms }

// A ProviderID is the number of a miner actor: 1000 is f01000.
type ProviderID uint64

func (p ProviderID) String() string { return fmt.Sprintf("f0%d", uint64(p)) }

// Address is the provider's ID address.
func (p ProviderID) Address() address.Address {
	a, err := address.NewIDAddress(uint64(p))
	if err != nil {
		panic(err) // every number that ParseProvider lets through is an ID address
	}
	return a
}

// ParseProvider reads f01000, t01000 or 1000.
func ParseProvider(text string) (ProviderID, error) {
	digits := strings.TrimSpace(text)
	if len(digits) > 2 && (digits[0] == 'f' || digits[0] == 't') && digits[1] == '0' {
		digits = digits[2:]
	}
	var id uint64
	for _, c := range digits {
		if c < '0' || c > '9' || id > 1<<58 {
			return 0, fmt.Errorf("%q is not a provider such as f01000", text)
		}
		id = id*10 + uint64(c-'0')
	}
	if digits == "" {
		return 0, fmt.Errorf("%q is not a provider such as f01000", text)
	}
	return ProviderID(id), nil
}

// MarshalText writes f01000.
func (p ProviderID) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what ParseProvider reads.
func (p *ProviderID) UnmarshalText(b []byte) (err error) {
	*p, err = ParseProvider(string(b))
	return err
}
