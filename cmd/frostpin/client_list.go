package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/frostpin/frostpin/spec"
)

// list reads all pins in the given states, page after page; it holds one page at a time. What arrives twice is yielded
// once. The number of pins that a service claims to have is not believed. An error ends the list.
//
// Pins that were created in one instant may be torn apart by the end of a page, so that the next page starts a little
// before that end and what has been seen is left out. boxo's client, which other tools use, asks for what is strictly
// older, loses such pins, stops where the count says so, retries nothing and reads answers of any length.
func (a *api) list(ctx context.Context, statuses []spec.Status) iter.Seq2[pinned, error] {
	return a.search(ctx, statuses, nil)
}

// search is list with more that is asked for, which a service may ignore.
func (a *api) search(ctx context.Context, statuses []spec.Status, filter url.Values) iter.Seq2[pinned, error] {
	return func(yield func(pinned, error) bool) {
		l := a.lister(statuses, filter)
		for !l.ended {
			rows, err := l.next(ctx)
			for _, row := range rows {
				// Services exist that ignore the filter.
				if slices.Contains(statuses, row.Status) && !yield(row, nil) {
					return
				}
			}
			if err != nil {
				yield(pinned{}, err)
				return
			}
		}
	}
}

// A lister remembers how far a list has been read.
type lister struct {
	api      *api
	statuses []spec.Status
	filter   url.Values
	limit    int // rows of a page

	started bool
	upward  bool                 // the service lists the oldest first
	edge    time.Time            // of what was read: the oldest, or upward the newest
	strict  bool                 // the next page begins beyond the edge
	seen    map[string]time.Time // requests at the edge
	ended   bool

	read, count int64 // rows, and how many the service says there are
	longest     int   // page
	doubtful    bool  // rows may have been missed
}

func (a *api) lister(statuses []spec.Status, filter url.Values) *lister {
	return &lister{api: a, statuses: statuses, filter: filter, limit: fullPage, seen: map[string]time.Time{}}
}

// overlap is how far a page reaches back into the one before. Services keep time to the millisecond, some more finely.
const overlap = time.Millisecond

// errIncomplete says that a service cannot be listed to its end.
var errIncomplete = errors.New("the service does not page by time: it says that it has more pins than it lists")

// next reads a page and returns what is new in it, which may be nothing before the end.
func (l *lister) next(ctx context.Context) ([]pinned, error) {
	query := url.Values{"status": {joined(l.statuses)}, "limit": {strconv.Itoa(l.limit)}}
	maps.Copy(query, l.filter)
	back := overlap
	if l.strict {
		back = 0
	}
	bound := l.edge.Add(back)
	if l.upward {
		bound = l.edge.Add(-back)
	}
	switch at := bound.UTC().Format(time.RFC3339Nano); {
	case !l.started:
	case l.upward:
		query.Set("after", at)
	default:
		query.Set("before", at)
	}
	rows, count, err := l.api.page(ctx, query)
	if errors.Is(err, errTooMuch) && l.limit > 1 {
		l.limit /= 2
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing pins: %w", err)
	}
	if !l.started {
		l.begin(rows, count)
	}
	fresh := l.fresh(rows, bound)
	l.longest = max(l.longest, len(rows))
	l.read += int64(len(fresh))
	switch {
	case len(fresh) > 0 && !l.edge.IsZero():
		l.started, l.strict = true, false
	case l.started && !l.strict:
		l.strict = true // what was created at the edge fills a page, or there is no more
		l.doubtful = l.doubtful || len(rows) > 0 && len(rows) == l.longest
	default:
		l.ended = true
		l.doubtful = l.doubtful || !l.started
		if l.doubtful && l.count > l.read {
			return fresh, errIncomplete
		}
	}
	return fresh, nil
}

// begin looks at the first page.
func (l *lister) begin(rows []pinned, count int64) {
	l.count = count
	if n := len(rows); n > 1 {
		first, known := rows[0].created()
		last, too := rows[n-1].created()
		l.upward = known && too && first.Before(last)
	}
}

// past tells whether b comes later in the list than a.
func (l *lister) past(a, b time.Time) bool {
	if l.upward {
		return b.After(a)
	}
	return b.Before(a)
}

// fresh leaves out what was seen and moves the edge. A service that ignores the bound sends what was not asked for.
func (l *lister) fresh(rows []pinned, bound time.Time) []pinned {
	var fresh []pinned
	for _, row := range rows {
		at, known := row.created()
		if l.started && (!known || !l.past(bound, at)) {
			l.doubtful = l.doubtful || !known || l.past(at, bound)
			continue
		}
		key := row.key()
		if _, again := l.seen[key]; again {
			continue
		}
		l.seen[key] = at
		fresh = append(fresh, row)
		if known && (l.edge.IsZero() || l.past(l.edge, at)) {
			l.edge = at
		}
	}
	for key, at := range l.seen {
		if at.Sub(l.edge).Abs() > overlap {
			delete(l.seen, key)
		}
	}
	return fresh
}

// key tells requests apart.
func (p *pinned) key() string {
	if p.ID != "" {
		return p.ID
	}
	return p.Created + " " + p.Pin.CID + " " + p.Pin.Name
}
