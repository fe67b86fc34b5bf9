package spec_test

import (
	"encoding/json"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/spec"
)

// However a client spells its filters, they mean the same.
func TestEverySpellingOfAQueryMeansTheSame(t *testing.T) {
	pool := append(strings.Split(many(10), ","), v0, v1)
	rapid.Check(t, func(t *rapid.T) {
		var parts []string
		want := spec.Query{Match: spec.Exact, Statuses: []spec.Status{spec.Pinned}, Limit: 10}

		if texts := rapid.SliceOfN(rapid.SampledFrom(pool), 0, 8).Draw(t, "cids"); len(texts) > 0 {
			for _, s := range texts {
				if c := spec.Canonical(cid.MustParse(s)); !slices.Contains(want.CIDs, c) {
					want.CIDs = append(want.CIDs, c)
				}
			}
			parts = append(parts, spell(t, "cid", texts)...)
		}
		matched := rapid.Bool().Draw(t, "with match")
		if words := rapid.SliceOfN(rapid.SampledFrom(all), 0, 6).Draw(t, "statuses"); len(words) > 0 {
			want.Statuses = nil
			var texts []string
			for _, s := range words {
				texts = append(texts, string(s))
				if !slices.Contains(want.Statuses, s) {
					want.Statuses = append(want.Statuses, s)
				}
			}
			parts = append(parts, spell(t, "status", texts)...)
		} else if matched {
			want.Statuses = all
		}
		if name := rapid.StringN(0, 20, -1).Filter(noNUL).Draw(t, "name"); name != "" {
			want.Name = &name
			parts = append(parts, "name="+url.QueryEscape(name))
		}
		if matched {
			m := rapid.SampledFrom([]spec.TextMatchingStrategy{spec.Exact, spec.Iexact, spec.Partial, spec.Ipartial}).Draw(t, "match")
			if want.Name != nil {
				want.Match = m
			}
			parts = append(parts, "match="+string(m))
		}
		if rapid.Bool().Draw(t, "with before") {
			at, text := moment(t)
			ms := at.Add(time.Millisecond - 1).UnixMilli()
			want.BeforeMS = &ms
			parts = append(parts, "before="+text)
		}
		if rapid.Bool().Draw(t, "with after") {
			at, text := moment(t)
			ms := at.UnixMilli()
			want.AfterMS = &ms
			parts = append(parts, "after="+text)
		}
		if rapid.Bool().Draw(t, "with limit") {
			want.Limit = rapid.IntRange(1, 1000).Draw(t, "limit")
			text, err := json.Marshal(want.Limit)
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, "limit="+string(text))
		}
		text := rapid.StringN(0, 8, -1).Filter(noNUL)
		if m := rapid.MapOfN(text.Filter(noBrackets), text, 0, 5).Draw(t, "meta"); len(m) > 0 {
			want.Meta = m
			if rapid.Bool().Draw(t, "meta as json") {
				data, err := json.Marshal(m)
				if err != nil {
					t.Fatal(err)
				}
				parts = append(parts, "meta="+url.QueryEscape(string(data)))
			} else {
				for k, v := range m {
					parts = append(parts, url.QueryEscape("meta["+k+"]")+"="+url.QueryEscape(v))
				}
			}
		}
		parts = append(parts, "unknown="+rapid.StringMatching(`[A-Z&;]*`).Draw(t, "unknown"))
		shuffle(t, parts)

		got, err := list(strings.Join(parts, "&"))
		if err != nil {
			t.Fatalf("%s: %v", strings.Join(parts, "&"), err)
		}
		// Repeated lists come in the order of the query.
		byCID := func(a, b cid.Cid) int { return strings.Compare(a.KeyString(), b.KeyString()) }
		slices.SortFunc(want.CIDs, byCID)
		slices.SortFunc(got.CIDs, byCID)
		want.Statuses, got.Statuses = slices.Sorted(slices.Values(want.Statuses)), slices.Sorted(slices.Values(got.Statuses))
		if diff := cmp.Diff(want, got, cmp.Comparer(cid.Cid.Equals)); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", strings.Join(parts, "&"), diff)
		}
	})
}

// A bound that falls between two milliseconds must divide whole-millisecond rows as it would divide exact ones.
func TestRoundedBoundsDivideRowsAsExactOnesDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at, text := moment(t)
		row := time.UnixMilli(at.UnixMilli() + rapid.Int64Range(-2, 2).Draw(t, "row"))
		q, err := list("before=" + text + "&after=" + text)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := row.UnixMilli() < *q.BeforeMS, row.Before(at); got != want {
			t.Errorf("row %s before %s: %v", row.UTC().Format(time.RFC3339Nano), text, got)
		}
		if got, want := row.UnixMilli() > *q.AfterMS, row.After(at); got != want {
			t.Errorf("row %s after %s: %v", row.UTC().Format(time.RFC3339Nano), text, got)
		}
	})
}

// moment draws an instant and one of the ways in which clients write it.
func moment(t *rapid.T) (time.Time, string) {
	at := time.Unix(rapid.Int64Range(-1<<33, 1<<36).Draw(t, "seconds"), rapid.SampledFrom([]int64{
		0, 1, 999, 1_000_000, 1_000_001, 120_000_000, 999_000_000, 999_999_999,
	}).Draw(t, "nanoseconds"))
	zone := time.FixedZone("", 900*rapid.IntRange(-48, 48).Draw(t, "zone"))
	text := at.In(zone).Format(time.RFC3339Nano)
	if rapid.Bool().Draw(t, "escaped") {
		text = url.QueryEscape(text)
	}
	return at, text
}

// spell writes a list as one value, several parameters, or a mixture.
func spell(t *rapid.T, name string, values []string) []string {
	var parts []string
	for len(values) > 0 {
		n := rapid.IntRange(1, len(values)).Draw(t, "together")
		comma := rapid.SampledFrom([]string{",", "%2C"}).Draw(t, "comma")
		parts = append(parts, name+"="+strings.Join(values[:n], comma))
		values = values[n:]
	}
	return parts
}

func shuffle(t *rapid.T, parts []string) {
	r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0))
	r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
}

func noNUL(s string) bool      { return !strings.ContainsRune(s, 0) }
func noBrackets(s string) bool { return !strings.ContainsAny(s, "[]") }
