package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/frostpin/frostpin/server"
)

// net/http's own time-out for reading goes on while the request is answered, and cancels it.
func TestSlowAnswersAreNotCancelledByTheTimeOutForBodies(t *testing.T) {
	for name, text := range map[string]string{
		"without a body": request,
		"with a body": "POST /psa/pins HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + alice +
			"\r\nContent-Length: 62\r\n\r\n" + fmt.Sprintf("%-62s", `{"cid":"`+cidV0+`"}`),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				f.pins.before = func(ctx context.Context) {
					select {
					case <-time.After(2 * time.Minute):
					case <-ctx.Done():
						t.Errorf("cancelled: %v", context.Cause(ctx))
					}
				}
				p, stop := serve(t, f)
				conn := p.dial(t)
				defer conn.Close()
				send(t, conn, text)
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil || resp.StatusCode >= 300 {
					t.Errorf("%v %v", resp, err)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A list is slow to take on a bad line. What counts is that it is taken at all.
func TestReadersOfTheAPIAreCutWhenTheyTakeNothingAndNotWhenTheyAreSlow(t *testing.T) {
	for name, test := range map[string]struct {
		pause time.Duration // between two reads
		whole bool
	}{
		"slow":    {10 * time.Second, true},
		"stopped": {5 * time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				for range 1000 {
					f.mustAdd(t, alice, `{"cid":"`+cidV0+`","name":"`+strings.Repeat("n", 200)+`"}`)
				}
				p, stop := serve(t, f)
				conn := p.dial(t)
				defer conn.Close()
				send(t, conn, strings.Replace(request, "/pins", "/pins?status=queued&limit=1000", 1))
				buf := make([]byte, 64<<10)
				got, broken := 0, false
				for !broken {
					<-time.After(test.pause)
					n, err := conn.Read(buf)
					if got += n; err != nil {
						broken = true
					} else if n < 100 || strings.HasSuffix(string(buf[:n]), "]}") {
						break
					}
				}
				if whole := !broken; whole != test.whole {
					t.Errorf("whole: %t, after %d bytes", whole, got)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// An upload is as slow as it is; one that pretends to go on, byte by byte, holds a place that others need.
func TestUploadsMustMakeProgressAndMayBeSlow(t *testing.T) {
	for name, test := range map[string]struct {
		piece int
		every time.Duration
		total int
		whole bool
	}{
		"slow":    {4 << 10, 5 * time.Second, 256 << 10, true},
		"trickle": {1, 5 * time.Second, 256 << 10, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := &uploads{}
				f := newFixture(t, func(c *server.Config) { c.Uploads = u })
				u.pins = f.pins
				p, stop := serve(t, f)
				conn := p.dial(t)
				defer conn.Close()
				send(t, conn, fmt.Sprintf("POST /api/v1/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", alice, test.total))
				answered := make(chan int, 1)
				go func() {
					resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
					if err != nil {
						answered <- 0
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					answered <- resp.StatusCode
				}()
				status, start := -1, time.Now()
				for sent := 0; status < 0; sent += test.piece {
					if sent < test.total {
						if _, err := io.WriteString(conn, strings.Repeat("x", test.piece)); err != nil {
							status = <-answered
							break
						}
					}
					select {
					case status = <-answered:
					case <-time.After(test.every):
					}
				}
				if whole := status == http.StatusAccepted; whole != test.whole {
					t.Errorf("answered %d after %s", status, time.Since(start))
				}
				if !test.whole && time.Since(start) > 2*time.Minute {
					t.Errorf("held for %s", time.Since(start))
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
