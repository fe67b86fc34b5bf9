package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/ingest"
	"github.com/frostpin/frostpin/spec"
)

var (
	errUnavailable = errors.New("not available now")
	errNoRoom      = fmt.Errorf("refused: %w", pins.ErrNoSpace) // told to the operator once, when it began
)

// A tooLargeError is a body that is longer than the operation takes.
type tooLargeError struct{ most int64 } // bytes, whole KiB

func (e *tooLargeError) Error() string {
	if e.most%(1<<20) == 0 {
		return fmt.Sprintf("body is larger than %d MiB", e.most>>20)
	}
	return fmt.Sprintf("body is larger than %d KiB", e.most>>10)
}

// Reasons that the Pinning Service API has no answers with.
const (
	reasonForbidden = "FORBIDDEN"        // what was shown as a right is none
	reasonBlocked   = pins.ReasonBlocked // on a denylist, or blocked by the operator
	reasonConflict  = "CONFLICT"         // with what there is already
)

const textListed = "this content is on a denylist of this service: it is neither served nor pinned here"

// statusClientGone is logged and counted, never seen by anyone.
const statusClientGone = 499

// A verdict is what an error means to the caller.
type verdict struct {
	status  int
	reason  string
	details string
}

// retryAfter is how many seconds to wait. Room does not come back as fast as other things pass.
func (v verdict) retryAfter() string {
	if v.reason == spec.ReasonNoSpace {
		return "30"
	}
	return "5"
}

// judge is the one table from errors to answers. What is not in it is our fault and nobody's business but ours: the
// caller gets an id that finds the cause in the log.
func (s *Server) judge(c echo.Context, err error) verdict {
	var (
		bad    *spec.InvalidError
		access *denied
		scoped *refused
		often  *limited
		wrong  *auth.InvalidError
		over   *pins.QuotaError
		routed *echo.HTTPError
		link   *refusedLink
		listed interface {
			error
			Status() int // 410 or 451
		}
		large *ingest.LargeError
		body  *tooLargeError
	)
	for _, knows := range []func(error) (verdict, bool){judgeMoney, judgeHooks} {
		if v, ok := knows(err); ok {
			return v
		}
	}
	switch {
	case errors.As(err, &bad):
		return verdict{http.StatusBadRequest, spec.ReasonBadRequest, bad.Error()}
	case errors.As(err, &access):
		return verdict{http.StatusUnauthorized, spec.ReasonUnauthorized, access.Error()}
	case errors.As(err, &scoped):
		return verdict{http.StatusForbidden, scoped.reason, scoped.why}
	case errors.As(err, &over):
		return verdict{http.StatusForbidden, spec.ReasonQuotaExceeded, over.Problem}
	case errors.As(err, &wrong):
		return verdict{http.StatusBadRequest, spec.ReasonBadRequest, wrong.Problem}
	case errors.Is(err, auth.ErrScope):
		return verdict{http.StatusForbidden, spec.ReasonInsufficientScope, "no token can be given scopes that the one which asks lacks"}
	case errors.Is(err, auth.ErrNoInvite):
		return verdict{http.StatusForbidden, reasonForbidden, "the invite code is not valid; ask the operator for another"}
	case errors.Is(err, auth.ErrExists):
		return verdict{http.StatusConflict, reasonConflict, "this name is taken"}
	case errors.Is(err, auth.ErrClosed):
		return verdict{http.StatusConflict, reasonConflict, "this account is closed, for good"}
	case errors.Is(err, auth.ErrTooMany):
		return verdict{http.StatusForbidden, spec.ReasonQuotaExceeded, "this account has as many tokens as there may be; revoke some"}
	case errors.Is(err, auth.ErrTooOften):
		return verdict{http.StatusForbidden, spec.ReasonQuotaExceeded, "this account has made as many tokens in a day as it may; wait, or ask the operator for one"}
	case errors.Is(err, auth.ErrUnreadable): // of this plan's accounts alone; before what is unavailable to all
		return verdict{http.StatusServiceUnavailable, spec.ReasonServiceUnavailable, "the limits of this account's plan cannot be read here now; it is refused until they can be"}
	case errors.Is(err, auth.ErrNoPlan):
		return verdict{http.StatusBadRequest, spec.ReasonBadRequest, "there is no plan of this name; the operator makes them"}
	case errors.Is(err, errNoToken):
		return verdict{http.StatusNotFound, spec.ReasonNotFound, "there is no such token"}
	case errors.Is(err, errNoAccount):
		return verdict{http.StatusNotFound, spec.ReasonNotFound, "there is no such account"}
	case errors.Is(err, errNoEvents):
		return verdict{http.StatusNotFound, spec.ReasonNotFound, "this server tells no events"}
	case errors.Is(err, errTails):
		return verdict{http.StatusTooManyRequests, spec.ReasonRateLimited, fmt.Sprintf("this account has %d streams already; end one", accountTails)}
	case errors.Is(err, errLists):
		return verdict{http.StatusTooManyRequests, spec.ReasonRateLimited, fmt.Sprintf("this account has %d lists under way that are not read to their end; read them first", accountLists)}
	case errors.Is(err, errNoSignUp):
		return verdict{http.StatusNotFound, spec.ReasonNotFound, "this server takes no sign-ups"}
	case errors.As(err, &often):
		return verdict{http.StatusTooManyRequests, spec.ReasonRateLimited, fmt.Sprintf("%s; try again in %d seconds", often.why, often.seconds())}
	case errors.Is(err, deals.ErrUnauthorized):
		return verdict{http.StatusUnauthorized, spec.ReasonUnauthorized, (&denied{noDeal}).Error()}
	case errors.Is(err, pins.ErrBlocked):
		return verdict{http.StatusGone, reasonBlocked, textListed}
	case errors.Is(err, pins.ErrNotBlocked):
		return verdict{http.StatusNotFound, spec.ReasonNotFound, "this content is not blocked"}
	case errors.Is(err, errNoBlocklist):
		return verdict{http.StatusNotFound, spec.ReasonNotFound, "this server has no blocks"}
	case errors.As(err, &listed):
		return verdict{listed.Status(), reasonBlocked, textListed}
	case errors.As(err, &link):
		return verdict{http.StatusForbidden, reasonForbidden, link.Error()}
	case errors.Is(err, errNotHeld):
		return verdict{http.StatusNotFound, spec.ReasonNotFound, "there is no such content here, or no pin of this account names it"}
	case errors.Is(err, errNoLinks):
		return verdict{http.StatusNotFound, spec.ReasonNotFound, "this server signs no links; the operator has to set a key for them"}
	case errors.Is(err, errBusy):
		return verdict{http.StatusTooManyRequests, spec.ReasonRateLimited, "too many transfers at once; try again in a few seconds"}
	case errors.Is(err, errRange):
		return verdict{http.StatusRequestedRangeNotSatisfiable, spec.ReasonBadRequest, "no such range: one range within the piece is served"}
	case errors.Is(err, pins.ErrNotFound):
		return verdict{http.StatusNotFound, spec.ReasonNotFound, "there is no such pin request"}
	case errors.Is(err, pins.ErrOtherBatch):
		return verdict{http.StatusConflict, reasonConflict, "this Idempotency-Key was used for another list of pins; give this one a key of its own"}
	case errors.Is(err, errNoDealYet):
		return verdict{http.StatusNotFound, spec.ReasonNoDealYet, "no deal was proposed for this pin yet; there is nothing to certify"}
	case errors.Is(err, errNoCold):
		return verdict{http.StatusNotFound, spec.ReasonNotFound, "this server makes no cold copies, so it signs no receipts"}
	case errors.Is(err, errNoPolicy):
		return verdict{http.StatusNotFound, spec.ReasonNotFound, "there is no policy of this name; the operator makes them"}
	case errors.Is(err, errNoUploads):
		return verdict{http.StatusNotFound, spec.ReasonNotFound, "this server takes no uploads"}
	case errors.As(err, &large):
		return verdict{http.StatusRequestEntityTooLarge, spec.ReasonPayloadTooLarge, large.Error()}
	case c.Request().Context().Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, errStalled)):
		return verdict{status: statusClientGone}
	case errors.Is(err, errStalled):
		return verdict{http.StatusBadRequest, spec.ReasonBadRequest, "the body broke off, or too little of it came for 30 seconds"}
	case errors.As(err, &body):
		return verdict{http.StatusRequestEntityTooLarge, spec.ReasonPayloadTooLarge, body.Error()}
	case isOneOf(err, s.cfg.Unstorable):
		return verdict{http.StatusBadRequest, spec.ReasonBadRequest, "the request has a character in it that no text has, such as NUL"}
	case errors.Is(err, pins.ErrNoSpace), isOneOf(err, s.cfg.Full):
		return verdict{
			http.StatusServiceUnavailable, spec.ReasonNoSpace,
			"there is no room on this server's disk; what is pinned is served as before; try again later",
		}
	case isOneOf(err, s.cfg.Unavailable):
		return verdict{http.StatusServiceUnavailable, spec.ReasonDatabaseBusy, "the database is busy; try again in a few seconds"}
	case errors.Is(err, pins.ErrUnavailable), errors.Is(err, pins.ErrOvertaken), errors.Is(err, errUnavailable), errors.Is(err, context.DeadlineExceeded):
		return verdict{
			http.StatusServiceUnavailable, spec.ReasonServiceUnavailable,
			"the service is busy or starting; try again in a few seconds",
		}
	case errors.As(err, &routed):
		return s.judgeRouted(routed.Code)
	}
	return verdict{
		http.StatusInternalServerError, spec.ReasonInternal,
		"something went wrong here; the operator finds it in the log under request " + requestID(c),
	}
}

// judgeRouted takes the errors of echo and of the generated wrapper. Their texts quote parsers and are not shown.
func (s *Server) judgeRouted(code int) verdict {
	switch code {
	case http.StatusNotFound:
		return verdict{code, spec.ReasonNotFound, "there is nothing at this path; the pinning API is at " + s.base + "/pins"}
	case http.StatusMethodNotAllowed:
		return verdict{code, spec.ReasonMethodNotAllowed, "this path does not take this method"}
	}
	return verdict{http.StatusBadRequest, spec.ReasonBadRequest, "the request is malformed"}
}

// fail answers an error. It is echo's error handler, and only observe and echo call it.
func (s *Server) fail(err error, c echo.Context) {
	v := s.judge(c, err)
	s.logFailure(c, v, err)
	if c.Response().Committed {
		return // part of an answer is out; cutting it short is all that can be done
	}

	h := c.Response().Header()
	switch v.status {
	case statusClientGone:
		c.Response().WriteHeader(v.status)
		return
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		h.Set("Retry-After", v.retryAfter())
		if often := (*limited)(nil); errors.As(err, &often) {
			often.tell(h)
		}
	}
	if err := s.respond(c, v.status, spec.NewFailure(v.reason, v.details)); err != nil {
		s.log.Debug("writing an error answer", "request", requestID(c), "err", err)
	}
}

// logFailure tells the operator of what is our fault.
func (s *Server) logFailure(c echo.Context, v verdict, err error) {
	if v.status >= http.StatusInternalServerError && !errors.Is(err, errNoRoom) {
		s.log.LogAttrs(c.Request().Context(), slog.LevelError, "request failed",
			slog.String("request", requestID(c)),
			slog.String("method", c.Request().Method),
			slog.String("route", s.routeName(c)),
			slog.Int("status", v.status),
			slog.Any("err", err),
		)
	}
}

func isOneOf(err error, list []error) bool {
	return slices.ContainsFunc(list, func(one error) bool { return errors.Is(err, one) })
}

// roomy refuses what would store more while there is no room, before anything is decided or read.
func (s *Server) roomy(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if s.cfg.NoSpace != nil && s.cfg.NoSpace() {
			return errNoRoom
		}
		return next(c)
	}
}
