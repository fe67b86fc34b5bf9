package server_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite testdata/golden")

// golden is what a file in testdata/golden holds.
type golden struct {
	Request string            `json:"request"`
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"`
	Body    any               `json:"body,omitempty"`
}

// Every operation with every kind of answer, as a client would see it. The status stands here as well, so that
// -update cannot hide its change.
func TestGoldenExchanges(t *testing.T) {
	c := loadContract(t)
	const gone = "0193548f-0000-7000-8000-999999999999"
	full := `{"cid":"` + cidV0 + `","name":"My %_ <pin> 😀","origins":["` + origin + `","/nonsense"],"meta":{"app":"x"}}`
	for _, e := range []struct {
		name, token, method, path, query, body string
		status                                 int
	}{
		{"list-empty", bob, "GET", "/pins", "", "", 200},
		{"list-default", alice, "GET", "/pins", "", "", 200},
		{"list-all", alice, "GET", "/pins", "status=queued,pinning,pinned,failed", "", 200},
		{"list-one-of-many", alice, "GET", "/pins", "status=queued,pinned&limit=1", "", 200},
		{"list-other-spelling", alice, "GET", "/pins", "status=queued&cid=" + cidV1, "", 200},
		{"list-bad-limit", alice, "GET", "/pins", "limit=0", "", 400},
		{"list-bad-meta", alice, "GET", "/pins", "meta=map[a:b]", "", 400},
		{"list-no-token", "", "GET", "/pins", "limit=0", "", 401},
		{"add-minimal", alice, "POST", "/pins", "", `{"cid":"` + cidRaw + `"}`, 202},
		{"add-full", alice, "POST", "/pins", "", full, 202},
		{"add-inlined", alice, "POST", "/pins", "", `{"cid":"` + inlined + `"}`, 202},
		{"add-bad-cid", alice, "POST", "/pins", "", `{"cid":"nonsense"}`, 400},
		{"add-empty-body", alice, "POST", "/pins", "", ``, 400},
		{"add-wrong-token", "fp_unknown", "POST", "/pins", "", full, 401},
		{"add-too-large", alice, "POST", "/pins", "", strings.Repeat(" ", 1<<20+1), 413},
		{"get", alice, "GET", "/pins/ID", "", "", 200},
		{"get-unknown", alice, "GET", "/pins/" + gone, "", "", 404},
		{"get-foreign", bob, "GET", "/pins/ID", "", "", 404},
		{"get-malformed", alice, "GET", "/pins/%00", "", "", 404},
		{"replace", alice, "POST", "/pins/ID", "", `{"cid":"` + cidRaw + `","name":"new"}`, 202},
		{"replace-bad-body", alice, "POST", "/pins/ID", "", `{"cid":5}`, 400},
		{"replace-unknown", alice, "POST", "/pins/" + gone, "", full, 404},
		{"delete", alice, "DELETE", "/pins/ID", "", "", 202},
		{"delete-foreign", bob, "DELETE", "/pins/ID", "", "", 404},
		{"method-not-allowed", alice, "PUT", "/pins/ID", "", "", 405},
		{"add-cold", alice, "POST", "/pins", "", `{"cid":"` + cidRaw + `","meta":{"frostpin.replicas":"2"}}`, 202},
		{"add-cold-unmet", alice, "POST", "/pins", "", `{"cid":"` + cidRaw + `","meta":{"frostpin.replicas":"9"}}`, 400},
		{"add-policy", alice, "POST", "/policy/archive/pins", "", `{"cid":"` + cidRaw + `"}`, 202},
		{"add-policy-unknown", alice, "POST", "/policy/nothing/pins", "", `{"cid":"` + cidRaw + `"}`, 404},
		{"list-policy-unknown", alice, "GET", "/policy/nothing/pins", "", "", 404},
		{"list-policy", alice, "GET", "/policy/hot-only/pins", "status=queued,pinned", "", 200},
		{"replace-policy", alice, "POST", "/policy/archive/pins/ID", "", `{"cid":"` + cidRaw + `"}`, 202},
	} {
		t.Run(e.name, func(t *testing.T) {
			f := newColdFixture(t)
			f.mustAdd(t, alice, `{"cid":"`+inlined+`"}`)
			id := f.mustAdd(t, alice, full)

			target := "/psa" + strings.Replace(e.path, "ID", id, 1)
			if e.query != "" {
				target += "?" + e.query
			}
			w := f.do(e.token, e.method, target, e.body)
			if w.Code != e.status {
				t.Errorf("status %d, want %d", w.Code, e.status)
			}
			if e.status != http.StatusMethodNotAllowed {
				path := "/pins"
				if strings.Contains(e.path, "/pins/") {
					path = "/pins/{requestid}"
				}
				c.check(t, e.method, path, w)
			}
			compare(t, e.name, record(t, e.method+" "+target, w))
		})
	}
}

var (
	anID   = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`)
	aTime  = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`)
	matter = []string{
		"Content-Type", "Cache-Control", "Allow", "Retry-After", "Www-Authenticate", "X-Content-Type-Options",
		"Access-Control-Allow-Origin", "Access-Control-Expose-Headers",
	}
)

// record takes what matters of an answer, with ids and times made equal.
func record(t *testing.T, request string, w *httptest.ResponseRecorder) []byte {
	t.Helper()
	g := golden{Request: request, Status: w.Code, Headers: map[string]string{}}
	for _, name := range matter {
		if v := w.Header().Values(name); v != nil {
			g.Headers[name] = strings.Join(v, " | ")
		}
	}
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &g.Body); err != nil {
			t.Fatalf("%q: %v", w.Body, err)
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(g); err != nil {
		t.Fatal(err)
	}
	return aTime.ReplaceAll(anID.ReplaceAll(b.Bytes(), []byte("ID")), []byte("TIME"))
}

func compare(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", "golden", name+".json")
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func TestNoGoldenFileIsLeftOver(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.json")
	if err != nil {
		t.Fatal(err)
	}
	var source []byte
	for _, name := range []string{"golden_test.go", "cold_test.go", "gateway_golden_test.go", "upload_test.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, text...)
	}
	if len(files) == 0 {
		t.Fatal("no golden files")
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		if !bytes.Contains(source, []byte(`{"`+name+`", `)) {
			t.Errorf("%s belongs to no exchange", file)
		}
	}
}
