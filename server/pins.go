package server

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/labstack/echo/v4"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/spec"
)

const (
	// accountLists are the lists of one account that are read and sent at once. Each may keep some MiB until the slowest
	// client has taken them; clients have a few under way.
	accountLists = 16
	// listWait is how long one list more waits for its turn. Kubo asks once and takes no for an answer.
	listWait = 10 * time.Second
	// maxBuffer is the largest buffer that is kept for another answer: few are as large as a long list.
	maxBuffer = 1 << 20
)

var errLists = errors.New("the account has as many lists under way as it may have")

// api implements the generated ServerInterface.
type api struct{ *Server }

var _ ServerInterface = api{}

// canonicalQuery makes the query of a list request one that the generated binding takes.
func canonicalQuery(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		u := c.Request().URL
		query, err := spec.CanonicalQuery(u.RawQuery)
		if err != nil {
			return err
		}
		u.RawQuery = query
		return next(c)
	}
}

// GetPins lists requests.
func (s api) GetPins(c echo.Context, params spec.GetPinsParams) error {
	q, err := spec.NewQuery(params)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	end, ok := s.lists.await(ctx, caller(c).Account, listWait)
	if !ok {
		return cmp.Or(ctx.Err(), errLists)
	}
	defer end()
	page, err := s.pins.List(ctx, account(c), q)
	if err != nil {
		return err
	}
	if len(page.Pins) == 0 { // Kubo counts with lists; they must not depend on the node
		return s.results(c, spec.NewPinResults(page.Count, nil))
	}
	delegates, err := s.delegates(c)
	if err != nil {
		return err
	}
	rows := make([]spec.PinStatus, len(page.Pins))
	for i := range page.Pins {
		rows[i] = render(&page.Pins[i], delegates)
	}
	return s.results(c, spec.NewPinResults(page.Count, rows))
}

// AddPin records a request.
func (s api) AddPin(c echo.Context) error {
	r, decided, err := s.request(c)
	if err != nil {
		return err
	}
	if err := s.admit(c, r.Root, decided.Copies); err != nil {
		return err
	}
	// Asked for first: an answer that cannot be given must not leave a pin behind.
	delegates, err := s.delegates(c)
	if err != nil {
		return err
	}
	p, err := s.pins.Add(c.Request().Context(), account(c), r, decided)
	if err != nil {
		return err
	}
	return s.status(c, http.StatusAccepted, render(&p, delegates))
}

// GetPinByRequestId returns one request.
func (s api) GetPinByRequestId(c echo.Context, requestid string) error {
	id, err := parseID(requestid)
	if err != nil {
		return err
	}
	p, err := s.pins.Get(c.Request().Context(), account(c), id)
	if err != nil {
		return err
	}
	delegates, err := s.delegates(c)
	if err != nil {
		return err
	}
	return s.status(c, http.StatusOK, render(&p, delegates))
}

// ReplacePinByRequestId removes one request and adds another.
func (s api) ReplacePinByRequestId(c echo.Context, requestid string) error {
	id, err := parseID(requestid)
	if err != nil {
		return err
	}
	r, decided, err := s.request(c)
	if err != nil {
		return err
	}
	old, err := s.pins.Get(c.Request().Context(), account(c), id)
	if err != nil {
		return err
	}
	if err := s.admitReplacement(c, &old, r, decided); err != nil {
		return err
	}
	delegates, err := s.delegates(c)
	if err != nil {
		return err
	}
	p, err := s.pins.Replace(c.Request().Context(), account(c), id, r, decided)
	if err != nil {
		return err
	}
	return s.status(c, http.StatusAccepted, render(&p, delegates))
}

// DeletePinByRequestId removes a request.
func (s api) DeletePinByRequestId(c echo.Context, requestid string) error {
	id, err := parseID(requestid)
	if err != nil {
		return err
	}
	if err := s.pins.Delete(c.Request().Context(), account(c), id); err != nil {
		return err
	}
	return c.NoContent(http.StatusAccepted)
}

// admit tells whether the caller's plan has room for one pin more of a DAG, and its balance carries one that wants so many
// copies.
func (s *Server) admit(c echo.Context, root cid.Cid, copies int) error {
	return s.fits(c, quotaOf(caller(c).Limits), 1, []pins.Sized{{Root: root}}, "", func() error { return s.afford(c, root, 0, copies) })
}

// room tells whether the caller's plan has room for so many pins more.
func (s *Server) room(c echo.Context, more int64) error {
	quota := quotaOf(caller(c).Limits)
	if quota == (pins.Quota{}) {
		return nil
	}
	return s.pins.Admit(c.Request().Context(), account(c), quota, more)
}

// fits tells whether there is room within bounds for so many pins more and for all of their DAGs, and whether the caller can
// afford them. The pin that is replaced, if there is one, goes in exchange. What is kept of others that were replaced gives way
// to them only when nothing refuses them.
func (s *Server) fits(c echo.Context, quota pins.Quota, more int64, dags []pins.Sized, replaced pins.ID, afford func() error) error {
	if quota == (pins.Quota{}) {
		return afford()
	}
	ctx := c.Request().Context()
	if err := s.pins.Admit(ctx, account(c), quota, more); err != nil {
		return err
	}
	refused, needed, err := s.pins.Fits(ctx, account(c), quota, dags, replaced)
	for _, why := range refused {
		err = cmp.Or(err, why)
	}
	if err == nil {
		err = afford()
	}
	if err != nil || needed == 0 {
		return err
	}
	_, err = s.pins.GiveWay(ctx, account(c), replaced, needed, pins.Roots(dags)...)
	return err
}

// quotaOf is what a plan bounds about pins.
func quotaOf(l *auth.Limits) pins.Quota {
	if l == nil {
		return pins.Quota{}
	}
	return pins.Quota{Pins: l.Pins, InFlight: l.PinsInFlight, Bytes: l.Bytes, DAGBytes: l.DAGBytes, DAGBlocks: l.DAGBlocks}
}

// parseID refuses what can be no id of ours before anything is asked.
func parseID(s string) (pins.ID, error) {
	if s == "" || len(s) > 64 || strings.Trim(s, unreserved) != "" {
		return "", pins.ErrNotFound
	}
	return pins.ID(s), nil
}

// request reads and validates a body, whatever its Content-Type, and finds out which copies it wants.
func (s api) request(c echo.Context) (spec.Request, pins.Decision, error) {
	r, err := readRequest(c)
	if err == nil && s.cfg.Denylist != nil {
		err = s.cfg.Denylist.Denied(r.Root)
	}
	if err != nil {
		return spec.Request{}, pins.Decision{}, err
	}
	decided, err := s.pins.Decide(c.Request().Context(), choiceOf(c), r.Meta)
	return r, decided, err
}

func readRequest(c echo.Context) (spec.Request, error) {
	body, err := readBody(c, maxBody)
	if err != nil {
		return spec.Request{}, err
	}
	return spec.DecodePin(body)
}

// readBody reads a body of at most so many bytes.
func readBody(c echo.Context, most int64) ([]byte, error) {
	r := c.Request()
	if r.ContentLength > most {
		return nil, &tooLargeError{most}
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.Response().Writer, r.Body, most))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, &tooLargeError{most}
	case err != nil:
		return nil, &spec.InvalidError{Field: "body", Problem: "could not be read to its end"}
	}
	return body, nil
}

func (s api) delegates(c echo.Context) ([]string, error) {
	list, err := s.pins.Delegates(c.Request().Context())
	if err != nil {
		return nil, fmt.Errorf("%w: asking the node for its addresses: %w", errUnavailable, err)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: the node has no address", errUnavailable)
	}
	return list, nil
}

func render(p *pins.Pin, delegates []string) spec.PinStatus {
	return spec.NewPinStatus(string(p.ID), p.Status(), p.Created, p.Request, delegates, p.Info())
}

func (s api) status(c echo.Context, code int, p spec.PinStatus) error {
	b := s.buffers.Get().(*[]byte)
	defer s.giveBuffer(b)
	*b = spec.AppendPinStatus((*b)[:0], &p)
	return s.send(c, code, *b)
}

func (s api) results(c echo.Context, r spec.PinResults) error {
	b := s.buffers.Get().(*[]byte)
	defer s.giveBuffer(b)
	*b = spec.AppendPinResults((*b)[:0], r)
	return s.send(c, http.StatusOK, *b)
}

// giveBuffer keeps a buffer for other answers.
func (s *Server) giveBuffer(b *[]byte) {
	if cap(*b) <= maxBuffer {
		s.buffers.Put(b)
	}
}

// respond answers with anything but pins. It encodes before it sends, so that a failure to encode can be answered.
func (s *Server) respond(c echo.Context, code int, body any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // nothing of ours is embedded in HTML
	if err := enc.Encode(body); err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	return s.send(c, code, b.Bytes())
}

// send is the only writer of JSON.
func (s *Server) send(c echo.Context, code int, body []byte) error {
	h := c.Response().Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	h["Cache-Control"] = []string{"no-store"} // clients read their own writes
	c.Response().WriteHeader(code)
	if _, err := c.Response().Write(body); err != nil {
		s.log.Debug("client went away", "request", requestID(c), "err", err)
	}
	return nil
}
