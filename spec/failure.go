package spec

import "errors"

// Reasons: the codes a Failure can carry. Programs branch on them, so each means one thing and none is ever reworded.
const (
	ReasonBadRequest         = "BAD_REQUEST"
	ReasonUnauthorized       = "UNAUTHORIZED"
	ReasonQuotaExceeded      = "QUOTA_EXCEEDED"     // a limit other than money
	ReasonInsufficientScope  = "INSUFFICIENT_SCOPE" // of the token
	ReasonAccountSuspended   = "ACCOUNT_SUSPENDED"  // it can be read and emptied only
	ReasonNotFound           = "NOT_FOUND"
	ReasonNoDealYet          = "NO_DEAL_YET" // nothing to make a receipt of
	ReasonMethodNotAllowed   = "METHOD_NOT_ALLOWED"
	ReasonInsufficientFunds  = "INSUFFICIENT_FUNDS"
	ReasonPayloadTooLarge    = "PAYLOAD_TOO_LARGE"
	ReasonRateLimited        = "RATE_LIMITED"
	ReasonInternal           = "INTERNAL_SERVER_ERROR"
	ReasonServiceUnavailable = "SERVICE_UNAVAILABLE"
	ReasonDatabaseBusy       = "DATABASE_BUSY"        // locked, or away: passes by itself
	ReasonNoSpace            = "INSUFFICIENT_STORAGE" // no room for more; what is here is served
)

// NewFailure returns the body of an error answer. Empty details are left out, because an empty string fails the
// compliance suite's schema.
func NewFailure(reason, details string) Failure {
	var f Failure
	f.Error.Reason = reason
	if details != "" {
		f.Error.Details = &details
	}
	return f
}

// ErrInvalid is what every *InvalidError is, for callers that only need to know whose fault it was.
var ErrInvalid = errors.New("the request is invalid")

// An InvalidError says what is wrong with a request. Its text is shown to the caller as it is: it quotes nothing but
// what the caller sent, shortened.
type InvalidError struct {
	Field   string // the query parameter or body field, or "body" or "query" for the whole
	Problem string // continues a sentence that starts with the field: "is not a CID"
}

func (e *InvalidError) Error() string { return e.Field + " " + e.Problem }

// Is makes errors.Is(err, ErrInvalid) true.
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }

func invalid(field, problem string) error { return &InvalidError{Field: field, Problem: problem} }
