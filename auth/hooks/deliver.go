package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/frostpin/frostpin/auth/events"
)

const (
	lookEvery  = time.Second
	sweepEvery = time.Hour
	emptyEvery = time.Minute
	noteEvery  = time.Minute
	fullFor    = 10 * time.Second // that no events are read for a hook for which too many wait
	leaseFor   = 2 * time.Minute  // longer than passFor twice, and a page and a call
	passFor    = 30 * time.Second // that one hook is read or called for, so that others get their turn
	callFor    = 10 * time.Second
	pageEvents = 200
	maxAnswer  = 4 << 10 // bytes of an answer that are read

	retryFirst = 10 * time.Second
	retryMost  = 6 * time.Hour
	deadAfter  = 3 * 24 * time.Hour
	restAfter  = 3 // calls in a row that a dead address has failed
)

// Run calls hooks until ctx ends, and returns its error.
func (s *Service) Run(ctx context.Context) error {
	look, note := time.NewTicker(lookEvery), time.NewTicker(noteEvery)
	defer look.Stop()
	defer note.Stop()
	c := s.newCrew()
	defer c.working.Wait()
	c.working.Go(func() { s.forgetNowAndThen(ctx) }) // beside the calls: there may be much
	changed := s.events.Changed()
	for c.stale = true; ; {
		if err := c.look(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("looking for webhooks to call; it is tried again", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case t := <-c.ended:
			c.end(t)
		case <-changed:
			changed, c.stale = s.events.Changed(), true
		case <-look.C:
			c.stale = true
		case <-note.C:
			if err := c.note(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("noting what webhooks need not be told; it is tried again", "err", err)
			}
		}
	}
}

func (s *Service) forgetNowAndThen(ctx context.Context) {
	sweep, empty := time.NewTicker(sweepEvery), time.NewTicker(emptyEvery)
	defer sweep.Stop()
	defer empty.Stop()
	forget := s.empty // at once: who has removed hooks waits for it to make others
	for {
		if err := forget(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("forgetting old deliveries and removed webhooks; it is tried again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			forget = s.sweep
		case <-empty.C:
			forget = s.empty
		}
	}
}

// serve makes deliveries of what has happened, and sends what is due. Last is up to where something had happened before.
// Where nothing is for the hook it only says in the turn's reach how far it has read.
func (s *Service) serve(ctx context.Context, t *turn, last events.Position) error {
	if closed, err := s.cfg.Closed(ctx, t.hook.Account); err != nil || closed {
		if err != nil {
			return err
		}
		return s.removeClosed(ctx, t.hook)
	}
	if !t.due {
		if found, err := s.readAhead(ctx, t, last); err != nil || !found {
			return err
		}
		if waiting, err := s.countWaiting(ctx, t.hook.ID); err != nil || waiting >= s.backlog {
			t.reach.full = s.now().Add(fullFor)
			return err
		}
	}
	h, err := s.lease(ctx, t.hook.ID, s.now().Add(leaseFor))
	if err != nil || h == nil {
		return err
	}
	rest := time.UnixMilli(0)
	err = s.catchUp(ctx, h, t.reach, last)
	if err == nil {
		rest, err = s.send(ctx, h)
	}
	if errors.Is(err, errLost) {
		err = nil
	}
	// Also when the server stops: others need not wait for the lease to run out.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), callFor)
	defer cancel()
	return errors.Join(err, s.release(end, h, rest))
}

// removeClosed removes a hook of a closed account: nobody is left who could.
func (s *Service) removeClosed(ctx context.Context, h Hook) error {
	if err := s.remove(ctx, h.Account, h.ID); !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil // another process has
}

// page returns events of an account after a position.
func (s *Service) page(ctx context.Context, account int64, after, last events.Position) (events.Page, error) {
	page, err := s.events.Page(ctx, account, after, pageEvents)
	if !page.More && page.Next.Seq <= last.Seq {
		page.Next = last // up to there everything else happened to others: the hook need not look for it again
	}
	return page, err
}

// readAhead reads events until one is for the hook, there are no more, or others should have their turn.
func (s *Service) readAhead(ctx context.Context, t *turn, last events.Position) (found bool, err error) {
	for end := s.now().Add(passFor); s.now().Before(end); {
		page, err := s.page(ctx, t.hook.Account, t.reach.to, last)
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(page.Events, func(e events.Event) bool { return t.hook.wants(e.Kind) }) {
			return true, nil
		}
		if t.reach.to = page.Next; !page.More {
			t.idle = true
			return false, nil
		}
	}
	return false, nil
}

// catchUp makes deliveries of events until there are no more, too many wait, or others should have their turn.
func (s *Service) catchUp(ctx context.Context, h *held, read reach, last events.Position) error {
	at := h.At
	if read.from == at {
		at = read.to
	}
	waiting, err := s.countWaiting(ctx, h.ID)
	if err != nil {
		return err
	}
	for end := s.now().Add(passFor); waiting < s.backlog && s.now().Before(end); {
		page, err := s.page(ctx, h.Account, at, last)
		if err != nil {
			return err
		}
		if page.Next == at {
			return nil
		}
		bodies := map[string][]byte{}
		for _, e := range page.Events {
			if !h.wants(e.Kind) {
				continue
			}
			body, err := e.JSON()
			if err != nil {
				return err
			}
			bodies[e.At.String()] = body
		}
		if err := s.addDeliveries(ctx, h, page, bodies); err != nil {
			return err
		}
		waiting += len(bodies)
		if at, h.At = page.Next, page.Next; !page.More {
			return nil
		}
	}
	return nil
}

// send sends what is due as long as the hook is held, and returns until when it rests.
func (s *Service) send(ctx context.Context, h *held) (rest time.Time, err error) {
	end := s.now().Add(passFor)
	for ctx.Err() == nil && s.now().Before(end) {
		list, err := s.letters(ctx, h, pageEvents)
		if err != nil || len(list) == 0 {
			return time.UnixMilli(0), err
		}
		for _, l := range list {
			if err := s.holds(ctx, h); err != nil {
				return time.UnixMilli(0), err
			}
			o := s.call(ctx, h, l)
			if ctx.Err() != nil {
				return time.UnixMilli(0), ctx.Err() // it may have been taken: it is sent again
			}
			if err := s.record(ctx, h, l, o); err != nil {
				return time.UnixMilli(0), err
			}
			switch {
			case o.disable != "":
				return time.UnixMilli(0), nil
			case o.alive:
				h.Failures = 0
			default:
				if h.Failures++; h.Failures >= restAfter {
					return s.now().Add(backoff(h.Failures - restAfter)), nil
				}
			}
			if !s.now().Before(end) {
				break
			}
		}
	}
	return time.UnixMilli(0), nil
}

// An outcome is what has become of one try.
type outcome struct {
	state   State
	next    time.Time
	code    int
	problem string
	disable string // why the hook is called no more
	alive   bool   // whoever answers there can take others
}

// call sends one delivery.
func (s *Service) call(ctx context.Context, h *held, l letter) outcome {
	code, err := s.post(ctx, h, l)
	now := s.now()
	o := outcome{
		state: Waiting, next: now.Add(backoff(l.attempts)), code: code,
		alive: err == nil && code < 500 && code != http.StatusTooManyRequests,
	}
	switch {
	case err != nil:
		o.problem = "the address could not be called" // what a name leads to, or who answers there, is nobody's business
		s.log.Debug("calling a webhook", "webhook", h.ID, "err", err)
	case code/100 == 2:
		o.state = Delivered
	case code == http.StatusGone:
		o.state, o.problem, o.disable = Dead, "it answered 410", "the address answered that it is gone (410)"
	default:
		o.problem = fmt.Sprintf("it answered %d", code)
	}
	if o.state == Waiting && o.next.Sub(l.made) > deadAfter {
		o.state = Dead
	}
	return o
}

func (s *Service) post(ctx context.Context, h *held, l letter) (code int, err error) {
	ctx, cancel := context.WithTimeout(ctx, callFor)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader([]byte(l.body)))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", s.cfg.Agent)
	req.Header.Set("Frostpin-Event-Id", l.event)
	req.Header.Set("Frostpin-Signature", s.cfg.Sign([]byte(h.secret), []byte(l.body), s.now()))
	resp, err := s.cfg.Client.Do(req)
	if err != nil {
		return 0, err
	}
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // so that the connection can be used again; what it says does not matter
	return resp.StatusCode, resp.Body.Close()
}

// backoff is how long to wait after so many failures before, within a fifth: hooks that failed together come apart.
func backoff(failures int64) time.Duration {
	d := retryMost
	if failures < 12 {
		d = min(d, retryFirst<<failures)
	}
	return d - time.Duration(rand.Int64N(int64(d/5))) //nolint:gosec // not a secret
}

var _ Events = (*events.Service)(nil)
