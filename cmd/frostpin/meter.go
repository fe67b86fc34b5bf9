package main

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/mattn/go-isatty"
)

// A meter shows on a terminal how many bytes have moved. Its bytes may be counted by one goroutine at a time.
type meter struct {
	w     io.Writer // nil: nobody looks
	verb  string    // what becomes of the bytes, such as sent
	total int64     // how many there are, 0: unknown
	now   func() time.Time

	moved       atomic.Int64
	begun       time.Time
	done, ended chan struct{}
}

// meter shows what moves from now on, until it is stopped, if stderr is a terminal.
func (p *program) meter(verb string, total int64) *meter {
	m := &meter{verb: verb, total: total, now: p.now, begun: p.now(), done: make(chan struct{}), ended: make(chan struct{})}
	if file, ok := p.stderr.(*os.File); ok && isatty.IsTerminal(file.Fd()) {
		m.w = file
	}
	go m.run()
	return m
}

func (m *meter) run() {
	defer close(m.ended)
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	shown := false
	for m.w != nil {
		select {
		case <-m.done:
			if shown {
				fmt.Fprintln(m.w)
			}
			return
		case <-ticker.C:
			fmt.Fprintf(m.w, "\r%s\x1b[K", m.line())
			shown = true
		}
	}
}

// line is what is shown, such as "12 MiB of 80 MiB sent, 3.1 MiB/s".
func (m *meter) line() string {
	moved := m.moved.Load()
	text := humanize.IBytes(uint64(moved))
	if m.total > 0 {
		text += " of " + humanize.IBytes(uint64(m.total))
	}
	text += " " + m.verb
	if took := m.now().Sub(m.begun).Seconds(); took > 0 {
		text += ", " + humanize.IBytes(uint64(float64(moved)/took)) + "/s"
	}
	return text
}

func (m *meter) stop() { close(m.done); <-m.ended }

// opens counts what is read of the data that open opens.
func (m *meter) opens(open func() (io.ReadCloser, int64, error)) func() (io.ReadCloser, int64, error) {
	return func() (io.ReadCloser, int64, error) {
		data, size, err := open()
		if err != nil {
			return nil, 0, err
		}
		return struct {
			io.Reader
			io.Closer
		}{m.reads(data), data}, size, nil
	}
}

// reads counts what is read of r, from nothing: it is another try.
func (m *meter) reads(r io.Reader) io.Reader {
	m.moved.Store(0)
	return metered{r, m}
}

type metered struct {
	r     io.Reader
	meter *meter
}

func (r metered) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.meter.moved.Add(int64(n))
	return n, err
}
