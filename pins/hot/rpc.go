package hot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/kubo/client/rpc"

	"github.com/frostpin/frostpin/pins"
)

// A patience bounds how long a daemon may be silent.
type patience struct {
	quick      time.Duration // a request that needs no network
	alive      time.Duration // saying its version
	aliveAfter time.Duration // a request waits so long before the daemon is asked whether it lives
	still      time.Duration // pinning what is there gets no further
}

// A daemonTransport tells what Kubo answers from what became of the daemon. Kubo's client knows no status codes,
// prints to stderr what it does not expect, and on some errors leaves nothing to read where its callers read (H6).
type daemonTransport struct {
	base          *http.Transport
	authorization string
}

// unavailable says that the daemon does not answer, and why.
func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: %w", pins.ErrUnavailable, fmt.Errorf(format, args...))
}

// RoundTrip implements http.RoundTripper.
func (d *daemonTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if d.authorization != "" {
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", d.authorization)
	}
	resp, err := d.base.RoundTrip(req)
	if err != nil {
		if req.Context().Err() != nil {
			return nil, context.Cause(req.Context())
		}
		return nil, unavailable("reaching the kubo daemon: %w", err)
	}
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	ours := err == nil && (resp.StatusCode < 400 || kind == "application/json" || kind == "text/plain")
	switch {
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		err = unavailable("the kubo daemon refuses our authorization (%s)", resp.Status)
	case resp.StatusCode == http.StatusNotFound:
		err = unavailable("there is no kubo daemon at this address (%s)", resp.Status)
	case resp.StatusCode >= 500 && kind != "application/json", !ours:
		err = unavailable("the kubo daemon answers %s", resp.Status)
	default:
		resp.Body = &daemonBody{ReadCloser: resp.Body, ctx: req.Context()}
		return resp, nil
	}
	return nil, errors.Join(err, resp.Body.Close())
}

// A daemonBody tells an answer that breaks off from one that ends.
type daemonBody struct {
	io.ReadCloser
	ctx context.Context
}

func (b *daemonBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return n, err
	case b.ctx.Err() != nil:
		return n, context.Cause(b.ctx)
	default:
		return n, unavailable("reading from the kubo daemon: %w", err)
	}
}

// A daemon is a Kubo daemon behind its RPC API.
type daemon struct {
	*rpc.HttpApi
	transport *daemonTransport
	patience  patience

	mu     sync.Mutex
	asked  time.Time
	answer error
}

func newDaemon(url, authorization string) (*daemon, error) {
	transport := &daemonTransport{
		// Connections are kept (H13), no proxy from the environment stands between us and the daemon, and there is
		// no timeout that would cut long answers: contexts bound everything.
		base:          &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second},
		authorization: authorization,
	}
	api, err := rpc.NewURLApiWithClient(strings.TrimSuffix(url, "/"), &http.Client{Transport: transport})
	if err != nil {
		return nil, fmt.Errorf("preparing kubo's client: %w", err)
	}
	return &daemon{
		HttpApi:   api,
		transport: transport,
		patience:  patience{quick: 30 * time.Second, alive: 5 * time.Second, aliveAfter: 10 * time.Second, still: 30 * time.Second},
	}, nil
}

// quick bounds a request that a living daemon answers from what it has.
func (d *daemon) quick(ctx context.Context, f func(context.Context) error) error {
	inner, cancel := context.WithTimeoutCause(ctx, d.patience.quick, unavailable("no answer within %s", d.patience.quick))
	defer cancel()
	return because(inner, f(inner))
}

// patient lets a request wait as long as the daemon lives: only the network knows when a block comes.
func (d *daemon) patient(ctx context.Context, f func(context.Context) error) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var timer *time.Timer
	var mu sync.Mutex // timer is set before it is used
	mu.Lock()
	timer = time.AfterFunc(d.patience.aliveAfter, func() {
		if err := d.alive(inner); err != nil {
			cancel(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if inner.Err() == nil {
			timer.Reset(d.patience.aliveAfter)
		}
	})
	mu.Unlock()
	defer timer.Stop()
	return because(inner, f(inner))
}

// because prefers the reason why a context ended to what the client made of it.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// alive asks the daemon whether it lives. All that wait share one question and its answer.
func (d *daemon) alive(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.asked) < d.patience.aliveAfter/2 {
		return d.answer
	}
	inner, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), d.patience.alive,
		unavailable("no answer within %s", d.patience.alive))
	defer cancel()
	d.answer = because(inner, d.Request("version").Exec(inner, nil))
	d.asked = time.Now()
	return d.answer
}

// stream calls each for every line of an answer.
func stream[Line any](ctx context.Context, request rpc.RequestBuilder, each func(Line) error) error {
	resp, err := request.Send(ctx)
	if err != nil {
		return err
	}
	if resp.Error != nil { // then there is no output
		return resp.Error
	}
	lines := json.NewDecoder(resp.Output)
	for {
		var line Line
		err := lines.Decode(&line)
		if err == nil {
			err = each(line)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return resp.Close()
		default:
			// Not Close: it would read the rest.
			return errors.Join(because(ctx, err), resp.Cancel())
		}
	}
}

func (d *daemon) close() { d.transport.base.CloseIdleConnections() }
