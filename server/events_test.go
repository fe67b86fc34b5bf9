package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/events"
	"github.com/frostpin/frostpin/server"
	"github.com/frostpin/frostpin/server/v1"
)

// happened is an Events that keeps everything in slices.
type happened struct {
	mu      sync.Mutex
	list    map[int64][]events.Event
	changed chan struct{}
}

func newHappened() *happened {
	return &happened{list: map[int64][]events.Event{}, changed: make(chan struct{})}
}

func (h *happened) add(account, seq int64, pin string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := events.Event{At: events.Position{Seq: seq, Pin: pin}, Time: time.UnixMilli(seq).UTC(), Kind: "pin.pinned", Data: json.RawMessage(`{"hot_status":"held"}`)}
	if pin != "" {
		e.Pin = &events.Pin{ID: pin, CID: cidV1, Name: "line\nbreak"}
	}
	h.list[account] = append(h.list[account], e)
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *happened) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

func (h *happened) Last(context.Context) (p events.Position, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, list := range h.list {
		for _, e := range list {
			p.Seq = max(p.Seq, e.At.Seq)
		}
	}
	return p, nil
}

func (h *happened) Page(_ context.Context, account int64, after events.Position, limit int) (events.Page, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	page := events.Page{Next: after}
	for _, e := range h.list[account] {
		if e.At.Seq < after.Seq || e.At.Seq == after.Seq && (after.Pin == "" || e.At.Pin <= after.Pin) {
			continue
		}
		if page.More = len(page.Events) == limit; page.More {
			break
		}
		page.Events, page.Next = append(page.Events, e), e.At
	}
	return page, nil
}

func (h *happened) History(_ context.Context, _ int64, pin events.Pin, _ string, _ int64, _ time.Time, limit int) (list []events.Event, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, of := range h.list {
		for _, e := range of {
			if e.Pin != nil && e.Pin.ID == pin.ID {
				list = append(list, e)
			}
		}
	}
	slices.Reverse(list)
	return list[:min(limit, len(list))], nil
}

func withEvents(h *happened) func(*server.Config) {
	return func(c *server.Config) { c.Events = h }
}

func TestEventsAreListedToTheirAccount(t *testing.T) {
	h := newHappened()
	h.add(1, 1, "a")
	h.add(1, 1, "b")
	h.add(2, 1, "c")
	h.add(1, 2, "")
	f := newFixture(t, withEvents(h))
	contract := loadOwnContract(t)
	for _, c := range []struct {
		token, query string
		headers      []string
		want         []string
		next         string
		more         bool
	}{
		{alice, "", nil, []string{"1-a", "1-b", "2"}, "2", false},
		{alice, "?limit=1", nil, []string{"1-a"}, "1-a", true},
		{alice, "?after=1-a", nil, []string{"1-b", "2"}, "2", false},
		{alice, "?after=1-a", []string{"Last-Event-ID", "1-b"}, []string{"2"}, "2", false},
		{alice, "?after=2", nil, nil, "2", false},
		{bob, "", nil, []string{"1-c"}, "1-c", false},
	} {
		w := f.do(c.token, "GET", "/api/v1/events"+c.query, "", c.headers...)
		contract.check(t, "GET", "/events", w)
		var list v1.EventList
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, e := range list.Events {
			ids = append(ids, e.Id)
		}
		if !slices.Equal(ids, c.want) || list.Next != c.next || list.More != c.more {
			t.Errorf("%s: %s", c.query, w.Body)
		}
	}
	for query, field := range map[string]string{"?after=x": "after", "?limit=0": "limit", "?limit=1001": "limit"} {
		wantFailure(t, f.do(alice, "GET", "/api/v1/events"+query, ""), http.StatusBadRequest, "BAD_REQUEST", field)
	}
	wantFailure(t, newFixture(t).do(alice, "GET", "/api/v1/events", ""), http.StatusNotFound, "NOT_FOUND", "no events")
}

// What the account has and owes is for tokens of the scope account.
func TestEventsOfTheAccountNeedItsScope(t *testing.T) {
	h := newHappened()
	h.add(1, 1, "")
	h.add(1, 2, "a")
	h.add(1, 3, "")
	f := newFixture(t, withEvents(h))
	f.tokens.caller.Scopes = auth.OwnScopes &^ auth.AccountUse
	var list v1.EventList
	if err := json.Unmarshal(f.do(alice, "GET", "/api/v1/events", "").Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Events) != 1 || list.Events[0].Id != "2-a" || list.Next != "3" {
		t.Errorf("%+v", list)
	}
	// A page of nothing else is empty, and says where to go on.
	list = v1.EventList{}
	if err := json.Unmarshal(f.do(alice, "GET", "/api/v1/events?limit=1", "").Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Events) != 0 || list.Next != "1" || !list.More {
		t.Errorf("the first page: %+v", list)
	}
	at := httptest.NewServer(f)
	defer at.Close()
	h.add(1, 4, "b")
	s, _ := openStream(t, at, alice, "0")
	if got := s.ids(t, 2); !slices.Equal(got, []string{"2-a", "4-b"}) {
		t.Errorf("the stream: %q", got)
	}
	s.close()

	f.tokens.caller.Scopes = auth.PinsRead | auth.AccountUse
	s, _ = openStream(t, at, alice, "0")
	if got := s.ids(t, 4); !slices.Equal(got, []string{"1", "2-a", "3", "4-b"}) {
		t.Errorf("the stream of a token with both scopes: %q", got)
	}
	s.close()
}

// A stream is a client's end of one.
type stream struct {
	*bufio.Scanner
	close func()
}

func openStream(t *testing.T, at *httptest.Server, token, after string) (*stream, *http.Response) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.URL+"/api/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Accept", "text/event-stream")
	if after != "" {
		r.Header.Set("Last-Event-ID", after)
	}
	resp, err := at.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	s := &stream{Scanner: bufio.NewScanner(resp.Body), close: func() { cancel(); _ = resp.Body.Close() }}
	t.Cleanup(s.close)
	return s, resp
}

// ids reads until n events were told.
func (s *stream) ids(t *testing.T, n int) (ids []string) {
	t.Helper()
	for len(ids) < n && s.Scan() {
		if id, ok := strings.CutPrefix(s.Text(), "id: "); ok {
			ids = append(ids, id)
		}
		if data, ok := strings.CutPrefix(s.Text(), "data: "); ok && !json.Valid([]byte(data)) {
			t.Errorf("%q is no JSON", data)
		}
	}
	return ids
}

// Whoever waited for what comes after a position that is not reached yet would miss all until then.
func TestAPositionPastTheNewestEventIsRefused(t *testing.T) {
	h := newHappened()
	f := newFixture(t, withEvents(h))
	h.add(1, 41, "")
	for _, accept := range []string{"application/json", "text/event-stream"} {
		for _, id := range []string{"42", "42-a", "9223372036854775807", "9223372036854775807-a"} {
			wantFailure(t, f.do(alice, "GET", "/api/v1/events?after="+id, "", "Accept", accept), 400, "BAD_REQUEST", "after is past the newest event")
			wantFailure(t, f.do(alice, "GET", "/api/v1/events", "", "Accept", accept, "Last-Event-ID", id), 400, "BAD_REQUEST", "Last-Event-ID")
		}
	}
	for _, id := range []string{"0", "41", "41-a"} {
		if w := f.do(alice, "GET", "/api/v1/events?after="+id, ""); w.Code != 200 {
			t.Errorf("after %s: %d %s", id, w.Code, w.Body)
		}
	}
}

func TestAStreamGoesOnWhereItEnded(t *testing.T) {
	h := newHappened()
	h.add(1, 1, "a")
	at := httptest.NewServer(newFixture(t, withEvents(h)))
	defer at.Close()

	now, _ := openStream(t, at, alice, "")
	now.Scan() // it has begun, so what comes next is told
	h.add(1, 2, "a")
	h.add(2, 3, "x")
	h.add(1, 3, "a")
	if got := now.ids(t, 2); !slices.Equal(got, []string{"2-a", "3-a"}) {
		t.Errorf("a new stream: %q", got)
	}
	now.close()
	h.add(1, 4, "a")
	again, _ := openStream(t, at, alice, "2-a")
	if got := again.ids(t, 2); !slices.Equal(got, []string{"3-a", "4-a"}) {
		t.Errorf("after 2-a: %q", got)
	}
	again.close()
}

func TestAnAccountHasSoManyStreams(t *testing.T) {
	at := httptest.NewServer(newFixture(t, withEvents(newHappened())))
	defer at.Close()
	for range 10 {
		if _, resp := openStream(t, at, alice, ""); resp.StatusCode != http.StatusOK {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	s, resp := openStream(t, at, alice, "")
	if resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("the eleventh: %d", resp.StatusCode)
	}
	s.close()
	if _, resp := openStream(t, at, bob, ""); resp.StatusCode != http.StatusOK {
		t.Errorf("another account: %d", resp.StatusCode)
	}
	at.CloseClientConnections()
}

// TestAStreamEndsWithItsServer keeps streams from holding up a server that is told to stop.
func TestAStreamEndsWithItsServer(t *testing.T) {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, withEvents(newHappened()), func(c *server.Config) { c.StopTimeout = time.Minute })
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Serve(ctx, ln) }()
	client := &http.Client{}
	defer client.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+ln.Addr().String()+"/api/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+alice)
	r.Header.Set("Accept", "text/event-stream")
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	stop()
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Errorf("the stream ended with %v: it was cut off", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
