package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// The plans that every database has. Accounts that the operator makes get Trusted, those made by sign-up what their
// invite says, which is Public unless the operator has chosen another.
const (
	Trusted = "trusted"
	Public  = "public"
)

// A Kind groups requests that share a rate.
type Kind string

// The kinds of requests.
const (
	KindStatus  Kind = "status"  // one pin, its deals, its receipt: clients that wait for a pin ask for it twice a second
	KindList    Kind = "list"    // lists of pins
	KindWrite   Kind = "write"   // adding, replacing and removing pins; links
	KindUpload  Kind = "upload"  // uploads
	KindRead    Kind = "read"    // content at /ipfs that is read with a token
	KindAccount Kind = "account" // tokens, the account, administration
)

var kinds = []Kind{KindStatus, KindList, KindWrite, KindUpload, KindRead, KindAccount}

// Kinds returns all kinds of requests.
func Kinds() []Kind { return slices.Clone(kinds) }

// A Rate is how fast requests may come: a bucket of Burst that fills with PerSecond.
type Rate struct {
	PerSecond float64 `json:"per_second"`
	Burst     int     `json:"burst"`
}

// Limits bound one account, and say what it pays. What is zero, and the rate of a kind that is not there, has no bound but
// the server's own.
type Limits struct {
	Pins         int64         `json:"pins,omitempty"`           // at once
	PinsInFlight int64         `json:"pins_in_flight,omitempty"` // queued or pinning
	Bytes        int64         `json:"bytes,omitempty"`          // held, over all DAGs of the account, each counted once
	UploadBytes  int64         `json:"upload_bytes,omitempty"`   // of one upload
	DAGBytes     int64         `json:"dag_bytes,omitempty"`      // of the DAG of one pin
	DAGBlocks    int64         `json:"dag_blocks,omitempty"`     // of the same
	EgressBytes  int64         `json:"egress_bytes,omitempty"`   // sent to its readers in a calendar month (UTC)
	GraceDays    int64         `json:"grace_days,omitempty"`     // with an empty balance, after which pins are let go; 0: they never are
	Rates        map[Kind]Rate `json:"rates,omitempty"`

	// Prices are by name, in decimal text; what they mean, the ledger knows. With none, nothing is paid for.
	Prices map[string]string `json:"prices,omitempty"`
}

// maxGraceDays is the longest grace period, ten years.
const maxGraceDays = 3650

// Grace is how long the balance of an account may be empty before its pins are let go; 0: for ever.
func (l *Limits) Grace() time.Duration {
	if !l.Bills() {
		return 0
	}
	return time.Duration(l.GraceDays) * 24 * time.Hour
}

// Bills tells whether accounts of the plan pay for what they use.
func (l *Limits) Bills() bool { return l != nil && len(l.Prices) > 0 }

// A Plan is a named set of limits and prices. Every account has one.
type Plan struct {
	Name    string
	Limits  Limits
	Created time.Time

	Unreadable bool // what its limits are is not known here
}

// Plans returns all plans, by name, also those that are unreadable.
func (s *Service) Plans(ctx context.Context) ([]Plan, error) {
	plans, err := s.selectPlans(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing plans: %w", err)
	}
	return plans, nil
}

// Plan returns one plan. Errors: ErrNoPlan, ErrUnreadable.
func (s *Service) Plan(ctx context.Context, name string) (Plan, error) {
	plan, err := s.selectPlan(ctx, name)
	if err != nil {
		return Plan{}, fmt.Errorf("looking up plan %q: %w", name, err)
	}
	return plan, nil
}

// A PastPlan is a plan that an account had, as it was then.
type PastPlan struct {
	Plan
	Until time.Time // when the account got another, or the plan other prices
}

// PastPlans returns the plans that an account had from a time on and has no more, oldest first. What cannot be read is left
// out.
func (s *Service) PastPlans(ctx context.Context, account int64, since time.Time) ([]PastPlan, error) {
	past, err := s.selectPastPlans(ctx, account, since)
	if err != nil {
		return nil, fmt.Errorf("looking up what plans account %d had: %w", account, err)
	}
	return past, nil
}

// SetPlan makes a plan or gives one other limits. They count for requests that begin half a second later at the latest.
// Errors: ErrInvalid.
func (s *Service) SetPlan(ctx context.Context, by Actor, name string, limits Limits) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := limits.check(); err != nil {
		return err
	}
	if err := s.savePlan(ctx, by, name, limits); err != nil {
		return fmt.Errorf("setting plan %q: %w", name, err)
	}
	return nil
}

// SetAccountPlan gives an account another plan, as of half a second later at the latest. Errors: ErrNotFound for the
// account, ErrNoPlan.
func (s *Service) SetAccountPlan(ctx context.Context, by Actor, account, plan string) error {
	if err := s.updatePlan(ctx, by, account, plan); err != nil {
		return fmt.Errorf("giving account %q plan %q: %w", account, plan, err)
	}
	return nil
}

func (l Limits) check() error {
	for name, n := range map[string]int64{
		"pins": l.Pins, "pins_in_flight": l.PinsInFlight, "bytes": l.Bytes, "upload_bytes": l.UploadBytes,
		"dag_bytes": l.DAGBytes, "dag_blocks": l.DAGBlocks, "egress_bytes": l.EgressBytes,
		"grace_days": l.GraceDays,
	} {
		if n < 0 {
			return invalid("%s must not be negative", name)
		}
	}
	if l.GraceDays > maxGraceDays {
		return invalid("grace_days must be at most %d", maxGraceDays)
	}
	for _, kind := range slices.Sorted(maps.Keys(l.Rates)) {
		rate := l.Rates[kind]
		switch {
		case !slices.Contains(kinds, kind):
			return invalid("%q is no kind of request; there are %v", kind, kinds)
		case !(rate.PerSecond > 0) || math.IsInf(rate.PerSecond, 1) || rate.Burst < 1:
			return invalid("the rate of %s must be more than 0 a second with a burst of at least 1", kind)
		}
	}
	return nil
}

// limitsOf parses stored limits, and remembers the last few: an account's are needed twice a second.
func (s *Service) limitsOf(text string) (*Limits, error) {
	if l, ok := s.limits.Get(text); ok {
		return l, nil
	}
	l := new(Limits)
	if err := json.Unmarshal([]byte(text), l); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	s.limits.Add(text, l)
	return l, nil
}
