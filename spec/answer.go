package spec

import (
	"math"
	"time"
)

// A Time is an instant as this API writes it: UTC with exactly three digits of fraction. encoding/json would trim
// trailing zeros; with a fixed width, timestamps also compare as text and equal JavaScript's toISOString.
type Time struct{ time.Time }

const timeLayout = "2006-01-02T15:04:05.000Z"

// MarshalJSON writes the fixed-width form.
func (t Time) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, len(timeLayout)+2)
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, timeLayout)
	return append(b, '"'), nil
}

// NewPinResults returns one page. The contract counts in 32 bits, and a client that is told less than there is stops
// early instead of failing.
func NewPinResults(count int64, rows []PinStatus) PinResults {
	if rows == nil {
		rows = []PinStatus{}
	}
	return PinResults{Count: int32(min(max(count, 0), math.MaxInt32)), Results: rows}
}

// NewPin returns the pin part of an answer. What is absent or empty is left out: a null makes JavaScript clients throw.
func NewPin(r Request) Pin {
	p := Pin{Cid: r.CID, Name: r.Name}
	if len(r.Origins) > 0 {
		p.Origins = &r.Origins
	}
	if len(r.Meta) > 0 {
		m := PinMeta(r.Meta)
		p.Meta = &m
	}
	return p
}

// NewPinStatus returns one answered request. Delegates must hold 1 to 20 addresses; info may be nil.
func NewPinStatus(id string, status Status, created time.Time, r Request, delegates []string, info map[string]string) PinStatus {
	if delegates == nil {
		delegates = []string{}
	}
	s := PinStatus{
		Requestid: id,
		Status:    status,
		Created:   Time{created},
		Pin:       NewPin(r),
		Delegates: delegates,
	}
	if len(info) > 0 {
		i := StatusInfo(info)
		s.Info = &i
	}
	return s
}
