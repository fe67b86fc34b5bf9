package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/frostpin/frostpin/spec"
)

// A service is a running frostpin.
type service struct {
	cmd   *exec.Cmd
	base  string
	token string
	dir   string
	http  *http.Client
}

var pasteLine = regexp.MustCompile(`ipfs pin remote service add \S+ (\S+) (\S+)`)

// start runs the server on a data directory. token is needed where the directory has been used before.
func (b *bench) start(ctx context.Context, dir, token string) (*service, error) {
	cmd := exec.CommandContext(ctx, b.binary, "serve", "--data-dir", dir, "--network", "private", "--listen", "127.0.0.1:0", "--log-level", "warn")
	cmd.Stderr = os.Stderr
	m, err := b.launch(cmd, pasteLine)
	if err != nil {
		return nil, err
	}
	s := &service{cmd: cmd, base: m[1], token: token, dir: dir, http: newClient(128)}
	if token == "" {
		s.token = m[2]
	}
	return s, s.ready(ctx)
}

// begin starts a program that ends with the measurement, if not before.
func (b *bench) begin(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	b.started = append(b.started, cmd)
	return nil
}

// launch starts a program and returns what matches in its output once something does.
func (b *bench) launch(cmd *exec.Cmd, line *regexp.Regexp) ([]string, error) {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := b.begin(cmd); err != nil {
		return nil, err
	}
	var seen strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := out.Read(buf)
		seen.Write(buf[:n])
		if m := line.FindStringSubmatch(seen.String()); m != nil {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return m, nil
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("no address in %q: %w", seen.String(), err), cmd.Wait())
		}
	}
}

func newClient(conns int) *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConns: conns, MaxIdleConnsPerHost: conns, DisableCompression: true}}
}

func (s *service) ready(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := s.do(ctx, http.MethodGet, "/pins?limit=1", nil, nil); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (s *service) stop() error {
	s.http.CloseIdleConnections()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return s.cmd.Wait()
}

// another returns the service as seen with the token of a new account.
func (b *bench) another(ctx context.Context, s *service, name, plan string) (*service, error) {
	account := exec.CommandContext(ctx, b.binary, "account", "create", "--data-dir", s.dir, "--plan", plan, name)
	if out, err := account.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("creating an account: %w: %s", err, out)
	}
	token, err := exec.CommandContext(ctx, b.binary, "token", "create", "--data-dir", s.dir, "--account", name, "--label", "bench").Output()
	if err != nil {
		return nil, fmt.Errorf("creating a token: %w", err)
	}
	other := *s
	other.token = strings.TrimSpace(string(token))
	return &other, nil
}

// do sends one request and decodes the answer into out unless that is nil.
func (s *service) do(ctx context.Context, method, path string, body, out any) (status int, err error) {
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		reader = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, reader)
	if err != nil {
		return 0, err
	}
	return s.send(req, out)
}

// send sends a request as the account and decodes the answer into out unless that is nil.
func (s *service) send(req *http.Request, out any) (status int, err error) {
	req.Header.Set("Authorization", "Bearer "+s.token)
	res, err := s.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return res.StatusCode, err
	}
	if res.StatusCode >= 300 {
		return res.StatusCode, fmt.Errorf("%s %s: %d %s", req.Method, req.URL.Path, res.StatusCode, b)
	}
	if out == nil {
		return res.StatusCode, nil
	}
	return res.StatusCode, json.Unmarshal(b, out)
}

func (s *service) pin(ctx context.Context, p spec.Pin) (spec.PinStatus, error) {
	var out spec.PinStatus
	_, err := s.do(ctx, http.MethodPost, "/pins", p, &out)
	return out, err
}

// rate calls do from clients goroutines for a while, or n times if n > 0, and returns calls per second.
func rate(ctx context.Context, clients int, d time.Duration, n int64, do func(context.Context, int64) error) (float64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next, done atomic.Int64
	var clientsDone sync.WaitGroup
	started := time.Now()
	for range clients {
		clientsDone.Go(func() {
			for ctx.Err() == nil {
				i := next.Add(1) - 1
				if n > 0 && i >= n || n == 0 && time.Since(started) > d {
					return
				}
				if err := do(ctx, i); err != nil {
					cancel(err)
					return
				}
				done.Add(1)
			}
		})
	}
	clientsDone.Wait()
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	return float64(done.Load()) / time.Since(started).Seconds(), nil
}

// fresh starts a service on an empty data directory.
func (b *bench) fresh(ctx context.Context, name string) (*service, error) {
	return b.start(ctx, filepath.Join(b.dir, name), "")
}
