package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
)

// batch is how many pins are looked up at once: the contract allows ten CIDs in a query.
const batch = 10

// longCID is the text of a CID that no query has room for; such a pin is posted, and the server judges it.
const longCID = 500

// present returns those of the pins that the server has, whatever their status, by what makes them the same.
func (a *api) present(ctx context.Context, pins []wanted) (map[same]pinned, error) {
	have := map[same]pinned{}
	var cids []string
	dags := map[string]bool{}
	for _, w := range pins {
		_, err := cid.Decode(w.CID)
		if dag := w.same().dag; err == nil && len(w.CID) <= longCID && !dags[dag] {
			dags[dag] = true
			cids = append(cids, w.CID)
		}
	}
	if len(cids) == 0 {
		return have, nil
	}
	query := url.Values{"cid": {strings.Join(cids, ",")}, "status": {joined(allStatuses())}, "limit": {strconv.Itoa(fullPage)}}
	rows, count, err := a.page(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("looking up what is there: %w", err)
	}
	for _, row := range rows {
		have[row.Pin.same()] = row
	}
	if len(rows) < fullPage && count <= int64(len(rows)) { // a page with much text may end before the limit
		return have, nil
	}
	for _, w := range pins { // one of the DAGs has many names: each pin is asked for by its own
		if _, ok := have[w.same()]; ok || w.Name == "" {
			continue
		}
		row, ok, err := a.find(ctx, w)
		if err != nil {
			return nil, err
		}
		if ok {
			have[w.same()] = row
		}
	}
	return have, nil
}

// find looks one pin up.
func (a *api) find(ctx context.Context, w wanted) (pinned, bool, error) {
	query := url.Values{"cid": {w.CID}, "status": {joined(allStatuses())}, "limit": {strconv.Itoa(fullPage)}}
	if w.Name != "" {
		query.Set("name", w.Name)
	}
	rows, _, err := a.page(ctx, query)
	if err != nil {
		return pinned{}, false, fmt.Errorf("looking up what is there: %w", err)
	}
	for _, row := range rows {
		if row.Pin.same() == w.same() {
			return row, true, nil
		}
	}
	return pinned{}, false, nil
}

// post asks for a pin that is not there. When an answer is lost, it looks before it asks again.
func (a *api) post(ctx context.Context, w wanted) (pinned, error) {
	body, err := json.Marshal(w)
	if err != nil {
		return pinned{}, err
	}
	var found pinned
	var there bool
	answer, err := a.fetch(ctx, call{
		method: http.MethodPost, url: a.endpoint + "/pins", body: body,
		header: http.Header{"Content-Type": {"application/json"}},
	}, func(ctx context.Context) (bool, error) {
		var err error
		found, there, err = a.find(ctx, w)
		return there, err
	})
	if err != nil || there {
		return found, err
	}
	if err := json.Unmarshal(answer, &found); err != nil || found.ID == "" {
		return pinned{}, errors.New("it accepts the pin but does not describe it")
	}
	return found, nil
}

// hopeless tells whether an error would meet every further pin too.
func hopeless(ctx context.Context, err error) bool {
	return ctx.Err() != nil || answered(err, http.StatusUnauthorized, http.StatusForbidden) || err != nil && passing(err)
}

// each runs fn for the items, several at once, and ends with the first error.
func each[T any](ctx context.Context, items []T, fn func(context.Context, T) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, item := range items {
		group.Go(func() error { return fn(ctx, item) })
	}
	return group.Wait()
}

// A failure is something that was not copied.
type failure struct {
	ID     string `json:"requestid,omitempty"`
	CID    string `json:"cid,omitempty"`
	Name   string `json:"name,omitempty"`
	Reason string `json:"reason"`
}

// maxFailures is how many failures are remembered with their reasons; the rest are counted.
const maxFailures = 1000

// A summary counts what a command did. It is safe for concurrent use.
type summary struct {
	mu       sync.Mutex
	verb     string // what was done, such as copied
	Done     int64
	Skipped  int64
	Failed   int64
	Failures []failure
}

// MarshalJSON implements json.Marshaler.
func (s *summary) MarshalJSON() ([]byte, error) {
	failures := s.Failures
	if failures == nil {
		failures = []failure{}
	}
	return json.Marshal(map[string]any{s.verb: s.Done, "skipped": s.Skipped, "failed": s.Failed, "failures": failures})
}

func (s *summary) done()    { s.mu.Lock(); s.Done++; s.mu.Unlock() }
func (s *summary) skipped() { s.mu.Lock(); s.Skipped++; s.mu.Unlock() }

func (s *summary) failed(id string, w wanted, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Failed++
	if len(s.Failures) < maxFailures {
		s.Failures = append(s.Failures, failure{ID: id, CID: w.CID, Name: w.Name, Reason: err.Error()})
	}
}

// line is the summary for people.
func (s *summary) line() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("%d %s, %d skipped, %d failed", s.Done, s.verb, s.Skipped, s.Failed)
}

// print writes the summary.
func (s *summary) print(w io.Writer) error {
	if _, err := fmt.Fprintln(w, s.line()); err != nil {
		return err
	}
	if len(s.Failures) == 0 {
		return nil
	}
	rows := [][]string{{"CID", "NAME", "REASON"}}
	for _, f := range s.Failures {
		rows = append(rows, []string{plain(f.CID), plain(f.Name), plain(f.Reason)})
	}
	return printTable(w, rows)
}

// watch tells on w how far s is, once that takes longer than a moment, until stop is called.
func (s *summary) watch(w io.Writer) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		timer := time.NewTimer(firstProgress)
		defer timer.Stop()
		for {
			select {
			case <-done:
				return
			case <-timer.C:
				fmt.Fprintln(w, "frostpin: so far", s.line())
				timer.Reset(nextProgress)
			}
		}
	}()
	return func() { close(done); <-ended }
}
