package hooks

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/frostpin/frostpin/auth/events"
)

// What the methods of a Service answer. Everything else is a failure of the database.
var (
	ErrNotFound = errors.New("there is no such webhook")
	ErrTooMany  = errors.New("the account has as many webhooks as it may have")
)

// An InvalidError says what is wrong with what was asked for, in words for the user.
type InvalidError struct{ Field, Problem string }

func (e *InvalidError) Error() string { return e.Field + " " + e.Problem }

// Bounds on what accounts may ask for.
const (
	maxHooks = 10 // of an account
	maxURL   = 2000
	maxTypes = 50
	maxType  = 64
	maxLabel = 100

	maxWaiting = 10_000 // deliveries of a hook
)

// A Hook is an address that is told of events.
type Hook struct {
	ID       string
	Account  int64
	URL      string
	Types    []string // of events: "pin.pinned", or "pin." for all that begin so; none: all
	Label    string
	Created  time.Time
	Disabled string          // why it is called no more, in words; empty while it is
	At       events.Position // up to here deliveries were made
	Failures int64           // in a row: no answer, 5xx or 429
}

// A Delivery is one event for one hook.
type Delivery struct {
	ID       int64
	Event    string // its id
	State    State
	Attempts int64
	Next     time.Time // when it is tried again; zero when it is not
	Code     int       // the last answer's status; 0: there was none
	Problem  string    // what went wrong the last time, in words
	Made     time.Time
}

// A State is what has become of a delivery.
type State string

// The states of a delivery.
const (
	Waiting   State = "waiting"
	Delivered State = "delivered"
	Dead      State = "dead" // given up
)

// Events are where deliveries come from; events.Service is one.
type Events interface {
	Changed() <-chan struct{}
	Last(ctx context.Context) (events.Position, error)
	Page(ctx context.Context, account int64, after events.Position, limit int) (events.Page, error)
}

// Config says how hooks are called.
type Config struct {
	Client *http.Client // refuses addresses that must not be called, and redirects
	Plain  bool         // http is allowed beside https
	Agent  string       // what the service calls itself
	// Closed tells whether an account is closed for good: its hooks are removed.
	Closed func(ctx context.Context, account int64) (bool, error)
	// Sign returns the signature of a body: "t=<Unix seconds>,v1=<HMAC-SHA256 in hex>".
	Sign func(key, body []byte, at time.Time) string
}

// A Service keeps the hooks of one database. Its methods may be called concurrently.
type Service struct {
	cfg    Config
	db     DB
	events Events
	log    *slog.Logger
	now    func() time.Time

	backlog int // of a hook, from which on no more deliveries are made; a page may go past it
}

// New returns a Service on a database that has Migrations applied. Its Run calls the hooks.
func New(cfg Config, db DB, from Events, log *slog.Logger, now func() time.Time) *Service {
	return &Service{cfg: cfg, db: db, events: from, log: log, now: now, backlog: maxWaiting}
}

// Create makes a hook that is told what happens from now on, and returns the secret that signs what it is sent, which
// nobody can get again. Errors: *InvalidError, ErrTooMany.
func (s *Service) Create(ctx context.Context, account int64, address string, types []string, label string) (Hook, string, error) {
	if err := s.check(address, types, label); err != nil {
		return Hook{}, "", err
	}
	at, err := s.events.Last(ctx)
	if err != nil {
		return Hook{}, "", fmt.Errorf("making a webhook: %w", err)
	}
	h := Hook{
		ID: strings.ToLower(rand.Text())[:16], Account: account, URL: address, Types: types, Label: label,
		Created: s.now().UTC().Truncate(time.Millisecond), At: at,
	}
	secret := "fpw_" + strings.ToLower(rand.Text()+rand.Text())
	if err := s.insert(ctx, h, secret); err != nil {
		return Hook{}, "", fmt.Errorf("making a webhook: %w", err)
	}
	return h, secret, nil
}

func (s *Service) check(address string, types []string, label string) error {
	if err := CheckURL(address, s.cfg.Plain); err != nil {
		return err
	}
	if len(types) > maxTypes {
		return &InvalidError{"types", fmt.Sprintf("are at most %d", maxTypes)}
	}
	for _, t := range types {
		if t == "" || len(t) > maxType || strings.ContainsFunc(t, func(r rune) bool { return r != '.' && r != '_' && (r < 'a' || r > 'z') }) {
			return &InvalidError{"types", "are like pin.pinned, or pin. for all that begin so"}
		}
	}
	if !utf8.ValidString(label) || utf8.RuneCountInString(label) > maxLabel || strings.ContainsFunc(label, func(r rune) bool { return r < ' ' }) {
		return &InvalidError{"label", fmt.Sprintf("is one line of at most %d characters", maxLabel)}
	}
	return nil
}

// CheckURL refuses what cannot be the address of a hook; plain allows http. Where it leads is found out when it is called.
// Errors: *InvalidError.
func CheckURL(address string, plain bool) error {
	bad := func(problem string) error { return &InvalidError{"url", problem} }
	if len(address) > maxURL || strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return bad(fmt.Sprintf("has at most %d printable ASCII characters", maxURL))
	}
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "":
		return bad("is not like https://example.org/path")
	case u.Scheme != "https" && (u.Scheme != "http" || !plain):
		return bad("must begin with https://")
	case u.User != nil:
		return bad("must not hold a name or password")
	case u.Fragment != "" || strings.Contains(address, "#"):
		return bad("must not have a fragment")
	}
	return nil
}

// Hooks returns the hooks of an account, oldest first.
func (s *Service) Hooks(ctx context.Context, account int64) ([]Hook, error) {
	list, err := s.selectHooks(ctx, account)
	if err != nil {
		return nil, fmt.Errorf("listing webhooks: %w", err)
	}
	return list, nil
}

// Remove ends a hook, with all its deliveries. Errors: ErrNotFound.
func (s *Service) Remove(ctx context.Context, account int64, id string) error {
	if err := s.remove(ctx, account, id); err != nil {
		return fmt.Errorf("removing a webhook: %w", err)
	}
	return nil
}

// Deliveries returns the newest deliveries of a hook whose ids are below before (all when it is 0), newest first. Errors:
// ErrNotFound.
func (s *Service) Deliveries(ctx context.Context, account int64, id string, before int64, limit int) ([]Delivery, error) {
	list, err := s.selectDeliveries(ctx, account, id, before, limit)
	if err != nil {
		return nil, fmt.Errorf("listing deliveries: %w", err)
	}
	return list, nil
}

// Replay has everything sent again that happened after a position, delivered or not, and enables the hook. Errors:
// ErrNotFound, *InvalidError.
func (s *Service) Replay(ctx context.Context, account int64, id string, after events.Position) error {
	last, err := s.events.Last(ctx)
	if err != nil {
		return fmt.Errorf("replaying events: %w", err)
	}
	if after.Seq > last.Seq {
		return &InvalidError{"after", "is past the newest event"}
	}
	if err := s.rewind(ctx, account, id, after); err != nil {
		return fmt.Errorf("replaying events: %w", err)
	}
	return nil
}

// wants tells whether a hook is to be told of events of a kind.
func (h Hook) wants(kind string) bool {
	return len(h.Types) == 0 || slices.ContainsFunc(h.Types, func(t string) bool {
		return t == kind || strings.HasSuffix(t, ".") && strings.HasPrefix(kind, t)
	})
}
