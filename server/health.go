package server

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
)

// A Check asks one part of the program how it is.
type Check struct {
	Name     string
	Run      func(ctx context.Context) error
	Critical bool // without it nothing works: not ready. Otherwise: degraded
}

// run keeps a check that panics from taking the program with it.
func (c Check) run(ctx context.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return c.Run(ctx)
}

const (
	checkTimeout = 2 * time.Second
	checkEvery   = time.Second // answers are reused for this long: strangers may ask as often as they like
)

// health runs the checks. A check that hangs is reported as such and not started again before it returns.
type health struct {
	checks  []Check
	running []atomic.Bool

	mu   sync.Mutex // one caller runs the checks, the others wait for its result
	at   time.Time
	last readiness
}

// readiness is the body of /readyz.
type readiness struct {
	Status string                 `json:"status"` // ready, degraded, unavailable
	Checks map[string]checkResult `json:"checks"`
}

type checkResult struct {
	Status string `json:"status"`           // ok, failing
	Detail string `json:"detail,omitempty"` // for the operator only
}

func newHealth(checks []Check) *health {
	return &health{checks: checks, running: make([]atomic.Bool, len(checks))}
}

// ask returns the state of all checks, at most checkEvery old.
func (h *health) ask(ctx context.Context) readiness {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last.Checks != nil && time.Since(h.at) < checkEvery {
		return h.last
	}

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
	defer cancel()
	type outcome struct {
		i   int
		err error
	}
	outcomes := make(chan outcome, len(h.checks))
	waiting := 0
	r := readiness{Status: "ready", Checks: make(map[string]checkResult, len(h.checks))}
	for i, check := range h.checks {
		r.Checks[check.Name] = checkResult{Status: "failing", Detail: "it does not answer"}
		if !h.running[i].CompareAndSwap(false, true) {
			continue
		}
		waiting++
		go func() {
			err := check.run(ctx)
			h.running[i].Store(false)
			outcomes <- outcome{i, err}
		}()
	}
	for ; waiting > 0; waiting-- {
		select {
		case o := <-outcomes:
			result := checkResult{Status: "ok"}
			if o.err != nil {
				result = checkResult{Status: "failing", Detail: o.err.Error()}
			}
			r.Checks[h.checks[o.i].Name] = result
			continue
		case <-ctx.Done():
		}
		break
	}
	for _, check := range h.checks {
		switch {
		case r.Checks[check.Name].Status == "ok":
		case check.Critical:
			r.Status = "unavailable"
		case r.Status == "ready":
			r.Status = "degraded"
		}
	}
	h.at, h.last = time.Now(), r
	return r
}

// healthz says that the process lives and answers.
func (s *Server) healthz(c echo.Context) error {
	return s.respond(c, http.StatusOK, map[string]string{"status": "ok"})
}

// readyz says whether requests can be served. Degraded is still yes: pins and reads go on.
func (s *Server) readyz(c echo.Context) error {
	r := s.health.ask(c.Request().Context())
	status := http.StatusOK
	if r.Status == "unavailable" {
		status = http.StatusServiceUnavailable
		c.Response().Header().Set("Retry-After", "5")
	}
	if !s.operator(c) { // causes name paths and addresses
		public := make(map[string]checkResult, len(r.Checks))
		for name, check := range r.Checks {
			public[name] = checkResult{Status: check.Status}
		}
		r.Checks = public
	}
	return s.respond(c, status, r)
}
