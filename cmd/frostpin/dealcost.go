package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
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

// A costShare is what a pin's account pays of a cost.
type costShare struct {
	pin     pins.ID
	account pins.Account
	attoFIL *big.Int
}

// divideCost divides a cost by time, and at each moment equally by the accounts that claim it then; of an account's pins the
// oldest carries it. Rounding loses nothing: what is no account's is that of the time in which there was none.
func divideCost(c deals.Cost, claims []pins.Claim) []costShare {
	slices.SortFunc(claims, func(a, b pins.Claim) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), a.Since.Compare(b.Since), cmp.Compare(a.Pin, b.Pin))
	})
	shares := make(map[pins.ID]*costShare)
	var order []*costShare
	length := int64(c.To.Sub(c.From))
	done := new(big.Int)
	moments := momentsOf(c, claims)
	for i, from := range moments[:len(moments)-1] {
		until := part(c.Amount.Int, int64(moments[i+1].Sub(c.From)), length)
		amount := new(big.Int).Sub(until, done)
		done = until
		payers := claimants(claims, from)
		for n, claim := range payers {
			share := shares[claim.Pin]
			if share == nil {
				share = &costShare{claim.Pin, claim.Account, new(big.Int)}
				shares[claim.Pin], order = share, append(order, share)
			}
			share.attoFIL.Add(share.attoFIL, part(amount, int64(n+1), int64(len(payers))))
			share.attoFIL.Sub(share.attoFIL, part(amount, int64(n), int64(len(payers))))
		}
	}
	var out []costShare
	for _, share := range order {
		if share.attoFIL.Sign() > 0 {
			out = append(out, *share)
		}
	}
	return out
}

// part is amount * n / of, rounded down.
func part(amount *big.Int, n, of int64) *big.Int {
	v := new(big.Int).Mul(amount, big.NewInt(n))
	return v.Quo(v, big.NewInt(of))
}

// momentsOf are the beginning of a cost, the moments in it at which claims begin or end, and its end.
func momentsOf(c deals.Cost, claims []pins.Claim) []time.Time {
	moments := map[int64]time.Time{c.From.UnixNano(): c.From, c.To.UnixNano(): c.To}
	for _, claim := range claims {
		for _, at := range []time.Time{claim.Since, claim.Until} {
			if at.After(c.From) && at.Before(c.To) {
				moments[at.UnixNano()] = at
			}
		}
	}
	return slices.SortedFunc(maps.Values(moments), time.Time.Compare)
}

// claimants are the first claim of each account that there is at a moment; claims are sorted by account.
func claimants(claims []pins.Claim, at time.Time) (first []pins.Claim) {
	for _, claim := range claims {
		there := !claim.Since.After(at) && (claim.Until.IsZero() || claim.Until.After(at))
		if there && (len(first) == 0 || first[len(first)-1].Account != claim.Account) {
			first = append(first, claim)
		}
	}
	return first
}
