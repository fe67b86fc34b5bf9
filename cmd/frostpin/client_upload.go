package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"time"
)

// An upload is data that goes with the request to pin it.
type upload struct {
	kind  string     // media type
	key   string     // by which the server knows a repetition
	query url.Values // name, meta and policy
	label []byte     // name and meta as JSON, where they are too long for the query
	// open returns the data, for each try from its beginning, and how long it is, 0: unknown. It may fail with errOnce.
	open func() (io.ReadCloser, int64, error)
}

// errOnce is data that cannot be sent again.
var errOnce = errors.New("the data cannot be read a second time")

// maxQuery is the longest query that is sent: servers, and proxies before them, take headers of 8 KiB or a little more.
const maxQuery = 4 << 10

// describe says what the pins are called.
func (u *upload) describe(name string, meta map[string]string) error {
	u.query = url.Values{}
	if name != "" {
		u.query.Set("name", name)
	}
	for key, value := range meta {
		u.query.Set("meta["+key+"]", value)
	}
	if len(u.query.Encode()) <= maxQuery {
		return nil
	}
	u.query = url.Values{}
	var err error
	u.label, err = json.Marshal(struct {
		Name string            `json:"name,omitempty"`
		Meta map[string]string `json:"meta,omitempty"`
	}{name, meta})
	return err
}

// labelled puts the label before data, in a body of two parts. It returns the type and size of the body.
func (u *upload) labelled(data io.Reader, size int64) (kind string, body io.Reader, all int64, err error) {
	var before bytes.Buffer
	parts := multipart.NewWriter(&before)
	first, err := parts.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/json"}})
	if err == nil {
		_, err = first.Write(u.label)
	}
	if err == nil {
		_, err = parts.CreatePart(textproto.MIMEHeader{"Content-Type": {u.kind}})
	}
	after := "\r\n--" + parts.Boundary() + "--\r\n"
	if size > 0 {
		size += int64(before.Len() + len(after))
	}
	return "multipart/mixed; boundary=" + parts.Boundary(), io.MultiReader(&before, data, strings.NewReader(after)), size, err
}

// upload sends data and returns the pins that the server has made of it, one at least.
func (a *api) upload(ctx context.Context, u upload) (made []pinned, err error) {
	var before error
	err = a.retry(ctx, func(ctx context.Context) error {
		made, err = a.uploadOnce(ctx, u)
		if before != nil && errors.Is(err, errOnce) {
			return fmt.Errorf("%w; %w", before, err)
		}
		before = err
		return err
	}, nil)
	return made, err
}

func (a *api) uploadOnce(ctx context.Context, u upload) ([]pinned, error) {
	data, size, err := u.open()
	if err != nil {
		return nil, &sourceError{err}
	}
	defer data.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := fmt.Errorf("%w: nothing has moved for %v", errCut, stallPatience)
	watch := time.AfterFunc(stallPatience, func() { cancel(stalled) })
	defer watch.Stop()
	kind, whole := u.kind, io.Reader(data)
	if u.label != nil {
		if kind, whole, size, err = u.labelled(data, size); err != nil {
			return nil, err
		}
	}
	body := &source{r: whole, watch: watch}
	response, err := a.send(ctx, call{
		method: http.MethodPost, url: a.origin + "/api/v1/upload?" + u.query.Encode(), size: size,
		// Who is refused, or told to come later, hears it before anything is sent.
		header: http.Header{"Content-Type": {kind}, "Idempotency-Key": {u.key}, "Expect": {"100-continue"}},
	}, body)
	if err == nil {
		defer response.Body.Close()
	}
	if failed := body.failed(); failed != nil {
		return nil, &sourceError{failed}
	}
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	var answer struct {
		Pins []pinned `json:"pins"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, smallAnswer)).Decode(&answer); err != nil {
		return nil, cut(fmt.Errorf("reading the answer: %w", err))
	}
	for _, row := range answer.Pins {
		if row.ID == "" {
			return nil, errNoPin
		}
	}
	if len(answer.Pins) == 0 {
		return nil, errNoPin
	}
	return answer.Pins, nil
}

var errNoPin = errors.New("it accepts the data but does not describe the pin")

// settlePatience is how long a server may take, once it has all data, to hold it and to answer.
const settlePatience = time.Hour

// A sourceError is the data's fault, not the server's.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// A source is data on its way. It puts a deadline off with every byte, and keeps its error, which what sends it would
// pass off as one of the connection.
type source struct {
	r     io.Reader
	watch *time.Timer

	mu  sync.Mutex // it may still be read when the answer is there
	err error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	patience := stallPatience
	switch {
	case errors.Is(err, io.EOF):
		patience = settlePatience
	case err != nil:
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
	}
	if n > 0 || err != nil {
		s.watch.Reset(patience)
	}
	return n, err
}

func (s *source) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
