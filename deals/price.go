package deals

import (
	"fmt"
	"strings"

	"github.com/filecoin-project/go-state-types/abi"
	fbig "github.com/filecoin-project/go-state-types/big"
)

// Caps are the operator's limits on what deals cost. Zero allows only what is free; so does the zero value.
type Caps struct {
	PerGiBEpoch abi.TokenAmount // attoFIL per GiB and epoch; a provider's PriceCap replaces it, upward too
	PerDeal     abi.TokenAmount // attoFIL for a deal, over its whole duration
	PerDay      abi.TokenAmount // attoFIL charged in one day (UTC)
	PerMonth    abi.TokenAmount // attoFIL charged in one month (UTC)
}

// A CapError says that a deal would break a cap of the operator's.
type CapError struct {
	Cap    string // what kind: price, deal, day or month
	Reason string // in words for the user
}

func (e *CapError) Error() string { return e.Reason }

// EpochPrice is what the whole piece costs per epoch, in attoFIL, at a price per GiB and epoch. It rounds up: a
// provider refuses a fraction less than it asks.
func EpochPrice(perGiB abi.TokenAmount, size abi.PaddedPieceSize) abi.TokenAmount {
	total := fbig.Mul(amount(perGiB), fbig.NewIntUnsigned(uint64(size)))
	return fbig.Rsh(fbig.Add(total, fbig.NewInt(1<<30-1)), 30)
}

// DealCost is what a deal costs over its duration, in attoFIL.
func DealCost(perGiB abi.TokenAmount, size abi.PaddedPieceSize, duration Epoch) abi.TokenAmount {
	return fbig.Mul(EpochPrice(perGiB, size), fbig.NewInt(int64(duration)))
}

// PriceOf is what an ask demands per GiB and epoch, in attoFIL.
func (a Ask) PriceOf(verified bool) abi.TokenAmount {
	if verified {
		return amount(a.VerifiedPrice)
	}
	return amount(a.Price)
}

// priceCap is the highest price per GiB and epoch that p may be paid. The operator's word on a provider wins over the
// general one in both directions: some copies are worth more.
func (c Caps) priceCap(p Provider) abi.TokenAmount {
	if p.PriceCap.Nil() {
		return amount(c.PerGiBEpoch)
	}
	return p.PriceCap
}

// checkDeal refuses a deal that costs more than any deal may.
func (c Caps) checkDeal(cost abi.TokenAmount) error {
	if limit := amount(c.PerDeal); cost.GreaterThan(limit) {
		return &CapError{Cap: "deal", Reason: fmt.Sprintf("the deal would cost %s, more than the %s that a deal may cost",
			FIL(cost), FIL(limit))}
	}
	return nil
}

// amount is v, and zero for the zero value, which big.Int cannot calculate with.
func amount(v abi.TokenAmount) abi.TokenAmount {
	if v.Nil() {
		return fbig.Zero()
	}
	return v
}

// FIL writes an amount for people, exactly: in FIL, or in attoFIL where that is shorter.
func FIL(v abi.TokenAmount) string {
	text := amount(v).String()
	if text == "0" {
		return "0 FIL"
	}
	sign := ""
	if strings.HasPrefix(text, "-") {
		sign, text = "-", text[1:]
	}
	if len(text) <= 12 {
		return sign + text + " attoFIL"
	}
	padded := strings.Repeat("0", max(0, 19-len(text))) + text
	whole, fraction := padded[:len(padded)-18], strings.TrimRight(padded[len(padded)-18:], "0")
	if fraction == "" {
		return sign + whole + " FIL"
	}
	return sign + whole + "." + fraction + " FIL"
}
