package ledger

import (
	"context"
	"fmt"
)

// A TopUp says that an account had something to pay with when it was booked for. What waited for that is tried again by
// whoever runs a server: a command beside it does not know its settings.
type TopUp struct{ ID, Account int64 }

// TopUps returns those that were not forgotten yet above one, at most limit.
func (s *Service) TopUps(ctx context.Context, after int64, limit int) ([]TopUp, error) {
	list, err := s.selectTopUps(ctx, after, limit)
	if err != nil {
		return nil, fmt.Errorf("looking for accounts that can pay again: %w", err)
	}
	return list, nil
}

// ForgetTopUps forgets those for which everything was tried again.
func (s *Service) ForgetTopUps(ctx context.Context, list []TopUp) error {
	if len(list) == 0 {
		return nil
	}
	if err := s.deleteTopUps(ctx, list); err != nil {
		return fmt.Errorf("forgetting which accounts can pay again: %w", err)
	}
	return nil
}
