package pins

import (
	"context"
	"fmt"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/spec"
)

// Known tells whether any pin names this DAG, however either spells it.
func (s *Service) Known(ctx context.Context, root cid.Cid) (bool, error) {
	found, err := s.store.known(ctx, spec.Canonical(root), 0)
	if err != nil {
		return false, fmt.Errorf("looking for pins of %s: %w", root, err)
	}
	return found, nil
}

// KnownTo tells whether a pin of this account does.
func (s *Service) KnownTo(ctx context.Context, account Account, root cid.Cid) (bool, error) {
	if account == 0 {
		return false, nil
	}
	found, err := s.store.known(ctx, spec.Canonical(root), account)
	if err != nil {
		return false, fmt.Errorf("looking for pins of %s: %w", root, err)
	}
	return found, nil
}
