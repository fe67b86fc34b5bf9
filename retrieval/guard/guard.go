// Package guard makes HTTP clients for addresses that others name: storage providers, routers, remote services, hooks.
//
// It owns what every outgoing request that we did not think of ourselves must keep to. An address is checked after its
// name was looked up, in the moment of dialling, so that no second answer of a name server slips in between; that holds
// for every redirect too. Nothing is taken from the environment, no cookie is kept, and who stops sending is left.
package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// Config says what a client may do. The zero value reaches public addresses only, with the usual time-outs.
type Config struct {
	Allow     []netip.Prefix // private addresses that may be dialled all the same: a devnet's, a LAN's
	Dial      time.Duration  // to connect, and for the TLS handshake; 10 s when zero
	Header    time.Duration  // until the first byte of the answer; 10 s when zero
	Idle      time.Duration  // that one read of the body waits for anything; 20 s when zero
	Redirects int            // most that are followed, within one scheme; 3 when zero, none when negative
	PerHost   int            // idle connections that are kept to one host; 16 when zero
}

// Errors of a client beside those of net/http, wrapped.
var (
	// ErrForbidden says that an address may not be dialled.
	ErrForbidden = errors.New("the address is not a public one")
	// ErrIdle says that a body has brought nothing for too long.
	ErrIdle = errors.New("the answer has stopped coming")
)

// NewClient returns a client that keeps to c. It has no time-out for a whole request: the caller's context has.
func NewClient(c Config) *http.Client {
	or := func(d, otherwise time.Duration) time.Duration {
		if d == 0 {
			return otherwise
		}
		return d
	}
	dial := or(c.Dial, 10*time.Second)
	redirects := c.Redirects
	if redirects == 0 {
		redirects = 3
	}
	perHost := c.PerHost
	if perHost == 0 {
		perHost = 16
	}
	dialer := &net.Dialer{Timeout: dial, Control: control(c.Allow)}
	transport := &http.Transport{
		DialContext:            dialer.DialContext,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    perHost,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    dial,
		ResponseHeaderTimeout:  or(c.Header, 10*time.Second),
		DisableCompression:     true, // what is compressed may unpack to anything
		MaxResponseHeaderBytes: 64 << 10,
	}
	return &http.Client{
		Transport: &idleTransport{next: transport, idle: or(c.Idle, 20*time.Second)},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			switch {
			case len(via) > redirects || redirects < 0:
				return fmt.Errorf("after %d redirects: %w", len(via)-1, errRedirects)
			case req.URL.Scheme != via[0].URL.Scheme:
				return fmt.Errorf("a redirect from %s to %s: %w", via[0].URL.Scheme, req.URL.Scheme, errRedirects)
			}
			return nil
		},
	}
}

var errRedirects = errors.New("no further redirect is followed")

// control is called with each address just before it is dialled.
func control(allow []netip.Prefix) func(network, address string, conn syscall.RawConn) error {
	var v4, v6 []netip.Prefix
	for _, p := range allow {
		if p.Addr().Unmap().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	guardian := ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...))
	return func(network, address string, conn syscall.RawConn) error {
		if err := guardian.Safe(network, address, conn); err != nil {
			return fmt.Errorf("%w: %w", ErrForbidden, err)
		}
		return nil
	}
}

// An idleTransport ends answers that stop coming.
type idleTransport struct {
	next *http.Transport
	idle time.Duration
}

// CloseIdleConnections is what http.Client.CloseIdleConnections calls.
func (t *idleTransport) CloseIdleConnections() { t.next.CloseIdleConnections() }

// RoundTrip implements http.RoundTripper.
func (t *idleTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if s := req.URL.Scheme; s != "http" && s != "https" {
		return nil, fmt.Errorf("%w: the scheme %q is not spoken", ErrForbidden, s)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	res, err := t.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	b := &idleBody{ReadCloser: res.Body, idle: t.idle, ctx: ctx, cancel: cancel}
	b.timer = time.AfterFunc(t.idle, func() { cancel(ErrIdle) })
	b.timer.Stop() // it runs while somebody waits for the sender, not while the reader is busy elsewhere
	res.Body = b
	return res, nil
}

type idleBody struct {
	io.ReadCloser
	idle   time.Duration
	timer  *time.Timer
	ctx    context.Context //nolint:containedctx // of the request whose body this is
	cancel context.CancelCauseFunc
	once   sync.Once
}

func (b *idleBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.idle)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) && errors.Is(context.Cause(b.ctx), ErrIdle) {
		err = fmt.Errorf("%w: %w", ErrIdle, err)
	}
	return n, err
}

func (b *idleBody) Close() error {
	err := b.ReadCloser.Close()
	b.once.Do(func() {
		b.timer.Stop()
		b.cancel(nil)
	})
	return err
}
