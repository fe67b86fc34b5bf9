package spec

import (
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
)

// A Query is a validated list request. Times are exclusive bounds in Unix milliseconds.
type Query struct {
	CIDs     []cid.Cid // canonical, distinct; empty means any
	Name     *string
	Match    TextMatchingStrategy // exact when Name is nil
	Statuses []Status             // never empty, no duplicates
	BeforeMS *int64
	AfterMS  *int64
	Limit    int // 1 to 1000
	Meta     map[string]string
}

const (
	maxCIDs      = 10
	defaultLimit = 10
	maxLimit     = 1000
)

// NewQuery applies the rules that the contract's syntax does not express. Every error is an *InvalidError.
func NewQuery(p GetPinsParams) (Query, error) {
	q := Query{Match: Exact, Limit: defaultLimit}
	if p.Cid != nil {
		for _, s := range *p.Cid {
			c, err := parseCID("cid", s)
			if err != nil {
				return Query{}, err
			}
			if slices.Contains(q.CIDs, c) {
				continue
			}
			if len(q.CIDs) == maxCIDs {
				return Query{}, invalid("cid", "lists more than "+strconv.Itoa(maxCIDs)+" CIDs")
			}
			q.CIDs = append(q.CIDs, c)
		}
		if len(q.CIDs) == 0 {
			return Query{}, invalid("cid", "is empty")
		}
	}

	if p.Name != nil && *p.Name != "" {
		if err := checkName(*p.Name); err != nil {
			return Query{}, err
		}
		q.Name = p.Name
	}
	if p.Match != nil {
		if !p.Match.Valid() {
			return Query{}, invalid("match", "must be exact, iexact, partial or ipartial, not "+quote(string(*p.Match)))
		}
		if q.Name != nil {
			q.Match = *p.Match
		}
	}

	var err error
	if q.Statuses, err = statuses(p); err != nil {
		return Query{}, err
	}

	// Rows carry whole milliseconds. A bound between two of them keeps its meaning when before goes up and after down.
	if p.Before != nil {
		ms := p.Before.UnixMilli()
		if p.Before.Nanosecond()%int(time.Millisecond) != 0 {
			ms++
		}
		q.BeforeMS = &ms
	}
	if p.After != nil {
		ms := p.After.UnixMilli()
		q.AfterMS = &ms
	}

	if p.Limit != nil {
		if *p.Limit < 1 || *p.Limit > maxLimit {
			return Query{}, errLimit(strconv.Itoa(int(*p.Limit)))
		}
		q.Limit = int(*p.Limit)
	}
	if p.Meta != nil && len(*p.Meta) > 0 {
		if err := checkMeta(*p.Meta); err != nil {
			return Query{}, err
		}
		q.Meta = *p.Meta
	}
	return q, nil
}

// statuses decides which states a list shows. Helia asks whether a DAG is pinned without naming a status and counts
// the rows, so the default must be pinned alone. The compliance suite looks a waiting pin up by match without naming
// a status, so an explicit match widens it.
func statuses(p GetPinsParams) ([]Status, error) {
	if p.StatusFilter == nil {
		if p.Match != nil {
			return []Status{Queued, Pinning, Pinned, Failed}, nil
		}
		return []Status{Pinned}, nil
	}
	var list []Status
	for _, s := range *p.StatusFilter {
		if !s.Valid() {
			return nil, invalid("status", "must be queued, pinning, pinned or failed, not "+quote(string(s)))
		}
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	if len(list) == 0 {
		return nil, invalid("status", "is empty")
	}
	return list, nil
}

// CanonicalQuery rewrites the raw query of a list request, as clients really send it, into one that the generated
// binding takes without error. Every error is an *InvalidError. Given its own result it returns the same.
func CanonicalQuery(raw string) (string, error) {
	q, err := splitQuery(raw)
	if err != nil {
		return "", err
	}
	var out []string
	add := func(name, value string) { out = append(out, name+"="+url.QueryEscape(value)) }

	for _, name := range []string{"cid", "status"} {
		values, ok := q.values[name]
		if !ok {
			continue
		}
		csv := strings.Join(values, ",")
		if slices.Contains(strings.Split(csv, ","), "") {
			return "", invalid(name, "has an empty entry")
		}
		add(name, csv)
	}

	if name, ok := q.first("name"); ok && name != "" {
		if err := checkText("name", name); err != nil {
			return "", err
		}
		add("name", name)
	}
	if match, ok := q.first("match"); ok {
		if match == "" {
			return "", invalid("match", "is empty")
		}
		add("match", match)
	}

	for _, name := range []string{"before", "after"} {
		value, ok := q.first(name)
		if !ok {
			continue
		}
		// An offset's plus sign that was not escaped arrives as a space.
		value = strings.ReplaceAll(value, " ", "+")
		if value, ok = canonicalTime(value); !ok {
			return "", invalid(name, "must be an RFC 3339 time such as 2026-01-31T12:00:00.000Z")
		}
		add(name, value)
	}

	if limit, ok := q.first("limit"); ok {
		n, err := strconv.ParseUint(limit, 10, 16)
		if err != nil || n < 1 || n > maxLimit {
			return "", errLimit(limit)
		}
		add("limit", strconv.FormatUint(n, 10))
	}

	meta, err := q.meta()
	if err != nil {
		return "", err
	}
	if len(meta) > 0 {
		text, err := json.Marshal(meta)
		if err != nil {
			return "", invalid("meta", "must be a JSON object of strings")
		}
		add("meta", string(text))
	}
	return strings.Join(out, "&"), nil
}

func errLimit(got string) error {
	return invalid("limit", "must be a whole number from 1 to "+strconv.Itoa(maxLimit)+", not "+quote(got))
}

// A rawQuery is a query string taken apart, without the parameters that are unknown here.
type rawQuery struct {
	values map[string][]string
	pairs  map[string]string // meta[key]=value
}

func splitQuery(raw string) (rawQuery, error) {
	q := rawQuery{values: map[string][]string{}, pairs: map[string]string{}}
	for pair := range strings.SplitSeq(raw, "&") {
		key, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(key)
		if err != nil {
			return rawQuery{}, invalid("query", "has a malformed percent escape")
		}
		inner, isMeta := strings.CutPrefix(name, "meta[")
		if !isMeta && !parameter(name) {
			continue
		}
		if value, err = url.QueryUnescape(value); err != nil {
			return rawQuery{}, invalid(strings.SplitN(name, "[", 2)[0], "has a malformed percent escape")
		}
		if !isMeta {
			q.values[name] = append(q.values[name], value)
			continue
		}
		inner, closed := strings.CutSuffix(inner, "]")
		if !closed || strings.ContainsAny(inner, "[]") {
			return rawQuery{}, invalid("meta", "must be a JSON object of strings, or pairs like meta[key]=value")
		}
		if _, ok := q.pairs[inner]; !ok {
			q.pairs[inner] = value
		}
	}
	return q, nil
}

func parameter(name string) bool {
	switch name {
	case "cid", "name", "match", "status", "before", "after", "limit", "meta":
		return true
	}
	return false
}

// first returns the first value of a parameter that takes one.
func (q rawQuery) first(name string) (string, bool) {
	values, ok := q.values[name]
	if !ok {
		return "", false
	}
	return values[0], true
}

func (q rawQuery) meta() (map[string]string, error) {
	text, ok := q.first("meta")
	switch {
	case !ok:
		return q.pairs, checkMeta(q.pairs)
	case len(q.pairs) > 0:
		return nil, invalid("meta", "is given both as JSON and as pairs like meta[key]=value")
	}
	return decodeMeta([]byte(text))
}

// canonicalTime checks the exact shape of RFC 3339, with 0 to 9 digits of fraction and letters of either case.
// time.Parse alone would also take a comma, a one-digit hour and any number of digits.
func canonicalTime(s string) (string, bool) {
	s = strings.ToUpper(s)
	const whole = "2006-01-02T15:04:05"
	if len(s) <= len(whole) || s[13] != ':' || !strings.ContainsRune(".Z+-", rune(s[len(whole)])) {
		return "", false
	}
	if fraction, ok := strings.CutPrefix(s[len(whole):], "."); ok {
		if digits := len(fraction) - len(strings.TrimLeft(fraction, "0123456789")); digits > 9 {
			return "", false
		}
	}
	_, err := time.Parse(time.RFC3339Nano, s)
	return s, err == nil
}
