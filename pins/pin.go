package pins

import (
	"time"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/spec"
)

// An ID names a request: a UUIDv7, never used twice.
type ID string

// An Account owns pins. What it is, auth knows.
type Account int64

// A Pin is one request: a promise to keep one DAG for one account.
type Pin struct {
	ID      ID
	Account Account
	spec.Request
	Created   time.Time      // UTC, whole milliseconds, unique in the account
	Expires   time.Time      // UTC, whole milliseconds; zero: it stays until it is deleted
	Lapsed    time.Time      // since when it is let go because it was not paid for; zero: it is kept
	DAG       DAG            // what is known of its blocks
	Verified  time.Time      // when its hot copy was last read and hashed; zero: not since it came
	Residence Residence      // whether its hot copy stays
	Terms     deals.TermsID  // what is wanted cold: Undecided, Uncopied, or recorded terms
	Cold      deals.Standing // what is known of its cold copies
	Rule      PinnedWhen     // the service's
	Waits     bool           // what is not here is not fetched now: the disk is nearly full
}

// Wish names the pin's cold copies; ok is false when it has none.
func (p Pin) Wish() (w deals.Wish, ok bool) {
	return deals.Wish{Root: p.Root, Terms: p.Terms}, p.Terms > 0
}

// refused tells whether the pin's account could not have the DAG, which may have another reason than its root says. Why a
// pin was let go is known already.
func (p Pin) refused() bool { return p.DAG.short() && p.Lapsed.IsZero() }

// A Page is one answer to a list query.
type Page struct {
	Count int64 // all that match, before the limit
	Pins  []Pin // at most the limit, and fewer once their texts have 4 MiB
}

// An Upload is what is remembered of a pin whose bytes came with the request, so that the request can be repeated.
type Upload struct {
	Key string // the caller's name for the request; empty: nothing is remembered
	Of  int    // how many pins the request makes

	Hold string // of BeginHold, which ends for this root when it has its pin; empty: none
	Size Extent // of the DAG, which the tier has held since then
}
