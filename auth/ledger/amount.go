package ledger

import (
	"fmt"
	"math/big"
	"regexp"
	"strings"
)

// An Amount of money is a whole number of 10^-9 credits. What a credit is worth is between the operator and the
// customer.
type Amount int64

// Credit is one credit.
const Credit Amount = 1_000_000_000

// MaxAmount bounds every single amount, and maxBalance every balance, so that no sum of the two leaves an int64.
const (
	MaxAmount  Amount = 1_000_000_000 * Credit
	maxBalance Amount = 4 * MaxAmount
)

// amountDigits is how many digits of a fraction an amount has.
const amountDigits = 9

// ParseAmount reads credits in decimal text, such as "12.5" or "-0.000000001". More digits than an Amount can hold
// are refused, never rounded. Errors: ErrInvalid.
func ParseAmount(text string) (Amount, error) {
	scaled, err := parseDecimal(text, amountDigits)
	if err != nil {
		return 0, err
	}
	if scaled.CmpAbs(big.NewInt(int64(MaxAmount))) > 0 {
		return 0, fmt.Errorf("%w: an amount is at most %s credits", ErrInvalid, MaxAmount)
	}
	return Amount(scaled.Int64()), nil
}

// String writes credits exactly, as ParseAmount reads them.
func (a Amount) String() string { return formatDecimal(big.NewInt(int64(a)), amountDigits) }

var decimal = regexp.MustCompile(`^(-?)([0-9]{1,20})(?:\.([0-9]{1,18}))?$`)

// parseDecimal returns a decimal number times 10^digits, which must be whole.
func parseDecimal(text string, digits int) (*big.Int, error) {
	part := decimal.FindStringSubmatch(text)
	if part == nil || len(part[3]) > digits {
		return nil, fmt.Errorf("%w: %.40q is not a decimal number with at most %d digits after the point", ErrInvalid, text, digits)
	}
	scaled, ok := new(big.Int).SetString(part[1]+part[2]+part[3]+strings.Repeat("0", digits-len(part[3])), 10)
	if !ok {
		return nil, fmt.Errorf("%w: %.40q is not a decimal number", ErrInvalid, text)
	}
	return scaled, nil
}

// formatDecimal is the inverse of parseDecimal, without zeros at the end.
func formatDecimal(scaled *big.Int, digits int) string {
	text := new(big.Int).Abs(scaled).String()
	text = strings.Repeat("0", max(0, digits+1-len(text))) + text
	whole, fraction := text[:len(text)-digits], strings.TrimRight(text[len(text)-digits:], "0")
	if fraction != "" {
		whole += "." + fraction
	}
	if scaled.Sign() < 0 {
		return "-" + whole
	}
	return whole
}
