package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/events"
	"github.com/frostpin/frostpin/server/v1"
	"github.com/frostpin/frostpin/spec"
)

// Events tells accounts what has happened to their pins and to themselves; events.Service is one.
type Events interface {
	// Changed returns a channel that is closed when there are newer events than now.
	Changed() <-chan struct{}
	// Last returns the position after all events that there are.
	Last(ctx context.Context) (events.Position, error)
	// History returns the newest events of a pin of an account, the newest first.
	History(ctx context.Context, account int64, pin events.Pin, root string, part int64, made time.Time, limit int) ([]events.Event, error)
	// Page returns at most limit events of an account after a position, the oldest first.
	Page(ctx context.Context, account int64, after events.Position, limit int) (events.Page, error)
}

const (
	maxEvents     = 1000 // in one answer
	defaultEvents = 100
	streamEvents  = 100              // that a stream reads at once
	accountTails  = 10               // streams of one account
	keepAlive     = 15 * time.Second // between two signs of life of a stream
	recheck       = 5 * time.Second  // how often a stream asks whether its token is still good
)

var (
	errNoEvents = errors.New("no events are told here")
	errTails    = errors.New("the account has as many streams as it may have")
)

// ListEvents tells what has happened, as a list or as a stream that goes on.
func (s ownAPI) ListEvents(c echo.Context, params v1.ListEventsParams) error {
	if s.cfg.Events == nil {
		return errNoEvents
	}
	after, given, err := s.startOf(c.Request().Context(), params)
	if err != nil {
		return err
	}
	if strings.Contains(c.Request().Header.Get("Accept"), "text/event-stream") {
		return s.streamEvents(c, after, given)
	}
	limit := defaultEvents
	if params.Limit != nil {
		limit = int(*params.Limit)
	}
	if limit < 1 || limit > maxEvents {
		return &spec.InvalidError{Field: "limit", Problem: fmt.Sprintf("must be from 1 to %d", maxEvents)}
	}
	page, err := s.eventsAfter(c, after, limit)
	if err != nil {
		return err
	}
	list := v1.EventList{Events: make([]v1.Event, 0, len(page.Events)), Next: page.Next.String(), More: page.More}
	for _, e := range page.Events {
		shown, err := renderEvent(e)
		if err != nil {
			return err
		}
		list.Events = append(list.Events, shown)
	}
	return s.respond(c, http.StatusOK, list)
}

// startOf is where a caller wants to go on. What a browser sends by itself counts more than the URL it once opened. Past
// the newest event nothing would be told until there are as many.
func (s ownAPI) startOf(ctx context.Context, params v1.ListEventsParams) (p events.Position, given bool, err error) {
	field, text := "Last-Event-ID", params.LastEventID
	if text == nil || *text == "" {
		field, text = "after", params.After
	}
	if text == nil || *text == "" {
		return events.Position{}, false, nil
	}
	if p, err = events.ParsePosition(*text); err != nil {
		return events.Position{}, false, &spec.InvalidError{Field: field, Problem: "is not the id of an event"}
	}
	last, err := s.cfg.Events.Last(ctx)
	if err != nil {
		return events.Position{}, false, fmt.Errorf("reading events: %w", err)
	}
	if p.Seq > last.Seq {
		return events.Position{}, false, &spec.InvalidError{Field: field, Problem: "is past the newest event"}
	}
	return p, true, nil
}

// eventsAfter reads what the caller may know. Events of the account itself, such as those of its balance, are left out for
// a token that may not see it; the page goes on behind them all the same.
func (s ownAPI) eventsAfter(c echo.Context, after events.Position, limit int) (events.Page, error) {
	page, err := s.cfg.Events.Page(c.Request().Context(), caller(c).Account, after, limit)
	if err != nil {
		return page, fmt.Errorf("reading events: %w", err)
	}
	if !caller(c).Scopes.Has(auth.AccountUse) {
		page.Events = slices.DeleteFunc(page.Events, func(e events.Event) bool { return e.Pin == nil })
	}
	return page, nil
}

func renderEvent(e events.Event) (v1.Event, error) {
	shown := v1.Event{Id: e.At.String(), Type: e.Kind, At: e.Time}
	if err := json.Unmarshal(e.Data, &shown.Data); err != nil {
		return v1.Event{}, fmt.Errorf("reading event %s: %w", shown.Id, err)
	}
	if e.Pin != nil {
		shown.Requestid, shown.Cid = &e.Pin.ID, &e.Pin.CID
		if e.Pin.Name != "" {
			shown.Name = &e.Pin.Name
		}
	}
	return shown, nil
}

// streamEvents sends events as they come until the client goes, its token ends, or the server stops. A reader who is
// slow is waited for like every other, and reads on where it is: nothing is kept for it.
func (s ownAPI) streamEvents(c echo.Context, at events.Position, given bool) error {
	ctx := c.Request().Context()
	leave, ok := s.tails.enter(caller(c).Account)
	if !ok {
		return errTails
	}
	defer leave()
	if !given {
		var err error
		if at, err = s.cfg.Events.Last(ctx); err != nil {
			return fmt.Errorf("reading events: %w", err)
		}
	}
	control := http.NewResponseController(c.Response())
	if err := unlessUnsupported(control.SetReadDeadline(time.Time{})); err != nil { // that of a request would end the stream
		return fmt.Errorf("opening a stream: %w", err)
	}
	h := c.Response().Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would keep events back
	c.Response().WriteHeader(http.StatusOK)
	// The status is sent: whatever ends the stream now, the client learns from its end and comes again.
	if err := s.tail(c, control, at); err != nil && ctx.Err() == nil {
		s.log.Debug("a stream of events ended", "account", caller(c).Account, "err", err)
	}
	return nil
}

// errEnded ends a stream whose token does no longer open it.
var errEnded = errors.New("the token has ended")

func (s ownAPI) tail(c echo.Context, control *http.ResponseController, at events.Position) error {
	alive, check := time.NewTicker(keepAlive), time.NewTicker(recheck)
	defer alive.Stop()
	defer check.Stop()
	write := func(text []byte) error {
		if _, err := c.Response().Write(text); err != nil {
			return err
		}
		return unlessUnsupported(control.Flush())
	}
	if err := write([]byte(": here\n\n")); err != nil {
		return err
	}
	for {
		changed := s.cfg.Events.Changed()
		page, err := s.eventsAfter(c, at, streamEvents)
		if err != nil {
			return err
		}
		if len(page.Events) > 0 {
			frames, err := renderFrames(page.Events)
			if err == nil {
				err = write(frames)
			}
			if err != nil {
				return err
			}
		}
		at = page.Next
		more := make(chan struct{})
		if page.More {
			close(more) // on, but not past what else is to be looked at
		}
	waiting:
		for {
			select {
			case <-c.Request().Context().Done():
				return c.Request().Context().Err()
			case <-s.stopping:
				return nil
			case <-check.C:
				err = s.stillMay(c)
			case <-alive.C:
				err = write([]byte(": here\n\n"))
			case <-changed:
				break waiting
			case <-more:
				break waiting
			}
			if err != nil {
				return err
			}
		}
	}
}

// renderFrames writes events as server-sent events.
func renderFrames(list []events.Event) ([]byte, error) {
	var b bytes.Buffer
	for _, e := range list {
		data, err := e.JSON() // on one line
		if err != nil {
			return nil, fmt.Errorf("encoding event %s: %w", e.At, err)
		}
		fmt.Fprintf(&b, "id: %s\nevent: %s\ndata: %s\n\n", e.At, e.Kind, data)
	}
	return b.Bytes(), nil
}

// stillMay asks again whether the caller may read. It says no only when that is known.
func (s ownAPI) stillMay(c echo.Context) error {
	token, err := bearer(c.Request().Header)
	if err != nil {
		return err
	}
	now, err := s.accounts.Authenticate(c.Request().Context(), token)
	if err == nil && now.Scopes.Has(needs["listEvents"].scope) || err != nil && !errors.Is(err, auth.ErrUnauthorized) {
		return nil
	}
	return errEnded
}
