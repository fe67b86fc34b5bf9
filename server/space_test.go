package server_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/frostpin/frostpin/server"
)

func TestWithoutRoomWhatStoresMoreIsRefusedAndEverythingElseGoesOn(t *testing.T) {
	noSpace := false
	u := &uploads{}
	f := newFixture(t, func(c *server.Config) {
		c.NoSpace = func() bool { return noSpace }
		c.Uploads = u
	})
	u.pins = f.pins
	id := f.mustAdd(t, alice, `{"cid":"`+cidV0+`"}`)
	stores := []struct{ method, path, body string }{
		{"POST", "/psa/pins", `{"cid":"` + cidV0 + `"}`},
		{"POST", "/psa/policy/archive/pins", `{"cid":"` + cidV0 + `"}`},
		{"POST", "/psa/pins/" + id, `{"cid":"` + cidV1 + `"}`},
		{"POST", "/api/v1/upload", "some bytes"},
	}
	noSpace = true
	for _, c := range stores {
		w := f.do(alice, c.method, c.path, c.body)
		wantFailure(t, w, http.StatusServiceUnavailable, "INSUFFICIENT_STORAGE", "no room")
		if w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: it does not say when to try again", c.path)
		}
		if w := f.do("", c.method, c.path, c.body); w.Code != http.StatusUnauthorized {
			t.Errorf("%s: a stranger learns of the disk: %d", c.path, w.Code)
		}
	}
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/psa/pins", 200}, {"GET", "/psa/pins/" + id, 200}, {"GET", "/healthz", 200}, {"DELETE", "/psa/pins/" + id, 202},
	} {
		if w := f.do(alice, c.method, c.path, ""); w.Code != c.status {
			t.Errorf("%s %s: %d %s", c.method, c.path, w.Code, w.Body)
		}
	}
	if strings.Contains(f.log.String(), `"level":"ERROR"`) {
		t.Errorf("every refusal is an error in the log: %s", f.log)
	}
	noSpace = false
	id = f.mustAdd(t, alice, `{"cid":"`+cidV0+`"}`)
	stores[2].path = "/psa/pins/" + id
	for _, c := range stores {
		if w := f.do(alice, c.method, c.path, c.body); w.Code != http.StatusAccepted {
			t.Errorf("%s once there is room again: %d %s", strings.TrimPrefix(c.path, "/psa"), w.Code, w.Body)
		}
	}
}
