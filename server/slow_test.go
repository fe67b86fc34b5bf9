package server_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/frostpin/frostpin/server"
)

// Slow clients hold connections and nothing else: another tenant is served meanwhile, and hardly later. With
// FROSTPIN_E2E_LONG=1 it is 5,000 of them, and how much later is measured.
func TestSlowClientsDoNotHoldUpOthers(t *testing.T) {
	long := os.Getenv("FROSTPIN_E2E_LONG") == "1"
	slow, requests := 300, 300
	if long {
		slow, requests = 5000, 5000
	}
	f := newFixture(t)
	s, err := server.New(server.Config{StopTimeout: time.Second}, f.pins, f.tokens, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		f.mustAdd(t, alice, `{"cid":"`+cidV0+`"}`)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, server.Connections{Total: slow + 100}.Listener(ln)) }()

	before := p99(t, ln.Addr().String(), requests)
	attack, over := context.WithCancel(t.Context())
	var attackers sync.WaitGroup
	var open, cut atomic.Int64
	for i := range slow {
		attackers.Go(func() { trickle(attack, ln.Addr().String(), i, &open, &cut) })
	}
	until(t, "all slow connections are open", func() bool { return open.Load() >= int64(slow)*9/10 })
	during := p99(t, ln.Addr().String(), requests)
	until(t, "slow connections are cut", func() bool { return cut.Load() > int64(slow)/10 })
	over()
	attackers.Wait()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	t.Logf("p99 of another tenant: %s, with %d slow connections %s", before, slow, during)
	if limit := max(2*before, 10*time.Millisecond); long && during > limit {
		t.Errorf("p99 went from %s to %s, more than %s", before, during, limit)
	}
}

// until waits for what other goroutines bring about.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// trickle keeps one connection open with a request that never gets ready: a header or, every other one, a body.
func trickle(ctx context.Context, addr string, i int, open, cut *atomic.Int64) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	start := "GET /psa/pins HTTP/1.1\r\nHost: x\r\nX-Slow: "
	if i%2 == 1 {
		start = "POST /psa/pins HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + bob + "\r\nContent-Length: 100000\r\n\r\n"
	}
	for ctx.Err() == nil {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return
		}
		_, err = io.WriteString(conn, start)
		open.Add(1)
		for err == nil && ctx.Err() == nil {
			select {
			case <-tick.C:
				_, err = io.WriteString(conn, " ")
			case <-ctx.Done():
			}
		}
		open.Add(-1)
		_ = conn.Close()
		if err != nil {
			cut.Add(1)
		}
	}
}

// p99 is how long nearly all of so many lists take that one client asks for, one after another.
func p99(t *testing.T, addr string, requests int) time.Duration {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	took := make([]time.Duration, 0, requests)
	for range requests {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr+"/psa/pins", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+alice)
		start := time.Now()
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%d, %v", resp.StatusCode, err)
		}
		_ = resp.Body.Close()
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}
