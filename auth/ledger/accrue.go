package ledger

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math/big"
	"slices"
	"time"
)

// A Holding is what a pin occupies over a time. When its figures change, another one of the same pin follows, which begins
// where this one ends.
type Holding struct {
	Pin     string
	Account int64
	Bytes   int64     // the logical size of its DAG
	Hot     bool      // held hot
	Copies  int64     // proven cold copies
	Since   time.Time // from when these figures hold, never before the pin was held; whole seconds count
	Until   time.Time // until when they held; zero while they do
	Removed bool      // the pin was deleted at Until: nothing follows
}

// A Source tells what accounts hold.
type Source interface {
	// Holdings yields what is held and what has ended since it was forgotten, each pin's in the order of Since and
	// together. It must not be called in a transaction, and holds none open between two of them.
	Holdings(ctx context.Context) iter.Seq2[Holding, error]
	// Forget is told that holdings that have ended are accrued up to their end. It may be told so twice. What it has
	// forgotten is not yielded again.
	Forget(ctx context.Context, ended []Holding) error
}

// accrualPeriod is how long a pin is held before its storage is booked. Periods begin at midnight UTC, so that each belongs
// to one day and one month.
const accrualPeriod = 24 * time.Hour

const (
	accrualBatch     = 500  // holdings that share a transaction
	accrualIntervals = 2000 // intervals that share one: after a long pause a pin has many
)

// An interval is a piece of a holding, in Unix seconds. Its pin and start are its identity.
type interval struct{ from, to int64 }

// plan divides what is not accrued yet of a holding into intervals at the ends of periods and of past plans, at most limit
// of them. A period that is not over is left for later, unless the holding ended in it. Fractions of a second at both ends
// are given away.
func plan(h Holding, accrued int64, now time.Time, limit int, past []Plan) (due []interval) {
	const period = int64(accrualPeriod / time.Second)
	from := max(accrued, ceilSeconds(h.Since))
	end := now.Unix() / period * period
	if h.ended(now) {
		end = h.Until.Unix()
	}
	for from < end && len(due) < limit {
		to := min(end, (from/period+1)*period)
		for _, p := range past {
			if cut := ceilSeconds(p.Until); cut > from {
				to = min(to, cut)
			}
		}
		due = append(due, interval{from, to})
		from = to
	}
	return due
}

func (h Holding) ended(now time.Time) bool { return !h.Until.IsZero() && !h.Until.After(now) }

func ceilSeconds(t time.Time) int64 {
	s := t.Unix()
	if t.Nanosecond() > 0 {
		s++
	}
	return s
}

// charges are what an interval of a holding costs: nothing, hot storage, cold storage or both.
func (h Holding) charges(i interval) (charges []Charge) {
	add := func(kind Kind, copies int64) {
		qty := new(big.Int).Mul(byteSeconds(h.Bytes, i.to-i.from), big.NewInt(copies))
		if qty.Sign() > 0 {
			charges = append(charges, Charge{
				Account: h.Account, Kind: kind, Qty: qty, At: time.Unix(i.from, 0).UTC(), Ref: h.Pin,
				Key: fmt.Sprintf("%s/%s/%d", kind, h.Pin, i.from),
			})
		}
	}
	if h.Hot {
		add(StorageHot, 1)
	}
	add(StorageCold, h.Copies)
	return charges
}

func (h Holding) check() error {
	if h.Bytes < 0 || h.Copies < 0 || h.Since.Unix() <= 0 || (h.Removed && h.Until.IsZero()) {
		return invalid("the holding of pin %q has %d bytes and %d copies since %s", h.Pin, h.Bytes, h.Copies, h.Since)
	}
	return checkTexts(h.Pin, "")
}

// Accrue books storage up to the last midnight (UTC), and up to its end where it has ended. It is one step of a loop:
// calling it once an hour is often enough, calling it twice or from two processes books nothing twice, and after a crash
// it goes on where it was. Accounts of a plan that cannot be read are passed over: what they have used is booked by the
// first call that can read it. Errors: ErrPlan, with the names of such plans, when all others are done.
func (s *Service) Accrue(ctx context.Context, source Source) error {
	unread := make(map[int64]string) // accounts, with their plans' names
	if err := s.bookDeferred(ctx, unread); err != nil {
		return err
	}
	batch := make([]Holding, 0, accrualBatch)
	for h, err := range source.Holdings(ctx) {
		if err == nil {
			err = h.check()
		}
		if err != nil {
			return fmt.Errorf("asking what is held: %w", err)
		}
		if batch = append(batch, h); len(batch) < accrualBatch {
			continue
		}
		if err := s.accrueBatch(ctx, source, batch, unread); err != nil {
			return err
		}
		batch = batch[:0]
	}
	if err := s.accrueBatch(ctx, source, batch, unread); err != nil {
		return err
	}
	if len(unread) > 0 {
		names := slices.Compact(slices.Sorted(maps.Values(unread)))
		return fmt.Errorf("what accounts of the plans %q have used waits: %w", names, ErrPlan)
	}
	return nil
}

func (s *Service) accrueBatch(ctx context.Context, source Source, batch []Holding, unread map[int64]string) error {
	now := s.now()
	since, err := s.dueSince(ctx, batch, now)
	if err != nil {
		return fmt.Errorf("looking for what is to accrue of %d holdings: %w", len(batch), err)
	}
	plans, err := s.terms(ctx, since)
	if err != nil {
		return err
	}
	for account, t := range plans {
		if t.Unknown {
			unread[account] = t.Name
		}
	}
	// Until the round is over, even if its plan is mended meanwhile: what a pin was before is accrued before what it is.
	waits := func(account int64) bool { _, yes := unread[account]; return yes }
	batch = slices.DeleteFunc(batch, func(h Holding) bool { return waits(h.Account) })
	maps.DeleteFunc(plans, func(account int64, _ terms) bool { return waits(account) })
	var ended []Holding
	var removed []string
	for _, h := range batch {
		if h.ended(now) {
			ended = append(ended, h)
			if h.Removed {
				removed = append(removed, h.Pin)
			}
		}
	}
	for more := len(plans) > 0; more && err == nil; {
		more, err = s.insertAccruals(ctx, batch, plans, now)
	}
	if err != nil {
		return fmt.Errorf("accruing the storage of %d holdings: %w", len(batch), err)
	}
	if len(ended) == 0 {
		return nil
	}
	if err := source.Forget(ctx, ended); err != nil {
		return fmt.Errorf("forgetting %d holdings that have ended: %w", len(ended), err)
	}
	// Only now: until its source has forgotten it, the row is what keeps a removed pin from being accrued again.
	if err := s.retireAccruals(ctx, removed); err != nil {
		return fmt.Errorf("forgetting %d pins that were removed: %w", len(removed), err)
	}
	return nil
}
