package pins

import (
	"context"
	"fmt"
	"iter"
	"time"
)

// A Holding is what a pin occupies over a time. When its figures change, another one of the same pin follows, which begins
// where this one ends.
type Holding struct {
	Pin     ID
	Account Account
	Bytes   int64 // of its DAG
	Hot     bool  // held hot
	Copies  int64 // proven cold copies
	Since   time.Time
	Until   time.Time // zero while the figures hold
	Removed bool      // the pin was removed at Until
}

// holdingsPage is how many pins' holdings are read at once.
const holdingsPage = 500

// Holdings yields what ended and was not forgotten, and what is stored now if current is set; each pin's together, in the
// order of time.
func (s *Service) Holdings(ctx context.Context, current bool) iter.Seq2[Holding, error] {
	return func(yield func(Holding, error) bool) {
		after, more := ID(""), true
		for more {
			var page []Holding
			var err error
			page, after, more, err = s.store.holdings(ctx, after, current)
			if err != nil {
				yield(Holding{}, fmt.Errorf("reading what pins occupy: %w", err))
				return
			}
			for _, h := range page {
				if !yield(h, nil) {
					return
				}
			}
		}
	}
}

// ForgetHoldings removes holdings that have ended. What is forgotten already is no error.
func (s *Service) ForgetHoldings(ctx context.Context, ended []Holding) error {
	if err := s.store.forgetHoldings(ctx, ended); err != nil {
		return fmt.Errorf("forgetting what pins occupied: %w", err)
	}
	return nil
}

// A Stock is what the pins of an account occupy together. A DAG that two of them name counts twice.
type Stock struct {
	Hot  int64 // bytes that are held hot
	Cold int64 // bytes x proven cold copies
}

// Stock returns what the pins of an account occupy, up to a minute late for a large one.
func (s *Service) Stock(ctx context.Context, account Account) (Stock, error) {
	stock, err := s.stocks.of(ctx, account)
	if err != nil {
		return Stock{}, fmt.Errorf("adding up what account %d occupies: %w", account, err)
	}
	return stock, nil
}

// Kept returns what those pins of an account occupy that were not let go. It reads all its holdings.
func (s *Service) Kept(ctx context.Context, account Account) (Stock, error) {
	stock, err := s.store.kept(ctx, account)
	if err != nil {
		return Stock{}, fmt.Errorf("adding up what account %d has that was not let go: %w", account, err)
	}
	return stock, nil
}
