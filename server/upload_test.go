package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/ingest"
	"github.com/frostpin/frostpin/server"
	"github.com/frostpin/frostpin/spec"
)

// uploads is an Uploads that reads bodies and pins the same root for each.
type uploads struct {
	pins   *memory
	mu     sync.Mutex
	err    error
	asked  []ingest.Upload
	bodies []string
	made   map[string]pins.Pin // by key
	hold   chan struct{}       // when set: bodies are read once it is closed
}

func (u *uploads) Upload(_ context.Context, up ingest.Upload) ([]pins.Pin, bool, error) {
	if u.hold != nil {
		<-u.hold
	}
	body, err := io.ReadAll(up.Body)
	if err != nil {
		return nil, false, err
	}
	if up.Admit != nil {
		if err := up.Admit([]pins.Sized{{Root: cid.MustParse(cidRaw), Extent: pins.Extent{Blocks: 1, Bytes: int64(len(body))}}}); err != nil {
			return nil, false, err
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	up.Body, up.Admit = nil, nil
	u.asked, u.bodies = append(u.asked, up), append(u.bodies, string(body))
	if u.err != nil {
		return nil, false, u.err
	}
	if p, again := u.made[up.Key]; again {
		return []pins.Pin{p}, false, nil
	}
	p := u.pins.add(up.Account, spec.Request{CID: cidRaw, Root: cid.MustParse(cidRaw), Name: up.Name, Meta: up.Meta}, pins.Decision{Terms: pins.Uncopied})
	if up.Key != "" {
		u.made[up.Key] = p
	}
	return []pins.Pin{p}, true, nil
}

func newUploadFixture(t *testing.T, change ...func(*server.Config)) (*fixture, *uploads) {
	t.Helper()
	u := &uploads{made: map[string]pins.Pin{}}
	f := newFixture(t, append(change, func(c *server.Config) { c.Uploads = u })...)
	u.pins = f.pins
	return f, u
}

func TestGoldenUploads(t *testing.T) {
	c := loadOwnContract(t)
	for _, e := range []struct {
		name, token, query, key string
		err                     error
		status                  int
	}{
		{"upload", alice, "?name=a+file&meta[app]=x", "", nil, 202},
		{"upload-no-token", "", "", "", nil, 401},
		{"upload-again", alice, "", "once", nil, 200},
		{"upload-bad-meta", alice, "?meta=x", "", nil, 400},
		{"upload-bad-policy", alice, "?policy=nothing", "", nil, 404},
		{"upload-bad-body", alice, "", "", &spec.InvalidError{Field: "body", Problem: "is not a CAR of version 1 or 2"}, 400},
		{"upload-too-large", alice, "", "", &ingest.LargeError{Problem: "the upload is larger than the limit of 5 bytes"}, 413},
		{"upload-unavailable", alice, "", "", pins.ErrUnavailable, 503},
	} {
		t.Run(e.name, func(t *testing.T) {
			f, u := newUploadFixture(t)
			u.err = e.err
			var headers []string
			if e.key != "" {
				headers = []string{"Idempotency-Key", e.key}
				f.do(e.token, "POST", "/api/v1/upload"+e.query, "hello", headers...)
			}
			w := f.do(e.token, "POST", "/api/v1/upload"+e.query, "hello", headers...)
			if w.Code != e.status {
				t.Errorf("status %d, want %d", w.Code, e.status)
			}
			c.check(t, "POST", "/upload", w)
			compare(t, e.name, record(t, "POST /api/v1/upload"+e.query, w))
		})
	}
}

func TestUploadIsWhatItsTypeSays(t *testing.T) {
	for kind, want := range map[string]ingest.Upload{
		"":                                 {Format: ingest.File},
		"text/plain; charset=utf-8":        {Format: ingest.File},
		"nonsense/":                        {Format: ingest.File},
		"Application/VND.ipld.car; x=1":    {Format: ingest.CAR},
		"application/x-tar":                {Format: ingest.Tar},
		"multipart/form-data; boundary=bb": {Format: ingest.Multipart, Boundary: "bb"},
	} {
		f, u := newUploadFixture(t)
		w := f.do(alice, "POST", "/api/v1/upload?policy=archive", "hello", "Content-Type", kind)
		want.Account, want.Choice = 1, pins.Choice{Path: "archive"}
		if diff := cmp.Diff([]ingest.Upload{want}, u.asked); w.Code != 202 || diff != "" || u.bodies[0] != "hello" {
			t.Errorf("%s: %d %s (-want +got):\n%s", kind, w.Code, w.Body, diff)
		}
	}
	f, u := newUploadFixture(t)
	wantFailure(t, f.do(alice, "POST", "/api/v1/upload", "", "Content-Type", "multipart/form-data"), 400, "BAD_REQUEST", "boundary")
	wantFailure(t, f.do(alice, "POST", "/api/v1/upload", "", "Idempotency-Key", strings.Repeat("k", 256)), 400, "BAD_REQUEST", "Idempotency-Key")
	if len(u.asked) > 0 {
		t.Error("a refused upload was made")
	}
	wantFailure(t, newFixture(t).do(alice, "POST", "/api/v1/upload", "x"), 404, "NOT_FOUND", "takes no uploads")
}

func TestFileIsNamedByItsFilenameUnlessItHasAName(t *testing.T) {
	name := func(s string) *string { return &s }
	for _, c := range []struct {
		query, kind string
		want        *string
	}{
		{"?filename=a.jpg", "image/jpeg", name("a.jpg")},
		{"?filename=a.jpg", "", name("a.jpg")},
		{"?filename=a.jpg&name=holiday", "image/jpeg", name("holiday")},
		{"?filename=a.jpg&name=", "image/jpeg", name("")},
		{"", "image/jpeg", nil},
		{"?filename=a.tar", "application/x-tar", nil},
		{"?filename=a.car", "application/vnd.ipld.car", nil},
		{"?filename=form", "multipart/form-data; boundary=b", nil},
	} {
		f, u := newUploadFixture(t)
		w := f.do(alice, "POST", "/api/v1/upload"+c.query, "hello", "Content-Type", c.kind)
		if w.Code != 202 || !cmp.Equal(c.want, u.asked[0].Name) {
			t.Errorf("%s as %q: %d, the name is %v", c.query, c.kind, w.Code, u.asked[0].Name)
		}
	}
}

func TestUploadsAtOnceAreBounded(t *testing.T) {
	f, u := newUploadFixture(t, func(c *server.Config) { c.UploadSlots = 1 })
	first := f.uploadHeld(t, u, 1)
	wantFailure(t, f.do(bob, "POST", "/api/v1/upload", "b"), 429, "RATE_LIMITED", "at once")
	close(u.hold)
	if code := <-first; code != 202 {
		t.Errorf("the first upload: %d", code)
	}
	if w := f.do(bob, "POST", "/api/v1/upload", "b"); w.Code != 202 {
		t.Errorf("after it: %d", w.Code)
	}
}

func TestOneAccountDoesNotTakeTheUploadsOfOthers(t *testing.T) {
	f, u := newUploadFixture(t, func(c *server.Config) { c.UploadSlots = 8 })
	first := f.uploadHeld(t, u, 2)
	wantFailure(t, f.do(alice, "POST", "/api/v1/upload", "a"), 429, "RATE_LIMITED", "at once")
	theirs := make(chan int, 1)
	go func() { theirs <- f.do(bob, "POST", "/api/v1/upload", "b").Code }()
	f.untilUploading(t, 3)
	close(u.hold)
	for range 2 {
		if code := <-first; code != 202 {
			t.Errorf("an upload of the account: %d", code)
		}
	}
	if code := <-theirs; code != 202 {
		t.Errorf("another account: %d", code)
	}
	if w := f.do(alice, "POST", "/api/v1/upload", "a"); w.Code != 202 {
		t.Errorf("after them: %d", w.Code)
	}
}

func TestUploadOfASuspendedAccountEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, u := newUploadFixture(t)
		r, w := io.Pipe()
		req := httptest.NewRequest("POST", "/api/v1/upload", r)
		req.Header.Set("Authorization", "Bearer "+alice)
		answer, ended := httptest.NewRecorder(), make(chan struct{})
		go func() { f.ServeHTTP(answer, req); close(ended) }()
		more := func() {
			t.Helper()
			if _, err := io.WriteString(w, "more"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		more()
		<-time.After(time.Minute) // of the bubble
		more()
		f.tokens.caller.State = auth.Suspended
		<-time.After(time.Minute)
		more()
		<-ended
		wantFailure(t, answer, 403, "ACCOUNT_SUSPENDED", "suspended")
		if len(u.bodies) > 0 {
			t.Error("it was made")
		}
	})
}

// uploadHeld begins so many uploads of alice, which end when u.hold is closed.
func (f *fixture) uploadHeld(t *testing.T, u *uploads, n int) (codes chan int) {
	t.Helper()
	u.hold = make(chan struct{})
	codes = make(chan int, n)
	for range n {
		go func() { codes <- f.do(alice, "POST", "/api/v1/upload", "a").Code }()
	}
	f.untilUploading(t, n)
	return codes
}

func (f *fixture) untilUploading(t *testing.T, n int) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for f.Uploading() != n {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d uploads run, not %d", f.Uploading(), n)
		}
	}
}

// More than the 1 MiB of other bodies, in pieces, over a real connection.
func TestLargeUploadIsReadToItsEnd(t *testing.T) {
	f, u := newUploadFixture(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Serve(ctx, ln) }()
	defer func() { stop(); <-ended }()
	r, w := io.Pipe()
	go func() {
		for range 40 {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
		w.Close()
	}()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://"+ln.Addr().String()+"/api/v1/upload", r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+alice)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 202 || len(u.bodies) != 1 || len(u.bodies[0]) != 40*64<<10 {
		t.Errorf("%d, %d bodies", resp.StatusCode, len(u.bodies))
	}
}

// The longest name and meta of the contract, each character of which a query needs twelve for, fit beside every kind of upload.
func TestUploadTakesTheLongestNameAndMeta(t *testing.T) {
	name, meta := strings.Repeat("𐍈", 255), map[string]string{}
	for i := range 1000 {
		meta[fmt.Sprintf("%04d", i)] = strings.Repeat("я", 6)
	}
	meta["0000"] += strings.Repeat("я", 192) // 16 KiB in all
	label, err := json.Marshal(map[string]any{"name": name, "meta": meta})
	if err != nil {
		t.Fatal(err)
	}
	f, u := newUploadFixture(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Serve(ctx, ln) }()
	defer func() { stop(); <-ended }()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for kind, want := range map[string]ingest.Upload{
		"application/vnd.ipld.car":         {Format: ingest.CAR},
		"application/x-tar":                {Format: ingest.Tar},
		"multipart/form-data; boundary=bb": {Format: ingest.Multipart, Boundary: "bb"},
		"text/plain":                       {Format: ingest.File},
	} {
		u.asked, u.bodies = nil, nil
		body := mixed("application/json", string(label), kind, "--bb hello")
		req, err := http.NewRequestWithContext(ctx, "POST", "http://"+ln.Addr().String()+"/api/v1/upload?policy=archive", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Authorization": {"Bearer " + alice}, "Content-Type": {"multipart/mixed; boundary=m"}}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 202 || len(u.asked) != 1 || u.bodies[0] != "--bb hello" {
			t.Fatalf("%s: %d, %q", kind, resp.StatusCode, u.bodies)
		}
		got := u.asked[0]
		if *got.Name != name || !maps.Equal(got.Meta, meta) || got.Format != want.Format || got.Boundary != want.Boundary || got.Choice.Path != "archive" {
			t.Errorf("%s is %+v", kind, got)
		}
	}
}

func mixed(parts ...string) string {
	var b strings.Builder
	for i := 0; i < len(parts); i += 2 {
		fmt.Fprintf(&b, "--m\r\nContent-Type: %s\r\n\r\n%s\r\n", parts[i], parts[i+1])
	}
	return b.String() + "--m--\r\n"
}

func TestUploadInPartsIsRefusedWhenItIsNotTwo(t *testing.T) {
	f, u := newUploadFixture(t)
	for _, c := range []struct{ query, kind, body, want string }{
		{"", "multipart/mixed", "", "boundary"},
		{"", "multipart/mixed; boundary=m", "", "two parts"},
		{"", "multipart/mixed; boundary=m", mixed("application/json", "{}"), "two parts"},
		{"", "multipart/mixed; boundary=m", mixed("application/json", "{", "text/plain", "x"), "JSON"},
		{"", "multipart/mixed; boundary=m", mixed("application/json", `{"name":1}`, "text/plain", "x"), "name"},
		{"", "multipart/mixed; boundary=m", mixed("application/json", `{"meta":{"a":"b","a":"c"}}`, "text/plain", "x"), "twice"},
		{"", "multipart/mixed; boundary=m", mixed("application/json", strings.Repeat(" ", 1<<20)+"{}", "text/plain", "x"), "two parts"},
		{"?name=n", "multipart/mixed; boundary=m", mixed("application/json", "{}", "text/plain", "x"), "query"},
		{"?meta[a]=b", "multipart/mixed; boundary=m", mixed("application/json", "{}", "text/plain", "x"), "query"},
	} {
		wantFailure(t, f.do(alice, "POST", "/api/v1/upload"+c.query, c.body, "Content-Type", c.kind), 400, "BAD_REQUEST", c.want)
	}
	body := mixed("application/json", "{}", "text/plain", "hello")
	if w := f.do(alice, "POST", "/api/v1/upload", body[:len(body)-9], "Content-Type", "multipart/mixed; boundary=m"); w.Code/100 == 2 || len(u.asked) > 0 {
		t.Errorf("a body that breaks off is answered with %d", w.Code)
	}
}

// A client that sends nothing any more is dropped; one that is slow is not.
func TestStalledUploadEnds(t *testing.T) {
	ended := make(chan error, 1)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, server.PatientBody(w, r.Body, 100*time.Millisecond, 1))
		ended <- err
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	defer func() { srv.Close(); <-done }()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nsome"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, server.ErrStalled) {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it did not end")
	}
}
