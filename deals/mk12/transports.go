package mk12

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/mk12/wire"
)

// What a provider may say of where it serves over HTTP. Everything beyond is passed over.
const (
	maxAnnounced = 64   // addresses that are looked at
	maxURLs      = 8    // base URLs that are believed
	maxURL       = 512  // bytes of one
	maxRawAddr   = 1024 // bytes of the address that it is made of
)

// Transports asks a provider where it serves over HTTP: base URLs without a slash at their end, the best first; none
// when it names none that can be used.
func (m *Market) Transports(ctx context.Context, p deals.Contact) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	to, release, err := m.reach(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("asking %s where it serves: %w", p.Provider, err)
	}
	defer release()
	resp, err := wire.Transports(ctx, m.host, to)
	if err != nil {
		return nil, translate(ctx, err)
	}
	return baseURLs(resp, m.cfg.AllowPrivate), nil
}

// A base is a base URL and what speaks for it.
type base struct {
	url         string
	https, name bool
}

// baseURLs are those of an answer, the best first: https before http, names (which have certificates, and stay when a
// server moves) before addresses.
func baseURLs(resp *wire.QueryResponse, private bool) []string {
	var found []base
	looked := 0
	for _, protocol := range resp.Protocols {
		if protocol.Name != "http" && protocol.Name != "https" {
			continue
		}
		for _, raw := range protocol.Addresses {
			if looked++; looked > maxAnnounced {
				break
			}
			if len(raw) > maxRawAddr {
				continue
			}
			a, err := multiaddr.NewMultiaddrBytes(raw)
			if err != nil {
				continue
			}
			if b, ok := baseURL(a, private); ok && !slices.ContainsFunc(found, func(o base) bool { return o.url == b.url }) {
				found = append(found, b)
			}
		}
	}
	rank := func(b base) (r int) {
		if !b.https {
			r += 2
		}
		if !b.name {
			r++
		}
		return r
	}
	slices.SortStableFunc(found, func(a, b base) int { return cmp.Compare(rank(a), rank(b)) })
	urls := []string{}
	for _, b := range found[:min(len(found), maxURLs)] {
		urls = append(urls, b.url)
	}
	return urls
}

// baseURL is what an address such as /dns4/host/tcp/443/https says; false for any other kind. Where a name leads is for
// whoever connects to judge.
func baseURL(a multiaddr.Multiaddr, private bool) (b base, ok bool) {
	var host, port, path string
	var web bool
	for i, c := range a {
		code := c.Protocol().Code
		switch {
		case i == 0:
			switch code {
			case multiaddr.P_DNS, multiaddr.P_DNS4, multiaddr.P_DNS6:
				if host, b.name = strings.ToLower(strings.TrimSuffix(c.Value(), ".")), true; !isName(host) {
					return base{}, false
				}
			case multiaddr.P_IP4, multiaddr.P_IP6:
				if host = c.Value(); !private && !manet.IsPublicAddr(multiaddr.Multiaddr{c}) {
					return base{}, false
				}
			default:
				return base{}, false
			}
		case i == 1 && code == multiaddr.P_TCP:
			port = c.Value()
		case code == multiaddr.P_TLS && i == 2:
			b.https = true
		case code == multiaddr.P_SNI && i == 3 && b.https:
			// The name in the address is what is asked for; another one here changes nothing that can be said in a URL.
		case (code == multiaddr.P_HTTP || code == multiaddr.P_HTTPS) && !web && i >= 2:
			web, b.https = true, b.https || code == multiaddr.P_HTTPS
		case code == multiaddr.P_HTTP_PATH && web && path == "":
			var err error
			if path, err = url.PathUnescape(c.Value()); err != nil || !isPath(path) {
				return base{}, false
			}
		default:
			return base{}, false
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || !web {
		return base{}, false
	}
	u := url.URL{Scheme: "http", Host: net.JoinHostPort(host, port), Path: strings.TrimRight("/"+strings.Trim(path, "/"), "/")}
	if b.https {
		u.Scheme = "https"
	}
	if u.Scheme == "http" && port == "80" || u.Scheme == "https" && port == "443" {
		if u.Host = host; strings.Contains(host, ":") {
			u.Host = "[" + host + "]"
		}
	}
	b.url = u.String()
	again, err := url.Parse(b.url)
	return b, err == nil && again.Hostname() == host && len(b.url) <= maxURL
}

// isName tells whether a host is a name of the public tree: one that has a dot, and no mark that means something in a URL.
func isName(host string) bool {
	if len(host) > 253 || !strings.Contains(host, ".") || net.ParseIP(host) != nil {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
	}
	odd := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	}
	return !strings.ContainsFunc(host, odd) && !strings.HasSuffix(host, ".local") && !strings.HasSuffix(host, ".localhost")
}

// isPath tells whether a path leads to one place only.
func isPath(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == "." || part == ".." {
			return false
		}
	}
	return !strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' || r == '?' || r == '#' })
}
