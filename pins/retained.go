package pins

import (
	"context"
	"fmt"
	"math"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/spec"
)

// KeptBack returns the bytes that are held for an account only until pins are held that have replaced others: what one pin
// has replaced, which goes when that is held, and the rest. Both are among what Usage and Stock tell.
func (s *Service) KeptBack(ctx context.Context, account Account, by ID) (mine, others int64, err error) {
	mine, others, err = s.store.keptBack(ctx, account, by)
	if err != nil {
		return 0, 0, fmt.Errorf("adding up what is kept of replaced pins of account %d: %w", account, err)
	}
	return mine, others, nil
}

// AllKept has all give way that can.
const AllKept = math.MaxInt64

// GiveWay lets DAGs go that are kept for an account because pins were replaced, the oldest first, until so many bytes are
// freed, and tells how many are: none, if all of them were not enough. What one pin has replaced stays, and so does what is
// asked for now.
func (s *Service) GiveWay(ctx context.Context, account Account, by ID, bytes int64, asked ...cid.Cid) (freed int64, err error) {
	freed, orphans, err := s.store.giveWay(ctx, account, by, bytes, canonicals(asked))
	if err != nil {
		return 0, fmt.Errorf("letting go what is kept of replaced pins of account %d: %w", account, err)
	}
	s.sched.orphaned(orphans)
	if freed > 0 {
		s.heldBytes.forget(account)
		s.stocks.forget(account)
	}
	return freed, nil
}

func canonicals(roots []cid.Cid) map[string]bool {
	texts := make(map[string]bool, len(roots))
	for _, root := range roots {
		if !root.Defined() {
			continue
		}
		texts[spec.Canonical(root).String()] = true
	}
	return texts
}
