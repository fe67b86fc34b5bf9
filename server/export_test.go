package server

import (
	"io"
	"net/http"
	"net/netip"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/frostpin/frostpin/auth"
)

// Routes is the route table.
func (s *Server) Routes() []*echo.Route { return s.echo.Routes() }

// ErrStalled is what a body ends with whose client is silent.
var ErrStalled = errStalled

// IsLongFile reports whether a block is the root of a file of several.
var IsLongFile = isLongFile

// PatientBody is the body of an upload.
func PatientBody(w http.ResponseWriter, body io.Reader, idle time.Duration, least int) io.Reader {
	return newPatient(w, body, idle, least)
}

// Uploading tells how many uploads run.
func (s *Server) Uploading() int { return len(s.uploading) }

// Needs are what the operations of both documents ask of their callers.
func Needs() map[string]auth.Scopes {
	scopes := make(map[string]auth.Scopes, len(needs))
	for operation, n := range needs {
		scopes[operation] = n.scope
	}
	return scopes
}

// Address is where a request comes from, behind proxies on this machine and in 10.0.0.0/8.
func Address(remote, forwarded string) string {
	r := &http.Request{RemoteAddr: remote, Header: http.Header{}}
	if forwarded != "" {
		r.Header.Set("X-Forwarded-For", forwarded)
	}
	t := newTries("tries", extractor([]netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
	}))
	return t.address(r).String()
}
