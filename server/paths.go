package server

import (
	"strings"

	"github.com/labstack/echo/v4"
)

// normalise rewrites the path before routing. Clients join their base URL and "/pins" as text, so slashes are doubled
// or left over, and a redirect would turn a POST into a GET and break preflighted calls. Percent escapes are decoded:
// an escaped slash separates like any other, so no id can contain one. Paths of content are left as they are: there a
// slash at the end is a directory, and names may contain anything.
func normalise(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		u := c.Request().URL
		if strings.HasPrefix(u.EscapedPath(), gatewayPrefix) {
			return next(c)
		}
		u.Path, u.RawPath = cleanPath(u.Path), ""
		return next(c)
	}
}

// cleanPath makes runs of slashes one and removes the last. Dots are left alone: they have no meaning here.
func cleanPath(p string) string {
	if strings.Contains(p, "//") {
		var b strings.Builder
		b.Grow(len(p))
		for i := range len(p) {
			if p[i] == '/' && i > 0 && p[i-1] == '/' {
				continue
			}
			b.WriteByte(p[i])
		}
		p = b.String()
	}
	if len(p) > 1 {
		p = strings.TrimSuffix(p, "/")
	}
	if p == "" {
		return "/"
	}
	return p
}
