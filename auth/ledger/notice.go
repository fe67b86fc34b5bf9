package ledger

import (
	"context"
	"fmt"
)

// A Mood says how long the money of an account lasts.
type Mood string

// The moods of a balance.
const (
	Fine  Mood = "fine"
	Low   Mood = "low"   // for less than a week
	Empty Mood = "empty" // at its floor
)

// lowDays is the runway below which a balance is low.
const lowDays = 7

// Mood is how the balance stands.
func (o Outlook) Mood() Mood {
	switch {
	case o.RunwayDays < 0:
		return Fine // nothing costs anything
	case !o.Balance.Empty.IsZero() || o.Balance.Balance <= o.Balance.Floor:
		return Empty
	case o.RunwayDays < lowDays:
		return Low
	}
	return Fine
}

// Accounts returns accounts for which anything was ever booked, above one, at most limit.
func (s *Service) Accounts(ctx context.Context, after int64, limit int) ([]int64, error) {
	list, err := s.selectAccounts(ctx, after, limit)
	if err != nil {
		return nil, fmt.Errorf("listing accounts of the ledger: %w", err)
	}
	return list, nil
}
