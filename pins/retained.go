package pins

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/spec"
)

// ReplacedBy returns the bytes that are held for an account only because pins were replaced by one pin. KeptFor returns those
// that are only until the DAG of a pin is held, which other pins of that DAG may have replaced. CanYield returns those that are
// for the DAGs of others, without some. All are among what Usage and Stock tell.
func (s *Service) ReplacedBy(ctx context.Context, account Account, by ID) (int64, error) {
	bytes, err := s.store.replacedBy(ctx, account, by)
	return bytes, addingUp(account, err)
}

// KeptFor is told of at ReplacedBy.
func (s *Service) KeptFor(ctx context.Context, account Account, pin ID) (int64, error) {
	bytes, err := s.store.keptFor(ctx, account, pin)
	return bytes, addingUp(account, err)
}

// CanYield is told of at ReplacedBy. It reads all that is kept for the account.
func (s *Service) CanYield(ctx context.Context, account Account, by ID, but ...cid.Cid) (int64, error) {
	bytes, err := s.store.canYield(ctx, account, by, canonicals(but))
	return bytes, addingUp(account, err)
}

func addingUp(account Account, err error) error {
	if err != nil {
		err = fmt.Errorf("adding up what is kept of replaced pins of account %d: %w", account, err)
	}
	return err
}

// AllKept has all give way that can.
const AllKept = math.MaxInt64

// GiveWay lets DAGs go that are kept for an account because pins were replaced, the oldest first, until so many bytes are
// freed, and tells how many are: none, if all of them were not enough. What waits for the DAG of one pin stays, and so does
// what is asked for now.
func (s *Service) GiveWay(ctx context.Context, account Account, by ID, bytes int64, asked ...cid.Cid) (freed int64, err error) {
	started := time.Now()
	freed, orphans, err := s.store.giveWay(ctx, account, by, bytes, canonicals(asked))
	s.sched.orphaned(orphans)
	if freed > 0 {
		s.heldBytes.change(account, started, func(held int64) int64 { return max(0, held-freed) })
		s.stocks.change(account, started, func(stock Stock) Stock {
			stock.Hot = max(0, stock.Hot-freed)
			return stock
		})
	}
	if err != nil {
		return freed, fmt.Errorf("letting go what is kept of replaced pins of account %d: %w", account, err)
	}
	return freed, nil
}

// AddUpAgain has Usage and Stock tell of an account what was so after a time, and not up to a minute ago. It waits until that may
// be added up again.
func (s *Service) AddUpAgain(ctx context.Context, account Account, since time.Time) error {
	err := s.heldBytes.again(ctx, account, since)
	if err == nil {
		err = s.stocks.again(ctx, account, since)
	}
	if err != nil {
		return fmt.Errorf("waiting to add up again what account %d has: %w", account, err)
	}
	return nil
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
