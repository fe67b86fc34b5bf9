package main

import (
	"fmt"
	"log/slog"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/frostpin/frostpin/auth"
)

// A setting is one field of Config, as its tags describe it.
type setting struct {
	name       string // also the flag and the key in the file
	help       string
	derived    string // a default that depends on others, in words
	everywhere bool
	field      int
}

// settings returns all of them, in the order of the struct.
func settings() []setting {
	config := reflect.TypeFor[Config]()
	all := make([]setting, 0, config.NumField())
	for i := range config.NumField() {
		tag := config.Field(i).Tag
		all = append(all, setting{
			name:       tag.Get("setting"),
			help:       tag.Get("help"),
			derived:    tag.Get("derived"),
			everywhere: tag.Get("everywhere") == "true",
			field:      i,
		})
	}
	return all
}

// variable is the setting's name in the environment.
func (s setting) variable() string {
	return environmentPrefix + strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
}

func (s setting) in(c *Config) reflect.Value { return reflect.ValueOf(c).Elem().Field(s.field) }

// isBool tells whether the setting's flag needs no value.
func (s setting) isBool() bool { return s.in(new(Config)).Kind() == reflect.Bool }

// set parses texts into the setting's field of c. More than one text is allowed for lists only.
func (s setting) set(c *Config, texts ...string) error {
	target := s.in(c).Addr().Interface()
	if list, ok := target.(*[]string); ok {
		*list = nil
		for _, text := range texts {
			for part := range strings.SplitSeq(text, ",") {
				if part = strings.TrimSpace(part); part != "" {
					*list = append(*list, part)
				}
			}
		}
		return nil
	}
	if len(texts) != 1 {
		return fmt.Errorf("it takes one value, not a list")
	}
	text := strings.TrimSpace(texts[0])
	var err error
	switch target := target.(type) {
	case *string:
		*target = text
	case *DSN:
		*target = DSN(text)
	case *auth.Secret:
		*target = auth.Secret(text)
	case *bool:
		if *target, err = strconv.ParseBool(text); err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
	case *int:
		if *target, err = strconv.Atoi(text); err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
	case *int64:
		if *target, err = strconv.ParseInt(text, 10, 64); err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
	case *time.Duration:
		if *target, err = time.ParseDuration(text); err != nil {
			return fmt.Errorf("%q is not a time such as 90s, 15m or 24h", text)
		}
	case *Size:
		*target, err = parseSize(text)
	case *Amount:
		*target, err = parseAmount(text)
	case *Span:
		*target, err = parseSpan(text)
	case *slog.Level:
		err = setLevel(target, text)
	default:
		return fmt.Errorf("a setting of type %T cannot be set", target)
	}
	return err
}

// text is the value as set would take it, except that secrets are hidden; redacted tells whether one was.
func (s setting) text(c *Config) (text string, redacted bool) {
	switch value := s.in(c).Interface().(type) {
	case []string:
		return strings.Join(value, ","), false
	case DSN:
		return value.redacted(), value.redacted() != string(value)
	case auth.Secret:
		return value.String(), value != ""
	case time.Duration:
		return shortDuration(value), false
	case slog.Level:
		return strings.ToLower(value.String()), false
	default:
		return fmt.Sprint(value), false
	}
}

func setLevel(level *slog.Level, text string) error {
	for _, known := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if strings.EqualFold(text, known.String()) {
			*level = known
			return nil
		}
	}
	return fmt.Errorf("%q is not one of debug, info, warn, error", text)
}

// shortDuration writes 24h0m0s as 24h.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// A DSN names a database and may hold a password.
type DSN string

// redacted hides the password.
func (d DSN) redacted() string {
	if u, err := url.Parse(string(d)); err == nil && u.Host != "" {
		query := u.Query()
		if query.Has("password") {
			query.Set("password", "xxxxx")
			u.RawQuery = query.Encode()
		}
		return u.Redacted()
	}
	return string(d)
}

// String hides the password wherever a DSN is printed.
func (d DSN) String() string { return d.redacted() }

// LogValue hides the password from slog.
func (d DSN) LogValue() slog.Value { return slog.StringValue(d.redacted()) }

// A Size is a number of bytes, written with a binary unit.
type Size int64

var sizeUnits = []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}

// String writes the size in the largest unit that divides it.
func (n Size) String() string {
	unit := 0
	for n != 0 && n%1024 == 0 && unit < len(sizeUnits)-1 {
		n, unit = n/1024, unit+1
	}
	return fmt.Sprintf("%d%s", int64(n), sizeUnits[unit])
}

// parseSize reads a number with an optional unit: 2MiB, 2M and 2097152 are the same.
func parseSize(text string) (Size, error) {
	wrong := fmt.Errorf("%q is not a size such as 512MiB or 32GiB", text)
	digits := strings.TrimRight(text, "KMGTPiBkmgtpb ")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, wrong
	}
	unit := strings.ToUpper(strings.TrimSpace(text[len(digits):]))
	for power, known := range sizeUnits {
		if unit == "" || strings.EqualFold(unit, known) || power > 0 && unit == known[:1] {
			size := n << (10 * power)
			if size>>(10*power) != n {
				return 0, wrong
			}
			return Size(size), nil
		}
	}
	return 0, wrong
}
