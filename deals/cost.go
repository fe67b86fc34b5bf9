package deals

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/google/uuid"
)

// A Cost is what a deal has cost on chain for one of the roots in its piece, from one epoch to another. No epoch of a deal
// is reported twice for a root, and the costs of its roots add up to what the deal costs.
type Cost struct {
	Deal     uuid.UUID
	Wish     Wish            // the root, under the terms that the deal is for now
	Amount   abi.TokenAmount // attoFIL, above zero
	Epoch    Epoch           // the first one; with the deal and the root it names the cost
	From, To time.Time       // when the epochs began and ended, to within a few epochs
}

// Bill names who takes what deals cost: each day's part once it is final, and the last part when a deal is over. take is
// called in the transaction, which ctx carries, that records it as taken; its error undoes that, and the same is reported
// again later. Bill is called before Run.
func (s *Service) Bill(take func(ctx context.Context, costs []Cost) error) { s.store.bill = take }

// Unbilled is since when deals have costs that were not taken, or a time to come; known is false where this process does not
// see the chain. While there are none it is now.
func (s *Service) Unbilled(ctx context.Context) (since time.Time, known bool, err error) {
	height := s.store.height()
	if height == 0 {
		return time.Time{}, false, nil
	}
	oldest, some, err := s.store.oldestCost(ctx)
	if err != nil {
		return time.Time{}, false, fmt.Errorf("looking for costs that are not taken: %w", err)
	}
	if !some {
		return s.now(), true, nil
	}
	return s.store.calendar(height).at(oldest), true, nil
}

const (
	costBatch = 100              // deals whose costs one transaction takes
	costTime  = 10 * time.Second // for handing over costs, before the chain is looked at again
)

// billSome hands over what deals have cost up to the last midnight, and up to their end where they are over. It tells
// whether there is more. compared is the final tipset with which all deals were compared last.
func (s *Service) billSome(ctx context.Context, heads Heads, compared Epoch) (more bool, err error) {
	if s.store.bill == nil {
		return false, nil
	}
	calendar := s.store.calendar(heads.Head)
	for began := s.now(); s.now().Sub(began) < costTime; {
		n, err := s.store.billSome(ctx, calendar, compared, costBatch)
		if err != nil {
			return true, fmt.Errorf("handing over what deals cost: %w", err)
		}
		if n == 0 {
			return false, nil
		}
	}
	return true, nil
}

// A calendar tells when epochs are: head is the one that is now.
type calendar struct {
	head  Epoch
	now   time.Time
	epoch time.Duration
}

func (s *store) calendar(head Epoch) calendar {
	return calendar{head, s.now(), cmp.Or(s.policy.EpochTime, Defaults().EpochTime)}
}

func (c calendar) at(e Epoch) time.Time { return c.now.Add(-time.Duration(c.head-e) * c.epoch) }

// day is how long EpochsPerDay take: a day of UTC, unless the chain is a faster one.
func (c calendar) day() time.Duration { return EpochsPerDay * c.epoch }

// jitter is by how many epochs two looks at the clock may differ at most: a node's head is now and then some epochs behind,
// and a day is not to end twice for that.
const jitter = EpochsPerDay / 48

// midnight is the first epoch of the day after that of an epoch.
func (c calendar) midnight(e Epoch) Epoch {
	return max(e+1, c.first(c.at(e+jitter).Truncate(c.day()).Add(c.day())))
}

// morning is the first epoch of the day of an epoch.
func (c calendar) morning(e Epoch) Epoch { return c.first(c.at(e).Truncate(c.day())) }

// first is the first epoch at or after a time.
func (c calendar) first(t time.Time) Epoch {
	since := c.now.Sub(t)
	e := c.head - Epoch(since/c.epoch)
	if since < 0 && since%c.epoch != 0 {
		e++
	}
	return e
}

// A bill is a deal whose cost is to be handed over from one epoch on.
type bill struct {
	attempt AttemptID
	deal    uuid.UUID
	wish    Wish // of the root for which the deal was made
	piece   int64
	price   abi.TokenAmount
	charged Epoch // the cost up to it was handed over
	ends    Epoch
	over    bool  // nothing is to come after ends
	proven  Epoch // up to when it was active for certain
}

// next is the epoch up to which a bill is handed over now, at most to the end of a day.
func (b bill) next(c calendar) Epoch {
	last := b.ends
	if !b.over {
		last = min(last, c.morning(b.proven))
	}
	return min(last, c.midnight(b.charged))
}

// A part is a root that lies in a piece.
type part struct {
	wish   Wish
	length int64
}

// costs are what the parts of a bill have cost up to an epoch.
func (b bill) costs(to Epoch, parts []part, c calendar) []Cost {
	total := big.Mul(b.price, big.NewInt(int64(to-b.charged)))
	var costs []Cost
	for i, amount := range divide(total, parts) {
		if amount.Sign() > 0 {
			costs = append(costs, Cost{Deal: b.deal, Wish: parts[i].wish, Amount: amount, Epoch: b.charged, From: c.at(b.charged), To: c.at(to)})
		}
	}
	return costs
}

// divide divides an amount by the lengths of parts; what is left by rounding down is the longest one's.
func divide(total abi.TokenAmount, parts []part) []abi.TokenAmount {
	sum, longest := big.Zero(), 0
	for i, p := range parts {
		sum = big.Add(sum, big.NewInt(p.length))
		if p.length > parts[longest].length {
			longest = i
		}
	}
	shares, rest := make([]abi.TokenAmount, len(parts)), total
	for i, p := range parts {
		shares[i] = big.Zero()
		if sum.Sign() > 0 {
			shares[i] = big.Div(big.Mul(total, big.NewInt(p.length)), sum)
		}
		rest = big.Sub(rest, shares[i])
	}
	if len(shares) > 0 {
		shares[longest] = big.Add(shares[longest], rest)
	}
	return shares
}

// A reckoning says what an observation means for the cost of a deal.
type reckoning int

const (
	unchanged reckoning = iota
	begins              // it is active
	lapses              // it has run to its end, unless that is in doubt
	stops               // it was dropped when nobody knows: what it cost up to the last look that has shown it is certain
	slashed             // it was dropped at an epoch that the chain tells
)

// reckon has no side effects. Before it was active a deal costs nothing.
func reckon(before, after Attempt, o Observation) reckoning {
	switch {
	case before.State == after.State || after.Price.Nil() || after.Price.Sign() <= 0:
		return unchanged
	case after.State == Active:
		return begins
	case after.State == Terminated && o.Deal != nil && o.Deal.SlashEpoch >= 0 && o.Deal.SectorStart >= 0:
		return slashed
	case before.State == Active && after.State == Expired:
		return lapses
	case before.State == Active && after.State.Final():
		return stops
	}
	return unchanged
}
