package auth

import (
	"encoding/json"
	"strings"
)

// Scopes are what a token may be used for. The zero value is nothing.
type Scopes uint8

// The scopes.
const (
	PinsRead   Scopes = 1 << iota // list and show pins, with their deals and receipts
	PinsWrite                     // add, replace and remove pins
	Upload                        // send data to be pinned
	Retrieve                      // read content that is not open to everyone, and sign links to it
	AccountUse                    // see the account, and make, list and end its tokens
	Admin                         // see and change all accounts
)

// OwnScopes are everything about a token's own account; AllScopes also what is about others.
const (
	OwnScopes = PinsRead | PinsWrite | Upload | Retrieve | AccountUse
	AllScopes = OwnScopes | Admin
)

var scopeNames = [...]string{"pins:read", "pins:write", "upload", "retrieve", "account", "admin"}

// ParseScopes reads names of scopes. Errors: ErrInvalid for a name that is none.
func ParseScopes(names []string) (s Scopes, err error) {
	for _, name := range names {
		found := false
		for i, known := range scopeNames {
			if name == known {
				s |= 1 << i
				found = true
			}
		}
		if !found {
			return 0, invalid("%q is no scope; there are %s", name, strings.Join(scopeNames[:], ", "))
		}
	}
	return s, nil
}

// Has reports whether all of other are among s.
func (s Scopes) Has(other Scopes) bool { return s&other == other }

// Names are the names of the scopes, in one order.
func (s Scopes) Names() []string {
	names := []string{}
	for i, name := range scopeNames {
		if s.Has(1 << i) {
			names = append(names, name)
		}
	}
	return names
}

// String is the names with spaces between, as the database has them.
func (s Scopes) String() string { return strings.Join(s.Names(), " ") }

// MarshalJSON writes a list of names.
func (s Scopes) MarshalJSON() ([]byte, error) { return json.Marshal(s.Names()) }
