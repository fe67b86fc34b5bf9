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
	ErrUnreadable   = errors.New("the limits of the plan cannot be read")
	ErrNoPlan       = errors.New("there is no such plan")
	ErrNoInvite     = errors.New("the invite code is not valid")
	ErrScope        = errors.New("more scopes than the caller has")
	ErrClosed       = errors.New("the account is closed")
	ErrTooMany      = errors.New("the account has too many tokens")
	ErrTooOften     = errors.New("the account has made too many tokens in a day")
)

// An InvalidError is an ErrInvalid with what is wrong, in words for whoever asked.
type InvalidError struct{ Problem string }

func (e *InvalidError) Error() string { return e.Problem }

// Is makes errors.Is(err, ErrInvalid) true.
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }

func invalid(format string, args ...any) error { return &InvalidError{fmt.Sprintf(format, args...)} }

// FirstAccount is the name of the account that Bootstrap creates.
const FirstAccount = "default"

// maxLabel is the longest label of a token, in code points.
const maxLabel = 100

// A State is what an account may do.
type State string

// The states of an account. The operator moves all of them on.
const (
	Active    State = "active"
	Suspended State = "suspended" // reads and removes, but adds nothing
	Closed    State = "closed"    // none of its tokens counts any more; final
)

// An Account is what pins belong to.
type Account struct {
	ID      int64
	Name    string
	Policy  string // of its pins' cold copies; empty: the service's own
	Plan    string
	State   State
	Since   time.Time // when it came into its state
	Created time.Time
}

// A Service answers for one database. All methods may be called concurrently.
type Service struct {
	db     DB
	now    func() time.Time
	known  *lru.Cache[string, *credential] // by public id
	limits *lru.Cache[string, *Limits]     // by the text they are stored as
	states *lru.Cache[int64, seenState]    // by account
	uses   uses

	readings *lru.Cache[reading, notedReading]
}

// New returns a service on a database that has Migrations applied.
func New(db DB, now func() time.Time) *Service {
	return &Service{
		db: db, now: now, known: remembering[string, *credential](knownTokens),
		limits: remembering[string, *Limits](knownPlans), states: remembering[int64, seenState](knownTokens),
		readings: remembering[reading, notedReading](knownTokens),
	}
}

func remembering[K comparable, V any](size int) *lru.Cache[K, V] {
	cache, err := lru.New[K, V](size)
	if err != nil {
		panic(err) // only for a size below one
	}
	return cache
}

// CreateAccount makes an account without a token. Errors: ErrInvalid, ErrExists, ErrNoPlan.
func (s *Service) CreateAccount(ctx context.Context, by Actor, name, plan string) (Account, error) {
	if err := checkName(name); err != nil {
		return Account{}, err
	}
	account, err := s.insertAccount(ctx, by, name, plan)
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

// Account returns one account. Errors: ErrNotFound.
func (s *Service) Account(ctx context.Context, id int64) (Account, error) {
	account, err := s.selectAccountByID(ctx, id)
	if err != nil {
		return Account{}, fmt.Errorf("looking up account %d: %w", id, err)
	}
	return account, nil
}

// SearchAccounts returns accounts whose name contains part, in any case, with ids above after, oldest first, at most
// limit.
func (s *Service) SearchAccounts(ctx context.Context, part string, after int64, limit int) ([]Account, error) {
	if !partOfName.MatchString(part) {
		return nil, nil // the databases take not every text
	}
	accounts, err := s.selectAccountsLike(ctx, part, after, limit)
	if err != nil {
		return nil, fmt.Errorf("searching accounts: %w", err)
	}
	return accounts, nil
}

// ClosedAccounts returns accounts that were closed before a time, with ids above after, oldest first, at most limit.
func (s *Service) ClosedAccounts(ctx context.Context, before time.Time, after int64, limit int) ([]Account, error) {
	accounts, err := s.selectClosed(ctx, before, after, limit)
	if err != nil {
		return nil, fmt.Errorf("listing closed accounts: %w", err)
	}
	return accounts, nil
}

// SetAccountState suspends an account, resumes or closes it. Closing revokes all its tokens and cannot be undone. When it
// returns, no server of this database goes by the old state any more. Setting the state that an account has changes
// nothing. Errors: ErrNotFound, ErrClosed.
func (s *Service) SetAccountState(ctx context.Context, by Actor, name string, state State) error {
	if err := s.updateState(ctx, by, name, state); err != nil {
		return fmt.Errorf("making account %q %s: %w", name, state, err)
	}
	return settle(ctx)
}

// A seenState is the state of an account as of when it was about to be read.
type seenState struct {
	state State
	read  time.Time
}

// AccountState returns the state of an account, as it was half a second ago at the earliest. Errors: ErrNotFound.
func (s *Service) AccountState(ctx context.Context, id int64) (State, error) {
	started := time.Now()
	if seen, ok := s.states.Get(id); ok && started.Sub(seen.read) < trustFor {
		return seen.state, nil
	}
	account, err := s.Account(ctx, id)
	if err != nil {
		return "", err
	}
	s.states.Add(id, seenState{account.State, started})
	return account.State, nil
}

// SetAccountPolicy gives an account's requests a policy by name, or none when it is empty. It counts for requests that
// begin half a second later at the latest. Errors: ErrNotFound.
func (s *Service) SetAccountPolicy(ctx context.Context, by Actor, name, policy string) error {
	if err := s.updatePolicy(ctx, by, name, policy); err != nil {
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
var (
	accountName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)
	partOfName  = regexp.MustCompile(`^[A-Za-z0-9._@-]{0,64}$`)
)

func checkName(name string) error {
	if !accountName.MatchString(name) {
		return invalid("an account name has 1 to 64 letters, digits or . _ @ - and begins with a letter or digit")
	}
	return nil
}

func checkLabel(label string) error {
	if !utf8.ValidString(label) || utf8.RuneCountInString(label) > maxLabel {
		return invalid("a label has at most %d characters", maxLabel)
	}
	for _, r := range label {
		if !unicode.IsPrint(r) {
			return invalid("a label is one line of printable characters")
		}
	}
	return nil
}
