package hooks

import "context"

// Pass works for all hooks at once.
func (s *Service) Pass(ctx context.Context) error { return s.pass(ctx) }

// Sweep forgets what is over at once.
func (s *Service) Sweep(ctx context.Context) error { return s.sweep(ctx) }
