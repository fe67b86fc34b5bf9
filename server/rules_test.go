package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/server"
	"github.com/frostpin/frostpin/spec"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

var errSecret = errors.New("secret: /var/lib/frostpin/frostpin.db")

func TestAuthorizationHeader(t *testing.T) {
	f := newFixture(t)
	f.tokens.asked = []string{}
	for header, ok := range map[string]bool{
		"Bearer " + alice:                    true,
		"bearer " + alice:                    true,
		"BEARER   " + alice + " ":            true,
		"":                                   false,
		"Bearer":                             false,
		"Bearer ":                            false,
		alice:                                false,
		"Basic " + alice:                     false,
		"Bearer " + alice + " x":             false,
		"Bearer " + alice + "\x00":           false,
		"Bearer x" + alice:                   false,
		"Bearer " + strings.Repeat("x", 1e5): false,
	} {
		w := f.do("", "GET", "/psa/pins", "", "Authorization", header)
		if ok {
			if w.Code != http.StatusOK {
				t.Errorf("%.40q: %d %s", header, w.Code, w.Body)
			}
			continue
		}
		wantFailure(t, w, http.StatusUnauthorized, "UNAUTHORIZED", "access denied")
		if got := w.Header().Get("WWW-Authenticate"); got != "Bearer" {
			t.Errorf("WWW-Authenticate: %q", got)
		}
	}
	// What can be no token costs no look into the database.
	for _, token := range f.tokens.asked {
		if token != alice && token != "x"+alice {
			t.Errorf("asked for %.40q", token)
		}
	}
	wantFailure(t, f.do("", "GET", "/psa/pins?access_token="+alice, ""), 401, "UNAUTHORIZED", "access denied")
	wantFailure(t, f.do(alice, "GET", "/psa/pins", "", "Authorization", "Bearer "+bob), 401, "UNAUTHORIZED", "more than one")
}

func TestErrorsMeanWhatTheTableSays(t *testing.T) {
	away := errors.New("database away")
	full := fmt.Errorf("%w: full", away)
	odd := errors.New("odd text")
	for _, c := range []struct {
		err     error
		status  int
		reason  string
		details string
	}{
		{pins.ErrNotFound, 404, "NOT_FOUND", "no such pin request"},
		{fmt.Errorf("getting a pin: %w", pins.ErrNotFound), 404, "NOT_FOUND", "no such pin request"},
		{&spec.InvalidError{Field: "x", Problem: "is odd"}, 400, "BAD_REQUEST", "x is odd"},
		{fmt.Errorf("%w: %w", pins.ErrUnavailable, errSecret), 503, "SERVICE_UNAVAILABLE", "try again"},
		{fmt.Errorf("%w: %w", away, errSecret), 503, "DATABASE_BUSY", "try again"},
		{fmt.Errorf("%w: %w", full, errSecret), 503, "INSUFFICIENT_STORAGE", "no room"},
		{fmt.Errorf("%w: %w", odd, errSecret), 400, "BAD_REQUEST", "no text has"},
		{fmt.Errorf("storing: %w", pins.ErrNoSpace), 503, "INSUFFICIENT_STORAGE", "no room"},
		{fmt.Errorf("%w: %w", context.DeadlineExceeded, errSecret), 503, "SERVICE_UNAVAILABLE", "try again"},
		{errSecret, 500, "INTERNAL_SERVER_ERROR", "in the log under request "},
		{fmt.Errorf("%w: %w", context.Canceled, errSecret), 500, "INTERNAL_SERVER_ERROR", "in the log under request "},
	} {
		f := newFixture(t, func(cfg *server.Config) {
			cfg.Unavailable, cfg.Full, cfg.Unstorable = []error{away}, []error{full}, []error{odd}
		})
		f.pins.err = c.err
		w := f.do(alice, "GET", "/psa/pins/x", "", "X-Request-Id", "complaint-7")
		wantFailure(t, w, c.status, c.reason, c.details)
		if strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%v: shown to the caller: %s", c.err, w.Body)
		}
		if got := w.Header().Get("Retry-After") != ""; got != (c.status == 503) {
			t.Errorf("%v: Retry-After: %q", c.err, w.Header().Get("Retry-After"))
		}
		causes := strings.Count(f.log.String(), `"level":"ERROR"`)
		if want := c.status / 500; causes != want {
			t.Errorf("%v: logged %d times, want %d:\n%s", c.err, causes, want, f.log)
		}
		if c.status >= 500 && !strings.Contains(f.log.String(), `"request":"complaint-7"`) {
			t.Errorf("the cause is not logged under the request's id:\n%s", f.log)
		}
	}
}

func TestNoVerdictOnATokenIsNeitherYesNorNo(t *testing.T) {
	f := newFixture(t)
	f.tokens.err = errSecret
	w := f.do(alice, "GET", "/psa/pins", "")
	wantFailure(t, w, 503, "SERVICE_UNAVAILABLE", "try again")
	if strings.Contains(w.Body.String(), "secret") || !strings.Contains(f.log.String(), "secret") {
		t.Errorf("shown %s, logged %s", w.Body, f.log)
	}
}

func TestPanicIsAnsweredAndLoggedOnce(t *testing.T) {
	f := newFixture(t)
	f.pins.before = func(context.Context) { panic("secret") }
	w := f.do(alice, "GET", "/psa/pins", "")
	wantFailure(t, w, 500, "INTERNAL_SERVER_ERROR", "in the log under request "+w.Header().Get("X-Request-Id"))
	if strings.Contains(w.Body.String(), "secret") {
		t.Errorf("shown to the caller: %s", w.Body)
	}
	if got := strings.Count(f.log.String(), "panic: secret"); got != 1 {
		t.Errorf("logged %d times:\n%s", got, f.log)
	}
}

func TestClientThatLeftIsNobodysFault(t *testing.T) {
	for _, left := range []error{context.Canceled, fmt.Errorf("%w: %w", server.ErrStalled, io.ErrUnexpectedEOF)} {
		f := newFixture(t)
		ctx, cancel := context.WithCancel(t.Context())
		f.pins.err = fmt.Errorf("listing: %w", left)
		f.pins.before = func(context.Context) { cancel() }
		r := httptest.NewRequestWithContext(ctx, "GET", "/psa/pins", nil)
		r.Header.Set("Authorization", "Bearer "+alice)
		w := httptest.NewRecorder()
		f.ServeHTTP(w, r)
		if w.Code != 499 || strings.Contains(f.log.String(), "ERROR") {
			t.Errorf("%v: %d, logged %s", left, w.Code, f.log)
		}
	}
}

func TestNothingSecretIsLogged(t *testing.T) {
	f := newFixture(t)
	f.mustAdd(t, alice, `{"cid":"`+cidV0+`","name":"private name"}`)
	f.do(alice, "GET", "/psa/pins?name=private+name&access_token="+bob, "")
	f.do("fp_other", "GET", "/psa/pins", "")
	for _, word := range []string{alice, bob, "fp_other", "private", cidV0} {
		if strings.Contains(f.log.String(), word) {
			t.Errorf("%q is in the log:\n%s", word, f.log)
		}
	}
	if got := strings.Count(f.log.String(), `"msg":"request"`); got != 3 {
		t.Errorf("%d access log lines, want 3:\n%s", got, f.log)
	}
}

func TestBodyThatSaysItIsTooLargeIsNotRead(t *testing.T) {
	r := httptest.NewRequest("POST", "/psa/pins", unreadable{t})
	r.ContentLength = 1<<20 + 1
	r.Header.Set("Authorization", "Bearer "+alice)
	w := httptest.NewRecorder()
	newFixture(t).ServeHTTP(w, r)
	wantFailure(t, w, 413, "PAYLOAD_TOO_LARGE", "1 MiB")
}

type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, errSecret
}

func TestBodyThatBreaksOffIsTheCallersFault(t *testing.T) {
	r := httptest.NewRequest("POST", "/psa/pins", io.MultiReader(strings.NewReader(`{"cid":"`+cidV0+`"}`), iotest.ErrReader(errSecret)))
	r.Header.Set("Authorization", "Bearer "+alice)
	w := httptest.NewRecorder()
	newFixture(t).ServeHTTP(w, r)
	wantFailure(t, w, 400, "BAD_REQUEST", "body could not be read")
}

func TestBodiesAreJSONWhateverTheirContentType(t *testing.T) {
	f := newFixture(t)
	for _, kind := range []string{"", "application/json; charset=utf-8", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ";;"} {
		w := f.do(alice, "POST", "/psa/pins", `{"cid":"`+cidV0+`"}`, "Content-Type", kind)
		if w.Code != http.StatusAccepted {
			t.Errorf("%q: %d %s", kind, w.Code, w.Body)
		}
	}
}

func TestAnotherAccountsPinDoesNotExist(t *testing.T) {
	f := newFixture(t)
	id := f.mustAdd(t, alice, `{"cid":"`+cidV0+`"}`)
	for _, method := range []string{"GET", "POST", "DELETE"} {
		foreign := f.do(bob, method, "/psa/pins/"+id, `{"cid":"`+cidV0+`"}`)
		unknown := f.do(bob, method, "/psa/pins/"+strings.Replace(id, "1", "2", 1), `{"cid":"`+cidV0+`"}`)
		wantFailure(t, foreign, 404, "NOT_FOUND", "no such pin request")
		if foreign.Body.String() != unknown.Body.String() {
			t.Errorf("%s: a foreign id answers %s, an unknown one %s", method, foreign.Body, unknown.Body)
		}
	}
	if w := f.do(alice, "GET", "/psa/pins/"+id, ""); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestPinIsNotMadeWhenItsAnswerCannotBeGiven(t *testing.T) {
	f := newFixture(t)
	id := f.mustAdd(t, alice, `{"cid":"`+cidV0+`"}`)
	f.pins.delegates = nil
	wantFailure(t, f.do(alice, "POST", "/psa/pins", `{"cid":"`+cidV0+`"}`), 503, "SERVICE_UNAVAILABLE", "try again")
	wantFailure(t, f.do(alice, "POST", "/psa/pins/"+id, `{"cid":"`+cidV0+`"}`), 503, "SERVICE_UNAVAILABLE", "try again")
	if len(f.pins.rows) != 1 || string(f.pins.rows[0].ID) != id {
		t.Errorf("pins: %v", f.pins.rows)
	}
	// What needs no delegates goes on.
	if w := f.do(alice, "GET", "/psa/pins", ""); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := f.do(alice, "DELETE", "/psa/pins/"+id, ""); w.Code != http.StatusAccepted || w.Body.Len() != 0 {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}

func TestPagingAsClientsDoIt(t *testing.T) {
	f := newFixture(t)
	for i := range 35 {
		f.mustAdd(t, alice, fmt.Sprintf(`{"cid":"%s","name":"pin %d"}`, cidV0, i))
	}
	seen := map[string]bool{}
	cursor := ""
	for page := 0; ; page++ {
		w := f.do(alice, "GET", "/psa/pins?status=queued%2Cpinned&limit=10"+cursor, "")
		var got spec.PinResults
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if want := 35 - 10*page; int(got.Count) != want {
			t.Fatalf("page %d: count %d, want %d", page, got.Count, want)
		}
		for _, r := range got.Results {
			if seen[r.Requestid] {
				t.Errorf("%s twice", r.Requestid)
			}
			seen[r.Requestid] = true
		}
		if int(got.Count) == len(got.Results) {
			break
		}
		last := got.Results[len(got.Results)-1].Created
		cursor = "&before=" + url.QueryEscape(last.Format("2006-01-02T15:04:05.999999999Z07:00"))
	}
	if len(seen) != 35 {
		t.Errorf("%d of 35 pins seen", len(seen))
	}
}

func TestCORS(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{"/psa/pins", "/psa/pins/", "/psa//pins", "/psa/pins/x"} {
		for _, headers := range [][]string{nil, {"Origin", "https://app.example", "Access-Control-Request-Method", "DELETE", "Access-Control-Request-Private-Network", "true"}} {
			w := f.do("", "OPTIONS", path, "", headers...)
			if w.Code != http.StatusNoContent || w.Body.Len() != 0 {
				t.Errorf("%s: %d %q", path, w.Code, w.Body)
			}
			for name, want := range map[string]string{
				"Access-Control-Allow-Origin":  "*",
				"Access-Control-Allow-Methods": "GET, POST, DELETE, OPTIONS",
				"Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Frostpin-Account",
				"Access-Control-Max-Age":       "7200",
			} {
				if got := w.Header().Get(name); got != want {
					t.Errorf("%s: %s: %q, want %q", path, name, got, want)
				}
			}
			if got := w.Header().Get("Access-Control-Allow-Private-Network") == "true"; got != (headers != nil) {
				t.Errorf("%s: private network: %v", path, got)
			}
		}
	}
	// A page in the operator's browser must not be able to read these.
	for _, path := range []string{"/metrics", "/readyz"} {
		if got := f.do("", "GET", path, "").Header().Get("Access-Control-Allow-Origin"); got != "" {
			t.Errorf("%s: Access-Control-Allow-Origin: %s", path, got)
		}
	}
}
