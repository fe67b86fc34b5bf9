package auth

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"
	"unicode"
	"unicode/utf8"

	lru "github.com/hashicorp/golang-lru/v2"
)

// What the methods of a Service answer. Everything else is a failure of the database.
var (
	ErrUnauthorized = errors.New("the token is not valid")
	ErrNotFound     = errors.New("not found")
	ErrExists       = errors.New("it exists already")
	ErrInvalid      = errors.New("not acceptable")
)

// FirstAccount is the name of the account that Bootstrap creates.
const FirstAccount = "default"

// maxLabel is the longest label of a token, in code points.
const maxLabel = 100

// An Account is what pins belong to.
type Account struct {
	ID      int64
	Name    string
	Policy  string // of its pins' cold copies; empty: the service's own
	Created time.Time
}

// A Service answers for one database. All methods may be called concurrently.
type Service struct {
	db    DB
	now   func() time.Time
	known *lru.Cache[string, credential] // by public id
}

// New returns a service on a database that has Migrations applied.
func New(db DB, now func() time.Time) *Service {
	known, err := lru.New[string, credential](knownTokens)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &Service{db: db, now: now, known: known}
}

// CreateAccount makes an account. Errors: ErrInvalid, ErrExists.
func (s *Service) CreateAccount(ctx context.Context, name string) (Account, error) {
	if err := checkName(name); err != nil {
		return Account{}, err
	}
	account, err := s.insertAccount(ctx, name, s.now())
	if err != nil {
		return Account{}, fmt.Errorf("creating account %q: %w", name, err)
	}
	return account, nil
}

// Accounts returns all accounts, oldest first.
func (s *Service) Accounts(ctx context.Context) ([]Account, error) {
	accounts, err := s.selectAccounts(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing accounts: %w", err)
	}
	return accounts, nil
}

// AccountByName returns one account. Errors: ErrNotFound.
func (s *Service) AccountByName(ctx context.Context, name string) (Account, error) {
	account, err := s.selectAccount(ctx, name)
	if err != nil {
		return Account{}, fmt.Errorf("looking up account %q: %w", name, err)
	}
	return account, nil
}

// SetAccountPolicy gives an account's requests a policy by name, or none when it is empty. It counts for requests that
// begin half a second later at the latest. Errors: ErrNotFound.
func (s *Service) SetAccountPolicy(ctx context.Context, name, policy string) error {
	if err := s.updatePolicy(ctx, name, policy); err != nil {
		return fmt.Errorf("setting the policy of account %q: %w", name, err)
	}
	return nil
}

// A PolicyUse tells who names a policy.
type PolicyUse struct{ Accounts, Tokens int64 }

// PolicyUses counts the accounts and the tokens that are not revoked that name a policy.
func (s *Service) PolicyUses(ctx context.Context, policy string) (PolicyUse, error) {
	use, err := s.countPolicy(ctx, policy)
	if err != nil {
		return PolicyUse{}, fmt.Errorf("looking for users of policy %q: %w", policy, err)
	}
	return use, nil
}

// accountName is what fits on a command line, in a table and in a file name.
var accountName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)

func checkName(name string) error {
	if !accountName.MatchString(name) {
		return fmt.Errorf("%w: an account name has 1 to 64 letters, digits or . _ @ - and begins with a letter or digit", ErrInvalid)
	}
	return nil
}

func checkLabel(label string) error {
	if !utf8.ValidString(label) || utf8.RuneCountInString(label) > maxLabel {
		return fmt.Errorf("%w: a label has at most %d characters", ErrInvalid, maxLabel)
	}
	for _, r := range label {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("%w: a label is one line of printable characters", ErrInvalid)
		}
	}
	return nil
}
