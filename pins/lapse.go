package pins

import (
	"context"
	"fmt"
	"time"

	"github.com/frostpin/frostpin/spec"
)

const (
	lapsedReason = spec.ReasonInsufficientFunds + ": the balance stayed empty for longer than the grace period"
	lapseAtOnce  = 200 // pins of which one transaction lets the DAGs go
)

// lapseSkew is for how long after a pin was let go events of its DAG are still its own. Those that came before it, and the one
// that tells it, may carry a later time when another server has recorded them, whose clock is ahead.
const lapseSkew = 2 * time.Minute

// lapsedDAG is what a pin that was let go knows of its DAG.
func lapsedDAG(since time.Time) DAG {
	return DAG{Hot: HotGaveUp, Reason: fmt.Sprintf("%s, so it was let go on %s; a payment brings it back by itself, as far as it can still be found",
		lapsedReason, since.Format(time.DateOnly))}
}

// Dues say what of an account's pins may be let go.
type Dues struct {
	Hot, Cold bool             // which of both has a price: what costs nothing stays
	Owes      func(Stock) bool // tells whether so much costs anything; nil: however little is left does
}

// Lapse lets pins of an account go, the newest first, until what is left costs nothing, and tells how many went. Their rows
// stay, failed, and no longer keep their DAGs here; those of other accounts do. Each transaction first asks may, whose
// context carries it, and ends the work when it says nil.
func (s *Service) Lapse(ctx context.Context, account Account, may func(ctx context.Context) (*Dues, error)) (lapsed int, err error) {
	for at := newestPin; ; {
		batch, err := s.store.lapse(ctx, account, at, may)
		if err != nil {
			return lapsed, fmt.Errorf("letting pins of account %d go: %w", account, err)
		}
		s.sched.orphaned(batch.orphans)
		lapsed, at = lapsed+batch.lapsed, batch.next
		if at == 0 {
			return lapsed, nil
		}
	}
}

// HasLapsed tells whether pins of an account were let go and not brought back.
func (s *Service) HasLapsed(ctx context.Context, account Account) (bool, error) {
	found, err := s.store.hasLapsed(ctx, account)
	if err != nil {
		return false, fmt.Errorf("looking for pins of account %d that were let go: %w", account, err)
	}
	return found, nil
}
