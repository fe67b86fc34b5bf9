package events

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
)

// A Change is what is recorded: of an account, of a root and so of the pins that name it, or of those of one account.
type Change struct {
	Account int64          // 0: of all that name Root
	Root    string         // a canonical CID; empty: of the account itself
	Part    int64          // which pins of the root it concerns, as Pins understands it; 0: all
	Kind    string         // what has happened, such as "pin.pinned"
	Data    map[string]any // the details, of what JSON can say
}

// An Event is a change as one account is told it.
type Event struct {
	At   Position
	Time time.Time
	Kind string
	Pin  *Pin // nil for an event of the account
	Data json.RawMessage
}

// A Pin is one that an event is about.
type Pin struct {
	ID   string
	CID  string // as its user wrote it
	Name string
}

// A Position is a place in the order of an account's events: after the event of one pin or, without a pin, after all
// events with this number. The zero value is before all.
type Position struct {
	Seq int64
	Pin string
}

// ErrPosition is the answer to a text that is no position.
var ErrPosition = errors.New("no position among events")

// maxPin is the most bytes of a pin's id in a position.
const maxPin = 64

// ParsePosition reads what String has written. Errors: ErrPosition.
func ParsePosition(text string) (Position, error) {
	number, pin, found := strings.Cut(text, "-")
	seq, err := strconv.ParseInt(number, 10, 64)
	if err != nil || seq < 0 || strconv.FormatInt(seq, 10) != number || found && pin == "" || len(pin) > maxPin {
		return Position{}, ErrPosition
	}
	if strings.ContainsFunc(pin, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Position{}, ErrPosition
	}
	return Position{Seq: seq, Pin: pin}, nil
}

// String is the id of the event that stands before the position.
func (p Position) String() string {
	number := strconv.FormatInt(p.Seq, 10)
	if p.Pin == "" {
		return number
	}
	return number + "-" + p.Pin
}

// JSON is the event as users are told it.
func (e Event) JSON() ([]byte, error) {
	told := struct {
		ID        string          `json:"id"`
		Type      string          `json:"type"`
		At        time.Time       `json:"at"`
		Requestid string          `json:"requestid,omitempty"`
		CID       string          `json:"cid,omitempty"`
		Name      string          `json:"name,omitempty"`
		Data      json.RawMessage `json:"data"`
	}{ID: e.At.String(), Type: e.Kind, At: e.Time, Data: e.Data}
	if e.Pin != nil {
		told.Requestid, told.CID, told.Name = e.Pin.ID, e.Pin.CID, e.Pin.Name
	}
	return json.Marshal(told)
}
