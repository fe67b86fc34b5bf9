package ledger

import (
	"context"
	"fmt"
	"log/slog"
	"math/big"
	"time"
)

// A Plan is how an account pays.
type Plan struct {
	Name    string // for messages
	Billed  bool   // false: usage is counted, nothing costs anything, nothing is refused for funds
	Unknown bool   // its prices cannot be read here: what is used waits until they can be, and no more is promised
	Prices  Prices
	Until   time.Time // of a plan of the past: when the account got other prices
}

// Plans tells the plan of an account. An account that it does not know is not billed: an error means that it cannot tell
// now of anybody, and nothing is booked before it can. It may be called concurrently, also inside a transaction that
// travels in ctx.
type Plans interface {
	Plan(ctx context.Context, account int64) (Plan, error)
	// Past returns the plans that an account had from a time on and has no more, oldest first. Where one cannot be read any
	// more, it is left out, and the one after it counts.
	Past(ctx context.Context, account int64, since time.Time) ([]Plan, error)
}

// terms are a plan and those before it.
type terms struct {
	Plan
	past []Plan // oldest first
}

// at is the plan that counts for what was used at a time.
func (t terms) at(moment time.Time) Plan {
	for _, p := range t.past {
		if moment.Before(p.Until) {
			return p
		}
	}
	return t.Plan
}

// A Service keeps the ledger of one database. All methods may be called concurrently, by several processes.
type Service struct {
	db    DB
	plans Plans
	now   func() time.Time
	log   *slog.Logger
}

// New returns a service on a database that has Migrations applied.
func New(db DB, plans Plans, now func() time.Time, log *slog.Logger) *Service {
	return &Service{db: db, plans: plans, now: now, log: log}
}

// A Balance is what an account has.
type Balance struct {
	Account int64
	Balance Amount    // the sum of its entries
	Holds   Amount    // set aside for pins whose size is not known yet
	Floor   Amount    // the balance never falls below it; negative is a credit line
	Empty   time.Time // since when the balance is at its floor; zero while it is not
}

// Available is what a new pin can be promised. It is negative when usage has taken what was held.
func (b Balance) Available() Amount { return b.Balance - b.Holds - b.Floor }

// Pays tells whether there is anything to pay with.
func (b Balance) Pays() bool { return b.Balance > b.Floor }

// Balance returns what an account has; one that nothing was ever booked for has nothing.
func (s *Service) Balance(ctx context.Context, account int64) (Balance, error) {
	b, err := s.selectBalance(ctx, account)
	if err != nil {
		return Balance{}, fmt.Errorf("reading the balance of account %d: %w", account, err)
	}
	return b, nil
}

// Credit books money that was paid in, once per key: a repetition returns the first entry, with fresh false. Errors:
// ErrInvalid, ErrKeyReused. What is to be written with it joins the transaction of its ctx, once for each key; when that
// fails, nothing is booked.
func (s *Service) Credit(ctx context.Context, account int64, amount Amount, key, ref string, with ...func(ctx context.Context) error) (e Entry, fresh bool, err error) {
	if amount <= 0 {
		return Entry{}, false, invalid("a credit is above zero")
	}
	return s.transfer(ctx, Entry{Account: account, Kind: Topup, Amount: amount, Key: key, Ref: ref}, with)
}

// Adjust books an operator's correction, up or down, once per key like Credit. Errors: ErrFunds when the balance would
// fall below its floor, ErrInvalid, ErrKeyReused.
func (s *Service) Adjust(ctx context.Context, account int64, amount Amount, key, ref string, with ...func(ctx context.Context) error) (e Entry, fresh bool, err error) {
	if amount == 0 {
		return Entry{}, false, invalid("an adjustment is not zero")
	}
	return s.transfer(ctx, Entry{Account: account, Kind: Adjustment, Amount: amount, Key: key, Ref: ref}, with)
}

func (s *Service) transfer(ctx context.Context, e Entry, with []func(ctx context.Context) error) (booked Entry, fresh bool, err error) {
	if e.Amount > MaxAmount || e.Amount < -MaxAmount {
		return Entry{}, false, invalid("an amount is at most %s credits", MaxAmount)
	}
	if err := checkTexts(e.Key, e.Ref); err != nil {
		return Entry{}, false, err
	}
	e.Unit = e.Kind.Unit()
	booked, fresh, err = s.insertTransfer(ctx, e, with)
	if err != nil {
		return Entry{}, false, fmt.Errorf("booking %s credits for account %d: %w", e.Amount, e.Account, err)
	}
	return booked, fresh, nil
}

// SetFloor sets how low the balance of an account may fall: below zero is a credit line. Errors: ErrFunds when the balance
// is lower already, ErrInvalid.
func (s *Service) SetFloor(ctx context.Context, account int64, floor Amount) error {
	if floor > MaxAmount || floor < -MaxAmount {
		return invalid("a floor is at most %s credits", MaxAmount)
	}
	if err := s.updateFloor(ctx, account, floor); err != nil {
		return fmt.Errorf("setting the floor of account %d: %w", account, err)
	}
	return nil
}

// Charge books what was used, all or nothing, and each key once: what is booked already is passed over. Usage is counted
// and an entry written whether the account is billed or not. What would take a balance below its floor is waived: a charge
// is never refused for funds, because what it is for has happened. Errors: ErrInvalid, ErrKeyReused, ErrPlan.
func (s *Service) Charge(ctx context.Context, charges ...Charge) error {
	return s.charge(ctx, charges, false)
}

// Count is Charge for those who know by other means than the key what they have reported: usage without a price is counted
// and has no entry, and what cannot be priced now is kept for Accrue. With the context of a transaction it joins it.
func (s *Service) Count(ctx context.Context, charges ...Charge) error {
	return s.charge(ctx, charges, true)
}

func (s *Service) charge(ctx context.Context, charges []Charge, sparse bool) error {
	for _, c := range charges {
		if err := c.check(); err != nil {
			return err
		}
	}
	plans, err := s.plansOf(ctx, charges)
	if err != nil {
		return err
	}
	for _, plan := range plans {
		if plan.Unknown && !sparse {
			return plan.unreadable()
		}
	}
	if err := s.insertCharges(ctx, charges, plans, sparse); err != nil {
		return fmt.Errorf("booking %d charges: %w", len(charges), err)
	}
	return nil
}

// plansOf asks before the transaction: what answers may read the database, too.
func (s *Service) plansOf(ctx context.Context, charges []Charge) (map[int64]terms, error) {
	since := make(map[int64]time.Time)
	for _, c := range charges {
		if oldest, known := since[c.Account]; !known || c.At.Before(oldest) {
			since[c.Account] = c.At
		}
	}
	return s.terms(ctx, since)
}

// terms are those of accounts, each from a time on.
func (s *Service) terms(ctx context.Context, since map[int64]time.Time) (map[int64]terms, error) {
	all := make(map[int64]terms, len(since))
	for account, from := range since {
		plan, err := s.plan(ctx, account)
		if err != nil {
			return nil, err
		}
		// After the plan: what is changed in between must not count for what was before it.
		past, err := s.plans.Past(ctx, account, from)
		if err != nil {
			return nil, fmt.Errorf("looking up the plans of account %d: %w", account, err)
		}
		all[account] = terms{plan, past}
	}
	return all, nil
}

func (s *Service) plan(ctx context.Context, account int64) (Plan, error) {
	plan, err := s.plans.Plan(ctx, account)
	if err != nil {
		return Plan{}, fmt.Errorf("looking up the plan of account %d: %w", account, err)
	}
	return plan, nil
}

// readPlan is plan for those who need its prices now. Errors: ErrPlan.
func (s *Service) readPlan(ctx context.Context, account int64) (Plan, error) {
	plan, err := s.plan(ctx, account)
	if err == nil && plan.Unknown {
		err = plan.unreadable()
	}
	return plan, err
}

func (p Plan) unreadable() error { return fmt.Errorf("plan %q: %w", p.Name, ErrPlan) }

// A Stock is what an account stores: bytes held hot, and bytes x cold copies.
type Stock struct{ Hot, Cold int64 }

// A FundsError is an ErrFunds with the figures: what 30 days of what was asked for cost, and what there is.
type FundsError struct{ Needed, Available Amount }

func (e *FundsError) Error() string {
	return fmt.Sprintf("30 days of it cost %s credits, and %s are available", e.Needed, max(0, e.Available))
}

// Is makes errors.Is(err, ErrFunds) true.
func (e *FundsError) Is(target error) bool { return target == ErrFunds }

// Afford tells whether an account that stores something can pay 30 days of more. What an allowance covers, and whatever
// an account that is not billed asks for, can be had with nothing. Errors: *FundsError, ErrPlan.
func (s *Service) Afford(ctx context.Context, account int64, stored, more Stock) error {
	needed, err := s.Costs(ctx, account, stored, more)
	if err != nil || needed == 0 {
		return err
	}
	b, err := s.Balance(ctx, account)
	if err == nil && needed > b.Available() {
		err = &FundsError{needed, b.Available()}
	}
	return err
}

// Costs is what 30 days of more cost an account that stores something: nothing, if it is not billed. Errors: ErrPlan.
func (s *Service) Costs(ctx context.Context, account int64, stored, more Stock) (Amount, error) {
	plan, err := s.readPlan(ctx, account)
	if err != nil || !plan.Billed {
		return 0, err
	}
	return plan.Prices.adds(stored, more), nil
}

// HoldStock sets aside, under a reference such as a pin, what 30 days of more cost an account that stores something, and returns
// it: what an allowance covers is shared with what the account's other holds are for, and held for nothing. Asked again with more
// the hold grows; it never shrinks. An account that is not billed needs no hold and gets none. Errors: ErrFunds when less is
// available, and nothing has changed; ErrKeyReused when the reference is held for another account; ErrInvalid, ErrPlan.
func (s *Service) HoldStock(ctx context.Context, account int64, ref string, stored, more Stock) (Amount, error) {
	if ref == "" || len(ref) > maxText {
		return 0, invalid("a reference has 1 to %d bytes", maxText)
	}
	plan, err := s.readPlan(ctx, account)
	if err != nil || !plan.Billed || plan.Prices[StorageHot].Price == 0 && plan.Prices[StorageCold].Price == 0 {
		return 0, err
	}
	amount, err := s.writeStockHold(ctx, account, ref, plan.Prices, stored, more)
	if err != nil {
		return amount, fmt.Errorf("holding %s credits of account %d: %w", amount, account, err)
	}
	return amount, nil
}

// Coming is what the holds of an account are for.
func (s *Service) Coming(ctx context.Context, account int64) (Stock, error) {
	coming, err := s.selectComing(ctx, account)
	if err != nil {
		return Stock{}, fmt.Errorf("adding up the holds of account %d: %w", account, err)
	}
	return coming, nil
}

// AccountRefs is HeldRefs of one account.
func (s *Service) AccountRefs(ctx context.Context, account int64, after string, limit int) ([]string, error) {
	refs, err := s.selectRefs(ctx, `account = ? AND ref > ?`, limit, account, after)
	if err != nil {
		return nil, fmt.Errorf("listing holds of account %d: %w", account, err)
	}
	return refs, nil
}

// ReleaseHold gives back what was held. Releasing what is not held does nothing.
func (s *Service) ReleaseHold(ctx context.Context, ref string) error {
	if err := s.deleteHold(ctx, ref); err != nil {
		return fmt.Errorf("releasing the hold of %q: %w", ref, err)
	}
	return nil
}

// HeldRefs returns references of holds above one in the order of their text, at most limit.
func (s *Service) HeldRefs(ctx context.Context, after string, limit int) ([]string, error) {
	refs, err := s.selectRefs(ctx, `ref > ?`, limit, after)
	if err != nil {
		return nil, fmt.Errorf("listing holds: %w", err)
	}
	return refs, nil
}

// A Mismatch is an account whose books are wrong: two figures of a pair differ, or the balance is below the floor.
type Mismatch struct {
	Account         int64
	Balance         Amount
	Entries, Last   Amount // the sum of the entries; the balance after the last of them
	Holds, HoldRows Amount
	Floor           Amount
}

// Verify compares what is summed up with what it sums up, for every account in one snapshot, and returns those that
// differ: none, unless somebody has changed the tables. It reads the whole ledger; once a night is often enough.
func (s *Service) Verify(ctx context.Context) ([]Mismatch, error) {
	wrong, err := s.selectMismatches(ctx)
	if err != nil {
		return nil, fmt.Errorf("verifying the ledger: %w", err)
	}
	return wrong, nil
}

// A Filter selects entries of one account; zero fields select all.
type Filter struct {
	Account  int64
	Kind     Kind
	Ref      string
	From, To time.Time // booked at From or later, and before To
	After    int64     // entries with a larger id: the last one of the page before
	Limit    int       // at most this many, 1 to MaxPage
}

// MaxPage is the most entries that one call returns.
const MaxPage = 1000

// Entries returns entries by id, oldest first. What was booked later has a larger id, so that paging misses nothing.
func (s *Service) Entries(ctx context.Context, f Filter) ([]Entry, error) {
	if f.Limit < 1 || f.Limit > MaxPage {
		return nil, invalid("a page has 1 to %d entries", MaxPage)
	}
	if !storable(f.Ref) || !storable(string(f.Kind)) {
		return nil, nil // no entry has them
	}
	entries, err := s.selectEntries(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("reading the ledger of account %d: %w", f.Account, err)
	}
	return entries, nil
}

// CostOf is what the entries about a reference have taken from an account's balance.
func (s *Service) CostOf(ctx context.Context, account int64, ref string) (Amount, error) {
	sum, err := s.selectCost(ctx, account, ref)
	if err != nil {
		return 0, fmt.Errorf("adding up the cost of %q: %w", ref, err)
	}
	return sum, nil
}

// A Statement is a month of an account. Once the month is over it does not change any more.
type Statement struct {
	Account  int64
	From, To time.Time // the month in UTC; To is the first moment after it
	Opening  Amount
	Closing  Amount
	Lines    []StatementLine // by kind; their amounts are Closing - Opening
}

// A StatementLine sums up the entries of one kind.
type StatementLine struct {
	Kind    Kind
	Entries int64
	Qty     *big.Int
	Free    *big.Int
	Amount  Amount
	Waived  Amount
}

// Statement sums up the month (UTC) that a time lies in, by when entries were booked.
func (s *Service) Statement(ctx context.Context, account int64, month time.Time) (Statement, error) {
	year, m, _ := month.UTC().Date()
	st := Statement{Account: account, From: time.Date(year, m, 1, 0, 0, 0, 0, time.UTC), To: time.Date(year, m+1, 1, 0, 0, 0, 0, time.UTC)}
	if err := s.selectStatement(ctx, &st); err != nil {
		return Statement{}, fmt.Errorf("reading the statement of account %d: %w", account, err)
	}
	return st, nil
}

// A UsageDay is what an account used of one kind on one day (UTC).
type UsageDay struct {
	Day  string // 2006-01-02
	Kind Kind
	Qty  *big.Int
}

// Usage returns what an account used from one day to another, both included, by day and kind. It is counted for every
// account.
func (s *Service) Usage(ctx context.Context, account int64, from, to time.Time) ([]UsageDay, error) {
	days, err := s.selectUsage(ctx, account, dayOf(from), dayOf(to))
	if err != nil {
		return nil, fmt.Errorf("reading the usage of account %d: %w", account, err)
	}
	return days, nil
}

func dayOf(t time.Time) string   { return t.UTC().Format(time.DateOnly) }
func monthOf(t time.Time) string { return t.UTC().Format("2006-01") }
