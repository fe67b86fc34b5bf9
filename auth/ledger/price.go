package ledger

import (
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
)

const (
	gib          = 1 << 30
	monthSeconds = 30 * 24 * 60 * 60 // the month that prices of storage are for
	filDigits    = 18
	maxQtyBits   = 192 // no real quantity comes near; bounds the work that a caller can cause
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// denominator is how much of a kind its price is for, nil for kinds that have none.
func denominator(k Kind) *big.Int {
	switch k {
	case StorageHot, StorageCold:
		return big.NewInt(gib * monthSeconds)
	case EgressHot, EgressCold:
		return big.NewInt(gib)
	case DealCost:
		return new(big.Int).Exp(big.NewInt(10), big.NewInt(filDigits), nil)
	case Topup, Adjustment:
	}
	return nil
}

// A Rate is what one kind costs. The zero value costs nothing.
type Rate struct {
	Price Amount   // per GiB and 30 days, per GiB, or per FIL
	Free  *big.Int // how much of each calendar month (UTC) costs nothing, in the kind's unit; nil is none
}

// Prices are the rates by kind. What is missing costs nothing.
type Prices map[Kind]Rate

// priceNames are the keys of ParsePrices. The allowance of each has the prefix "free_".
var priceNames = map[string]Kind{
	"hot_gib_month":   StorageHot,
	"cold_gib_month":  StorageCold,
	"egress_hot_gib":  EgressHot,
	"egress_cold_gib": EgressCold,
	"fil":             DealCost,
}

const freePrefix = "free_"

// ParsePrices reads prices and allowances in decimal text, with at most nine digits after the point:
//
//	hot_gib_month    credits per GiB held hot for 30 days
//	cold_gib_month   credits per GiB, proven cold copy and 30 days
//	egress_hot_gib   credits per GiB sent from the hot tier
//	egress_cold_gib  credits per GiB sent from Filecoin
//	fil              credits per FIL that deals cost on chain
//	free_<any>       how much of it is free in each month: GiB x 30 days, GiB, or FIL
//
// Every problem is reported. Errors: ErrInvalid.
func ParsePrices(texts map[string]string) (Prices, error) {
	prices := make(Prices)
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		base, free := strings.CutPrefix(name, freePrefix)
		kind, known := priceNames[base]
		if !known {
			problems = append(problems, invalid("there is no price %q", name))
			continue
		}
		amount, err := ParseAmount(texts[name])
		if err == nil && amount < 0 {
			err = invalid("it is negative")
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("price %s: %w", name, err))
			continue
		}
		rate := prices[kind]
		if free {
			rate.Free = allowance(kind, amount)
		} else {
			rate.Price = amount
		}
		prices[kind] = rate
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return prices, nil
}

// allowance is how much of a kind a free amount is, rounded up.
func allowance(k Kind, amount Amount) *big.Int {
	qty := new(big.Int).Mul(big.NewInt(int64(amount)), denominator(k))
	qty.Add(qty, big.NewInt(int64(Credit)-1))
	return qty.Quo(qty, big.NewInt(int64(Credit)))
}

// A tally is what was billed of one kind in one month of an account. The zero value is a new month.
type tally struct {
	free  *big.Int // how much of the allowance is used
	carry *big.Int // what is left of a 10^-9 credit, times the kind's denominator
}

// add prices another quantity. Sums round down, once: due is the whole part of what all quantities of the month came to,
// less what was charged before, so it does not matter into which parts a quantity is divided. free is how much of qty the
// allowance covered. One charge is never more than MaxAmount.
func (r Rate) add(k Kind, t tally, qty *big.Int) (due Amount, free *big.Int, after tally) {
	used, carry := orZero(t.free), orZero(t.carry)
	free = new(big.Int).Sub(orZero(r.Free), used)
	if free.Sign() < 0 {
		free.SetInt64(0) // the allowance has shrunk since
	}
	if free.Cmp(qty) > 0 {
		free.Set(qty)
	}
	exact := new(big.Int).Sub(qty, free)
	exact.Mul(exact, big.NewInt(int64(r.Price)))
	exact.Add(exact, carry)
	whole, rest := new(big.Int).QuoRem(exact, denominator(k), new(big.Int))
	return clamp(whole), free, tally{free: new(big.Int).Add(used, free), carry: rest}
}

func clamp(whole *big.Int) Amount {
	if whole.CmpAbs(big.NewInt(int64(MaxAmount))) > 0 {
		return MaxAmount
	}
	return Amount(whole.Int64())
}

// Month is what holding so many bytes hot, and so many bytes x copies cold, costs in 30 days after the allowances. What a
// new pin should hold is the difference that it makes.
func (p Prices) Month(hot, cold int64) Amount {
	return p.cost(StorageHot, byteSeconds(hot, monthSeconds)) + p.cost(StorageCold, byteSeconds(cold, monthSeconds))
}

// adds is what 30 days of more cost beside what is stored.
func (p Prices) adds(stored, more Stock) Amount {
	return p.Month(stored.Hot+more.Hot, stored.Cold+more.Cold) - p.Month(stored.Hot, stored.Cold)
}

// cost is the price of a quantity in a new month.
func (p Prices) cost(k Kind, qty *big.Int) Amount {
	due, _, _ := p[k].add(k, tally{}, qty)
	return due
}

func byteSeconds(bytes, seconds int64) *big.Int {
	return new(big.Int).Mul(big.NewInt(bytes), big.NewInt(seconds))
}

func orZero(v *big.Int) *big.Int {
	if v == nil {
		return new(big.Int)
	}
	return v
}
