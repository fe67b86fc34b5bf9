package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/server/v1"
	"github.com/frostpin/frostpin/spec"
)

// Tokens keeps the tokens of accounts. What an actor may not see is auth.ErrNotFound.
type Tokens interface {
	AccountTokens(ctx context.Context, account int64) ([]auth.Token, error)
	CreateToken(ctx context.Context, by auth.Actor, want auth.NewToken) (auth.Secret, auth.Token, error)
	RotateToken(ctx context.Context, by auth.Actor, id string, grace time.Duration) (auth.Secret, auth.Token, error)
	RevokeToken(ctx context.Context, by auth.Actor, id string) error
}

// Accounts keeps accounts; auth.Service is one.
type Accounts interface {
	Authenticator
	Tokens
	Account(ctx context.Context, id int64) (auth.Account, error)
	AccountByName(ctx context.Context, name string) (auth.Account, error)
	SearchAccounts(ctx context.Context, part string, after int64, limit int) ([]auth.Account, error)
	Plan(ctx context.Context, name string) (auth.Plan, error)
	Register(ctx context.Context, by auth.Actor, name, plan string) (auth.Registration, error)
	SignUp(ctx context.Context, name, code string) (auth.Registration, error)
	SetAccountPlan(ctx context.Context, by auth.Actor, account, plan string) error
	NoteCredit(ctx context.Context, by auth.Actor, account, amount, key string) error
	SetAccountState(ctx context.Context, by auth.Actor, name string, state auth.State) error
}

var (
	errNoToken   = errors.New("no such token")
	errNoAccount = errors.New("no such account")
	errNoSignUp  = errors.New("no sign-ups are taken")
)

// ListTokens lists the tokens of the caller's account.
func (s ownAPI) ListTokens(c echo.Context) error {
	tokens, err := s.accounts.AccountTokens(c.Request().Context(), caller(c).Account)
	if err != nil {
		return err
	}
	list := v1.TokenList{Tokens: []v1.Token{}}
	for _, t := range tokens {
		list.Tokens = append(list.Tokens, renderToken(t))
	}
	return s.respond(c, http.StatusOK, list)
}

// CreateToken makes a token for the caller's account.
func (s ownAPI) CreateToken(c echo.Context) error {
	var req v1.TokenRequest
	if err := readObject(c, &req, "scopes, and maybe label, policy and expires"); err != nil {
		return err
	}
	names := make([]string, len(req.Scopes))
	for i, scope := range req.Scopes {
		names[i] = string(scope)
	}
	scopes, err := auth.ParseScopes(names)
	if err != nil {
		return err
	}
	want := auth.NewToken{Account: caller(c).Account, Label: given(req.Label), Policy: given(req.Policy), Scopes: scopes, Expires: given(req.Expires)}
	ctx := c.Request().Context()
	if want.Policy != "" {
		found, err := s.pins.HasPolicy(ctx, want.Policy)
		if err != nil {
			return fmt.Errorf("looking up a policy: %w", err)
		}
		if !found {
			return errNoPolicy
		}
	}
	text, token, err := s.accounts.CreateToken(ctx, caller(c).Actor(), want)
	if err != nil {
		return err
	}
	return s.respond(c, http.StatusCreated, v1.NewToken{Token: renderToken(token), Text: text.Reveal()})
}

// RevokeToken ends a token of the caller's account.
func (s ownAPI) RevokeToken(c echo.Context, tokenid v1.Tokenid) error {
	id, err := parseTokenID(tokenid)
	if err != nil {
		return err
	}
	if err := s.accounts.RevokeToken(c.Request().Context(), caller(c).Actor(), id); err != nil {
		return unless(err, errNoToken)
	}
	return c.NoContent(http.StatusNoContent)
}

// defaultGrace is how long a rotated token stays valid.
const defaultGrace = 24 * time.Hour

// RotateToken replaces a token of the caller's account.
func (s ownAPI) RotateToken(c echo.Context, tokenid v1.Tokenid, params v1.RotateTokenParams) error {
	id, err := parseTokenID(tokenid)
	if err != nil {
		return err
	}
	grace := defaultGrace
	if params.Grace != nil {
		if most := int64(auth.MaxGrace / time.Second); *params.Grace < 0 || *params.Grace > most {
			return &spec.InvalidError{Field: "grace", Problem: fmt.Sprintf("must be from 0 to %d seconds", most)}
		}
		grace = time.Duration(*params.Grace) * time.Second
	}
	text, token, err := s.accounts.RotateToken(c.Request().Context(), caller(c).Actor(), id, grace)
	if err != nil {
		return unless(err, errNoToken)
	}
	return s.respond(c, http.StatusCreated, v1.NewToken{Token: renderToken(token), Text: text.Reveal()})
}

// GetAccount shows the caller's account.
func (s ownAPI) GetAccount(c echo.Context) error {
	account, err := s.accounts.Account(c.Request().Context(), caller(c).Account)
	if err != nil {
		return err
	}
	return s.showAccount(c, account)
}

// showAccount answers with an account, its limits and what it uses of them.
func (s ownAPI) showAccount(c echo.Context, a auth.Account) error {
	ctx := c.Request().Context()
	plan, err := s.accounts.Plan(ctx, a.Plan)
	if err != nil {
		return err
	}
	usage, err := s.pins.Usage(ctx, pins.Account(a.ID))
	if err != nil {
		return fmt.Errorf("looking up what an account uses: %w", err)
	}
	shown := v1.Account{
		Name: a.Name, Plan: a.Plan, Limits: renderLimits(plan.Limits),
		State: v1.AccountState(a.State), Since: whole(a.Since), Created: whole(a.Created),
	}
	shown.Usage.Bytes = usage.Bytes
	of := &shown.Usage.Pins
	of.Queued, of.Pinning, of.Pinned, of.Failed = usage.Pins[spec.Queued], usage.Pins[spec.Pinning], usage.Pins[spec.Pinned], usage.Pins[spec.Failed]
	return s.respond(c, http.StatusOK, shown)
}

// SignUp makes an account for who has an invite code.
func (s ownAPI) SignUp(c echo.Context) error {
	if !s.cfg.SignUp {
		return errNoSignUp
	}
	if err := s.signUps.spend(c.Request()); err != nil {
		return err
	}
	var req v1.SignUpRequest
	if err := readObject(c, &req, "name and code"); err != nil {
		return err
	}
	r, err := s.accounts.SignUp(c.Request().Context(), req.Name, req.Code)
	if err != nil {
		return err
	}
	return s.respond(c, http.StatusCreated, renderRegistration(r))
}

// maxSmallBody is the most bytes of a body that is not a pin.
const maxSmallBody = 16 << 10

// readObject reads a JSON object and nothing after it. what names its members, in words.
func readObject(c echo.Context, into any, what string) error {
	body, err := readBody(c, maxSmallBody)
	if err == nil {
		err = spec.CheckJSON(body)
	}
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return &spec.InvalidError{Field: "body", Problem: "is not a JSON object with " + what}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return &spec.InvalidError{Field: "body", Problem: "has something after its object"}
	}
	return nil
}

// parseTokenID refuses what can be no public id before anything is asked.
func parseTokenID(id string) (string, error) {
	if len(id) != 16 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyz234567") != "" {
		return "", errNoToken
	}
	return id, nil
}

// unless gives auth's word for what is not there a meaning.
func unless(err, missing error) error {
	if errors.Is(err, auth.ErrNotFound) {
		return missing
	}
	return err
}

// given is what was said, or nothing.
func given[T any](v *T) (value T) {
	if v != nil {
		value = *v
	}
	return value
}

func renderToken(t auth.Token) v1.Token {
	scopes := []v1.Scope{}
	for _, name := range t.Scopes.Names() {
		scopes = append(scopes, v1.Scope(name))
	}
	return v1.Token{
		Id: t.ID, Label: t.Label, Scopes: scopes, Policy: known(t.Policy),
		Created: whole(t.Created), Expires: moment(t.Expires), Used: moment(t.Used),
	}
}

func renderLimits(l auth.Limits) v1.Limits {
	shown := v1.Limits{Pins: known(l.Pins), PinsInFlight: known(l.PinsInFlight), Bytes: known(l.Bytes), UploadBytes: known(l.UploadBytes)}
	shown.DagBytes, shown.DagBlocks, shown.EgressBytes = known(l.DAGBytes), known(l.DAGBlocks), known(l.EgressBytes)
	shown.GraceDays = known(l.GraceDays)
	if len(l.Rates) > 0 {
		rates := make(map[string]v1.Rate, len(l.Rates))
		for kind, r := range l.Rates {
			rates[string(kind)] = v1.Rate{PerSecond: r.PerSecond, Burst: int32(min(r.Burst, 1<<30))} //nolint:gosec // as bounded
		}
		shown.Rates = &rates
	}
	if l.Bills() {
		shown.Prices = &l.Prices
	}
	return shown
}

func renderSummary(a auth.Account) v1.AccountSummary {
	return v1.AccountSummary{Name: a.Name, Plan: a.Plan, State: v1.AccountState(a.State), Since: whole(a.Since), Created: whole(a.Created)}
}

func renderRegistration(r auth.Registration) v1.Registration {
	return v1.Registration{Account: renderSummary(r.Account), Token: renderToken(r.Token), Text: r.Text.Reveal()}
}
