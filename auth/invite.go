package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// invitePrefix begins the text of an invite code, which has the form of a token otherwise.
const invitePrefix = "fpi_"

// maxInviteUses is the most accounts that one invite code makes.
const maxInviteUses = 10_000

// An Invite lets strangers make accounts. Of its code only the hash is kept.
type Invite struct {
	ID      string // public
	Label   string
	Plan    string // of the accounts that it makes
	Left    int64  // how many it may still make
	Created time.Time
	Expires time.Time // zero: never
	Revoked time.Time // zero: it was not
}

// CreateInvite makes an invite code for uses accounts and returns its text, which nobody can get again. Errors:
// ErrNoPlan, ErrInvalid.
func (s *Service) CreateInvite(ctx context.Context, by Actor, invite Invite) (Secret, Invite, error) {
	if err := checkLabel(invite.Label); err != nil {
		return "", Invite{}, err
	}
	if invite.Left < 1 || invite.Left > maxInviteUses {
		return "", Invite{}, invalid("an invite code makes 1 to %d accounts", maxInviteUses)
	}
	now := s.now()
	if err := checkExpiry(invite.Expires, now); err != nil {
		return "", Invite{}, err
	}
	invite.ID = randomText(idBytes)
	invite.Created, invite.Expires = inMilliseconds(now), inMilliseconds(invite.Expires)
	text := Secret(invitePrefix + invite.ID + "_" + randomText(secretBytes))
	if err := s.insertInvite(ctx, by, invite, digest(text.Reveal())); err != nil {
		return "", Invite{}, fmt.Errorf("creating an invite code: %w", err)
	}
	return text, invite, nil
}

// Invites returns all invites, oldest first.
func (s *Service) Invites(ctx context.Context) ([]Invite, error) {
	invites, err := s.selectInvites(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing invites: %w", err)
	}
	return invites, nil
}

// RevokeInvite ends an invite, named by its public id or its whole code. Errors: ErrNotFound.
func (s *Service) RevokeInvite(ctx context.Context, by Actor, id string) error {
	id, _, _ = strings.Cut(strings.TrimPrefix(id, invitePrefix), "_")
	if err := s.markInviteRevoked(ctx, by, id, s.now()); err != nil {
		return fmt.Errorf("revoking the invite: %w", err)
	}
	return nil
}

// A Registration is a new account with its first token.
type Registration struct {
	Account Account
	Token   Token
	Text    Secret // of the token
}

// Register makes an account with a first token. Errors: ErrInvalid, ErrExists, ErrNoPlan.
func (s *Service) Register(ctx context.Context, by Actor, name, plan string) (Registration, error) {
	r, err := s.newRegistration(name, plan)
	if err != nil {
		return Registration{}, err
	}
	if err := s.insertRegistration(ctx, by, &r); err != nil {
		return Registration{}, fmt.Errorf("creating account %q: %w", name, err)
	}
	return r, nil
}

// reserved are names that would pass for whoever runs the service. The operator may give them to accounts.
var reserved = []string{"admin", "administrator", "operator"}

// SignUp makes an account with a first token for whoever shows an invite code. Errors: ErrNoInvite when the code is not
// valid, whatever the reason and whatever the name; then ErrInvalid and ErrExists, which leave the code as it was.
func (s *Service) SignUp(ctx context.Context, name, code string) (Registration, error) {
	r, unfit := s.newRegistration(name, "")
	if unfit == nil && slices.ContainsFunc(reserved, func(r string) bool { return strings.EqualFold(r, name) }) {
		unfit = invalid("this account name is not for sign-up; take another")
	}
	if err := s.insertInvited(ctx, digest(code), &r, unfit); err != nil {
		return Registration{}, fmt.Errorf("signing up: %w", err)
	}
	return r, nil
}

func (s *Service) newRegistration(name, plan string) (Registration, error) {
	text, token := newToken(NewToken{Label: "first token", Scopes: OwnScopes}, s.now())
	token.Account = name
	r := Registration{Account: Account{Name: name, Plan: plan}, Token: token, Text: text}
	return r, checkName(name)
}
