package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// An Actor is who changes accounts and tokens. The zero value is nobody, who has no scopes.
type Actor struct {
	Account int64 // 0 for the operator
	Token   string
	Scopes  Scopes
}

// Operator returns who has the machine.
func Operator() Actor { return Actor{Scopes: AllScopes} }

// OperatorName stands where the operator has done something. No account can have it as its name.
const OperatorName = "(operator)"

// The actions that are recorded.
const (
	actionAccountCreate = "account.create"
	actionAccountSignUp = "account.signup"
	actionAccountState  = "account.state"
	actionAccountPlan   = "account.plan"
	actionAccountPolicy = "account.policy"
	actionTokenCreate   = "token.create"
	actionTokenRevoke   = "token.revoke"
	actionTokenRotate   = "token.rotate"
	actionAccountCredit = "account.credit"
	actionAccountRead   = "account.read"
	actionPlanSet       = "plan.set"
	actionInviteCreate  = "invite.create"
	actionInviteRevoke  = "invite.revoke"
	actionBlockAdd      = "block.add"
	actionBlockRemove   = "block.remove"
)

// An Entry is one change, as the audit has it. It holds no secrets: tokens and invites are named by their public ids.
type Entry struct {
	ID      int64
	At      time.Time
	Actor   string // the name of the account that did it, or OperatorName
	Token   string // the public id of the token that it was done with; empty for the operator and for a sign-up
	Action  string
	Account string // whose account was changed; empty when it is about none
	Subject string // the public id or name of what was changed
	Detail  json.RawMessage
}

// NoteCredit records that money was booked for an account. It joins the transaction of ctx.
func (s *Service) NoteCredit(ctx context.Context, by Actor, account, amount, key string) error {
	if err := s.note(ctx, by, actionAccountCredit, account, key, map[string]any{"amount": amount}); err != nil {
		return fmt.Errorf("recording a credit: %w", err)
	}
	return nil
}

// NoteBlock records that content was blocked, and why. It joins the transaction of ctx.
func (s *Service) NoteBlock(ctx context.Context, by Actor, content, reason string) error {
	if err := s.note(ctx, by, actionBlockAdd, "", content, map[string]any{"reason": reason}); err != nil {
		return fmt.Errorf("recording a block: %w", err)
	}
	return nil
}

// NoteUnblock records that a block was taken back. It joins the transaction of ctx.
func (s *Service) NoteUnblock(ctx context.Context, by Actor, content string) error {
	if err := s.note(ctx, by, actionBlockRemove, "", content, map[string]any{}); err != nil {
		return fmt.Errorf("recording the end of a block: %w", err)
	}
	return nil
}

// noteReads is how often it is recorded that a token goes on reading an account that is not its own.
const noteReads = time.Hour

// A reading is a token that reads an account by name.
type reading struct{ token, account string }

// A notedReading is a reading that is in the audit.
type notedReading struct {
	account int64
	at      time.Time
}

// ReadAccount returns the id of an account whose data an actor is about to read, also of a closed one. It is in the audit
// before it returns: once an hour for each token and account on this server. Errors: ErrNotFound; ErrScope when the actor
// has not the scope Admin.
func (s *Service) ReadAccount(ctx context.Context, by Actor, name string) (int64, error) {
	if !by.Scopes.Has(Admin) {
		return 0, ErrScope
	}
	now, key := s.now(), reading{by.Token, name}
	if noted, ok := s.readings.Get(key); ok && now.Sub(noted.at) < noteReads {
		return noted.account, nil
	}
	id, err := s.noteReading(ctx, by, name, now)
	if err != nil {
		return 0, fmt.Errorf("recording that account %q is read: %w", name, err)
	}
	s.readings.Add(key, notedReading{id, now})
	return id, nil
}

// Audit returns the newest entries whose ids are below before (all when it is 0), the newest first, of one account or of
// all when account is empty.
func (s *Service) Audit(ctx context.Context, account string, before int64, limit int) ([]Entry, error) {
	entries, err := s.selectAudit(ctx, account, before, limit)
	if err != nil {
		return nil, fmt.Errorf("reading the audit: %w", err)
	}
	return entries, nil
}
