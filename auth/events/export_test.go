package events

import "context"

// Number gives numbers at once.
func (s *Service) Number(ctx context.Context) error { return s.number(ctx) }

// Sweep removes what is old at once.
func (s *Service) Sweep(ctx context.Context) error { return s.sweep(ctx) }
