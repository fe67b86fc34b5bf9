package server

import (
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"
)

type afterHostsKey struct{}

// afterHosts goes on where serve left off, once boxo has made a path of the host name.
func afterHosts(w http.ResponseWriter, r *http.Request) {
	r.Context().Value(afterHostsKey{}).(func(http.ResponseWriter, *http.Request))(w, r)
}

// onSubdomain reports whether a request is for CID.ipfs.HOSTNAME, or another namespace that such a host could have.
func onSubdomain(hostnames []string, r *http.Request) bool {
	if len(hostnames) == 0 {
		return false
	}
	host := r.Host
	if forwarded := r.Header.Get("X-Forwarded-Host"); forwarded != "" { // boxo goes by it
		host = forwarded
	}
	return slices.ContainsFunc(hostnames, func(name string) bool { return isBelow(host, name) })
}

func isBelow(host, name string) bool {
	if under(host, name) {
		return true
	}
	bare, _, err := net.SplitHostPort(host)
	return err == nil && under(bare, name)
}

// under reports whether host is LABEL.NAMESPACE.name.
func under(host, name string) bool {
	rest, ok := strings.CutSuffix(strings.ToLower(host), "."+name)
	if !ok {
		return false
	}
	i := strings.LastIndexByte(rest, '.')
	switch rest[i+1:] {
	case "ipfs", "ipns", "p2p", "ipld":
		return i > 0
	}
	return false
}

// subdomains answers what is asked on hosts of content before routing: nothing of ours is served there, because what is
// there are pages of strangers, each root with an origin of its own.
func (s *Server) subdomains(g *gatewayHandler) echo.MiddlewareFunc {
	read := s.observe(recovered(g.serve))
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if !onSubdomain(g.cfg.Hostnames, c.Request()) {
				return next(c)
			}
			c.SetPath(gatewayPath)
			switch c.Request().Method {
			case http.MethodGet, http.MethodHead, http.MethodOptions:
				return read(c)
			}
			return s.observe(func(echo.Context) error { return echo.ErrMethodNotAllowed })(c)
		}
	}
}
