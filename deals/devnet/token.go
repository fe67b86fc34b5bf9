package devnet

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/filecoin-project/go-jsonrpc/auth"
)

// API tokens are JSON web tokens as Lotus makes them: HS256 over {"Allow":["read",…]}.

const tokenHeader = `{"alg":"HS256","typ":"JWT"}` //nolint:gosec // it says how a token is signed and is in every one

type tokenClaims struct {
	Allow []auth.Permission `json:"Allow"`
}

// Token makes an API token with the named permissions. They are not implied by one another: Lotus' "sign" token lists
// read, write and sign.
func (n *Net) Token(perms ...auth.Permission) string {
	claims, _ := json.Marshal(tokenClaims{Allow: perms}) // strings always encode
	signed := segment([]byte(tokenHeader)) + "." + segment(claims)
	return signed + "." + segment(n.tokenMAC(signed))
}

func segment(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (n *Net) tokenMAC(signed string) []byte {
	mac := hmac.New(sha256.New, n.secret)
	mac.Write([]byte(signed))
	return mac.Sum(nil)
}

// verifyToken returns the permissions of a token.
func (n *Net) verifyToken(_ context.Context, token string) ([]auth.Permission, error) {
	cut := strings.LastIndexByte(token, '.')
	if cut < 0 {
		return nil, errors.New("JWT Verification failed: malformed token")
	}
	mac, err := base64.RawURLEncoding.DecodeString(token[cut+1:])
	if err != nil || !hmac.Equal(mac, n.tokenMAC(token[:cut])) {
		return nil, errors.New("JWT Verification failed: HMAC verification failed")
	}
	_, payload, _ := strings.Cut(token[:cut], ".")
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return nil, fmt.Errorf("JWT Verification failed: %w", err)
	}
	var claims tokenClaims
	if err := json.Unmarshal(raw, &claims); err != nil {
		return nil, fmt.Errorf("JWT Verification failed: %w", err)
	}
	return claims.Allow, nil
}
