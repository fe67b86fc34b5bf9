package auth

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The text of a token: prefix, public id, separator, secret.
const (
	tokenPrefix = "fp_"
	idBytes     = 10
	secretBytes = 32
	idLength    = 16 // of idBytes in base32
	tokenLength = len(tokenPrefix) + idLength + 1 + 52
)

// A Token is what is known about a token once its text is gone.
type Token struct {
	ID      string // public
	Account string // the account's name
	Label   string
	Policy  string // of the cold copies of pins made with it; empty: the account's
	Scopes  Scopes
	Created time.Time
	Expires time.Time // zero: never
	Used    time.Time // the last time, to the minute; zero: never
	Revoked time.Time // zero while it is valid
}

// A NewToken says what a token shall be.
type NewToken struct {
	Account int64
	Label   string
	Policy  string
	Scopes  Scopes
	Expires time.Time // zero: never
}

const (
	// maxTokens is the most tokens of one account that are neither revoked nor expired.
	maxTokens = 1000

	// maxMade is the most tokens that an account makes for itself in a day: the audit keeps each for good.
	maxMade = 1000
)

// CreateToken makes a token and returns its text, which nobody can get again. Errors: ErrNotFound for the account, also
// for one that is not the actor's; ErrScope when the actor has less; ErrInvalid, ErrClosed, ErrTooMany, ErrTooOften.
func (s *Service) CreateToken(ctx context.Context, by Actor, want NewToken) (Secret, Token, error) {
	now := s.now()
	if err := errors.Join(checkLabel(want.Label), checkExpiry(want.Expires, now)); err != nil {
		return "", Token{}, err
	}
	switch {
	case want.Scopes == 0:
		return "", Token{}, invalid("a token needs at least one scope")
	case !by.Scopes.Has(want.Scopes):
		return "", Token{}, ErrScope
	}
	text, token := newToken(want, now)
	if err := s.insertToken(ctx, by, want.Account, &token, digest(text.Reveal())); err != nil {
		return "", Token{}, fmt.Errorf("creating a token: %w", err)
	}
	return text, token, nil
}

// MaxGrace is the longest that a rotated token stays valid.
const MaxGrace = 30 * 24 * time.Hour

// RotateToken replaces a token by one with another text, for the same and for as long as the old one was made for. The
// old one is valid for grace longer, so that a program can go over without a gap. It can be rotated again in that time, by
// whoever has lost the answer: a new token that nobody has used then ends with it. With no grace no server of this database
// accepts the old one any more when it returns. Errors: ErrNotFound for a token that
// is not valid, and for one of another account than the actor's; ErrScope when the actor has less than the token;
// ErrInvalid, ErrTooMany, ErrTooOften.
func (s *Service) RotateToken(ctx context.Context, by Actor, id string, grace time.Duration) (Secret, Token, error) {
	if grace < 0 || grace > MaxGrace {
		return "", Token{}, invalid("a rotated token stays valid for at most %d days", MaxGrace/(24*time.Hour))
	}
	id = publicPart(id)
	text, token := newToken(NewToken{}, s.now())
	before, err := s.replaceToken(ctx, by, id, grace, &token, digest(text.Reveal()))
	if err != nil {
		return "", Token{}, fmt.Errorf("rotating a token: %w", err)
	}
	s.known.Remove(id)
	s.known.Remove(before)
	if grace >= trustFor {
		return text, token, nil
	}
	// The text is nowhere else: whoever stops waiting for it must not lose it.
	return text, token, settle(context.WithoutCancel(ctx))
}

// Bootstrap makes the first account and its first token when there is no account at all, and tells whether it did.
func (s *Service) Bootstrap(ctx context.Context) (Secret, bool, error) {
	text, token := newToken(NewToken{Label: "first token", Scopes: OwnScopes}, s.now())
	token.Account = FirstAccount
	created, err := s.insertFirst(ctx, token, digest(text.Reveal()))
	if err != nil {
		return "", false, fmt.Errorf("creating the first account: %w", err)
	}
	if !created {
		return "", false, nil
	}
	return text, true, nil
}

// AccountTokens returns the tokens of one account that are not revoked, oldest first.
func (s *Service) AccountTokens(ctx context.Context, account int64) ([]Token, error) {
	tokens, err := s.selectAccountTokens(ctx, account)
	if err != nil {
		return nil, fmt.Errorf("listing tokens: %w", err)
	}
	return tokens, nil
}

// Tokens returns the tokens of one account, or of all when account is empty, oldest first, revoked ones too. Errors:
// ErrNotFound for the account.
func (s *Service) Tokens(ctx context.Context, account string) ([]Token, error) {
	tokens, err := s.selectTokens(ctx, account)
	if err != nil {
		return nil, fmt.Errorf("listing tokens: %w", err)
	}
	return tokens, nil
}

// trustFor is how long a token is believed without asking the database, and so how long another process may go on
// accepting one that was revoked here. RevokeToken waits that long.
const trustFor = 500 * time.Millisecond

// How many tokens and plans are remembered.
const (
	knownTokens = 10_000
	knownPlans  = 1_000
)

// RevokeToken ends the validity of the token with this public id. The whole text of a token is accepted too. When it
// returns, no server of this database accepts the token any more. Revoking a second time changes nothing. Errors:
// ErrNotFound, also for a token of another account than the actor's.
func (s *Service) RevokeToken(ctx context.Context, by Actor, id string) error {
	id = publicPart(id)
	if err := s.markRevoked(ctx, by, id, s.now()); err != nil {
		return fmt.Errorf("revoking the token: %w", err)
	}
	s.known.Remove(id)
	return settle(ctx)
}

// settle returns when no server of this database goes by what was stored of tokens and accounts before.
func settle(ctx context.Context) error {
	timer := time.NewTimer(trustFor)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting until the change counts everywhere: %w", context.Cause(ctx))
	}
}

// A Caller is who a token belongs to, with what the token and the account may do.
type Caller struct {
	Account       int64
	AccountPolicy string // empty: none
	TokenPolicy   string // empty: none
	Token         string // public id
	Scopes        Scopes
	State         State   // Active or Suspended
	Plan          string  // its name
	Limits        *Limits // of the plan; nobody may change them
	Other         int64   // the account whose data is read instead; 0: its own
}

// Reads is the account whose data the caller reads.
func (c *Caller) Reads() int64 { return cmp.Or(c.Other, c.Account) }

// Actor is the caller as one who changes accounts and tokens.
func (c *Caller) Actor() Actor { return Actor{Account: c.Account, Token: c.Token, Scopes: c.Scopes} }

// Authenticate returns whom the presented text gives access, or ErrUnauthorized.
func (s *Service) Authenticate(ctx context.Context, presented string) (Caller, error) {
	id, ok := publicID(presented)
	if !ok {
		return Caller{}, ErrUnauthorized
	}
	found, fresh, err := s.credential(ctx, id)
	unknown := errors.Is(err, ErrNotFound)
	if err != nil && !unknown {
		return Caller{}, fmt.Errorf("looking up a token: %w", err)
	}
	// An unknown id is compared too, with the hash of nothing, so that it takes as long as a wrong secret.
	same := subtle.ConstantTimeCompare([]byte(digest(presented)), []byte(found.hash)) == 1
	if !same || unknown || !found.valid(s.now()) {
		return Caller{}, ErrUnauthorized
	}
	if fresh {
		s.uses.note(id, s.now())
	}
	return found.caller, nil
}

// Plausible reports, without asking the database, whether this very text was stored as a token when it was looked up
// last. It may have ended since.
func (s *Service) Plausible(presented string) bool {
	id, ok := publicID(presented)
	if !ok {
		return false
	}
	c, ok := s.known.Peek(id)
	return ok && subtle.ConstantTimeCompare([]byte(digest(presented)), []byte(c.hash)) == 1
}

// A credential is what Authenticate needs of a token. It never changes.
type credential struct {
	caller  Caller
	hash    string
	revoked bool
	expires int64     // Unix milliseconds; 0: never
	read    time.Time // when it was about to be read from the database
}

func (c *credential) valid(now time.Time) bool {
	return !c.revoked && c.caller.State != Closed && (c.expires == 0 || now.UnixMilli() < c.expires)
}

// credential reads what is stored of a token, or remembers it from a moment ago. What is not there is not remembered:
// strangers cannot fill the memory, and a new token is valid at once.
func (s *Service) credential(ctx context.Context, id string) (c *credential, fresh bool, err error) {
	started := time.Now() // of the process, which no clock step moves
	if c, ok := s.known.Get(id); ok && started.Sub(c.read) < trustFor {
		return c, false, nil
	}
	c, err = s.selectCredential(ctx, id)
	if err != nil {
		return c, false, err
	}
	c.read = started
	if c.valid(s.now()) {
		s.known.Add(id, c)
	} else {
		s.known.Remove(id)
	}
	return c, true, nil
}

// newToken draws a new id and secret.
func newToken(want NewToken, now time.Time) (Secret, Token) {
	id := randomText(idBytes)
	text := Secret(tokenPrefix + id + "_" + randomText(secretBytes))
	return text, Token{
		ID: id, Label: want.Label, Policy: want.Policy, Scopes: want.Scopes,
		Created: inMilliseconds(now), Expires: inMilliseconds(want.Expires),
	}
}

func checkExpiry(expires, now time.Time) error {
	if !expires.IsZero() && !expires.After(now) {
		return invalid("it would have expired already")
	}
	return nil
}

// publicPart is the public id in what names a token: the id itself, or the whole text.
func publicPart(id string) string {
	id, _, _ = strings.Cut(strings.TrimPrefix(id, tokenPrefix), "_")
	return strings.ToLower(id)
}

// publicID finds the id in a token's text. What cannot be a token costs no look-up.
func publicID(text string) (string, bool) {
	if len(text) != tokenLength || !strings.HasPrefix(text, tokenPrefix) {
		return "", false
	}
	id, secret, ok := strings.Cut(text[len(tokenPrefix):], "_")
	if !ok || len(id) != idLength || !isBase32(id) || !isBase32(secret) {
		return "", false
	}
	return id, true
}

func isBase32(text string) bool {
	for i := range len(text) {
		if c := text[i]; (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

func randomText(size int) string {
	drawn := make([]byte, size)
	_, _ = rand.Read(drawn) // never fails: it ends the process instead
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(drawn))
}

// digest is what is stored of a token. It covers the whole text, so that no second spelling of a secret is valid.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// inMilliseconds is a time as it is stored. The zero time stays what it is.
func inMilliseconds(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.UnixMilli(t.UnixMilli()).UTC()
}
