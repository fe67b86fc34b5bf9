package server_test

import (
	"encoding/binary"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/frostpin/frostpin/server"
)

// quiet is a fixture that keeps no log, for many requests.
func quiet(tb testing.TB) *fixture {
	tb.Helper()
	f := newFixture(tb)
	s, err := server.New(server.Config{}, f.pins, f.tokens, slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	f.Server = s
	return f
}

// No header but a right token opens anything.
func FuzzAuthorization(f *testing.F) {
	for _, s := range []string{"", "Bearer", "Bearer " + alice, "bearer\t" + alice, "Bearer " + alice + ",", "Basic eA==", "Bearer \x00", "Bearer é"} {
		f.Add(s)
	}
	fix := quiet(f)
	var asked uint32
	f.Fuzz(func(t *testing.T, header string) {
		r := httptest.NewRequest("GET", "/psa/pins", nil)
		r.Header.Set("Authorization", header)
		// Every request has an address of its own: after ten wrong tokens one address is no longer told about any.
		asked++
		r.RemoteAddr = netip.AddrPortFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, asked))), 1).String()
		w := httptest.NewRecorder()
		fix.ServeHTTP(w, r)
		if w.Code == http.StatusOK {
			fields := strings.Fields(header)
			if len(fields) != 2 || !strings.EqualFold(fields[0], "bearer") || fields[1] != alice && fields[1] != bob {
				t.Errorf("%q was let in", header)
			}
			return
		}
		wantFailure(t, w, http.StatusUnauthorized, "UNAUTHORIZED", "access denied")
	})
}

// Whatever a caller with a token sends, the answer keeps the contract and the fault is never ours.
func FuzzRequest(f *testing.F) {
	for _, s := range []struct{ method, path, query, body string }{
		{"GET", "/psa/pins", "cid=" + cidV0 + "&status=queued,pinned&limit=5", ""},
		{"GET", "/psa/pins", "before=2026-01-31T14:00:00.5+02:00&name=a&match=ipartial&meta[k]=v", ""},
		{"GET", "/psa//pins/", `meta={"a":"b"}&after=0000-01-01T00:00:00%2B01:00`, ""},
		{"POST", "/psa/pins", "", `{"cid":"` + cidV0 + `","name":"x","origins":["` + origin + `"],"meta":{"a":"b"}}`},
		{"POST", "/psa/pins/x", "", `{"cid":"` + inlined + `"}`},
		{"DELETE", "/psa/pins/0193548f-0000-7000-8000-000000000001", "", ""},
		{"OPTIONS", "/psa/pins", "", ""},
		{"POST", "/psa/policy/archive/pins", "", `{"cid":"` + cidV0 + `","meta":{"frostpin.replicas":"2"}}`},
		{"GET", "/psa/policy/%2e%2e/pins", "", ""},
		{"PUT", "/psa/pins/a%2Fb", "", ""},
		{"GET", "/docs/../x", "", ""},
	} {
		f.Add(s.method, s.path, s.query, []byte(s.body))
	}
	fix := quiet(f)
	c := loadContract(f)
	f.Fuzz(func(t *testing.T, method, path, query string, body []byte) {
		r := httptest.NewRequest("GET", "/", strings.NewReader(string(body)))
		p, err := url.PathUnescape(path)
		if err != nil || method == "" {
			return
		}
		r.Method, r.URL.Path, r.URL.RawPath, r.URL.RawQuery = method, p, path, query
		r.Header.Set("Authorization", "Bearer "+alice)
		w := httptest.NewRecorder()
		fix.ServeHTTP(w, r)
		fix.pins.rows = fix.pins.rows[:min(len(fix.pins.rows), 20)]

		operation := ""
		clean := strings.Trim(collapse(p), "/")
		for _, name := range policies {
			clean = strings.Replace(clean, "psa/policy/"+name+"/pins", "psa/pins", 1)
		}
		switch {
		case clean == "psa/pins" && (method == "GET" || method == "POST"):
			operation = "/pins"
		case strings.HasPrefix(clean, "psa/pins/") && (method == "GET" || method == "POST" || method == "DELETE"):
			operation = "/pins/{requestid}"
		}
		switch {
		case w.Code >= 500:
			t.Errorf("%s %q?%s: %d %s", method, path, query, w.Code, w.Body)
		case operation != "":
			c.check(t, method, operation, w)
		case w.Code >= 400:
			readFailure(t, w)
		}
		// The canonical query always binds; this text stands for anything that the generated wrapper refuses. Our own API
		// has no clients yet whose habits it must bear.
		if !strings.HasPrefix(clean, "api/v1/") && strings.Contains(w.Body.String(), "the request is malformed") {
			t.Errorf("%s %q?%s: the generated wrapper refused it", method, path, query)
		}
	})
}

func collapse(p string) string {
	for strings.Contains(p, "//") {
		p = strings.ReplaceAll(p, "//", "/")
	}
	return p
}

func TestManyMalformedRequestsNeverFail(t *testing.T) {
	fix := quiet(t)
	srv := httptest.NewServer(fix)
	defer srv.Close()
	bodies := []string{"", "{", "[]", "null", `{"cid":1}`, `{"cid":"` + cidV0 + `","meta":{"a":1}}`, "\xff", strings.Repeat("[", 1000), `{"cid":"\ud800"}`}
	queries := []string{"", "?limit=0", "?cid=", "?status=x", "?before=y", "?meta=[", "?%zz", "?meta[a]=%ff", "?name=" + strings.Repeat("n", 300)}
	ids := []string{"", "/x", "/%2e%2e", "/%00", "/" + strings.Repeat("i", 100), "/a/b", "/%ff"}
	n := 0
	for _, method := range []string{"GET", "POST", "DELETE", "PUT", "HEAD", "PATCH", "QUERY"} {
		for _, id := range ids {
			for _, query := range queries {
				for _, body := range bodies {
					r, err := http.NewRequestWithContext(t.Context(), method, srv.URL+"/psa/pins"+id+query, strings.NewReader(body))
					if err != nil {
						continue // the client itself refuses to send it
					}
					r.Header.Set("Authorization", "Bearer "+alice)
					resp, err := srv.Client().Do(r)
					if err != nil {
						t.Fatal(err)
					}
					data, err := io.ReadAll(resp.Body)
					if err != nil {
						t.Fatal(err)
					}
					if err := resp.Body.Close(); err != nil {
						t.Fatal(err)
					}
					if resp.StatusCode >= 500 {
						t.Errorf("%s %s%s %q: %d %s", method, id, query, body, resp.StatusCode, data)
					}
					n++
				}
			}
		}
	}
	if n < 3000 {
		t.Errorf("only %d requests were sent", n)
	}
}
