package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"
)

// allStatuses asks for pins whatever their state; without it a list holds the pinned ones only.
const allStatuses = "queued,pinning,pinned,failed"

// A pin is what a client sends.
type pin struct {
	CID     string            `json:"cid"`
	Name    string            `json:"name,omitempty"`
	Origins []string          `json:"origins,omitempty"`
	Meta    map[string]string `json:"meta,omitempty"`
}

// A pinStatus is what it gets back.
type pinStatus struct {
	ID        string            `json:"requestid"`
	Status    string            `json:"status"`
	Created   time.Time         `json:"created"`
	Pin       pin               `json:"pin"`
	Delegates []string          `json:"delegates"`
	Info      map[string]string `json:"info"`
}

type page struct {
	Count   int         `json:"count"`
	Results []pinStatus `json:"results"`
}

// An api speaks the Pinning Service API by hand: no client library between the test and the wire.
type api struct {
	t        *testing.T
	endpoint string
	token    string
	http     *http.Client
}

func newAPI(t *testing.T, endpoint, token string) *api {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	return &api{t: t, endpoint: endpoint, token: token, http: &http.Client{Transport: transport, Timeout: 30 * time.Second}}
}

// call makes one request. An error means that there was no whole answer, so the outcome is unknown.
func (a *api) call(ctx context.Context, method, path string, query url.Values, body, into any) (int, error) {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, fmt.Errorf("encoding the body: %w", err)
		}
		reader = bytes.NewReader(text)
	}
	target := a.endpoint + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, reader)
	if err != nil {
		return 0, fmt.Errorf("making the request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	resp, err := a.http.Do(req)
	if err != nil {
		return 0, fmt.Errorf("calling: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, fmt.Errorf("reading the answer: %w", err)
	}
	if into != nil && resp.StatusCode < 300 {
		if err := json.Unmarshal(text, into); err != nil {
			return 0, fmt.Errorf("decoding %q: %w", text, err)
		}
	}
	return resp.StatusCode, nil
}

// want is call for requests that must be answered, and with this code.
func (a *api) want(code int, method, path string, query url.Values, body, into any) {
	a.t.Helper()
	got, err := a.call(a.t.Context(), method, path, query, body, into)
	if err != nil || got != code {
		a.t.Fatalf("%s %s?%s: code %d, error %v; want code %d", method, path, query.Encode(), got, err, code)
	}
}

func (a *api) add(p pin) (got pinStatus) {
	a.t.Helper()
	a.want(http.StatusAccepted, http.MethodPost, "/pins", nil, p, &got)
	return got
}

func (a *api) get(id string) (got pinStatus) {
	a.t.Helper()
	a.want(http.StatusOK, http.MethodGet, "/pins/"+id, nil, nil, &got)
	return got
}

func (a *api) gone(id string) {
	a.t.Helper()
	a.want(http.StatusNotFound, http.MethodGet, "/pins/"+id, nil, nil, nil)
}

func (a *api) list(query url.Values) (got page) {
	a.t.Helper()
	a.want(http.StatusOK, http.MethodGet, "/pins", query, nil, &got)
	return got
}

// total is the number of pins in the given states.
func (a *api) total(statuses string) int {
	a.t.Helper()
	return a.list(url.Values{"status": {statuses}, "limit": {"1"}}).Count
}

// all walks every page and returns the pins by id.
func (a *api) all() map[string]pinStatus {
	a.t.Helper()
	pins := map[string]pinStatus{}
	query := url.Values{"status": {allStatuses}, "limit": {strconv.Itoa(1000)}}
	for {
		got := a.list(query)
		for _, p := range got.Results {
			if _, twice := pins[p.ID]; twice {
				a.t.Fatalf("pin %s is on two pages", p.ID)
			}
			pins[p.ID] = p
		}
		if got.Count == len(got.Results) {
			return pins
		}
		query.Set("before", got.Results[len(got.Results)-1].Created.Format(time.RFC3339Nano))
	}
}

// ends waits until a pin is in the given state and returns it.
func (a *api) ends(id, status string) (got pinStatus) {
	a.t.Helper()
	eventually(a.t, "pin "+id+" is "+status, func() (bool, any) {
		got = a.get(id)
		return got.Status == status, got
	})
	return got
}
