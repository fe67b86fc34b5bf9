package pins

import (
	"context"
	"fmt"
	"time"

	"github.com/frostpin/frostpin/deals"
)

// A Claim says that a pin wanted cold copies.
type Claim struct {
	Pin     ID
	Account Account
	Since   time.Time
	Until   time.Time // when it was removed; zero: it is there
}

// Claims returns the pins that had a wish at any time from one to another, also those that were removed meanwhile, unless
// that was forgotten. It joins the transaction of ctx.
func (s *Service) Claims(ctx context.Context, w deals.Wish, from, to time.Time) ([]Claim, error) {
	list, err := s.store.claims(ctx, w, from, to)
	if err != nil {
		return nil, fmt.Errorf("looking for who wanted cold copies of %s: %w", w.Root, err)
	}
	return list, nil
}

// ForgetClaims removes what is remembered of pins that were removed before a time.
func (s *Service) ForgetClaims(ctx context.Context, before time.Time) error {
	if err := s.store.forgetDepartures(ctx, before); err != nil {
		return fmt.Errorf("forgetting who wanted cold copies: %w", err)
	}
	return nil
}
