package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// How long a service may take until it answers, and be silent once it does.
const (
	dialPatience   = 15 * time.Second
	answerPatience = 2 * time.Minute
)

// operatorsClient reaches a server of the operator's own: he named it, wherever it is. It follows no redirect, because
// the token goes where the operator said and nowhere else, and asks no proxy.
func operatorsClient(*url.URL) *http.Client { return plainClient(nil) }

// strangersClient reaches somebody else's service. Whatever its name is made to resolve to, it is not a way into the
// network that this program runs in, unless the operator has written such an address himself.
func strangersClient(base *url.URL) *http.Client {
	if private(base.Hostname()) {
		return plainClient(nil)
	}
	return plainClient(func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("dialling %s: %w", address, err)
		}
		if !public(at.Addr()) {
			return fmt.Errorf("%s is at %s, inside a private network: write the IP address itself where that is meant", base.Hostname(), at.Addr())
		}
		return nil
	})
}

func plainClient(control func(network, address string, c syscall.RawConn) error) *http.Client {
	dialer := &net.Dialer{Timeout: dialPatience, Control: control}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSHandshakeTimeout:    dialPatience,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			ResponseHeaderTimeout:  answerPatience,
			MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConnsPerHost:    parallel,
			IdleConnTimeout:        time.Minute,
			ForceAttemptHTTP2:      true,
		},
	}
}

// private tells whether a host is written as an address that is not public.
func private(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && !public(addr)
}

// inward are ranges that netip does not know as private and that lead inside or nowhere.
var inward = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("2001::/32"),
	netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("::/96"),
	netip.MustParsePrefix("fec0::/10"),
}

func public(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if !addr.IsGlobalUnicast() || addr.IsPrivate() {
		return false
	}
	for _, p := range inward {
		if p.Contains(addr) {
			return false
		}
	}
	return true
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
