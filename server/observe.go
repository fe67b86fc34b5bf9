package server

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
)

// observe is the outermost middleware after routing: whatever happens inside, the answer has a request id and CORS
// headers, and is logged and counted once with the status that was really sent.
func (s *Server) observe(next echo.HandlerFunc) echo.HandlerFunc {
	nosniff := []string{"nosniff"}
	origin, exposed := []string{"*"}, []string{exposedHeaders}
	return func(c echo.Context) error {
		start := time.Now()
		s.metrics.running.Inc()
		defer s.metrics.running.Dec()

		c.Response().Writer = newSteadyWriter(c.Response().Writer)
		h := c.Response().Header()
		h["X-Request-Id"] = []string{s.ids.of(c.Request())}
		h["X-Content-Type-Options"] = nosniff
		if !besideAPI(c.Path()) {
			h["Access-Control-Allow-Origin"] = origin
			h["Access-Control-Expose-Headers"] = exposed
		}

		err := next(c)
		cut := errors.Is(err, errCut)
		if err != nil && !cut {
			c.Error(err)
		}
		if cut {
			defer panic(http.ErrAbortHandler) // once it is counted and logged
		}

		took := time.Since(start)
		status := c.Response().Status
		s.metrics.count(s.routeName(c), c.Request().Method, status, took)
		ctx := c.Request().Context()
		if !s.log.Enabled(ctx, slog.LevelDebug) {
			return nil
		}
		s.log.LogAttrs(ctx, slog.LevelDebug, "request",
			slog.String("request", requestID(c)),
			slog.String("method", c.Request().Method),
			slog.String("path", shown(c.Request().URL.Path)),
			slog.Int("status", status),
			slog.Int64("bytes", c.Response().Size),
			slog.Duration("took", took),
			slog.Int64("account", caller(c).Account),
			slog.String("client", clientAddress(c).String()),
		)
		return nil
	}
}

// recovered turns a panic into an error, so that it is answered, logged and counted like one.
func recovered(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if e, ok := v.(error); ok && errors.Is(e, http.ErrAbortHandler) {
				panic(v) // net/http's own way to cut a connection
			}
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}()
		return next(c)
	}
}

// besideAPI names the routes that no web page of another origin has to do with: those for people, monitors and storage
// providers.
func besideAPI(route string) bool {
	return route == "/metrics" || route == "/readyz" || route == piecePath || strings.HasPrefix(route, "/docs")
}

// routeName is the route as the contract writes it. Paths that strangers make up must not become label values.
func (s *Server) routeName(c echo.Context) string {
	switch path := c.Path(); path {
	case "":
		return "none"
	case s.base + "/pins":
		return "/pins"
	case s.base + "/pins/:requestid":
		return "/pins/{requestid}"
	case s.base + policyPath + "/pins":
		return "/policy/{name}/pins"
	case s.base + policyPath + "/pins/:requestid":
		return "/policy/{name}/pins/{requestid}"
	case "/docs/:file":
		return "/docs"
	case gatewayPath:
		return "/ipfs"
	default:
		return parameter.ReplaceAllString(path, "{$1}")
	}
}

var parameter = regexp.MustCompile(`:(\w+)`)

// shown is a path as it is logged: somebody may have put a token or an invite code where its id belongs.
func shown(path string) string { return secretText.ReplaceAllString(path, "$1[redacted]") }

var secretText = regexp.MustCompile(`(fpi?_[a-z2-7]{16}_)[A-Za-z2-7]+`)

// requestIDs gives every request a name by which a user's complaint finds the log line.
type requestIDs struct {
	prefix string
	last   atomic.Uint64
}

func newRequestIDs() *requestIDs {
	var b [6]byte
	rand.Read(b[:])
	return &requestIDs{prefix: hex.EncodeToString(b[:]) + "-"}
}

// of keeps the id that a proxy in front gave, if it is harmless.
func (g *requestIDs) of(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); id != "" && len(id) <= 64 && strings.Trim(id, unreserved) == "" {
		return id
	}
	return g.prefix + strconv.FormatUint(g.last.Add(1), 36)
}

func requestID(c echo.Context) string { return c.Response().Header().Get("X-Request-Id") }

// metrics are the server's own numbers.
type metrics struct {
	running prometheus.Gauge
	latency *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "frostpin_http_requests_running",
			Help: "Requests being answered now.",
		}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "frostpin_http_request_duration_seconds",
			Help:    "Time from routing a request to the end of its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"route", "method", "status"}),
	}
	for _, c := range []prometheus.Collector{m.running, m.latency} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("registering request metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) count(route, method string, status int, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete, http.MethodOptions:
	default:
		method = "other"
	}
	m.latency.WithLabelValues(route, method, statusClass(status)).Observe(took.Seconds())
}

func statusClass(status int) string {
	switch status / 100 {
	case 2:
		return "2xx"
	case 4:
		return "4xx"
	case 5:
		return "5xx"
	}
	return "other"
}
