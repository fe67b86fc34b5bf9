package server

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/labstack/echo/v4"
)

const (
	callerKey = "caller"
	choiceKey = "choice" // the policies of the caller and the path
	maxToken  = 512
)

// A denied request carried no token that counts.
type denied struct{ why string }

func (d *denied) Error() string { return "access denied: " + d.why }

// bearer reads the token. A second Authorization header is refused, because a proxy might have looked at the other.
func bearer(h http.Header) (string, error) {
	values := h["Authorization"]
	switch len(values) {
	case 0:
		return "", &denied{"send the header Authorization: Bearer TOKEN"}
	case 1:
	default:
		return "", &denied{"there is more than one Authorization header"}
	}
	scheme, token, _ := strings.Cut(strings.Trim(values[0], " \t"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", &denied{"the Authorization header must read Bearer TOKEN"}
	}
	token = strings.TrimLeft(token, " \t")
	switch {
	case token == "":
		return "", &denied{"the token is empty"}
	case len(token) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", &denied{"the token is malformed"}
	}
	return token, nil
}

// operatorOnly hides a page from everyone but the operator.
func (s *Server) operatorOnly(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if !s.operator(c) {
			return echo.ErrNotFound
		}
		return next(c)
	}
}

// operator reports whether a request came from this machine itself and not through a proxy on it.
func (s *Server) operator(c echo.Context) bool {
	if s.cfg.PublicMetrics {
		return true
	}
	r := c.Request()
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if _, ok := r.Header[name]; ok {
			return false
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
