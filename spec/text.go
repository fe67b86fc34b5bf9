package spec

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds on what one pin may carry.
const (
	maxName      = 255 // code points
	maxMetaKeys  = 1000
	maxMetaBytes = 16 << 10 // keys and values together
)

// checkText refuses what no database column of ours and no JSON document can carry unchanged.
func checkText(field, s string) error {
	switch {
	case !utf8.ValidString(s):
		return invalid(field, "is not valid UTF-8")
	case strings.IndexByte(s, 0) >= 0:
		return invalid(field, "contains a NUL character")
	}
	return nil
}

func checkName(s string) error {
	if err := checkText("name", s); err != nil {
		return err
	}
	if n := utf8.RuneCountInString(s); n > maxName {
		return invalid("name", "has "+strconv.Itoa(n)+" characters, at most "+strconv.Itoa(maxName)+" are allowed")
	}
	return nil
}

func checkMeta(m map[string]string) error {
	if len(m) > maxMetaKeys {
		return invalid("meta", "has more than "+strconv.Itoa(maxMetaKeys)+" keys")
	}
	size := 0
	for k, v := range m {
		if err := checkText("meta", k); err != nil {
			return err
		}
		if err := checkText("meta", v); err != nil {
			return err
		}
		size += len(k) + len(v)
	}
	if size > maxMetaBytes {
		return invalid("meta", "takes "+strconv.Itoa(size)+" bytes, at most "+strconv.Itoa(maxMetaBytes)+" are allowed")
	}
	return nil
}

// quote shows what the caller sent, short and printable whatever it was.
func quote(s string) string {
	const most = 60
	if len(s) <= most {
		return strconv.Quote(s)
	}
	cut := most
	for cut > most-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.Quote(s[:cut]) + "..."
}
