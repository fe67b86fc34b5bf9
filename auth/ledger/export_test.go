package ledger

import (
	"context"
	"fmt"
	"math/big"
	"time"

	"gorm.io/gorm"
)

// Hold sets an amount aside as HoldStock does what something costs, so that tests can be exact.
func (s *Service) Hold(ctx context.Context, account int64, ref string, amount Amount) error {
	plan, err := s.readPlan(ctx, account)
	if err != nil || !plan.Billed {
		return err
	}
	err = s.write(ctx, func(tx *gorm.DB) error {
		b, held, err := lockHold(tx, account, ref)
		if err != nil {
			return err
		}
		return b.reserve(tx, ref, held, amount)
	})
	if err != nil {
		return fmt.Errorf("holding %s credits of account %d: %w", amount, account, err)
	}
	return nil
}

// What external tests check of the pure functions.
type Tally = tally

func (r Rate) Add(k Kind, t Tally, qty *big.Int) (Amount, *big.Int, Tally) { return r.add(k, t, qty) }

func Denominator(k Kind) *big.Int { return denominator(k) }

func PlanIntervals(h Holding, accrued int64, now time.Time, limit int) [][2]int64 {
	var out [][2]int64
	for _, i := range plan(h, accrued, now, limit, nil) {
		out = append(out, [2]int64{i.from, i.to})
	}
	return out
}
