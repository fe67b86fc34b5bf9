package auth

import (
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
	Created time.Time
	Revoked time.Time // zero while it is valid
}

// CreateToken makes a token for an account and returns its text, which nobody can get again. Errors: ErrNotFound for
// the account, ErrInvalid.
func (s *Service) CreateToken(ctx context.Context, account, label string) (Secret, Token, error) {
	return s.CreateTokenWithPolicy(ctx, account, label, "")
}

// CreateTokenWithPolicy makes a token whose requests come with a policy by name.
func (s *Service) CreateTokenWithPolicy(ctx context.Context, account, label, policy string) (Secret, Token, error) {
	if err := checkLabel(label); err != nil {
		return "", Token{}, err
	}
	text, token := newToken(account, label, s.now())
	token.Policy = policy
	if err := s.insertToken(ctx, token, digest(text.Reveal())); err != nil {
		return "", Token{}, fmt.Errorf("creating a token for account %q: %w", account, err)
	}
	return text, token, nil
}

// Bootstrap makes the first account and its first token when there is no account at all, and tells whether it did.
func (s *Service) Bootstrap(ctx context.Context) (Secret, bool, error) {
	text, token := newToken(FirstAccount, "first token", s.now())
	created, err := s.insertFirst(ctx, token, digest(text.Reveal()))
	if err != nil {
		return "", false, fmt.Errorf("creating the first account: %w", err)
	}
	if !created {
		return "", false, nil
	}
	return text, true, nil
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

// knownTokens is how many tokens are remembered for trustFor.
const knownTokens = 10_000

// RevokeToken ends the validity of the token with this public id. The whole text of a token is accepted too. When it
// returns, no server of this database accepts the token any more. Revoking a second time changes nothing. Errors:
// ErrNotFound.
func (s *Service) RevokeToken(ctx context.Context, id string) error {
	id, _, _ = strings.Cut(strings.TrimPrefix(id, tokenPrefix), "_")
	if err := s.markRevoked(ctx, id, s.now()); err != nil {
		return fmt.Errorf("revoking the token: %w", err)
	}
	s.known.Remove(id)
	timer := time.NewTimer(trustFor)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting until the revoked token is refused everywhere: %w", context.Cause(ctx))
	}
}

// A Caller is who a token belongs to, with the policies that its requests come with.
type Caller struct {
	Account       int64
	AccountPolicy string // empty: none
	TokenPolicy   string // empty: none
}

// Authenticate returns whom the presented text gives access, or ErrUnauthorized.
func (s *Service) Authenticate(ctx context.Context, presented string) (Caller, error) {
	id, ok := publicID(presented)
	if !ok {
		return Caller{}, ErrUnauthorized
	}
	found, err := s.credential(ctx, id)
	unknown := errors.Is(err, ErrNotFound)
	if err != nil && !unknown {
		return Caller{}, fmt.Errorf("looking up a token: %w", err)
	}
	// An unknown id is compared too, with the hash of nothing, so that it takes as long as a wrong secret.
	same := subtle.ConstantTimeCompare([]byte(digest(presented)), []byte(found.hash)) == 1
	if !same || unknown || found.revoked {
		return Caller{}, ErrUnauthorized
	}
	return found.caller, nil
}

// credential reads what is stored of a token, or remembers it from a moment ago. What is not there is not remembered:
// strangers cannot fill the memory, and a new token is valid at once.
func (s *Service) credential(ctx context.Context, id string) (credential, error) {
	started := time.Now() // of the process, which no clock step moves
	if c, ok := s.known.Get(id); ok && started.Sub(c.read) < trustFor {
		return c, nil
	}
	c, err := s.selectCredential(ctx, id)
	if err != nil || c.revoked {
		return c, err
	}
	c.read = started
	s.known.Add(id, c)
	return c, nil
}

// newToken draws a new id and secret.
func newToken(account, label string, now time.Time) (Secret, Token) {
	id := randomText(idBytes)
	text := Secret(tokenPrefix + id + "_" + randomText(secretBytes))
	return text, Token{ID: id, Account: account, Label: label, Created: inMilliseconds(now)}
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

func inMilliseconds(t time.Time) time.Time { return time.UnixMilli(t.UnixMilli()).UTC() }
