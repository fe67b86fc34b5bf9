package ledger

import (
	"math/big"
	"time"
)

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
