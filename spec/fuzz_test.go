package spec_test

import (
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/spec"
)

// Whatever is sent is refused by name or understood; what is understood obeys every bound.

func FuzzListQuery(f *testing.F) {
	for _, s := range []string{
		"", "cid=" + v0 + "," + v1, "status=queued%2Cpinned&status=failed", "before=2026-01-31T14:00:00.5+02:00&limit=1000",
		"name=%25_&match=ipartial", "meta[a]=1", `meta={"a":"1"}`, "meta%5Ba%5D=%ff", "limit=&&;=", "after=0000-01-01T00:00:00%2B01:00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		canonical, err := spec.CanonicalQuery(raw)
		if err != nil {
			mustBeInvalid(t, err)
			return
		}
		again, err := spec.CanonicalQuery(canonical)
		if err != nil || again != canonical {
			t.Fatalf("%q is not stable: %q, %v", canonical, again, err)
		}
		q, err := spec.NewQuery(bind(canonical))
		if err != nil {
			mustBeInvalid(t, err)
			return
		}
		switch {
		case q.Limit < 1 || q.Limit > 1000,
			len(q.CIDs) > 10,
			len(q.Statuses) == 0 || len(q.Statuses) > 4,
			!q.Match.Valid(),
			q.Name == nil && q.Match != spec.Exact,
			q.Name != nil && utf8.RuneCountInString(*q.Name) > 255:
			t.Errorf("%q gives %+v", raw, q)
		}
		for i, c := range q.CIDs {
			if c.Version() != 1 || slices.Contains(q.CIDs[:i], c) {
				t.Errorf("%q gives %v", raw, q.CIDs)
			}
		}
		checkMeta(t, q.Meta)
	})
}

func FuzzMetaQuery(f *testing.F) {
	f.Add("a", "1", "b", "2")
	f.Add("", "", "a]", "[")
	f.Add("\xff", "\x00", "ключ", "😀")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		pairs := "meta[" + url.QueryEscape(k1) + "]=" + url.QueryEscape(v1) + "&meta[" + url.QueryEscape(k2) + "]=" + url.QueryEscape(v2)
		q, err := list(pairs)
		if err != nil {
			mustBeInvalid(t, err)
			return
		}
		want := map[string]string{k2: v2}
		want[k1] = v1 // the first wins
		if diff := cmp.Diff(want, q.Meta); diff != "" {
			t.Errorf("%q (-want +got):\n%s", pairs, diff)
		}
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		q, err = list("meta=" + url.QueryEscape(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, q.Meta); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	})
}

func FuzzPinBody(f *testing.F) {
	for _, s := range []string{
		`{"cid":"` + v0 + `"}`, with("name", `"\ud83d\ude00"`), with("meta", `{"a":"1"}`), with("origins", `["`+addrA+`",""]`),
		with("x", `[[[{"a":[]}]]]`), `{"cid":"bafkqaaa"} `, `{"cid":null}`, ``, `{`, `{"cid":"\u`, `[]`, `{"a":"\`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := spec.DecodePin(body)
		if err != nil {
			mustBeInvalid(t, err)
			return
		}
		if !json.Valid(body) {
			t.Fatalf("accepted %q, which is no JSON", body)
		}
		checkRequest(t, r)

		// What we answer can be sent back, as clients do, and means the same.
		answer, err := json.Marshal(spec.NewPin(r))
		if err != nil {
			t.Fatal(err)
		}
		back, err := spec.DecodePin(answer)
		if err != nil {
			t.Fatalf("refused its own answer %s: %v", answer, err)
		}
		back.Dropped = r.Dropped
		if len(r.Origins) == 0 {
			r.Origins = nil
		}
		if len(r.Meta) == 0 {
			r.Meta = nil
		}
		if diff := cmp.Diff(r, back, cmp.Comparer(cid.Cid.Equals)); diff != "" {
			t.Errorf("(-first +back):\n%s", diff)
		}
	})
}

func FuzzCID(f *testing.F) {
	for _, s := range []string{v0, v1, base58, "bafkqaaa", identity(128), "b", "Qm", "z", "\x00", "1" + v1, made(0x78, 0x11, -1)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		r, err := spec.DecodePin([]byte(`{"cid":` + string(text) + `}`))
		if err != nil {
			mustBeInvalid(t, err)
			return
		}
		checkRequest(t, r)
		// Whatever can be pinned can be looked up, by either spelling.
		for _, spelling := range []string{s, r.Root.String()} {
			q, err := list("cid=" + url.QueryEscape(spelling))
			if err != nil || len(q.CIDs) != 1 || !q.CIDs[0].Equals(r.Root) {
				t.Errorf("looking up %q finds %v, %v; want %s", spelling, q.CIDs, err, r.Root)
			}
		}
	})
}

func FuzzOrigins(f *testing.F) {
	f.Add(addrA)
	f.Add("/ip6/::1/udp/4001/quic-v1" + peerA)
	f.Add("/dnsaddr/example.com\n" + peerA)
	f.Add("/unix/a/b" + peerA)
	f.Add("//")
	f.Fuzz(func(t *testing.T, address string) {
		text, err := json.Marshal([]string{address, addrA, address})
		if err != nil {
			t.Fatal(err)
		}
		r, err := spec.DecodePin([]byte(with("origins", string(text))))
		if err != nil {
			t.Fatalf("an address failed the whole request: %v", err)
		}
		checkRequest(t, r)
		if !slices.Contains(r.Origins, addrA) {
			t.Errorf("kept %q without the usable one", r.Origins)
		}
	})
}

func mustBeInvalid(t *testing.T, err error) {
	t.Helper()
	var bad *spec.InvalidError
	if !errors.As(err, &bad) || bad.Field == "" || bad.Problem == "" {
		t.Fatalf("%v (%T) is no InvalidError", err, err)
	}
	if text := err.Error(); !utf8.ValidString(text) || len(text) > 400 || strings.ContainsAny(text, "\x00\n") {
		t.Errorf("unfit to be shown: %q", text)
	}
}

func checkRequest(t *testing.T, r spec.Request) {
	t.Helper()
	c, err := cid.Decode(r.CID)
	if err != nil || !spec.Canonical(c).Equals(r.Root) || r.Root.Version() != 1 {
		t.Errorf("cid %q with root %s: %v", r.CID, r.Root, err)
	}
	if r.Name != nil && (utf8.RuneCountInString(*r.Name) > 255 || strings.ContainsRune(*r.Name, 0) || !utf8.ValidString(*r.Name)) {
		t.Errorf("name %q", *r.Name)
	}
	checkMeta(t, r.Meta)
	if len(r.Origins) > 20 {
		t.Errorf("%d origins", len(r.Origins))
	}
	for i, o := range r.Origins {
		if slices.Contains(r.Origins[:i], o) || strings.ContainsRune(o, 0) {
			t.Errorf("origins %q", r.Origins)
		}
	}
}

func checkMeta(t *testing.T, m map[string]string) {
	t.Helper()
	size := 0
	for k, v := range m {
		size += len(k) + len(v)
		if !utf8.ValidString(k+v) || strings.ContainsRune(k+v, 0) {
			t.Errorf("meta %q: %q", k, v)
		}
	}
	if len(m) > 1000 || size > 16<<10 {
		t.Errorf("meta of %d keys and %d bytes", len(m), size)
	}
}
