package main

import (
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	fbig "github.com/filecoin-project/go-state-types/big"

	"github.com/frostpin/frostpin/deals"
)

// An Amount is attoFIL. The zero value is 0.
type Amount struct{ atto *big.Int }

// attoPerFIL is the number of attoFIL in one FIL.
var attoPerFIL = new(big.Int).Exp(big.NewInt(10), big.NewInt(18), nil)

// parseAmount reads attoFIL as a whole number, or FIL with its unit: 1500 or 0.25FIL.
func parseAmount(text string) (Amount, error) {
	wrong := fmt.Errorf("%q is not an amount such as 50000000 (attoFIL) or 0.25FIL", text)
	digits, unit := text, big.NewInt(1)
	for suffix, factor := range map[string]*big.Int{"attofil": big.NewInt(1), "fil": attoPerFIL} {
		if head, ok := strings.CutSuffix(strings.ToLower(text), suffix); ok && !strings.HasSuffix(head, "atto") {
			digits, unit = strings.TrimSpace(head), factor
		}
	}
	if digits == "" || strings.Trim(digits, "0123456789.") != "" || len(digits) > 60 {
		return Amount{}, wrong
	}
	value, ok := new(big.Rat).SetString(digits)
	if !ok {
		return Amount{}, wrong
	}
	if value.Mul(value, new(big.Rat).SetInt(unit)); !value.IsInt() {
		return Amount{}, wrong
	}
	return Amount{new(big.Int).Set(value.Num())}, nil
}

// IsZero tells whether it is 0.
func (a Amount) IsZero() bool { return a.atto == nil || a.atto.Sign() == 0 }

// Equal tells whether both are the same amount.
func (a Amount) Equal(b Amount) bool { return a.Tokens().Equals(b.Tokens()) }

// Tokens is the amount as the packages of Filecoin know it. Never nil.
func (a Amount) Tokens() abi.TokenAmount {
	if a.atto == nil {
		return fbig.Zero()
	}
	return fbig.NewFromGo(new(big.Int).Set(a.atto))
}

// String writes FIL where that is exact and short, else attoFIL.
func (a Amount) String() string {
	if a.IsZero() {
		return "0"
	}
	fil := strings.TrimRight(new(big.Rat).SetFrac(a.atto, attoPerFIL).FloatString(18), "0")
	if whole := strings.TrimSuffix(fil, "."); len(whole) <= 10 {
		return whole + "FIL"
	}
	return a.atto.String()
}

// A Span is a number of epochs of the chain, written as the time they take on Filecoin's own clock of 30 s.
type Span deals.Epoch

const epochTime = 30 * time.Second

func parseSpan(text string) (Span, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d%epochTime != 0 {
		return 0, fmt.Errorf("%q is not a time in whole epochs of 30s, such as 72h", text)
	}
	return Span(d / epochTime), nil
}

// Epochs is the span as the chain counts.
func (s Span) Epochs() deals.Epoch { return deals.Epoch(s) }

// String writes the time that the epochs take.
func (s Span) String() string { return shortDuration(time.Duration(s) * epochTime) }
