package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/spec"
)

const (
	limitsFor   = 2 * time.Second // how long the limits of an account are remembered while its pins are fetched
	limitsKnown = 10_000
	holdsAtOnce = 500
)

// A sponsor tells pins what accounts may have and can pay, by their plans and balances.
type sponsor struct {
	accounts *auth.Service
	books    *ledger.Service
	pins     func() *pins.Service // made after it
	now      func() time.Time
	limits   *lru.Cache[pins.Account, seenLimits]
}

// seenLimits are the limits of an account as of when they were about to be read.
type seenLimits struct {
	auth.Limits
	read time.Time
}

func newSponsor(accounts *auth.Service, books *ledger.Service, service func() *pins.Service, now func() time.Time) *sponsor {
	limits, err := lru.New[pins.Account, seenLimits](limitsKnown)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &sponsor{accounts, books, service, now, limits}
}

func (s *sponsor) limitsOf(ctx context.Context, account pins.Account) (auth.Limits, error) {
	started := time.Now()
	if seen, ok := s.limits.Get(account); ok && started.Sub(seen.read) < limitsFor {
		return seen.Limits, nil
	}
	a, err := s.accounts.Account(ctx, int64(account))
	if err != nil {
		return auth.Limits{}, err
	}
	plan, err := s.accounts.Plan(ctx, a.Plan)
	if err == nil {
		s.limits.Add(account, seenLimits{plan.Limits, started})
	}
	return plan.Limits, err
}

// Carry implements pins.Sponsor.
func (s *sponsor) Carry(ctx context.Context, account pins.Account, pin pins.ID, known pins.Extent, copies int) error {
	err := s.carry(ctx, account, pin, known, copies)
	if errors.Is(err, ledger.ErrPlan) || errors.Is(err, auth.ErrUnreadable) {
		err = fmt.Errorf("%w: %w", pins.ErrUndecided, err)
	}
	return err
}

func (s *sponsor) carry(ctx context.Context, account pins.Account, pin pins.ID, known pins.Extent, copies int) error {
	limits, err := s.limitsOf(ctx, account)
	if err != nil {
		return err
	}
	quota := pins.Quota{DAGBytes: limits.DAGBytes, DAGBlocks: limits.DAGBlocks}
	if over := (*pins.QuotaError)(nil); errors.As(quota.FitsOne(known), &over) {
		return &pins.ShortError{Reason: spec.ReasonQuotaExceeded, Problem: over.Problem}
	}
	if limits.Bytes == 0 && !limits.Bills() {
		return nil
	}
	asked := time.Now()
	err = s.weigh(ctx, account, pin, known, copies, limits)
	if short := (*pins.ShortError)(nil); errors.As(err, &short) {
		// What has given way to another pin since may be in the sums still. A refusal is for good.
		if err := s.pins().AddUpAgain(ctx, account, asked); err != nil {
			return err
		}
		err = s.weigh(ctx, account, pin, known, copies, limits)
	}
	return err
}

// weigh tells whether so much of a pin is within the quota and is paid for. What is kept for others gives way only to what is
// both.
func (s *sponsor) weigh(ctx context.Context, account pins.Account, pin pins.ID, known pins.Extent, copies int, limits auth.Limits) error {
	// What waits for this DAG goes when it is here, so only one of both counts.
	replaced, err := s.pins().KeptFor(ctx, account, pin)
	if err != nil {
		return err
	}
	over, err := s.over(ctx, account, pin, known.Bytes, replaced, limits.Bytes)
	if err != nil {
		return err
	}
	if limits.Bills() {
		stock, err := s.pins().Stock(ctx, account)
		if err != nil {
			return err
		}
		stock.Hot = max(0, stock.Hot-replaced)
		more := ledger.Stock{Hot: known.Bytes, Cold: known.Bytes * int64(copies)}
		freed, err := s.pay(ctx, account, pin, ledger.Stock(stock), more, over)
		if errors.Is(err, ledger.ErrFunds) {
			return &pins.ShortError{Reason: spec.ReasonInsufficientFunds, Problem: fmt.Sprintf(
				"the balance does not carry 30 days of the %d bytes that are known of it", known.Bytes)}
		}
		if err != nil {
			return err
		}
		over -= freed
	}
	return s.makeRoom(ctx, account, pin, known.Bytes, over)
}

// pay sets aside what 30 days of more cost beside what is stored, of which so much gives way in any case. It tells how much has
// given way for it: what is kept for others may use up the allowance.
func (s *sponsor) pay(ctx context.Context, account pins.Account, pin pins.ID, stock, more ledger.Stock, over int64) (freed int64, err error) {
	without := func(bytes int64) ledger.Stock { return ledger.Stock{Hot: max(0, stock.Hot-bytes), Cold: stock.Cold} }
	short := s.holdFor(ctx, account, pin, without(over), more)
	if !errors.Is(short, ledger.ErrFunds) {
		return 0, short
	}
	kept, err := s.pins().CanYield(ctx, account, pin)
	if err != nil || kept <= over {
		return 0, cmp.Or(err, short)
	}
	if err := s.holdFor(ctx, account, pin, without(kept), more); err != nil {
		return 0, err
	}
	freed, err = s.pins().GiveWay(ctx, account, pin, pins.AllKept)
	if err == nil && freed < kept { // another has had it go, or it is that of a pin again
		err = s.holdFor(ctx, account, pin, without(freed), more)
	}
	return freed, err
}

// over is by how much so many bytes of a pin would exceed the quota beside what is held, all of which can give way.
func (s *sponsor) over(ctx context.Context, account pins.Account, pin pins.ID, bytes, replaced, quota int64) (int64, error) {
	if quota == 0 {
		return 0, nil
	}
	usage, err := s.pins().Usage(ctx, account)
	if err != nil {
		return 0, err
	}
	over := max(0, usage.Bytes-replaced) + bytes - quota
	if over <= 0 {
		return 0, nil
	}
	kept, err := s.pins().CanYield(ctx, account, pin)
	if err == nil && kept < over {
		err = overQuota(bytes)
	}
	return over, err
}

func overQuota(bytes int64) error {
	return &pins.ShortError{Reason: spec.ReasonQuotaExceeded, Problem: fmt.Sprintf(
		"with the %d bytes that are known of it more would be held than the plan allows", bytes)}
}

// makeRoom has what is kept for others give way by so much as a pin is over the quota, and somewhat more: the pin grows on.
func (s *sponsor) makeRoom(ctx context.Context, account pins.Account, pin pins.ID, bytes, over int64) error {
	if over <= 0 {
		return nil
	}
	freed, err := s.pins().GiveWay(ctx, account, pin, max(over, bytes/8))
	if err == nil && freed == 0 && over < bytes/8 {
		freed, err = s.pins().GiveWay(ctx, account, pin, over)
	}
	if err != nil || freed >= over {
		return err
	}
	return overQuota(bytes)
}

// holdFor sets aside what 30 days of more cost. What is still set aside for pins that have come or gone since is none that keeps
// others from it.
func (s *sponsor) holdFor(ctx context.Context, account pins.Account, pin pins.ID, stock, more ledger.Stock) error {
	_, err := s.books.HoldStock(ctx, int64(account), string(pin), stock, more)
	if !errors.Is(err, ledger.ErrFunds) {
		return err
	}
	err = s.settleOld(ctx, func(after string) ([]string, error) {
		return s.books.AccountRefs(ctx, int64(account), after, holdsAtOnce)
	})
	if err != nil {
		return err
	}
	_, err = s.books.HoldStock(ctx, int64(account), string(pin), stock, more)
	return err
}

// Pays tells whether anybody who wants cold copies can pay for a deal: whoever pays nothing, or has anything left. Of what very
// many want, it is taken that somebody can. An account of which that cannot be told, because it is gone or a newer server has set
// its plan, counts as none that pays.
func (s *sponsor) Pays(ctx context.Context, w deals.Wish) (bool, error) {
	accounts, err := s.pins().Wishers(ctx, w)
	if err != nil || len(accounts) == 0 || len(accounts) == pins.MaxWishers {
		return true, err
	}
	for _, account := range accounts {
		limits, err := s.limitsOf(ctx, account)
		if errors.Is(err, auth.ErrUnreadable) || errors.Is(err, auth.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, err
		}
		if !limits.Bills() {
			return true, nil
		}
		b, err := s.books.Balance(ctx, int64(account))
		if err != nil {
			return false, err
		}
		if b.Balance > b.Floor {
			return true, nil
		}
	}
	return false, nil
}

// MayRead tells whether more may be sent to readers for whom an account answers: *pins.QuotaError if not. What is sent counts
// after some seconds.
func (s *sponsor) MayRead(ctx context.Context, account pins.Account) error {
	limits, err := s.limitsOf(ctx, account)
	if err != nil || limits.EgressBytes == 0 {
		return err
	}
	now := s.now().UTC()
	days, err := s.books.Usage(ctx, int64(account), now.AddDate(0, 0, 1-now.Day()), now)
	if err != nil {
		return err
	}
	sent := new(big.Int)
	for _, d := range days {
		if d.Kind == ledger.EgressHot || d.Kind == ledger.EgressCold {
			sent.Add(sent, d.Qty)
		}
	}
	if sent.Cmp(big.NewInt(limits.EgressBytes)) >= 0 {
		return &pins.QuotaError{Problem: fmt.Sprintf("%s bytes were sent for this account this month (UTC), and its plan allows %d", sent, limits.EgressBytes)}
	}
	return nil
}

// Settle implements pins.Sponsor.
func (s *sponsor) Settle(ctx context.Context, list []pins.ID) error {
	var problems []error
	for _, id := range list {
		problems = append(problems, s.books.ReleaseHold(ctx, string(id)))
	}
	return errors.Join(problems...)
}

// settleRest gives back what is set aside for pins that wait for nothing any more: of servers that were killed.
func (s *sponsor) settleRest(ctx context.Context, log *slog.Logger) {
	err := s.settleOld(ctx, func(after string) ([]string, error) { return s.books.HeldRefs(ctx, after, holdsAtOnce) })
	if err != nil && ctx.Err() == nil {
		log.Error("giving back what is set aside for nothing; it is tried again", "err", err)
	}
}

// settleOld goes through pages of holds, of holdsAtOnce, and settles those whose pins do not wait.
func (s *sponsor) settleOld(ctx context.Context, page func(after string) ([]string, error)) error {
	for after := ""; ; {
		refs, err := page(after)
		if err != nil || len(refs) == 0 {
			return err
		}
		if err := s.settleUnless(ctx, refs); err != nil {
			return err
		}
		if len(refs) < holdsAtOnce {
			return nil
		}
		after = refs[len(refs)-1]
	}
}

// settleUnless settles pins unless they wait.
func (s *sponsor) settleUnless(ctx context.Context, refs []string) error {
	list := make([]pins.ID, len(refs))
	for i, ref := range refs {
		list[i] = pins.ID(ref)
	}
	waiting, err := s.pins().Waiting(ctx, list)
	if err != nil {
		return err
	}
	return s.Settle(ctx, slices.DeleteFunc(list, func(id pins.ID) bool { return slices.Contains(waiting, id) }))
}
