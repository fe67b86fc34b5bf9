package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/frostpin/frostpin/spec"
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
	missing := func(w wanted) bool { // one that has failed may have been made again
		known, ok := have[w.same()]
		return dags[w.same().dag] && (!ok || known.Status == spec.Failed)
	}
	l := a.lister(allStatuses(), url.Values{"cid": {strings.Join(cids, ",")}})
	for range fewPages {
		rows, err := l.next(ctx)
		if err != nil && !errors.Is(err, errIncomplete) {
			return nil, fmt.Errorf("looking up what is there: %w", err)
		}
		for _, row := range rows {
			if known, ok := have[row.Pin.same()]; !ok || known.Status == spec.Failed {
				have[row.Pin.same()] = row
			}
		}
		if l.ended && err == nil || !slices.ContainsFunc(pins, missing) {
			return have, nil
		}
	}
	var mu sync.Mutex
	asked := map[same]bool{}
	left := slices.DeleteFunc(slices.Clone(pins), func(w wanted) bool {
		again := asked[w.same()]
		asked[w.same()] = true
		return again || !missing(w)
	})
	err := each(ctx, left, func(ctx context.Context, w wanted) error { // the DAGs have many pins: each is looked for alone
		row, ok, err := a.find(ctx, w)
		if ok {
			mu.Lock()
			have[w.same()] = row
			mu.Unlock()
		}
		return err
	})
	return have, err
}

// fewPages are how many pages of several DAGs are read: what is there and what follows it, for a service that sends less in a
// page than it is asked for. The count that it claims is not believed.
const fewPages = 3

// maxName is the most characters of a name that a query may have.
const maxName = 255

// find looks one pin up, and finds one that has failed only if there is no other. What has no name cannot be asked for by
// it: all pins of its DAG are read until it is found, and what was found so is remembered, because others of its DAG may be
// about to be copied.
func (a *api) find(ctx context.Context, w wanted) (pinned, bool, error) {
	a.mu.Lock()
	row, ok := a.unnamed[w.same()]
	a.mu.Unlock()
	if ok {
		return row, true, nil
	}
	filter := url.Values{"cid": {w.CID}}
	if w.Name != "" && utf8.RuneCountInString(w.Name) <= maxName {
		filter.Set("name", w.Name)
	}
	for found, err := range a.search(ctx, allStatuses(), filter) {
		if err != nil {
			return pinned{}, false, fmt.Errorf("looking up what is there: %w", err)
		}
		if found.Pin.same() != w.same() {
			continue
		}
		if row, ok = found, true; row.Status != spec.Failed { // else it may have been made again
			break
		}
	}
	if ok && w.Name == "" {
		a.mu.Lock()
		a.unnamed[w.same()] = row
		a.mu.Unlock()
	}
	return row, ok, nil
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

// hopeless tells whether an error would meet every further pin too. A quota may only be too small for this one, but not for
// many in a row.
func (s *summary) hopeless(ctx context.Context, err error) bool {
	if e, ok := errors.AsType[*answerError](err); ok && e.code == http.StatusForbidden && e.word == spec.ReasonQuotaExceeded {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refused++
		return s.refused > maxRefused || ctx.Err() != nil
	}
	return ctx.Err() != nil || answered(err, http.StatusUnauthorized, http.StatusForbidden) || err != nil && passing(err)
}

// maxRefused is how many pins in a row are refused for a quota before the others are not asked for any more.
const maxRefused = 100

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
	refused  int // for a quota, since one was done
}

// MarshalJSON implements json.Marshaler.
func (s *summary) MarshalJSON() ([]byte, error) {
	failures := s.Failures
	if failures == nil {
		failures = []failure{}
	}
	return json.Marshal(map[string]any{s.verb: s.Done, "skipped": s.Skipped, "failed": s.Failed, "failures": failures})
}

func (s *summary) done()    { s.mu.Lock(); s.Done++; s.refused = 0; s.mu.Unlock() }
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
