package main

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/frostpin/frostpin/retrieval/guard"
)

// How long a service may take until it answers, and be silent once it does.
const (
	dialPatience     = 15 * time.Second
	answerPatience   = 2 * time.Minute
	continuePatience = 5 * time.Second // until a body is sent to a server that does not ask for it
)

// operatorsClient reaches a server of the operator's own: he named it, wherever it is. It follows no redirect, because
// the token goes where the operator said and nowhere else, and asks no proxy.
func operatorsClient(*url.URL) *http.Client { return plainClient(nil) }

// strangersClient reaches somebody else's service. Whatever its name is made to resolve to, it is not a way into the
// network that this program runs in, unless the operator has written such an address himself.
func strangersClient(base *url.URL) *http.Client {
	if written(base.Hostname()) {
		return plainClient(nil)
	}
	return guard.NewClient(guard.Config{Dial: dialPatience, Header: answerPatience, Redirects: -1, PerHost: parallel})
}

// plainClient is without a guard, and has no patience of its own beyond dialing: each request ends with its context.
// expect says who must answer over TLS; nil: whom the address names.
func plainClient(expect *tls.Config) *http.Client {
	if expect == nil {
		expect = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	dialer := &net.Dialer{Timeout: dialPatience}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSHandshakeTimeout:    dialPatience,
			TLSClientConfig:        expect,
			ExpectContinueTimeout:  continuePatience,
			MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConnsPerHost:    parallel,
			IdleConnTimeout:        time.Minute,
			ForceAttemptHTTP2:      true,
		},
	}
}

// written tells whether a host is an address, or this machine, as it stands: then nobody else decides where it leads.
func written(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil || strings.EqualFold(host, "localhost")
}

// parseBase reads the address of a service.
func parseBase(text string) (*url.URL, error) {
	if err := checkURL(text); err != nil {
		return nil, err
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("it is not an address")
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
	return u, nil
}
