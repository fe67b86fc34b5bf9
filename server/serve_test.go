package server_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/frostpin/frostpin/server"
)

// pipes is a listener without sockets, so that time in these tests is simulated.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func (p *pipes) dial(t *testing.T) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
	case <-p.closed:
		t.Fatal("the listener is closed")
	}
	return ours
}

// serve runs a server in a bubble of simulated time; stop ends it and returns what Serve returned.
func serve(t *testing.T, f *fixture) (p *pipes, stop func() error) {
	t.Helper()
	p = newPipes()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Serve(ctx, p) }()
	return p, func() error {
		cancel()
		return <-ended
	}
}

const request = "GET /psa/pins HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + alice + "\r\n\r\n"

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Error(err)
	}
}

func TestStopLetsRunningRequestsFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.pins.before = func(ctx context.Context) {
			select {
			case <-time.After(5 * time.Second):
			case <-ctx.Done():
				t.Error("the running request was cancelled")
			}
		}
		p, stop := serve(t, f)
		c := p.dial(t)
		defer c.Close()
		answered := make(chan int, 1)
		go func() {
			send(t, c, request)
			r, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Error(err)
				answered <- 0
				return
			}
			answered <- r.StatusCode
		}()
		synctest.Wait() // the handler is running
		start := time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if got := <-answered; got != http.StatusOK {
			t.Errorf("the running request got %d", got)
		}
		if took := time.Since(start); took < 4*time.Second || took > 7*time.Second {
			t.Errorf("stopping took %s", took)
		}
	})
}

func TestStopCutsOffRequestsThatTakeTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(c *server.Config) { c.StopTimeout = 2 * time.Second })
		release := make(chan struct{})
		f.pins.before = func(context.Context) { <-release }
		p, stop := serve(t, f)
		c := p.dial(t)
		defer c.Close()
		send(t, c, request)
		synctest.Wait()
		start := time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("stopping took %s", took)
		}
		if !strings.Contains(f.log.String(), "cut off") {
			t.Errorf("not logged: %s", f.log)
		}
		close(release)
		synctest.Wait()
	})
}

func TestSlowClientsAreCutOff(t *testing.T) {
	for _, c := range []struct {
		name, sent string
		after      time.Duration
	}{
		{"headers never end", "GET /psa/pins HTTP/1.1\r\nHost: x\r\n", 5 * time.Second},
		{"body never ends", "POST /psa/pins HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nAuthorization: Bearer " + alice + "\r\n\r\n{", 31 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, stop := serve(t, newFixture(t))
				conn := p.dial(t)
				defer conn.Close()
				send(t, conn, c.sent)
				start := time.Now()
				if _, err := io.Copy(io.Discard, conn); err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took > c.after {
					t.Errorf("held for %s", took)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Go clients keep connections for 90 s. One that the server closed just before loses its next request.
func TestIdleConnectionsOutliveGoClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stop := serve(t, newFixture(t))
		conn := p.dial(t)
		defer conn.Close()
		r := bufio.NewReader(conn)
		for range 3 {
			send(t, conn, request)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Fatal(err)
			}
			<-time.After(91 * time.Second)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// net/http would answer this itself, in words of its own.
func TestOptionsOfTheWholeServerHasOurEnvelope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stop := serve(t, newFixture(t))
		conn := p.dial(t)
		defer conn.Close()
		send(t, conn, "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusNotFound || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%d %v", resp.StatusCode, resp.Header)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestServeReportsABrokenListener(t *testing.T) {
	p := newPipes()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := newFixture(t).Serve(t.Context(), p); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestServesOverSockets(t *testing.T) {
	f := newFixture(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Serve(ctx, ln) }()
	base := "http://" + ln.Addr().String()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()

	for _, c := range []struct {
		name   string
		body   io.Reader
		size   int64
		status int
	}{
		{"pin", strings.NewReader(`{"cid":"` + cidV0 + `"}`), -1, http.StatusAccepted},
		{"too large, announced", zeros(2 << 20), 2 << 20, http.StatusRequestEntityTooLarge},
		{"too large, chunked", zeros(2 << 20), -1, http.StatusRequestEntityTooLarge},
	} {
		r, err := http.NewRequestWithContext(t.Context(), "POST", base+"/psa/pins", c.body)
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = c.size
		r.Header.Set("Authorization", "Bearer "+alice)
		resp, err := client.Do(r)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != c.status || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s", c.name, resp.StatusCode, body)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func zeros(n int64) io.Reader { return io.LimitReader(spaces{}, n) }

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}
