package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/events"
	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/spec"
)

// kindBalance is the event by which an account learns that its money runs out, and that it no longer does.
const kindBalance = "account.balance"

// notices tells accounts how long their money lasts, when that has changed, and lets their pins go when they were told that
// it would happen and have not paid.
type notices struct {
	db       *database.DB
	accounts *auth.Service
	books    *ledger.Service
	told     *events.Service
	pins     *pins.Service
	now      func() time.Time
	log      *slog.Logger
}

// tell looks at all accounts. Several servers may do so at once. What is wrong with one account keeps no other waiting.
// Nobody can tell how one stands whose plan cannot be read: the ledger names the plan.
func (n notices) tell(ctx context.Context) error {
	var problems []error
	for after := int64(0); ; {
		accounts, err := n.books.Accounts(ctx, after, pageSize)
		if err != nil {
			return errors.Join(append(problems, err)...)
		}
		for _, account := range accounts {
			after = account
			err := n.look(ctx, account)
			if errors.Is(err, ledger.ErrPlan) || errors.Is(err, auth.ErrUnreadable) {
				continue
			}
			if err != nil {
				if ctx.Err() != nil {
					return err
				}
				problems = append(problems, err)
			}
		}
		if len(accounts) < pageSize {
			return errors.Join(problems...)
		}
	}
}

// look tells one account how it stands and does what follows from it.
func (n notices) look(ctx context.Context, account int64) error {
	limits, err := n.limits(ctx, account)
	if err != nil {
		return err
	}
	stock, err := n.pins.Stock(ctx, pins.Account(account))
	if err != nil {
		return err
	}
	o, err := n.books.Outlook(ctx, account, stock.Hot, stock.Cold)
	if err != nil {
		return err
	}
	pays := !limits.Bills() || o.Balance.Pays()
	unpaid := false
	if !pays {
		if unpaid, err = n.owes(ctx, account); err != nil {
			return err
		}
	}
	lapsed, err := n.pins.HasLapsed(ctx, pins.Account(account))
	if err != nil {
		return err
	}
	st := ledger.Standing{Mood: o.Mood(), Unpaid: unpaid, Length: limits.Grace()}
	if lapsed && !pays && st.Mood == ledger.Fine {
		st.Mood = ledger.Empty // it costs nothing any more because it is gone
	}
	grace, err := n.tellOne(ctx, account, st, o)
	if err != nil {
		return err
	}
	switch end := grace.End(st.Length, n.now()); {
	case lapsed && pays:
		// Whoever took the payment has done so, unless it was killed.
		return n.pins.Retry(ctx, pins.Account(account), spec.ReasonInsufficientFunds)
	case !end.IsZero() && !n.now().Before(end):
		if err := n.letGo(ctx, account); err != nil {
			return err
		}
		return n.settle(ctx, account, st, o)
	}
	return nil
}

// settle ends the grace period of an account when all was let go that costs something: what begins to cost something later
// has a whole one, even before the next look.
func (n notices) settle(ctx context.Context, account int64, st ledger.Standing, o ledger.Outlook) error {
	var err error
	if st.Unpaid, err = n.owes(ctx, account); err != nil || st.Unpaid {
		return err
	}
	st.Mood = ledger.Empty
	_, err = n.tellOne(ctx, account, st, o)
	return err
}

// owes tells whether the pins of an account cost anything that were not let go. The deals of others run to their end, and are
// no reason to let more go.
func (n notices) owes(ctx context.Context, account int64) (bool, error) {
	kept, err := n.pins.Kept(ctx, pins.Account(account))
	if err != nil {
		return false, err
	}
	cost, err := n.books.Costs(ctx, account, ledger.Stock{}, ledger.Stock(kept))
	return cost > 0, err
}

// errSettled: what an account was about to be told is not so any more.
var errSettled = errors.New("another server has let go what was not paid for")

func (n notices) tellOne(ctx context.Context, account int64, st ledger.Standing, o ledger.Outlook) (grace ledger.Grace, err error) {
	err = n.db.Write(ctx, func(tx *gorm.DB) error {
		var news bool
		grace, news, err = n.books.Noticed(tx.Statement.Context, account, st)
		if err != nil || !news {
			return err
		}
		if st.Unpaid {
			if still, err := n.owes(tx.Statement.Context, account); err != nil || !still {
				return cmp.Or(err, errSettled)
			}
		}
		data := map[string]any{"state": st.Mood, "balance": o.Balance.Balance.String(), "available": o.Balance.Available().String()}
		if o.RunwayDays >= 0 {
			data["runway_days"] = o.RunwayDays
		}
		if end := grace.End(st.Length, n.now()); !end.IsZero() {
			data["empty_since"], data["let_go_after"] = grace.Since, end.Truncate(time.Second)
		}
		return n.told.Record(tx.Statement.Context, events.Change{Account: account, Kind: kindBalance, Data: data})
	})
	if errors.Is(err, errSettled) {
		return ledger.Grace{}, nil
	}
	return grace, err
}

// letGo lets pins go of an account whose grace period is over.
func (n notices) letGo(ctx context.Context, account int64) error {
	lapsed, err := n.pins.Lapse(ctx, pins.Account(account), func(ctx context.Context) (*pins.Dues, error) { return n.dues(ctx, account) })
	if lapsed > 0 {
		n.log.Info("pins that were not paid for were let go", "account", account, "pins", lapsed)
	}
	return err
}

// dues are what may be let go of an account now, nil for nothing. In the transaction of ctx it first locks the balance: a
// payment comes before it and is seen, or after what is let go and brings it back. What the plan says is read after that.
func (n notices) dues(ctx context.Context, account int64) (*pins.Dues, error) {
	grace, err := n.books.Unpaid(ctx, account)
	if err != nil {
		return nil, err
	}
	limits, err := n.limits(ctx, account)
	if err != nil {
		return nil, err
	}
	now := n.now()
	if end := grace.End(limits.Grace(), now); end.IsZero() || now.Before(end) {
		return nil, nil //nolint:nilnil // nothing
	}
	prices, err := ledger.ParsePrices(limits.Prices)
	if err != nil {
		return nil, err
	}
	hot, cold := prices[ledger.StorageHot], prices[ledger.StorageCold]
	dues := &pins.Dues{Hot: hot.Price > 0, Cold: cold.Price > 0}
	if hot.Free != nil || cold.Free != nil {
		dues.Owes = func(s pins.Stock) bool { return prices.Month(s.Hot, s.Cold) > 0 }
	}
	return dues, nil
}

// limits are those of the account's plan as of now; none for an account that is not there.
func (n notices) limits(ctx context.Context, account int64) (*auth.Limits, error) {
	a, err := n.accounts.Account(ctx, account)
	if errors.Is(err, auth.ErrNotFound) {
		return &auth.Limits{}, nil
	}
	if err != nil {
		return nil, err
	}
	plan, err := n.accounts.Plan(ctx, a.Plan)
	return &plan.Limits, err
}
