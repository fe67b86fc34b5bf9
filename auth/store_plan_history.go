package auth

import (
	"context"
	"errors"
	"maps"
	"time"

	"gorm.io/gorm"
)

// endPrices keeps what a plan is before its prices change. Of two changes in one moment the first tells what was before both.
func endPrices(tx *gorm.DB, name string, prices map[string]string, now time.Time) error {
	row, err := planNamed(locked(tx), name)
	if errors.Is(err, ErrNoPlan) {
		return nil
	}
	if err != nil {
		return err
	}
	// What cannot be read here is kept for servers that can.
	if before, err := row.plan(); err == nil && maps.Equal(before.Limits.Prices, prices) {
		return nil
	}
	return tx.Exec(`INSERT INTO plan_history (name, until_ms, limits) VALUES (?, ?, ?) ON CONFLICT (name, until_ms) DO NOTHING`,
		name, now.UnixMilli(), row.Limits).Error
}

// endAccountPlan keeps which plan an account had before it gets another.
func (s *Service) endAccountPlan(tx *gorm.DB, account int64, plan string) error {
	return tx.Exec(`INSERT INTO account_plan_history (account_id, until_ms, plan) VALUES (?, ?, ?) ON CONFLICT (account_id, until_ms) DO NOTHING`,
		account, s.now().UnixMilli(), plan).Error
}

// A pastRow is a plan that an account had until a time, or what a plan was until a time.
type pastRow struct {
	Mine    bool // the account's
	Name    string
	UntilMS int64 `gorm:"column:until_ms"`
	Limits  string
}

// selectPastPlans leaves out what a clock that was wrong has ended in time to come.
func (s *Service) selectPastPlans(ctx context.Context, account int64, since time.Time) (past []PastPlan, err error) {
	from, now := since.UnixMilli(), s.now().UnixMilli()
	var had []pastRow
	var were map[string][]pastRow
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		had, were = nil, make(map[string][]pastRow)
		var changes []pastRow
		err := tx.Raw(`SELECT true AS mine, plan AS name, until_ms, '' AS limits FROM account_plan_history
				WHERE account_id = @account AND until_ms > @from AND until_ms <= @now
			UNION ALL SELECT false, name, until_ms, limits FROM plan_history WHERE until_ms > @from AND until_ms <= @now AND name IN
				(SELECT plan FROM accounts WHERE id = @account
				UNION SELECT plan FROM account_plan_history WHERE account_id = @account AND until_ms > @from AND until_ms <= @now)
			ORDER BY 3`, map[string]any{"account": account, "from": from, "now": now}).Scan(&changes).Error
		if err != nil || len(changes) == 0 {
			return err
		}
		var names []string
		for _, c := range changes {
			if c.Mine {
				had, names = append(had, c), append(names, c.Name)
			} else {
				were[c.Name] = append(were[c.Name], c)
			}
		}
		var mine accountRow
		if err := tx.Where("id = ?", account).Take(&mine).Error; err != nil {
			return err
		}
		had = append(had, pastRow{Name: mine.Plan, UntilMS: now + 1})
		// Plans that were not changed since are as they are now.
		var plans []planRow
		err = tx.Where("name IN ?", names).Find(&plans).Error
		for _, p := range plans {
			were[p.Name] = append(were[p.Name], pastRow{UntilMS: now + 1, Limits: p.Limits})
		}
		return err
	})
	if err != nil {
		return nil, named(err)
	}
	for _, h := range had {
		for _, w := range were[h.Name] {
			until := min(w.UntilMS, h.UntilMS)
			if until <= from || until > now {
				continue
			}
			from = until
			if plan, err := (planRow{Name: h.Name, Limits: w.Limits}).plan(); err == nil {
				past = append(past, PastPlan{plan, time.UnixMilli(until).UTC()})
			}
		}
	}
	return past, nil
}
