package server_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"

	"github.com/frostpin/frostpin/server"
	"github.com/frostpin/frostpin/spec"
)

// from sends a GET as a peer would.
func (f *fixture) from(peer, target string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", target, nil)
	r.RemoteAddr = peer
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	return w
}

const (
	local  = "127.0.0.1:5000"
	remote = "203.0.113.9:5000"
)

func TestReadiness(t *testing.T) {
	broken := func(context.Context) error { return errSecret }
	fine := func(context.Context) error { return nil }
	for _, c := range []struct {
		name   string
		checks []server.Check
		status int
		want   string
	}{
		{"nothing to check", nil, 200, `{"status":"ready","checks":{}}`},
		{
			"all well",
			[]server.Check{{"database", fine, true}, {"node", fine, false}},
			200,
			`{"status":"ready","checks":{"database":{"status":"ok"},"node":{"status":"ok"}}}`,
		},
		{
			"one away that we can do without",
			[]server.Check{{"database", fine, true}, {"node", broken, false}},
			200,
			`{"status":"degraded","checks":{"database":{"status":"ok"},"node":{"status":"failing","detail":"secret: /var/lib/frostpin/frostpin.db"}}}`,
		},
		{
			"one away that we need",
			[]server.Check{{"node", broken, false}, {"database", broken, true}},
			503,
			`{"status":"unavailable","checks":{"database":{"status":"failing","detail":"secret: /var/lib/frostpin/frostpin.db"},"node":{"status":"failing","detail":"secret: /var/lib/frostpin/frostpin.db"}}}`,
		},
		{
			"one that panics",
			[]server.Check{{"node", func(context.Context) error { panic("x") }, false}},
			200,
			`{"status":"degraded","checks":{"node":{"status":"failing","detail":"panic: x"}}}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, func(cfg *server.Config) { cfg.Checks = c.checks })
			w := f.from(local, "/readyz")
			if got := strings.TrimSpace(w.Body.String()); w.Code != c.status || got != c.want {
				t.Errorf("%d %s\nwant %d %s", w.Code, got, c.status, c.want)
			}
			// Strangers learn the state, not the cause.
			w = f.from(remote, "/readyz")
			if w.Code != c.status || strings.Contains(w.Body.String(), "detail") {
				t.Errorf("a stranger gets %d %s", w.Code, w.Body)
			}
		})
	}
}

func TestHangingCheckIsReportedAndNotStartedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var started atomic.Int32
		release := make(chan struct{})
		f := newFixture(t, func(cfg *server.Config) {
			cfg.Checks = []server.Check{{"node", func(context.Context) error {
				started.Add(1)
				<-release
				return nil
			}, true}}
		})
		for range 5 {
			start := time.Now()
			if w := f.from(local, "/readyz"); w.Code != 503 || !strings.Contains(w.Body.String(), "does not answer") {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("answered after %s", took)
			}
			<-time.After(2 * time.Second)
		}
		if got := started.Load(); got != 1 {
			t.Errorf("started %d times", got)
		}
		close(release)
		synctest.Wait()
		if w := f.from(local, "/readyz"); w.Code != 200 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

func TestStrangersCannotMakeChecksRunOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ran := 0
		f := newFixture(t, func(cfg *server.Config) {
			cfg.Checks = []server.Check{{"database", func(context.Context) error { ran++; return nil }, true}}
		})
		for range 100 {
			f.from(remote, "/readyz")
		}
		if ran != 1 {
			t.Errorf("ran %d times", ran)
		}
		<-time.After(time.Second)
		f.from(remote, "/readyz")
		if ran != 2 {
			t.Errorf("ran %d times after a second", ran)
		}
	})
}

func TestMetricsAreForTheOperator(t *testing.T) {
	f := newFixture(t)
	f.do(alice, "GET", "/psa/pins", "")
	f.do(alice, "GET", "/psa/pins/secret-id", "")
	f.do(alice, "GET", "/made/up/by/a/stranger", "")
	f.do(alice, "BREW", "/psa/pins", "")
	w := f.from(local, "/metrics")
	for _, line := range []string{
		`frostpin_http_request_duration_seconds_count{method="GET",route="/pins",status="2xx"} 1`,
		`frostpin_http_request_duration_seconds_count{method="GET",route="/pins/{requestid}",status="4xx"} 1`,
		`frostpin_http_request_duration_seconds_count{method="GET",route="none",status="4xx"} 1`,
		`frostpin_http_request_duration_seconds_count{method="other",route="/pins",status="4xx"} 1`,
		`frostpin_http_requests_running 1`,
	} {
		if !strings.Contains(w.Body.String(), line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	if strings.Contains(w.Body.String(), "secret") || strings.Contains(w.Body.String(), "stranger") {
		t.Errorf("made-up paths became labels:\n%s", w.Body)
	}

	if w := f.from("[::1]:5000", "/metrics"); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantFailure404 := func(w *httptest.ResponseRecorder) {
		t.Helper()
		if f := readFailure(t, w); w.Code != 404 || f.Error.Reason != "NOT_FOUND" {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	wantFailure404(f.from(remote, "/metrics"))
	wantFailure404(f.from("[::ffff:203.0.113.9]:5000", "/metrics"))
	wantFailure404(f.from("@", "/metrics"))
	for _, header := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		wantFailure404(f.from(local, "/metrics", header, "127.0.0.1")) // a proxy on this machine
	}
	open := newFixture(t, func(c *server.Config) { c.PublicMetrics = true })
	if w := open.from(remote, "/metrics"); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestIndexSaysWhereToGo(t *testing.T) {
	for base, want := range map[string]string{
		"":  `{"api":"/psa","docs":"/docs","service":"frostpin","version":"1.2.3"}`,
		"/": `{"api":"/","docs":"/docs","service":"frostpin","version":"1.2.3"}`,
	} {
		f := newFixture(t, func(c *server.Config) { c.BasePath = base })
		if w := f.do("", "GET", "/", ""); w.Code != 200 || strings.TrimSpace(w.Body.String()) != want {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if w := f.do("", "GET", "/healthz", ""); w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"status":"ok"}` {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
}

// loads finds what an HTML page names.
var loads = regexp.MustCompile(`(?:src|href|data-pinning|data-own)="([^"]*)"`)

func TestDocsPageLoadsNothingFromOutside(t *testing.T) {
	f := newFixture(t)
	for _, page := range []string{"/docs", "/docs/", "//docs//", "/docs?x=/"} {
		w := f.do("", "GET", "http://host"+page, "")
		if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
			t.Fatalf("%s: %d %s", page, w.Code, w.Body)
		}
		policy := w.Header().Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "http") || strings.Contains(policy, "script-src 'self' 'unsafe") {
			t.Errorf("policy %s", policy)
		}
		if strings.Contains(w.Body.String(), "<script>") || strings.Contains(w.Body.String(), "PREFIX") {
			t.Errorf("%s: %s", page, w.Body)
		}
		at, err := url.Parse("http://host" + page)
		if err != nil {
			t.Fatal(err)
		}
		names := loads.FindAllStringSubmatch(w.Body.String(), -1)
		if len(names) < 6 {
			t.Errorf("the page names %v", names)
		}
		for _, name := range names {
			ref, err := at.Parse(name[1])
			if err != nil {
				t.Fatal(err)
			}
			if ref.Host != "host" {
				t.Errorf("%s loads %s", page, ref)
			}
			if w := f.do("", "GET", ref.String(), ""); w.Code != 200 || w.Body.Len() == 0 {
				t.Errorf("%s loads %s: %d", page, ref, w.Code)
			}
		}
	}
	wantFailure404 := f.do("", "GET", "/docs/index.html", "")
	if readFailure(t, wantFailure404); wantFailure404.Code != 404 {
		t.Errorf("%d", wantFailure404.Code)
	}
}

func TestDocsFilesAreTheSamePackedAndUnpacked(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{"swagger-ui.css", "swagger-ui-bundle.js"} {
		plain := f.do("", "GET", "/docs/"+name, "")
		packed := f.do("", "GET", "/docs/"+name, "", "Accept-Encoding", "br, gzip")
		if packed.Header().Get("Content-Encoding") != "gzip" || plain.Header().Get("Content-Encoding") != "" {
			t.Fatalf("%v, %v", packed.Header(), plain.Header())
		}
		r, err := gzip.NewReader(packed.Body)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, plain.Body.Bytes()) || len(data) == 0 {
			t.Errorf("%s differs", name)
		}
		if packed.Header().Get("Content-Type") != plain.Header().Get("Content-Type") {
			t.Errorf("%v, %v", packed.Header(), plain.Header())
		}
	}
}

func TestDocsShowTheContractWithThisServer(t *testing.T) {
	for base, want := range map[string]string{"/psa": "http://host/p/psa", "/": "http://host/p/", "/a/b": "http://host/p/a/b"} {
		f := newFixture(t, func(c *server.Config) { c.BasePath = base })
		w := f.do("", "GET", "/docs/openapi.json", "")
		shown, err := openapi3.NewLoader().LoadFromData(w.Body.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		// As seen through a proxy that takes away /p.
		at, err := url.Parse("http://host/p/docs/openapi.json")
		if err != nil {
			t.Fatal(err)
		}
		ref, err := at.Parse(shown.Servers[0].URL)
		if err != nil {
			t.Fatal(err)
		}
		if ref.String() != want {
			t.Errorf("server %s, want %s", ref, want)
		}
		contract, err := spec.Contract()
		if err != nil {
			t.Fatal(err)
		}
		shown.Servers = contract.Servers
		a, err := json.Marshal(contract)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(shown)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(a), string(b)); diff != "" {
			t.Errorf("(-contract +shown):\n%s", diff)
		}
	}
}

func TestHeadOnPagesHasNoBody(t *testing.T) {
	f := newFixture(t)
	srv := httptest.NewServer(f)
	defer srv.Close()
	for _, path := range []string{"/", "/healthz", "/readyz", "/docs", "/docs/openapi.json"} {
		r, err := http.NewRequestWithContext(t.Context(), "HEAD", srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := srv.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 200 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}
