package server

import (
	"net/http"

	"github.com/labstack/echo/v4"
)

// CORS is our own: echo's middleware stays silent without an Origin header and joins methods without a space, and
// clients test for both. Any origin may call, because a token in a header, unlike a cookie, is never sent by accident.
const (
	exposedHeaders = "Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, X-Request-Id"
	allowedMethods = "GET, POST, DELETE, OPTIONS"
	allowedHeaders = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, " + otherHeader
)

// preflight answers OPTIONS, also a bare one. Preflights carry no token.
func preflight(c echo.Context) error {
	h := c.Response().Header()
	h.Set("Access-Control-Allow-Methods", allowedMethods)
	h.Set("Access-Control-Allow-Headers", allowedHeaders)
	h.Set("Access-Control-Max-Age", "7200")
	h.Set("Allow", allowedMethods)
	if c.Request().Header.Get("Access-Control-Request-Private-Network") == "true" {
		h.Set("Access-Control-Allow-Private-Network", "true") // a page on https calling a server on 127.0.0.1
	}
	return c.NoContent(http.StatusNoContent)
}
