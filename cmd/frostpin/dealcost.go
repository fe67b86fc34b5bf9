package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"time"

	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
)

// claimsFor is how long it is remembered at least who wanted cold copies: the chain may show a deal only long after it has
// begun to cost.
const claimsFor = 30 * 24 * time.Hour

// Take charges what deals have cost to the accounts that wanted their copies at that time. What nobody wanted any more is
// nobody's. It joins the transaction of ctx.
func (s *sponsor) Take(ctx context.Context, costs []deals.Cost) error {
	var charges []ledger.Charge
	for _, c := range costs {
		claims, err := s.pins().Claims(ctx, c.Wish, c.From, c.To)
		if err != nil {
			return err
		}
		for _, share := range divideCost(c, claims) {
			charges = append(charges, ledger.Charge{
				Account: int64(share.account), Kind: ledger.DealCost, Qty: share.attoFIL, Ref: string(share.pin),
				At:  c.From.Add(c.To.Sub(c.From) / 2), // a day's epochs begin and end near midnight, and this is in the day
				Key: fmt.Sprintf("%s/%s/%d/%s", ledger.DealCost, c.Deal, c.Epoch, share.pin),
			})
		}
	}
	return s.books.Count(ctx, charges...)
}

// forgetClaims forgets who wanted cold copies when all that it decides about is charged.
func (s *sponsor) forgetClaims(ctx context.Context, cold *coldTier, log *slog.Logger) {
	if cold == nil {
		return
	}
	since, known, err := cold.Unbilled(ctx)
	if err == nil && known {
		if before := s.now().Add(-claimsFor); since.After(before) {
			since = before
		}
		err = s.pins().ForgetClaims(ctx, since)
	}
	if err != nil && ctx.Err() == nil {
		log.Error("forgetting who wanted cold copies; it is tried again", "err", err)
	}
}

// sharesEach is how many pins of one account carry a cost each: every share is an entry in the ledger, and whoever adds and
// removes pins all day would have thousands. What others would carry, the first one does.
const sharesEach = 8

// A costShare is what a pin's account pays of a cost.
type costShare struct {
	pin     pins.ID
	account pins.Account
	attoFIL *big.Int
}

// divideCost divides a cost by time, and at each moment equally by the accounts that claim it then; of an account's pins the
// oldest carries it. Rounding loses nothing: what is no account's is that of the time in which there was none.
func divideCost(c deals.Cost, claims []pins.Claim) []costShare {
	spans := spansOf(c, claims)
	total := weigh(c, spans)
	var shares []costShare
	first := 0 // of the account
	sum, given := new(big.Int), new(big.Int)
	for i, s := range spans {
		if i > 0 && s.Account != spans[i-1].Account {
			first = len(shares)
		}
		// Rounding the sum keeps all that an account pays within one attoFIL, however many spans it has.
		sum.Add(sum, s.raw)
		if i == len(spans)-1 {
			sum = total
		}
		upTo := new(big.Int).Rsh(sum, fraction)
		amount := new(big.Int).Sub(upTo, given)
		given = upTo
		switch {
		case amount.Sign() == 0:
		case len(shares) == first+sharesEach:
			shares[first].attoFIL.Add(shares[first].attoFIL, amount)
		default:
			shares = append(shares, costShare{s.Pin, s.Account, amount})
		}
	}
	return shares
}

// A span is the part of the time of a cost in which a claim is the oldest of its account. A claim has one at most: it begins
// when the older ones have ended.
type span struct {
	pins.Claim
	from, to time.Duration // since the beginning of the cost
	raw      *big.Int      // what it pays, in attoFIL / 2^fraction
}

// spansOf sorts claims and returns their spans, by account and time.
func spansOf(c deals.Cost, claims []pins.Claim) []span {
	slices.SortFunc(claims, func(a, b pins.Claim) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), a.Since.Compare(b.Since), cmp.Compare(a.Pin, b.Pin))
	})
	var spans []span
	var from time.Time // when the older claims of the account have ended
	for i, claim := range claims {
		if i == 0 || claim.Account != claims[i-1].Account {
			from = c.From
		}
		if claim.Since.After(from) {
			from = claim.Since
		}
		until := claim.Until
		if until.IsZero() || until.After(c.To) {
			until = c.To
		}
		if from.Before(until) {
			spans = append(spans, span{Claim: claim, from: from.Sub(c.From), to: until.Sub(c.From)})
			from = until
		}
	}
	return spans
}

// fraction is how many bits of a fraction of an attoFIL are kept until all is added up: each of millions of spans and moments
// loses less than the last of them.
const fraction = 64

// weigh sets what each span pays, rounded down, and returns what all of them pay together: the cost of the time in which
// there are any. It goes once through the moments at which spans begin or end: a span pays what an account that was there all
// the time would have paid up to the span's end, less that up to its beginning.
func weigh(c deals.Cost, spans []span) *big.Int {
	type edge struct {
		at     time.Duration
		span   *span
		begins bool
	}
	edges := make([]edge, 0, 2*len(spans))
	for i := range spans {
		s := &spans[i]
		edges = append(edges, edge{s.from, s, true}, edge{s.to, s, false})
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.at, b.at) })
	amount, length := new(big.Int).Lsh(c.Amount.Int, fraction), big.NewInt(int64(c.To.Sub(c.From)))
	total, perHead, done := new(big.Int), new(big.Int), new(big.Int)
	heads := int64(0)
	for _, e := range edges {
		until := big.NewInt(int64(e.at))
		until.Mul(until, amount).Quo(until, length)
		if heads > 0 {
			piece := done.Sub(until, done)
			total.Add(total, piece)
			perHead.Add(perHead, piece.Quo(piece, big.NewInt(heads)))
		}
		done = until
		if e.begins {
			heads++
			e.span.raw = new(big.Int).Neg(perHead)
		} else {
			heads--
			e.span.raw.Add(e.span.raw, perHead)
		}
	}
	return total
}
