package ledger

import (
	"context"
	"math/big"
	"time"
)

// An Outlook is what the running month will come to for an account, and how long its money lasts, if it goes on like this.
// It is an estimate, at the prices of today.
type Outlook struct {
	Balance    Balance
	Used       Amount // what is counted of this month (UTC) so far
	Estimate   Amount // the whole month: with what is stored now until its end, and reading as in the last 30 days
	PerMonth   Amount // 30 days from the beginning of a month
	RunwayDays int64  // for how many days what is available carries that; -1 when it costs nothing
}

// maxRunway is for ever, in days.
const maxRunway = 100 * 365

// Outlook estimates from what an account stores now: bytes held hot, and bytes x proven copies. Deals to come are not in it.
// For an account that is not billed nothing costs anything. Errors: ErrPlan.
func (s *Service) Outlook(ctx context.Context, account, hot, cold int64) (Outlook, error) {
	plan, err := s.readPlan(ctx, account)
	if err != nil {
		return Outlook{}, err
	}
	balance, err := s.Balance(ctx, account)
	if err != nil {
		return Outlook{}, err
	}
	o := Outlook{Balance: balance, RunwayDays: -1}
	if !plan.Billed {
		return o, nil
	}
	now := s.now().UTC()
	used, err := s.Usage(ctx, account, now.AddDate(0, 0, -31), now)
	if err != nil {
		return Outlook{}, err
	}
	project(&o, plan.Prices, used, hot, cold, now)
	o.RunwayDays = runway(balance.Available(), o.PerMonth)
	return o, nil
}

// project estimates from the days since the beginning of the month, and from the last 30.
func project(o *Outlook, prices Prices, used []UsageDay, hot, cold int64, now time.Time) {
	year, month, _ := now.Date()
	first := time.Date(year, month, 1, 0, 0, 0, 0, time.UTC)
	rest := int64(first.AddDate(0, 1, 0).Sub(now) / time.Second)
	uncounted := int64(now.Sub(now.Truncate(accrualPeriod)) / time.Second) // storage of today
	recent := dayOf(now.AddDate(0, 0, -30))
	for _, kind := range Metered() {
		soFar, lately := new(big.Int), new(big.Int)
		for _, d := range used {
			if d.Kind != kind {
				continue
			}
			if d.Day >= dayOf(first) {
				soFar.Add(soFar, d.Qty)
			}
			if d.Day > recent {
				lately.Add(lately, d.Qty)
			}
		}
		total, next := new(big.Int).Set(soFar), new(big.Int)
		switch kind {
		case StorageHot:
			total.Add(total, byteSeconds(hot, uncounted+rest))
			next = byteSeconds(hot, monthSeconds)
		case StorageCold:
			total.Add(total, byteSeconds(cold, uncounted+rest))
			next = byteSeconds(cold, monthSeconds)
		case EgressHot, EgressCold, DealCost:
			more := new(big.Int).Mul(lately, big.NewInt(rest))
			total.Add(total, more.Quo(more, big.NewInt(monthSeconds)))
			next = lately
		case Topup, Adjustment:
		}
		o.Used += prices.cost(kind, soFar)
		o.Estimate += prices.cost(kind, total)
		o.PerMonth += prices.cost(kind, next)
	}
}

// runway is for how many whole days an amount carries a cost per 30 days, -1 for ever.
func runway(available, perMonth Amount) int64 {
	if perMonth <= 0 {
		return -1
	}
	days := new(big.Int).Mul(big.NewInt(int64(max(0, available))), big.NewInt(30))
	days.Quo(days, big.NewInt(int64(perMonth)))
	if days.Cmp(big.NewInt(maxRunway)) > 0 {
		return maxRunway
	}
	return days.Int64()
}
