package spec

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a body, unknown fields included.
const maxDepth = 32

// decodeObject reads one JSON object and returns the raw values of the known fields that are present and not null.
// Unknown fields are ignored: clients send whole objects back. A known field given twice is refused, because two
// programs on the way could disagree on which one counts.
func decodeObject(field string, data []byte, known ...string) (map[string]json.RawMessage, error) {
	if err := lint(field, data); err != nil {
		return nil, err
	}
	values := make(map[string]json.RawMessage, len(known))
	seen := make(map[string]bool, len(known))
	err := walkObject(field, data, func(name string, value json.RawMessage) error {
		if !slices.Contains(known, name) {
			return nil
		}
		if seen[name] {
			return invalid(name, "is given twice")
		}
		seen[name] = true
		if string(value) != "null" {
			values[name] = value
		}
		return nil
	})
	return values, err
}

// decodeMeta reads an object of strings.
func decodeMeta(data []byte) (map[string]string, error) {
	if err := lint("meta", data); err != nil {
		return nil, err
	}
	m := map[string]string{}
	err := walkObject("meta", data, func(name string, value json.RawMessage) error {
		if _, ok := m[name]; ok {
			return invalid("meta", "has the key "+quote(name)+" twice")
		}
		if value[0] != '"' {
			return invalid("meta", "must be an object of strings; the value of "+quote(name)+" is no string")
		}
		s, err := decodeString("meta", value)
		m[name] = s
		if len(m) > maxMetaKeys {
			return checkMeta(m) // enough is known
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, checkMeta(m)
}

func decodeString(field string, raw json.RawMessage) (string, error) {
	var s string
	if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", invalid(field, "must be a string")
	}
	return s, nil
}

// walkObject calls fn for every member of the object that data holds, in order.
func walkObject(field string, data []byte, fn func(name string, value json.RawMessage) error) error {
	malformed := invalid(field, "is not valid JSON")
	dec := json.NewDecoder(bytes.NewReader(data))
	switch t, err := dec.Token(); {
	case err != nil:
		return malformed
	case t != json.Delim('{'):
		return invalid(field, "must be a JSON object")
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return malformed
		}
		name, ok := key.(string)
		if !ok {
			return malformed
		}
		var value json.RawMessage
		if dec.Decode(&value) != nil {
			return malformed
		}
		if err := fn(name, value); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return malformed
	}
	if len(bytes.TrimLeft(data[dec.InputOffset():], " \t\r\n")) > 0 {
		return invalid(field, "has something after the JSON object")
	}
	return nil
}

// CheckJSON refuses a body that no decoder should be given: one that is not UTF-8, is nested too deeply, or holds what
// decoders silently change. Every error is an *InvalidError. That it is JSON at all, the decoder finds out.
func CheckJSON(body []byte) error { return lint("body", body) }

// lint refuses what the decoder would accept and silently change, or spend a deep stack on.
func lint(field string, data []byte) error {
	switch {
	case len(bytes.TrimLeft(data, " \t\r\n")) == 0:
		return invalid(field, "is empty")
	case !utf8.Valid(data):
		return invalid(field, "is not valid UTF-8")
	}
	depth, inString := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
			if i >= len(data) || data[i] != 'u' {
				continue
			}
			n, lone := escape(data[i-1:])
			if lone {
				return invalid(field, "contains half a surrogate pair, which is no character")
			}
			i += n - 2
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return invalid(field, "is nested more than "+strconv.Itoa(maxDepth)+" levels deep")
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

// escape looks at a \uXXXX, or a pair of them, at the start of b. It returns how many bytes belong together and
// whether it is a surrogate without its other half. Malformed escapes are left to the decoder.
func escape(b []byte) (n int, lone bool) {
	u, ok := unit(b)
	switch {
	case !ok:
		return 2, false
	case u >= 0xDC00 && u <= 0xDFFF:
		return 6, true
	case u >= 0xD800 && u <= 0xDBFF:
		low, ok := unit(b[6:])
		return 12, !ok || low < 0xDC00 || low > 0xDFFF
	}
	return 6, false
}

func unit(b []byte) (uint64, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	u, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	return u, err == nil
}
