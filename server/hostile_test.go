package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/server"
	"github.com/frostpin/frostpin/spec"
)

// hostileRequests is how many are sent in all, spread evenly over the routes.
const hostileRequests = 24_000

// Whatever is sent to whichever route: the fault is never ours, errors of the API are in the envelope, and nothing goes
// on after the answer.
func TestHostileRequestsToEveryRouteAreAnsweredProperlyAndLeaveNothingBehind(t *testing.T) {
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), auth.Migrations()...); err != nil {
		t.Fatal(err)
	}
	accounts := auth.New(db, time.Now)
	if _, _, err := accounts.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := accounts.CreateAccount(t.Context(), auth.Operator(), "second", auth.Trusted); err != nil {
		t.Fatal(err)
	}
	before := goleak.IgnoreCurrent()
	r := newReads(t)
	up := &uploads{made: map[string]pins.Pin{}}
	var everything server.Config
	f := newColdFixture(t, func(c *server.Config) {
		c.Gateway = &server.Gateway{Blocks: r.world, Roots: r.world, LinkKey: []byte(strings.Repeat("k", 32))}
		c.Uploads, c.Pieces = up, &shelf{data: content(1000), tokens: []string{alice}}
		everything = *c
	})
	up.pins, f.tokens.Accounts = f.pins, accounts
	s, err := server.New(everything, f.pins, f.tokens, discard()) // without a log
	if err != nil {
		t.Fatal(err)
	}
	routes := s.Routes()
	h := hostile{
		rand.New(rand.NewPCG(1, 2)), //nolint:gosec // the same requests each time
		[]string{r.file.String(), r.dir.String(), cidRaw, inlined},
		[]string{strings.Repeat(" ", 2<<20), strings.Repeat("[", 100_000), strings.Repeat(`{"a":`, 5000), strings.Repeat(`"k":"v",`, 2000)},
	}
	sent := map[string]int{}
	for i := range hostileRequests {
		route := routes[i%len(routes)]
		req := h.request(route.Method, route.Path)
		w := httptest.NewRecorder()
		described := fmt.Sprintf("%s %q %v", req.Method, req.URL, req.Header)
		s.ServeHTTP(w, req)
		checkHostile(t, described, req, w)
		sent[route.Method+" "+route.Path]++
		f.pins.rows = f.pins.rows[:min(len(f.pins.rows), 20)]
		up.bodies, up.asked = nil, nil
		if t.Failed() {
			return
		}
	}
	for _, want := range []string{
		"GET /ipfs/*", "POST /api/v1/upload", "POST /api/v1/links", "POST /psa/pins", "DELETE /psa/policy/:policy/pins/:requestid", "GET /piece/:piece",
		"GET /docs/:file", "GET /api/v1/pins/:requestid/receipt",
	} {
		if sent[want] < hostileRequests/100 {
			t.Errorf("%s was sent %d requests; all: %v", want, sent[want], sent)
		}
	}
	goleak.VerifyNone(t, before)
}

func checkHostile(t *testing.T, described string, req *http.Request, w *httptest.ResponseRecorder) {
	t.Helper()
	if w.Code >= 500 {
		t.Errorf("%s: %d %s", described, w.Code, w.Body)
	}
	if w.Code < 400 || w.Body.Len() == 0 {
		return
	}
	kind, _, _ := mime.ParseMediaType(w.Header().Get("Content-Type"))
	if kind != "application/json" {
		// boxo's gateway speaks to people, and only it does.
		if !strings.HasPrefix(req.URL.Path, "/ipfs/") || kind != "text/plain" && kind != "text/html" {
			t.Errorf("%s: %d, an error as %q: %s", described, w.Code, kind, w.Body)
		}
		return
	}
	dec := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
	dec.DisallowUnknownFields()
	var f spec.Failure
	if err := dec.Decode(&f); err != nil || f.Error.Reason == "" || f.Error.Details == nil || *f.Error.Details == "" {
		t.Errorf("%s: %d, not in the envelope: %s", described, w.Code, w.Body)
	}
}

// hostile makes up requests, the same ones each time.
type hostile struct {
	*rand.Rand
	content []string // CIDs that there are
	large   []string // texts that take time to make
}

func pick[T any](h hostile, list ...T) T { return list[h.IntN(len(list))] }

// noise is bytes, or characters, of no meaning.
func (h hostile) noise(n int) string {
	b := make([]byte, h.IntN(n+1))
	for i := range b {
		b[i] = byte(h.IntN(256))
	}
	return string(b)
}

func (h hostile) request(method, route string) *http.Request {
	if h.IntN(8) == 0 {
		method = pick(h, "PUT", "PATCH", "QUERY", "TRACE", "CONNECT", "PROPFIND", "get", "\x00")
	}
	var path strings.Builder
	for segment := range strings.SplitSeq(strings.TrimPrefix(route, "/"), "/") {
		path.WriteByte('/')
		if strings.HasPrefix(segment, ":") || segment == "*" {
			segment = h.segment()
		}
		path.WriteString(segment)
	}
	if h.IntN(6) == 0 {
		path.WriteString(pick(h, "/", "//", "/..", "/%2e%2e/", "/"+h.segment(), ";a=b"))
	}
	body := h.body()
	r := httptest.NewRequest("GET", "/", strings.NewReader(body))
	r.Method = method
	r.URL.RawPath = path.String()
	if decoded, err := url.PathUnescape(path.String()); err == nil {
		r.URL.Path = decoded
	} else {
		r.URL.Path, r.URL.RawPath = path.String(), ""
	}
	r.URL.RawQuery = h.query()
	r.RequestURI = r.URL.RequestURI()
	r.Host = pick(h, "example.org", "", "127.0.0.1:80", "x.ipfs.example.org", strings.Repeat("h", 300), "[::1]", "a b")
	r.RemoteAddr = pick(h, "127.0.0.1:1", "192.0.2.1:1", "[2001:db8::1]:1", "", "rubbish")
	r.ContentLength = pick(h, int64(len(body)), -1, 1<<40, 0)
	if h.IntN(10) > 0 {
		r.Header.Set("Authorization", "Bearer "+pick(h, alice, alice, alice, bob, "", h.noise(20), strings.Repeat("t", 600)))
	}
	for range h.IntN(4) {
		r.Header.Add(h.header())
	}
	return r
}

func (h hostile) segment() string {
	return pick(h,
		pick(h, h.content...), pick(h, h.content...)+"/"+url.PathEscape(h.noise(8)), "archive", "index.html",
		"%00", "%2e%2e", "%2F", "..", ".", "%ff%fe", "%", "%zz", strings.Repeat("s", 5000), "0193548f-0000-7000-8000-000000000001",
		url.PathEscape(h.noise(30)), "b"+strings.Repeat("a", 100), "Qm"+strings.Repeat("1", 44), "\u202e", "*", "a:b", "{}", "<script>")
}

func (h hostile) query() string {
	known := []string{
		"cid", "name", "match", "status", "before", "after", "limit", "meta", "meta[k]", "policy", "format", "dag-scope", "entity-bytes",
		"filename", "download", "car-version", "car-order", "car-dups", "frostpin-expires", "frostpin-signature", "offset", "x",
	}
	values := []string{
		"", "0", "-1", "1001", "99999999999999999999", "1e9", "NaN", "x", "true", "[", "{", `{"a":1}`, `{"a":"b"}`, "queued,,pinned", "exact", "ipartial",
		"2026-01-31T12:00:00Z", "0000-00-00T00:00:00Z", "9999-12-31T23:59:60+99:99", "raw", "car", "tar", "json", "all", "entity", "0:*", "5:1", "-9223372036854775808:*",
		cidV0, strings.Repeat(cidV0+",", 20), strings.Repeat("v", 3000),
	}
	var parts []string
	for range h.IntN(5) {
		value := url.QueryEscape(pick(h, append(values, h.noise(10))...))
		parts = append(parts, pick(h, known...)+pick(h, "=", "=", "=", "", "==", "%3d")+pick(h, value, value, "%zz", "%", "+", ";"))
	}
	return strings.Join(parts, pick(h, "&", "&", "&", ";", "&&"))
}

func (h hostile) body() string {
	pin := `{"cid":"` + pick(h, append([]string{cidV0, cidV1, inlined, "", "x"}, h.content...)...) + `"`
	return pick(h,
		"", "{", "}", "[]", "null", "0", `""`, "\xef\xbb\xbf{}", "{}{}", h.noise(200), h.large[0], h.large[1], h.large[2],
		pin+"}", pin+`,"cid":"x"}`, pin+`,"CID":1}`, pin+`,"name":"`+strings.Repeat("n", 300)+`"}`, pin+`,"name":"\ud800"}`, pin+`,"name":"`+h.noise(10)+`"}`,
		pin+`,"origins":["x",1,null]}`, pin+`,"origins":["`+origin+`"]}`, pin+`,"meta":{"a":1}}`, pin+`,"meta":{"frostpin.replicas":"-1"}}`,
		pin+`,"meta":{`+h.large[3]+`"z":""}}`, pin+`,"path":"../../x"}`, pin+`,"expires_in":-1}`, pin+`,"expires_in":1e400}`,
		"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"../../x\"\r\n\r\nx\r\n--b--", "\x0a\xa1\x67version\x01", pin)
}

func (h hostile) header() (name, value string) {
	name = pick(h,
		"Content-Type", "Accept", "Accept-Encoding", "Range", "If-Range", "If-None-Match", "Idempotency-Key", "X-Request-Id", "X-Forwarded-For", "X-Forwarded-Host",
		"X-Forwarded-Proto", "Origin", "Access-Control-Request-Method", "Access-Control-Request-Private-Network", "Cache-Control", "Authorization", "Service-Worker",
		"X-Ipfs-Path", "Cookie", "Expect", "Upgrade", "Content-Encoding", "X-Http-Method-Override")
	return name, pick(h,
		"", "*", "*/*", "text/html", "application/json", "application/json; charset=\xff", "multipart/form-data", "multipart/form-data; boundary=b",
		"multipart/form-data; boundary="+strings.Repeat("b", 200), "application/vnd.ipld.car", "application/vnd.ipld.car; version=9; order=x; dups=maybe", "application/vnd.ipld.raw",
		"application/x-tar", "application/x-directory", "bytes=0-0", "bytes=5-1", "bytes=-1", "bytes=0-99999999999999999999", "bytes="+strings.Repeat("0-0,", 500), "octets=1",
		`"tag"`, `W/"`, "only-if-cached", "no-cache, max-age=x", "evil.example", "https", "null", "gzip", "100-continue", "h2c", "script", strings.Repeat("v", 4000), h.noise(40))
}
