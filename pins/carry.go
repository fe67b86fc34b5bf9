package pins

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals"
)

// A Sponsor knows what accounts may have and can pay. All methods may be called concurrently.
type Sponsor interface {
	// Carry tells whether an account can have a pin's DAG, of which so much is known, and so many cold copies. What
	// that costs stays set aside for the pin until Settle. Asked again with more, only the difference is. Errors:
	// *ShortError; ErrUndecided, and nothing is fetched for the account for now; anything else means that it cannot tell
	// now, and what was begun goes on.
	Carry(ctx context.Context, account Account, pin ID, known Extent, copies int) error

	// Settle says that nothing has to be set aside for pins any more. For those for which nothing is, it is no error.
	Settle(ctx context.Context, pins []ID) error
}

// ErrUndecided says that it cannot be told before somebody sees to it what an account may have.
var ErrUndecided = errors.New("what the account may have is not known")

// An Extent is how large a DAG is, as far as it was fetched.
type Extent struct{ Blocks, Bytes int64 }

// A ShortError tells what an account is short of: a reason of package spec, and words for users. Others who have
// pinned the DAG may be shown them where there are very many, so they say nothing of the account but this.
type ShortError struct{ Reason, Problem string }

func (e *ShortError) Error() string { return e.Reason + ": " + e.Problem }

const (
	carryEvery    = 250 * time.Millisecond
	carryFirst    = 1 << 20 // bytes, and a thousandth of it in blocks, before which nobody is asked
	carryAccounts = 100     // that are asked at once; once one can have it the others ride with it
	maxRefusals   = 10_000  // accounts that are told their own reason; the others are told that of the root

	carryOthers   = 2 * time.Second  // in which the others are asked, whose answers decide nothing any more
	releaseWithin = 10 * time.Second // what was refused, though nobody waits for it any more
)

// carried is hold, for as long as somebody who wants the DAG can have it. What nobody can have is refused, to each with its
// own reason; that of the root is the one of the account that asked last. What was held before is not asked about: it is
// there for what was paid already.
func (d *scheduler) carried(j *job) error {
	if d.s.cfg.Sponsor == nil || j.root.Lost {
		return d.hold(j.ctx, j)
	}
	ctx, cancel := context.WithCancelCause(j.ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		d.watchSize(ctx, j, cancel)
	}()
	err := d.hold(ctx, j)
	cancel(nil)
	<-watched
	if err != nil {
		return err
	}
	err = d.s.carry(j.ctx, j, j.progress.extent())
	if short, ok := errors.AsType[*shortfall](err); ok {
		var problem error
		if short.kept, problem = d.s.store.awaited(j.ctx, j.root, short.wantedAt); short.kept {
			return err
		}
		err = errors.Join(err, problem)
	}
	if err != nil {
		// The row waits, so that a collection keeps the blocks if the pin of somebody else comes now.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), releaseWithin)
		defer cancel()
		return errors.Join(err, d.s.hot.Release(ctx, j.root.CID))
	}
	return nil
}

// watchSize ends a walk as soon as nobody can have what it has fetched.
func (d *scheduler) watchSize(ctx context.Context, j *job, end context.CancelCauseFunc) {
	ticker := time.NewTicker(carryEvery)
	defer ticker.Stop()
	for next := (Extent{carryFirst >> 10, carryFirst}); ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := j.progress.extent()
		if now.Bytes < next.Bytes && now.Blocks < next.Blocks {
			continue
		}
		next.Bytes = now.Bytes + max(carryFirst, now.Bytes/8)
		next.Blocks = now.Blocks + max(carryFirst>>10, now.Blocks/8)
		if err := d.s.carry(ctx, j, now); err != nil {
			end(err)
			return
		}
	}
}

// A shortfall refuses a DAG that nobody can have who wanted it as of a time.
type shortfall struct {
	Refused
	wantedAt time.Time          // of the root
	kept     bool               // it was not released, so it is not given up yet
	own      map[Account]string // what each is told, of the first that were asked
}

func (e *shortfall) Unwrap() error { return &e.Refused }

// refusals is what each account is told, nil if that is the same for all.
func (e *shortfall) refusals() *map[Account]string {
	for _, reason := range e.own {
		if reason != e.Reason {
			return &e.own
		}
	}
	return nil
}

// carry asks every account that wants a root whether it can have so much of it, a page at a time, until one can. It returns
// a *shortfall when none can, and ErrUndecided when one perhaps can. When that cannot be told now the walk goes on; when ctx has
// ended the error is its cause, for then nobody has said yes.
func (s *Service) carry(ctx context.Context, j *job, known Extent) error {
	var refusal *ShortError
	own := map[Account]string{}
	var asked, undecided bool
	w := wanting{root: j.root, first: cmp.Or(j.payer, j.root.Account), below: math.MaxInt64}
	for !w.done {
		list, next, err := s.store.wanters(ctx, w, carryAccounts)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			s.log.Warn("looking up who wants a dag", "cid", j.root.CID, "err", err)
			return nil
		}
		for i, p := range list {
			var short *ShortError
			err := s.ask(ctx, j, p, known)
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case errors.Is(err, ErrUndecided):
				undecided = true
				continue
			case errors.As(err, &short):
				if refusal == nil || p.Account == j.root.Account {
					refusal = short
				}
				if len(own) < maxRefusals {
					own[p.Account] = short.Error()
				}
				continue
			case err == nil:
				j.payer = p.Account
			}
			s.askOthers(ctx, j, list[i+1:], known)
			return nil
		}
		asked, w = asked || len(list) > 0, next
	}
	switch {
	case !asked:
		return nil
	case undecided:
		return ErrUndecided
	}
	return &shortfall{Refused: Refused{refusal.Error()}, wantedAt: w.wantedAt, own: own}
}

// askOthers has set aside what others need for a DAG that somebody can have. Nobody waits long for what they say.
func (s *Service) askOthers(ctx context.Context, j *job, others []Pin, known Extent) {
	ctx, cancel := context.WithTimeout(ctx, carryOthers)
	defer cancel()
	for _, p := range others {
		_ = s.ask(ctx, j, p, known) // it rides along whatever it has
	}
}

// ask asks for the newest pin of an account.
func (s *Service) ask(ctx context.Context, j *job, p Pin, known Extent) error {
	// What was set aside for a pin that has gone meanwhile must not be missing for the one that has replaced it.
	if before, ok := j.asked[p.Account]; ok && before != p.ID {
		s.settlePins(ctx, j.root, []ID{before})
	}
	if j.asked == nil {
		j.asked = map[Account]ID{}
	}
	j.asked[p.Account] = p.ID
	err := s.cfg.Sponsor.Carry(ctx, p.Account, p.ID, known, p.Cold.Wanted)
	var short *ShortError
	if err != nil && !errors.Is(err, ErrUndecided) && !errors.As(err, &short) && ctx.Err() == nil {
		s.log.Warn("asking whether an account can have a dag", "cid", j.root.CID, "err", err)
	}
	return err
}

// settle gives back what was set aside while a DAG was fetched.
func (s *Service) settle(ctx context.Context, j *job) {
	if len(j.asked) > 0 {
		s.settlePins(ctx, j.root, slices.Sorted(maps.Values(j.asked)))
	}
}

func (s *Service) settlePins(ctx context.Context, root Root, pins []ID) {
	if err := s.cfg.Sponsor.Settle(ctx, pins); err != nil && ctx.Err() == nil {
		s.log.Warn("giving back what was set aside for a dag; it is tried again later", "cid", root.CID, "err", err)
	}
}

// Waiting returns those of the pins that wait for their data.
func (s *Service) Waiting(ctx context.Context, pins []ID) ([]ID, error) {
	waiting, err := s.store.waiting(ctx, pins)
	if err != nil {
		return nil, fmt.Errorf("looking for pins that wait: %w", err)
	}
	return waiting, nil
}

// MaxWishers is the most accounts that Wishers returns.
const MaxWishers = 100

// Wishers returns accounts whose pins have a wish. It joins the transaction of ctx.
func (s *Service) Wishers(ctx context.Context, w deals.Wish) ([]Account, error) {
	list, err := s.store.wishers(ctx, w, MaxWishers)
	if err != nil {
		return nil, fmt.Errorf("looking for who wants cold copies of %s: %w", w.Root, err)
	}
	return list, nil
}

// Named returns those of roots that pins of any of the accounts name.
func (s *Service) Named(ctx context.Context, accounts []Account, roots []cid.Cid) ([]cid.Cid, error) {
	list, err := s.store.named(ctx, accounts, roots)
	if err != nil {
		return nil, fmt.Errorf("looking for who has pins of %d dags: %w", len(roots), err)
	}
	return list, nil
}
