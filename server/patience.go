package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// What is asked of a client in return for waiting: not that it is fast, but that it goes on. Who takes or sends a byte
// now and then only to be waited for is cut like one who does nothing.
const (
	stallTime   = 30 * time.Second // without progress
	leastUpload = 8 << 10          // bytes of an upload in stallTime that are progress
	writeChunk  = 32 << 10         // bytes of an answer that are progress when they were taken
)

// A steadyWriter drops a reader who takes nothing for stallTime. Handlers that set a deadline themselves, because they
// know better, are left alone from then on.
type steadyWriter struct {
	http.ResponseWriter
	conn *http.ResponseController // of the same writer
	own  bool                     // the handler sets deadlines
}

func newSteadyWriter(w http.ResponseWriter) *steadyWriter {
	return &steadyWriter{ResponseWriter: w, conn: http.NewResponseController(w)}
}

// Unwrap lets an http.ResponseController find what this writer does not do.
func (w *steadyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// SetWriteDeadline is called through an http.ResponseController.
func (w *steadyWriter) SetWriteDeadline(t time.Time) error {
	w.own = true
	return w.conn.SetWriteDeadline(t)
}

// WriteHeader implements http.ResponseWriter.
func (w *steadyWriter) WriteHeader(code int) {
	w.extend() // if that fails the connection is broken, and the next write says so
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *steadyWriter) Write(b []byte) (written int, err error) {
	if w.own {
		return w.ResponseWriter.Write(b)
	}
	for {
		n := min(len(b)-written, writeChunk)
		w.extend()
		n, err = w.ResponseWriter.Write(b[written : written+n])
		if written += n; err != nil || written == len(b) {
			return written, err
		}
	}
}

func (w *steadyWriter) extend() {
	if !w.own {
		_ = w.conn.SetWriteDeadline(time.Now().Add(stallTime)) // without a connection, as in tests, there is none
	}
}

// A patient body may take as long as it likes, but must bring least bytes for every idle that is waited for it. Only
// waiting counts: that we are slow to store what came is not the client's doing.
type patient struct {
	body    io.Reader
	control *http.ResponseController
	idle    time.Duration
	least   int
	waited  time.Duration // since the last progress
	came    int           // since then
	until   time.Time     // the deadline that is set
	ended   error
}

func newPatient(w http.ResponseWriter, body io.Reader, idle time.Duration, least int) *patient {
	return &patient{body: body, control: http.NewResponseController(w), idle: idle, least: least}
}

// Read implements io.Reader. Errors of the connection are the client's doing.
func (p *patient) Read(b []byte) (int, error) {
	if p.ended != nil {
		return 0, p.ended // a deadline set now would end the request instead of the body
	}
	start := time.Now()
	if err := p.renew(start.Add(p.idle - p.waited)); err != nil {
		return 0, err
	}
	n, err := p.body.Read(b)
	p.waited += time.Since(start)
	if p.came += n; p.came >= p.least {
		p.came, p.waited = 0, 0
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", errStalled, err)
	}
	p.ended = err
	return n, err
}

// renew sets the deadline, unless it differs little from the one that is set.
func (p *patient) renew(until time.Time) error {
	if d := until.Sub(p.until); d.Abs() < p.idle/20 {
		return nil
	}
	p.until = until
	if err := unlessUnsupported(p.control.SetReadDeadline(until)); err != nil {
		return fmt.Errorf("waiting for an upload: %w", err)
	}
	return nil
}
