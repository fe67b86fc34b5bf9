package sp

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
)

// errForbidden is a source that a provider does not fetch from; trying again does not help.
var errForbidden = errors.New("source is not allowed")

// Bounds of what a client may ask a provider to send (rule F7).
const (
	maxURL     = 4096
	maxHeaders = 16 << 10
)

// checkURL judges what can be judged without resolving a name.
func checkURL(text string, cfg Config) error {
	if len(text) > maxURL {
		return fmt.Errorf("%w: url of %d characters", errForbidden, len(text))
	}
	u, err := url.Parse(text)
	if err != nil {
		return fmt.Errorf("%w: %w", errForbidden, err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%w: scheme %q, host %q", errForbidden, u.Scheme, u.Host)
	}
	name := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if cfg.RefuseLoopback && (name == "localhost" || strings.HasSuffix(name, ".localhost") || strings.HasSuffix(name, ".local")) {
		return fmt.Errorf("%w: host %q", errForbidden, name)
	}
	return nil
}

// forbiddenHeaders are those that would speak for the provider or for its connection.
var forbiddenHeaders = []string{
	"host", "range", "connection", "forwarded", "x-real-ip", "te", "trailer", "upgrade", "transfer-encoding",
}

func checkHeaders(headers map[string]string) error {
	size := 0
	for k, v := range headers {
		size += len(k) + len(v)
		name := strings.ToLower(k)
		if slices.Contains(forbiddenHeaders, name) || strings.HasPrefix(name, "x-forwarded-") {
			return fmt.Errorf("%w: header %q", errForbidden, k)
		}
	}
	if size > maxHeaders {
		return fmt.Errorf("%w: headers of %d bytes", errForbidden, size)
	}
	return nil
}

// guard looks at the address that is really dialled, so that no name and no redirect leads inside.
func guard(cfg Config) func(network, address string, _ syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		addr, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("%w: %w", errForbidden, err)
		}
		return checkAddr(addr.Addr().Unmap(), cfg)
	}
}

// special are ranges that are neither public nor covered by netip's predicates.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("100::/64"), netip.MustParsePrefix("2001:db8::/32"),
}

func checkAddr(addr netip.Addr, cfg Config) error {
	if addr.IsLoopback() {
		if cfg.RefuseLoopback {
			return fmt.Errorf("%w: address %s", errForbidden, addr)
		}
		return nil
	}
	inside := addr.IsPrivate() || addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr.IsUnspecified() ||
		slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(addr) })
	if inside && !cfg.AllowPrivate {
		return fmt.Errorf("%w: address %s", errForbidden, addr)
	}
	return nil
}
