package auth

import (
	"fmt"
	"io"
	"log/slog"
)

// redacted is what a Secret looks like from outside.
const redacted = "[redacted]"

// A Secret is text that must not reach a log, an error or a document by accident. Only Reveal gives it away.
type Secret string

// Reveal returns the text itself.
func (s Secret) Reveal() string { return string(s) }

// String hides the text but tells whether there is one.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format hides the text from every verb, %#v and %x too.
func (s Secret) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, s.String()) }

// LogValue hides the text from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the text from JSON, YAML and whatever else encodes text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
