package server_test

import (
	"context"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/frostpin/frostpin/server"
)

func TestRouteTableIsTheContract(t *testing.T) {
	for _, base := range []string{"/psa", "/", "/a/b"} {
		f := newFixture(t, func(c *server.Config) { c.BasePath = base })
		var want []string
		doc := loadContract(t).doc
		for path, item := range doc.Paths.Map() {
			for method := range item.Operations() {
				want = append(want, method+" "+path)
			}
			want = append(want, "OPTIONS "+path) // for browsers; no operation of its own
		}
		var got []string
		for _, r := range f.Routes() {
			path, ok := strings.CutPrefix(r.Path, strings.TrimSuffix(base, "/")+"/pins")
			if ok {
				got = append(got, r.Method+" /pins"+strings.ReplaceAll(path, ":requestid", "{requestid}"))
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("base path %s (-contract +routes):\n%s", base, diff)
		}
		// The same once more for every policy.
		got = nil
		for _, r := range f.Routes() {
			path, ok := strings.CutPrefix(r.Path, strings.TrimSuffix(base, "/")+"/policy/:policy/pins")
			if ok {
				got = append(got, r.Method+" /pins"+strings.ReplaceAll(path, ":requestid", "{requestid}"))
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("base path %s with a policy (-contract +routes):\n%s", base, diff)
		}
	}
}

func TestOwnRouteTableIsItsContract(t *testing.T) {
	for _, base := range []string{"/psa", "/"} {
		f := newFixture(t, func(c *server.Config) { c.BasePath = base })
		var want, got []string
		for path, item := range loadOwnContract(t).doc.Paths.Map() {
			for method := range item.Operations() {
				want = append(want, method+" "+path)
			}
			want = append(want, "OPTIONS "+path)
		}
		for _, r := range f.Routes() {
			if path, ok := strings.CutPrefix(r.Path, "/api/v1"); ok {
				got = append(got, r.Method+" "+parameter.ReplaceAllString(path, "{$1}"))
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("base path %s (-contract +routes):\n%s", base, diff)
		}
	}
}

var parameter = regexp.MustCompile(`:(\w+)`)

func TestEveryOperationNeedsATokenBeforeAnythingElse(t *testing.T) {
	f := newFixture(t)
	f.pins.before = func(context.Context) { t.Error("pins was asked") }
	for path, item := range loadContract(t).doc.Paths.Map() {
		for method := range item.Operations() {
			target := "/psa" + strings.ReplaceAll(path, "{requestid}", "%00") + "?limit=0&cid="
			for _, target := range []string{target, strings.Replace(target, "/psa", "/psa/policy/nothing", 1)} {
				wantFailure(t, f.do("", method, target, "{"), http.StatusUnauthorized, "UNAUTHORIZED", "access denied")
			}
		}
	}
	for path, item := range loadOwnContract(t).doc.Paths.Map() {
		for method := range item.Operations() {
			if path == "/signup" || path == "/payments" {
				continue // who signs up has none yet, and a payment is signed
			}
			target := "/api/v1" + regexp.MustCompile(`{\w+}`).ReplaceAllString(path, "%00") + "?limit=0"
			wantFailure(t, f.do("", method, target, ""), http.StatusUnauthorized, "UNAUTHORIZED", "access denied")
		}
	}
}

func TestPathsAreServedInPlace(t *testing.T) {
	for _, base := range []string{"/psa", "/", "/a/b"} {
		f := newFixture(t, func(c *server.Config) { c.BasePath = base })
		prefix := strings.TrimSuffix(base, "/")
		w := f.do(alice, "POST", prefix+"/pins", `{"cid":"`+cidV0+`"}`)
		if w.Code != http.StatusAccepted {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		id := string(f.pins.rows[0].ID)
		for _, c := range []struct{ method, path string }{
			{"GET", "/pins"},
			{"GET", "/pins/"},
			{"GET", "//pins"},
			{"GET", "///pins//"},
			{"GET", "/pins/" + id},
			{"GET", "/pins/" + id + "/"},
			{"GET", "/pins//" + id},
			{"GET", "//pins/" + id},
			{"GET", "/pins%2F" + id},
			{"GET", "/pins/" + strings.Replace(id, "-", "%2D", 1)},
		} {
			if w := f.do(alice, c.method, "http://host/"+prefix+c.path, ""); w.Code != http.StatusOK {
				t.Errorf("base path %s, path %s: %d %s", base, c.path, w.Code, w.Body)
			}
		}
		// A POST stays a POST.
		if w := f.do(alice, "POST", prefix+"//pins/", `{"cid":"`+cidV0+`"}`); w.Code != http.StatusAccepted {
			t.Errorf("base path %s: %d %s", base, w.Code, w.Body)
		}
		if w := f.do(alice, "DELETE", prefix+"//pins//"+id+"/", ""); w.Code != http.StatusAccepted {
			t.Errorf("base path %s: %d %s", base, w.Code, w.Body)
		}
	}
}

func TestOtherPathsAreNotFoundEvenWithAToken(t *testing.T) {
	f := newFixture(t)
	id := f.mustAdd(t, alice, `{"cid":"`+cidV0+`"}`)
	for _, path := range []string{
		"/pins", "/psa", "/psa/", "/psa/x", "/psa/x/pins", "/psa/pins/x/pins", "/psa/pins/" + id + "/x", "/psapins",
		"/api/v1", "/api/v1/pins", "/psa/../psa/pins", "/PSA/pins", "/psa/Pins", "/%ff", "/psa/pins/" + id + "%00",
	} {
		for _, token := range []string{alice, ""} {
			for _, method := range []string{"GET", "POST", "DELETE"} {
				w := f.do(token, method, path, `{"cid":"`+cidV0+`"}`)
				if token == "" && w.Code == http.StatusUnauthorized {
					continue
				}
				wantFailure(t, w, http.StatusNotFound, "NOT_FOUND", "there is no")
			}
		}
	}
	if len(f.pins.rows) != 1 {
		t.Errorf("%d pins", len(f.pins.rows))
	}
}

func TestOtherMethodsAreNotAllowed(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct{ method, path, allow string }{
		{"PUT", "/psa/pins", "GET, OPTIONS, POST"},
		{"DELETE", "/psa/pins", "GET, OPTIONS, POST"},
		{"HEAD", "/psa/pins", "GET, OPTIONS, POST"},
		{"PATCH", "/psa/pins/x", "DELETE, GET, OPTIONS, POST"},
		{"HEAD", "/psa/pins/x", "DELETE, GET, OPTIONS, POST"},
		{"POST", "/healthz", "GET, HEAD, OPTIONS"},
		{"BREW", "/psa/pins", "GET, OPTIONS, POST"},
	} {
		w := f.do(alice, c.method, c.path, "")
		wantFailure(t, w, http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED", "method")
		allow := strings.Split(w.Header().Get("Allow"), ", ")
		slices.Sort(allow)
		if got := strings.Join(allow, ", "); got != c.allow {
			t.Errorf("%s %s: Allow: %s", c.method, c.path, got)
		}
	}
}

func TestBasePathsThatCannotWorkAreRefused(t *testing.T) {
	for _, base := range []string{
		"psa", "/psa/pins", "/pins", "/pins/", "/a//b", "/:a", "/*", "/a b", "/../a", "/healthz", "/docs/x", "/api/v1", "/a?b", "//",
	} {
		if _, err := server.New(server.Config{BasePath: base}, &memory{}, &tokens{}, discard()); err == nil {
			t.Errorf("%q was accepted", base)
		}
	}
}
