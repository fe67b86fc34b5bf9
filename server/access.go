package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"
	"golang.org/x/time/rate"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/spec"
)

// A need is what an operation asks of its caller.
type need struct {
	scope  auth.Scopes
	kind   auth.Kind // whose rate it counts for
	adds   bool      // it makes or changes something, which suspended accounts may not; they may remove what is theirs
	stores bool      // it needs room for bytes
	open   bool      // to everyone, without a token
	others bool      // it reads, and administrators may read another account with it
}

// told is what a webhook is told of: pins, and the account itself. Whoever has one called must be allowed to read both.
const told = auth.AccountUse | auth.PinsRead

// needs decides about every operation of both documents, by its id. What is not here has no route.
var needs = map[string]need{
	"getPins":               {scope: auth.PinsRead, kind: auth.KindList, others: true},
	"getPinByRequestId":     {scope: auth.PinsRead, kind: auth.KindStatus, others: true},
	"addPin":                {scope: auth.PinsWrite, kind: auth.KindWrite, adds: true, stores: true},
	"replacePinByRequestId": {scope: auth.PinsWrite, kind: auth.KindWrite, adds: true, stores: true},
	"deletePinByRequestId":  {scope: auth.PinsWrite, kind: auth.KindWrite},

	"addPins":       {scope: auth.PinsWrite, kind: auth.KindWrite, adds: true, stores: true},
	"upload":        {scope: auth.Upload, kind: auth.KindUpload, adds: true, stores: true},
	"getPinStory":   {scope: auth.PinsRead, kind: auth.KindStatus},
	"getPinDeals":   {scope: auth.PinsRead, kind: auth.KindStatus, others: true},
	"getPinReceipt": {scope: auth.PinsRead, kind: auth.KindStatus, others: true},
	"getReceiptKey": {scope: auth.PinsRead, kind: auth.KindStatus},
	"createLink":    {scope: auth.Retrieve, kind: auth.KindWrite, adds: true},

	"signUp":         {open: true}, // who signs up has no token yet; SignUp bounds what an address may try
	"getUsage":       {scope: auth.AccountUse, kind: auth.KindAccount},
	"getLedger":      {scope: auth.AccountUse, kind: auth.KindAccount},
	"getStatement":   {scope: auth.AccountUse, kind: auth.KindAccount},
	"receivePayment": {open: true}, // it is signed

	"listWebhooks":   {scope: auth.AccountUse, kind: auth.KindAccount},
	"createWebhook":  {scope: told, kind: auth.KindAccount, adds: true},
	"deleteWebhook":  {scope: auth.AccountUse, kind: auth.KindAccount},
	"listDeliveries": {scope: auth.AccountUse, kind: auth.KindAccount},
	"replayWebhook":  {scope: told, kind: auth.KindAccount, adds: true},

	"listEvents":  {scope: auth.PinsRead, kind: auth.KindList},
	"getAccount":  {scope: auth.AccountUse, kind: auth.KindAccount},
	"listTokens":  {scope: auth.AccountUse, kind: auth.KindAccount},
	"createToken": {scope: auth.AccountUse, kind: auth.KindAccount, adds: true},
	"rotateToken": {scope: auth.AccountUse, kind: auth.KindAccount, adds: true},
	"revokeToken": {scope: auth.AccountUse, kind: auth.KindAccount},

	"listAccounts":   {scope: auth.Admin, kind: auth.KindAccount},
	"showAccount":    {scope: auth.Admin, kind: auth.KindAccount},
	"showUsage":      {scope: auth.Admin, kind: auth.KindAccount},
	"creditAccount":  {scope: auth.Admin, kind: auth.KindAccount, adds: true},
	"createAccount":  {scope: auth.Admin, kind: auth.KindAccount, adds: true},
	"setAccountPlan": {scope: auth.Admin, kind: auth.KindAccount, adds: true},
	"suspendAccount": {scope: auth.Admin, kind: auth.KindAccount, adds: true},
	"resumeAccount":  {scope: auth.Admin, kind: auth.KindAccount, adds: true},
	"closeAccount":   {scope: auth.Admin, kind: auth.KindAccount, adds: true},
	"listBlocks":     {scope: auth.Admin, kind: auth.KindAccount},
	"addBlock":       {scope: auth.Admin, kind: auth.KindAccount, adds: true},
	"removeBlock":    {scope: auth.Admin, kind: auth.KindAccount, adds: true}, // the content can be pinned again
}

// readNeed is what reading at /ipfs asks, where it asks for a token at all.
var readNeed = need{scope: auth.Retrieve, kind: auth.KindRead, others: true}

// otherHeader names the account that an administrator reads instead of its own.
const otherHeader = "X-Frostpin-Account"

// A gate lets callers pass who may do what they want to. API and gateway share one.
type gate struct {
	tokens  Authenticator
	buckets buckets
	logins  tries // with wrong tokens
}

func newGate(tokens Authenticator, who echo.IPExtractor) *gate {
	return &gate{tokens: tokens, buckets: buckets{newLRU[bucket, *rate.Limiter](knownBudgets)}, logins: newTries("wrong tokens", who)}
}

// pass finds out who calls and whether they may. It looks at nothing else of the request, so strangers learn nothing
// about ids or limits. Errors: *denied, *refused, *limited, errUnavailable; *spec.InvalidError and errNoAccount where the
// request names another account.
func (g *gate) pass(r *http.Request, n need) (auth.Caller, error) {
	token, err := bearer(r.Header)
	if err != nil {
		return auth.Caller{}, err
	}
	caller, err := g.authenticate(r, token)
	if err != nil {
		return auth.Caller{}, err
	}
	other, named := r.Header.Get(otherHeader), len(r.Header.Values(otherHeader)) > 0
	if named {
		n.scope = auth.Admin
	}
	switch {
	case !caller.Scopes.Has(n.scope):
		return caller, &refused{spec.ReasonInsufficientScope, lacking(caller.Scopes, n.scope)}
	case (n.adds || named) && caller.State != auth.Active:
		return caller, &refused{spec.ReasonAccountSuspended, "this account is suspended: it can be read and emptied, and no more"}
	}
	if err := g.buckets.spend(&caller, n.kind, 1); err != nil || !named {
		return caller, err
	}
	switch { // otherwise it would be done to the caller's own account
	case !n.others:
		return caller, &spec.InvalidError{Field: otherHeader, Problem: "is for lists of pins, pins, their deals and receipts, and content only"}
	case other == "":
		return caller, &spec.InvalidError{Field: otherHeader, Problem: "names no account"}
	}
	caller.Other, err = g.tokens.ReadAccount(r.Context(), caller.Actor(), other)
	return caller, unless(err, errNoAccount)
}

// lacking says which scopes a token would need.
func lacking(has, needed auth.Scopes) string {
	if all := needed.Names(); len(all) > 1 {
		return fmt.Sprintf("this takes a token with the scopes %s: this one lacks %s",
			strings.Join(all, " and "), strings.Join((needed&^has).Names(), " and "))
	}
	return fmt.Sprintf("this token lacks the scope %s", needed)
}

// spendMore takes so many requests more from a caller's budget. Errors: *limited, *refused when there never will be so many.
func (g *gate) spendMore(caller *auth.Caller, kind auth.Kind, n int) error {
	if l := caller.Limits; l != nil && n > 0 {
		if r, bounded := l.Rates[kind]; bounded && n >= r.Burst {
			return &refused{spec.ReasonQuotaExceeded, fmt.Sprintf("this account's plan allows %d at once: send them in smaller parts", r.Burst)}
		}
	}
	return g.buckets.spend(caller, kind, n)
}

// authenticate asks whom a token belongs to. From an address that has shown too many wrong ones only those are looked up
// that were right here before: guessing costs no database, and others behind the same proxy go on.
func (g *gate) authenticate(r *http.Request, token string) (auth.Caller, error) {
	if err := g.logins.exhausted(r); err != nil && !g.tokens.Plausible(token) {
		return auth.Caller{}, err
	}
	caller, err := g.tokens.Authenticate(r.Context(), token)
	switch {
	case errors.Is(err, auth.ErrUnauthorized):
		_ = g.logins.spend(r) // this one is answered; the next will not be looked up
		return auth.Caller{}, &denied{"the token is unknown, has expired or was revoked"}
	case errors.Is(err, context.Canceled):
		return auth.Caller{}, err
	case err != nil: // no verdict, so neither a yes nor a no
		return auth.Caller{}, fmt.Errorf("%w: authenticating: %w", errUnavailable, err)
	}
	return caller, nil
}

// open tells whether an account still lets others read by its links.
func (g *gate) open(ctx context.Context, account pins.Account) error {
	state, err := g.tokens.AccountState(ctx, int64(account))
	switch {
	case errors.Is(err, auth.ErrNotFound), err == nil && state == auth.Closed:
		return errLinkEnded
	case err != nil && !errors.Is(err, context.Canceled):
		return fmt.Errorf("%w: looking up the account of a link: %w", errUnavailable, err)
	}
	return err
}

// A refused request came from somebody whom we know and who may not do that.
type refused struct{ reason, why string }

func (r *refused) Error() string { return r.why }

// allowed lets a request pass whose caller may do what an operation does. It runs before anything else.
func (s *Server) allowed(n need) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		if n.open {
			return next
		}
		return func(c echo.Context) error {
			caller, err := s.gate.pass(c.Request(), n)
			c.Set(callerKey, &caller) // for the log too
			if err != nil {
				return err
			}
			if caller.AccountPolicy != "" || caller.TokenPolicy != "" {
				c.Set(choiceKey, pins.Choice{Account: caller.AccountPolicy, Token: caller.TokenPolicy})
			}
			return next(c)
		}
	}
}

// guarded are the middlewares of all operations: first the one that decides who may, then others, then the one that looks
// whether there is room.
func (s *Server) guarded(others ...echo.MiddlewareFunc) map[string][]echo.MiddlewareFunc {
	all := make(map[string][]echo.MiddlewareFunc, len(needs))
	for operation, n := range needs {
		all[operation] = append([]echo.MiddlewareFunc{s.allowed(n)}, others...)
		if n.stores {
			all[operation] = append(all[operation], s.roomy)
		}
	}
	return all
}

// caller is who calls.
func caller(c echo.Context) *auth.Caller {
	if caller, ok := c.Get(callerKey).(*auth.Caller); ok {
		return caller
	}
	return &auth.Caller{}
}

// account is whose pins the request is about.
func account(c echo.Context) pins.Account { return pins.Account(caller(c).Reads()) }
