package main

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"strings"
	"time"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/server"
)

// accrueEvery is how often storage is booked. There is something to book after midnight, and where pins have changed.
const accrueEvery = time.Hour

// payers are the plans of accounts as the ledger knows them.
type payers struct{ accounts *auth.Service }

func (p payers) Plan(ctx context.Context, account int64) (ledger.Plan, error) {
	a, err := p.accounts.Account(ctx, account)
	if errors.Is(err, auth.ErrNotFound) {
		return ledger.Plan{}, nil
	}
	if err != nil {
		return ledger.Plan{}, err
	}
	plan, err := p.accounts.Plan(ctx, a.Plan)
	if errors.Is(err, auth.ErrUnreadable) {
		return ledger.Plan{Name: a.Plan, Unknown: true}, nil
	}
	if err != nil || !plan.Limits.Bills() {
		return ledger.Plan{}, err
	}
	prices, err := ledger.ParsePrices(plan.Limits.Prices)
	if err != nil { // a newer server on the same database may have written them
		return ledger.Plan{Name: a.Plan, Unknown: true}, nil //nolint:nilerr // it is the plan that is wrong: others go on
	}
	return ledger.Plan{Name: a.Plan, Billed: true, Prices: prices}, nil
}

// Past leaves out what cannot be read: it was mended by a change, and what it has become counts for it, too.
func (p payers) Past(ctx context.Context, account int64, since time.Time) (list []ledger.Plan, err error) {
	past, err := p.accounts.PastPlans(ctx, account, since)
	if errors.Is(err, auth.ErrNotFound) {
		return nil, nil
	}
	for _, was := range past {
		prices, err := ledger.ParsePrices(was.Limits.Prices)
		if err == nil {
			list = append(list, ledger.Plan{Name: was.Name, Billed: was.Limits.Bills(), Prices: prices, Until: was.Until})
		}
	}
	return list, err
}

func newLedger(db *database.DB, accounts *auth.Service, now func() time.Time, log *slog.Logger) *ledger.Service {
	return ledger.New(db, payers{accounts}, now, log)
}

// stored is what pins occupy as the ledger knows it. What is stored now has something to book once after each midnight.
type stored struct {
	pins    *pins.Service
	current bool
}

func (s stored) Holdings(ctx context.Context) iter.Seq2[ledger.Holding, error] {
	return func(yield func(ledger.Holding, error) bool) {
		for h, err := range s.pins.Holdings(ctx, s.current) {
			if !yield(ledger.Holding{
				Pin: string(h.Pin), Account: int64(h.Account), Bytes: h.Bytes, Hot: h.Hot, Copies: h.Copies,
				Since: h.Since, Until: h.Until, Removed: h.Removed,
			}, err) {
				return
			}
		}
	}
}

func (s stored) Forget(ctx context.Context, ended []ledger.Holding) error {
	list := make([]pins.Holding, len(ended))
	for i, h := range ended {
		list[i] = pins.Holding{Pin: pins.ID(h.Pin), Until: h.Until}
	}
	return s.pins.ForgetHoldings(ctx, list)
}

// accrue books storage, gives back what is set aside for nothing and tells accounts how their balances stand, until ctx
// ends. Several servers may do so at once.
func accrue(ctx context.Context, books *ledger.Service, service *pins.Service, from *sponsor, cold *coldTier, to notices, now func() time.Time, log *slog.Logger) {
	ticker := time.NewTicker(accrueEvery)
	defer ticker.Stop()
	done := ""
	for {
		day := now().UTC().Format(time.DateOnly)
		err := books.Accrue(ctx, stored{service, day != done})
		switch {
		case err == nil:
			done = day
		case ctx.Err() == nil:
			log.Error("booking what is stored; it is tried again", "err", err)
		}
		from.settleRest(ctx, log)
		from.forgetClaims(ctx, cold, log)
		if err := to.tell(ctx); err != nil && ctx.Err() == nil {
			log.Error("telling accounts how their balances stand; it is tried again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// payments are where adapters of payment providers report; nil: nowhere.
func (c *Config) payments(books *ledger.Service, accounts *auth.Service) server.Payments {
	if c.PaymentKeys == "" {
		return nil
	}
	return ledger.Webhook{
		Ledger: books, Keys: c.paymentKeys(), Currency: c.Currency,
		Account: func(ctx context.Context, name string) (int64, error) {
			a, err := accounts.AccountByName(ctx, name)
			if errors.Is(err, auth.ErrNotFound) {
				err = ledger.ErrNotFound
			}
			return a.ID, err
		},
	}
}

// paymentKeys are those of the list, without the blanks around them.
func (c *Config) paymentKeys() (keys [][]byte) {
	for key := range strings.SplitSeq(c.PaymentKeys.Reveal(), ",") {
		keys = append(keys, []byte(strings.TrimSpace(key)))
	}
	return keys
}

// leastPaymentKey is the shortest key that signs payments, in bytes.
const leastPaymentKey = 16

func (c *Config) validatePayments(wrong problems) {
	if c.PaymentKeys != "" {
		for _, key := range c.paymentKeys() {
			wrong.check("payment-keys", len(key) < leastPaymentKey, "each key has at least 16 bytes")
		}
	}
	wrong.check("currency", c.Currency == "" || len(c.Currency) > 20, "it has 1 to 20 characters")
}

// sentBy counts what readers are sent.
func sentBy(egress *ledger.Egress) func(account pins.Account, cold bool, bytes int64) {
	return func(account pins.Account, cold bool, bytes int64) {
		kind := ledger.EgressHot
		if cold {
			kind = ledger.EgressCold
		}
		egress.Add(int64(account), kind, bytes)
	}
}
