package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// aHooks is a server with the webhook h, which has 150 calls of which every third was given up.
type aHooks struct {
	t    *testing.T
	seen []string // requests
	lose bool     // the first answer
}

func (h *aHooks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.seen = append(h.seen, r.Method+" "+r.URL.RequestURI())
	if r.Header.Get("Authorization") != "Bearer t" {
		h.t.Errorf("it sends the token %q", r.Header.Get("Authorization"))
	}
	again := len(h.seen) > 1
	switch {
	case h.lose && !again:
		w.WriteHeader(http.StatusBadGateway)
	case r.Method == http.MethodPost:
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodDelete && again:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodDelete:
		w.WriteHeader(http.StatusNoContent)
	default:
		h.page(w, r)
	}
}

func (h *aHooks) page(w http.ResponseWriter, r *http.Request) {
	first, next := 0, `,"next":100`
	if r.URL.Query().Get("before") == "100" {
		first, next = 100, ""
	}
	var rows []string
	for i := first; i < min(first+100, 150); i++ {
		state := []string{"dead", "delivered", "waiting"}[i%3]
		rows = append(rows, fmt.Sprintf(`{"event":"%d","state":%q,"attempts":1,"made":"2026-11-28T12:00:00Z"}`, i, state))
	}
	fmt.Fprintf(w, `{"deliveries":[%s]%s}`, strings.Join(rows, ","), next)
}

func (h *aHooks) run(args ...string) (code int, stdout, stderr string) {
	h.t.Helper()
	s := httptest.NewServer(h)
	defer s.Close()
	return command(h.t, []string{"HOME=" + h.t.TempDir(), "FROSTPIN_SERVER=" + s.URL, "FROSTPIN_TOKEN=t"}, append([]string{"webhook"}, args...)...)
}

func TestDeadCallsOfAWebhookAreListedToTheLastPage(t *testing.T) {
	for want, args := range map[int][]string{150: {"deliveries", "h", "--json"}, 50: {"deliveries", "h", "--dead", "--json"}} {
		h := &aHooks{t: t}
		code, stdout, stderr := h.run(args...)
		var rows []struct{ Event, State string }
		if err := json.Unmarshal([]byte(stdout), &rows); code != 0 || err != nil {
			t.Fatalf("%v: exit code %d, %v: %s", args, code, err, stderr)
		}
		if len(rows) != want {
			t.Errorf("%v: %d calls, want %d", args, len(rows), want)
		}
		for _, row := range rows {
			if want == 50 && row.State != "dead" {
				t.Errorf("%v lists one that is %s", args, row.State)
			}
		}
	}
}

func TestReplayBeginsAfterTheEventThatIsNamed(t *testing.T) {
	h := &aHooks{t: t}
	if code, _, stderr := h.run("replay", "h", "--after", "12-a b"); code != 0 {
		t.Fatal(stderr)
	}
	if got := strings.Join(h.seen, "\n"); got != "POST /api/v1/webhooks/h/replay?after=12-a+b" {
		t.Errorf("it asks %s", got)
	}
}

func TestWebhookWhoseRemovalGotNoAnswerIsRemoved(t *testing.T) {
	h := &aHooks{t: t, lose: true}
	s := httptest.NewServer(h)
	defer s.Close()
	a, err := newAPI(s.URL, "t", operatorsClient)
	if err != nil {
		t.Fatal(err)
	}
	a.pause = func(context.Context, time.Duration) error { return nil }
	if err := a.removeWebhook(t.Context(), "h"); err != nil || len(h.seen) != 2 {
		t.Errorf("%v after %q", err, h.seen)
	}
}

func TestWebhookIsNotAddedTwiceWhenTheAnswerGetsLost(t *testing.T) {
	h := &aHooks{t: t, lose: true}
	if code, stdout, stderr := h.run("add", "https://example.org"); code != 1 || stdout != "" || !strings.Contains(stderr, "502") {
		t.Errorf("exit code %d, %q, %s", code, stdout, stderr)
	}
	if len(h.seen) != 1 {
		t.Errorf("it asks %q", h.seen)
	}
}
