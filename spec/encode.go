package spec

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The answers that clients poll for are encoded by hand: for a list of ten, encoding/json takes longer than the
// database. A test holds them to what encoding/json makes of the generated types.

// AppendPinResults appends r as JSON.
func AppendPinResults(b []byte, r PinResults) []byte {
	b = append(b, `{"count":`...)
	b = strconv.AppendInt(b, int64(r.Count), 10)
	b = append(b, `,"results":[`...)
	for i := range r.Results {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendPinStatus(b, &r.Results[i])
	}
	return append(b, `]}`...)
}

// AppendPinStatus appends s as JSON.
func AppendPinStatus(b []byte, s *PinStatus) []byte {
	b = append(b, `{"created":"`...)
	b = s.Created.UTC().AppendFormat(b, timeLayout)
	b = append(b, `","delegates":`...)
	b = appendStrings(b, s.Delegates)
	if s.Info != nil {
		b = append(b, `,"info":`...)
		b = appendMap(b, *s.Info)
	}
	b = append(b, `,"pin":{"cid":`...)
	b = appendString(b, s.Pin.Cid)
	if s.Pin.Meta != nil {
		b = append(b, `,"meta":`...)
		b = appendMap(b, *s.Pin.Meta)
	}
	if s.Pin.Name != nil {
		b = append(b, `,"name":`...)
		b = appendString(b, *s.Pin.Name)
	}
	if s.Pin.Origins != nil {
		b = append(b, `,"origins":`...)
		b = appendStrings(b, *s.Pin.Origins)
	}
	b = append(b, `},"requestid":`...)
	b = appendString(b, s.Requestid)
	b = append(b, `,"status":`...)
	b = appendString(b, string(s.Status))
	return append(b, '}')
}

func appendStrings(b []byte, list []string) []byte {
	b = append(b, '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, s)
	}
	return append(b, ']')
}

// appendMap writes keys in order, so that equal answers are equal bytes.
func appendMap[M ~map[string]string](b []byte, m M) []byte {
	var room [16]string // enough for info and most meta, on the stack
	keys := room[:0]
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	b = append(b, '{')
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, k)
		b = append(b, ':')
		b = appendString(b, m[k])
	}
	return append(b, '}')
}

func appendString(b []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	b = append(b, '"')
	done := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[done:i]...)
		done = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			const hex = "0123456789abcdef"
			b = append(b, `\u00`...)
			b = append(b, hex[c>>4], hex[c&15])
		}
	}
	b = append(b, s[done:]...)
	return append(b, '"')
}
