package retrieval

import "context"

// Probe reads one copy back as is done by the way.
func (s *Service) Probe(ctx context.Context, c CopyRef) error { return s.probe(ctx, c) }
