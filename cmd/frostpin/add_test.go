package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/frostpin/frostpin/spec"
)

// lose ends the connection of a request without an answer.
func lose(w http.ResponseWriter) {
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		_ = conn.Close()
	}
}

// fileOf makes a file of more bytes than any buffer on the way holds.
func fileOf(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(strings.Repeat("frostpin", 1<<19)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func uploadOf(t *testing.T, a adder) upload {
	t.Helper()
	u, _, err := a.upload()
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestAddMakesOnePinHoweverTheUploadBreaksOff(t *testing.T) {
	m := newModel(t)
	var keys []string
	m.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		switch len(keys) {
		case 1:
			w.Header().Set("Retry-After", "7")
			refuse(w, http.StatusServiceUnavailable, "BUSY")
		case 2: // it breaks off
			_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
			lose(w)
		case 3: // it is carried out, and the answer is lost
			m.upload(discarded{w.Header()}, r)
			lose(w)
		default:
			return false
		}
		return true
	}
	a := testAPI(t, m)
	var pauses []time.Duration
	a.pause = func(_ context.Context, d time.Duration) error { pauses = append(pauses, d); return nil }
	made, err := a.upload(t.Context(), uploadOf(t, adder{path: fileOf(t, "f")}))
	if err != nil || len(made) != 1 || len(m.rows) != 1 || made[0].ID != m.rows[0].ID || made[0].Pin.Name != "f" {
		t.Fatalf("%v, %v; the server has %v", made, err, m.rows)
	}
	if len(keys) != 4 || keys[0] == "" || len(slices.Compact(keys)) != 1 {
		t.Errorf("the keys of the tries are %v", keys)
	}
	if pauses[0] < 7*time.Second || pauses[0] > 11*time.Second {
		t.Errorf("it waits %v although it was told to wait 7s", pauses[0])
	}
}

// Where several ask more often than they may, each is told to come back again and again.
func TestAServiceThatSaysWhenToComeBackIsWaitedFor(t *testing.T) {
	for _, c := range []struct {
		refusals int
		gives    bool
	}{{20, true}, {1000, false}} {
		m := newModel(t)
		tries := 0
		m.intercept = func(w http.ResponseWriter, _ *http.Request) bool {
			if tries++; tries > c.refusals {
				return false
			}
			w.Header().Set("Retry-After", "5")
			refuse(w, http.StatusTooManyRequests, "SLOW_DOWN")
			return true
		}
		a := testAPI(t, m)
		var waited time.Duration
		a.pause = func(_ context.Context, d time.Duration) error { waited += d; return nil }
		if _, err := a.upload(t.Context(), uploadOf(t, adder{path: fileOf(t, "f")})); (err == nil) != c.gives {
			t.Errorf("after %d refusals and %s: %v", c.refusals, waited, err)
		}
		if waited > 17*time.Minute {
			t.Errorf("it waits %s", waited)
		}
	}
}

// discarded is an answer that nobody gets.
type discarded struct{ header http.Header }

func (d discarded) Header() http.Header         { return d.header }
func (d discarded) Write(b []byte) (int, error) { return len(b), nil }
func (d discarded) WriteHeader(int)             {}

// Servers, and proxies before them, take headers of some KiB; the longest meta fills 70 as a query.
func TestAddSendsTheLongestNameAndMeta(t *testing.T) {
	m := newModel(t)
	m.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if len(r.URL.RawQuery) > 7<<10 {
			w.WriteHeader(http.StatusRequestHeaderFieldsTooLarge)
			return true
		}
		return false
	}
	name, meta := strings.Repeat("𐍈", 255), map[string]string{}
	for i := range 1000 {
		meta[fmt.Sprintf("%04d", i)] = strings.Repeat("я", 6)
	}
	made, err := testAPI(t, m).upload(t.Context(), uploadOf(t, adder{path: fileOf(t, "f"), name: name, named: true, meta: meta}))
	if err != nil || len(m.rows) != 1 {
		t.Fatalf("%v; the server has %v", err, m.rows)
	}
	if p := made[0].Pin; p.Name != name || !maps.Equal(p.Meta, meta) {
		t.Errorf("the pin is %+v", p)
	}
	short, err := testAPI(t, m).upload(t.Context(), uploadOf(t, adder{path: fileOf(t, "f")}))
	if err != nil || short[0].Pin.CID != made[0].Pin.CID {
		t.Errorf("with a short name it is another DAG: %v, %v", short, err)
	}
}

func TestAddReadsStandardInputOnce(t *testing.T) {
	m := newModel(t)
	n := 0
	m.intercept = func(w http.ResponseWriter, _ *http.Request) bool {
		if n++; n == 1 {
			refuse(w, http.StatusTooManyRequests, "BUSY")
		}
		return n == 1
	}
	made, err := testAPI(t, m).upload(t.Context(), uploadOf(t, adder{path: "-", stdin: strings.NewReader("piped"), name: "n"}))
	if err != nil || made[0].Pin.CID != raw([]byte("piped")).Cid().String() || n != 2 {
		t.Errorf("put off before anything was read: %v, %v after %d requests", made, err, n)
	}
	n = 0
	m.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		n++
		_, _ = io.CopyN(io.Discard, r.Body, 1)
		lose(w)
		return true
	}
	_, err = testAPI(t, m).upload(t.Context(), uploadOf(t, adder{path: "-", stdin: strings.NewReader("piped")}))
	if err == nil || !strings.Contains(err.Error(), errOnce.Error()) || !strings.HasPrefix(err.Error(), "Post ") || n != 1 {
		t.Errorf("broken off: %v after %d requests", err, n)
	}
}

func TestAddDoesNotTryAgainWhatIsWrongHere(t *testing.T) {
	m := newModel(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o600); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	_, err = testAPI(t, m).upload(t.Context(), uploadOf(t, adder{path: dir}))
	if err == nil || !strings.Contains(err.Error(), "socket") {
		t.Errorf("a socket in a directory: %v", err)
	}
	path := fileOf(t, "f")
	u := uploadOf(t, adder{path: path})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := testAPI(t, m).upload(t.Context(), u); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is gone: %v", err)
	}
	if m.requests["POST api"] > 1 || len(m.rows) != 0 {
		t.Errorf("%d requests, %d pins", m.requests["POST api"], len(m.rows))
	}
}

func TestAddWaitsForWhatItWasToldTo(t *testing.T) {
	for _, c := range []struct {
		status spec.Status
		cold   string
		hot    adder
		want   bool
		fails  bool
	}{
		{spec.Pinning, "pending", adder{wait: true}, false, false},
		{spec.Pinned, "pending", adder{wait: true}, true, false},
		{spec.Failed, "", adder{wait: true}, false, true},
		{spec.Pinned, "in_progress", adder{waitCold: true}, false, false},
		{spec.Pinned, "degraded", adder{waitCold: true}, false, false},
		{spec.Pinned, "stored", adder{waitCold: true}, true, false},
		{spec.Pinned, "disabled", adder{waitCold: true}, false, true},
		{spec.Pinned, "failed", adder{waitCold: true}, false, true},
	} {
		done, err := c.hot.settled(pinned{Status: c.status, Info: map[string]string{"cold_status": c.cold}})
		if done != c.want || (err != nil) != c.fails {
			t.Errorf("%s, cold %s: %t, %v", c.status, c.cold, done, err)
		}
	}
}
