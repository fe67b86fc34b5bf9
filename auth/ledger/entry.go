package ledger

import (
	"errors"
	"math/big"
	"strings"
	"time"
	"unicode/utf8"
)

// What the functions of this package answer. Everything else is a failure of the database.
var (
	ErrFunds     = errors.New("the available balance does not suffice")
	ErrInvalid   = errors.New("not acceptable")
	ErrKeyReused = errors.New("the key belongs to another entry")
	ErrNotFound  = errors.New("not found")
	ErrPlan      = errors.New("its prices cannot be read")
	ErrSignature = errors.New("the signature is not valid")
)

// A Kind says what an entry is for. The zero value is invalid.
type Kind string

// The kinds of entries. The first five are metered: their quantities are counted for every account, whether it pays or
// not.
const (
	StorageHot  Kind = "storage_byte_seconds"      // bytes held hot x seconds
	StorageCold Kind = "storage_cold_byte_seconds" // bytes x proven cold copies x seconds
	EgressHot   Kind = "egress_bytes_hot"          // bytes sent to readers from the hot tier
	EgressCold  Kind = "egress_bytes_cold"         // bytes sent to readers that came from Filecoin
	DealCost    Kind = "deal_attofil"              // attoFIL that deals have cost on chain
	Topup       Kind = "credit"                    // paid in
	Adjustment  Kind = "adjustment"                // an operator's correction, either way
)

// Metered are the kinds that have quantities and prices.
func Metered() []Kind { return []Kind{StorageHot, StorageCold, EgressHot, EgressCold, DealCost} }

// Unit is what a quantity of the kind counts.
func (k Kind) Unit() string {
	switch k {
	case StorageHot, StorageCold:
		return "byte_second"
	case EgressHot, EgressCold:
		return "byte"
	case DealCost:
		return "attofil"
	case Topup, Adjustment:
		return "credit"
	}
	return ""
}

// An Entry is one line of the ledger. It is never changed and never removed; a mistake is corrected by another one.
type Entry struct {
	ID      int64 // grows within an account, as do At and nothing else
	Account int64
	Kind    Kind
	Qty     *big.Int // what was used, in Unit; 0 for money
	Free    *big.Int // the part of Qty that an allowance covered
	Unit    string
	Price   Amount // per GiB and 30 days, per GiB, or per FIL; 0 for money
	Amount  Amount // what it did to the balance: charges are negative
	Waived  Amount // what it would have cost beyond the account's floor, and does not
	Balance Amount // of the account, after it
	Ref     string // what it is about: a pin, a deal, an operator's words
	Key     string // unique; the same event has the same key, however often it is reported
	At      time.Time
}

// A Charge is something metered that an account has used.
type Charge struct {
	Account int64
	Kind    Kind
	Qty     *big.Int  // in the kind's unit, above zero
	At      time.Time // when it was used: decides which day counts it, and which month's allowance
	Ref     string
	Key     string
}

// maxText is the longest key or reference, in bytes.
const maxText = 256

func (c Charge) check() error {
	switch {
	case denominator(c.Kind) == nil:
		return invalid("a charge is of a metered kind, not %q", c.Kind)
	case c.Qty == nil || c.Qty.Sign() <= 0:
		return invalid("a charge has a quantity above zero")
	case c.Qty.BitLen() > maxQtyBits:
		return invalid("a charge of %d bits", c.Qty.BitLen())
	case c.At.IsZero():
		return invalid("a charge has a time")
	}
	return checkTexts(c.Key, c.Ref)
}

// storable tells whether every database takes a text.
func storable(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

func checkTexts(key, ref string) error {
	if key == "" || len(key) > maxText || len(ref) > maxText {
		return invalid("a key has 1 to %d bytes, a reference at most as many", maxText)
	}
	if !storable(key) || !storable(ref) {
		return invalid("a key and a reference are text without NUL")
	}
	return nil
}
