package pins

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/frostpin/frostpin/spec"
)

// Config says how much the service may do at once and how long it tries.
type Config struct {
	Limits    Limits        // bounds of every DAG
	Slots     int           // DAGs being walked at once
	FindRoots int           // roots being looked for at once
	FindSlice time.Duration // how long a root is looked for before others get their turn
	Policy    Policy
	Retain    time.Duration // how long a replaced DAG waits for its successor
	GCEvery   time.Duration // least time between two collections of the hot tier; 0 means never
	Instance  string        // names the data directory of this process among the servers of one database
	Exclusive bool          // the hot tier is ours alone: what no pin names is released

	Archive    Archive    // nil: nothing is stored cold
	Cold       ColdPolicy // what is wanted cold of a pin about which nobody says otherwise
	PinnedWhen PinnedWhen // what it takes for a pin to be `pinned`

	ColdSource ColdSource // reads cold copies back; nil: nothing is restored or let go
	VerifyRate int64      // bytes of held DAGs that are read and hashed in a second; 0: none

	HotQuota int64         // bytes of held DAGs; what is over it is let go where cold copies are proven. 0: no bound
	HotStay  time.Duration // how long a DAG stays after it came or was read

	Sponsor Sponsor // whether accounts can have what is fetched for them; nil: always
	Journal Journal // keeps what has become of DAGs; nil: nobody is told

	Room func() Room // how much may still be stored, cheap to ask; nil: there is always plenty
}

// lookBlocks and lookTime bound the look for blocks that are already here which a request waits for.
const (
	lookBlocks = 4096
	lookTime   = 2 * time.Second
)

// nodePause is how long requests do not look after the hot tier has not answered.
const nodePause = 2 * time.Second

// A Service takes requests and keeps the promises made. Its methods may be called concurrently.
type Service struct {
	cfg   Config
	store *store
	cold  *coldTerms
	hot   HotTier
	log   *slog.Logger
	now   func() time.Time
	sched *scheduler
	meter *meter
	// nodeAway is when the hot tier last failed to answer, in Unix nanoseconds: requests do not wait for it then.
	nodeAway  atomic.Int64
	heldBytes *sums[int64]
	stocks    *sums[Stock]
	blocked   atomic.Pointer[blockSet] // never nil
}

// New returns a Service that accepts requests at once; Run makes it work on them.
func New(cfg Config, db DB, hot HotTier, log *slog.Logger, now func() time.Time) *Service {
	s := &Service{
		cfg:   cfg,
		store: newStore(db, now, cfg.Archive, cfg.PinnedWhen),
		cold:  newColdTerms(cfg, NewPolicies(db, now)),
		hot:   hot,
		log:   log,
		now:   now,
	}
	s.store.source = cfg.Archive != nil && cfg.ColdSource != nil
	s.store.room = s.room
	s.heldBytes = newSums(s.store.heldBytes)
	s.stocks = newSums(s.store.stock)
	s.store.journal = cfg.Journal
	s.blocked.Store(&blockSet{})
	s.meter = newMeter(s)
	s.sched = newScheduler(s)
	return s
}

// Add records a request and returns it, durably, with what Decide has found for it. The pin is `pinned` at
// once if the DAG is already here, unless the service's rule asks for cold copies too.
func (s *Service) Add(ctx context.Context, account Account, r spec.Request, decided Decision) (Pin, error) {
	t := s.sched.ticket(account, r.Root)
	a, err := s.store.add(ctx, account, r, decided, t.claim)
	return s.begin(ctx, t, a, err)
}

// Replace removes a request and records another in one step. It returns ErrNotFound if there is no such request.
func (s *Service) Replace(ctx context.Context, account Account, id ID, r spec.Request, decided Decision) (Pin, error) {
	t := s.sched.ticket(account, r.Root)
	a, orphans, err := s.store.replace(ctx, account, id, r, decided, s.cfg.Retain, t.claim)
	s.sched.orphaned(orphans)
	return s.begin(ctx, t, a, err)
}

// Delete removes a request, whatever its state. It returns ErrNotFound if there is no such request.
func (s *Service) Delete(ctx context.Context, account Account, id ID) error {
	orphans, err := s.store.remove(ctx, account, id)
	s.sched.orphaned(orphans)
	return err
}

// DeleteAll removes all requests of an account and tells how many there were.
func (s *Service) DeleteAll(ctx context.Context, account Account) (removed int, err error) {
	for {
		ids, err := s.store.some(ctx, account)
		if err != nil || len(ids) == 0 {
			return removed, err
		}
		for _, id := range ids {
			err := s.Delete(ctx, account, id)
			if err != nil && !errors.Is(err, ErrNotFound) {
				return removed, err
			}
			removed++
		}
	}
}

// Get returns one request. It returns ErrNotFound if there is no such request in the account.
func (s *Service) Get(ctx context.Context, account Account, id ID) (Pin, error) {
	return s.store.get(ctx, account, id)
}

// List returns the requests of an account that match q, newest first.
func (s *Service) List(ctx context.Context, account Account, q spec.Query) (Page, error) {
	return s.store.list(ctx, account, q)
}

// Counts returns the number of pins per status over all accounts.
func (s *Service) Counts(ctx context.Context) (map[spec.Status]int64, error) {
	return s.store.counts(ctx)
}

// Delegates returns the addresses clients may connect to; see HotTier.
func (s *Service) Delegates(ctx context.Context) ([]string, error) { return s.hot.Delegates(ctx) }

// begin follows a request that was recorded: if its root was claimed with it, this process takes the first look.
func (s *Service) begin(ctx context.Context, t ticket, a *addition, err error) (Pin, error) {
	if err != nil || !a.claimed {
		s.sched.giveTicket(t)
	}
	switch {
	case err != nil:
		return Pin{}, err
	case a.claimed:
		defer s.store.counter.endLook(a)
		if t.look && s.look(ctx, a) {
			s.sched.giveTicket(t)
		} else {
			s.sched.offer(t, a.root)
		}
	case a.root.Hot != HotHeld:
		s.sched.poke()
		if t.look {
			return s.await(ctx, a)
		}
	}
	return a.pin, nil
}

// await answers a request whose root somebody else has claimed: with what another request's look comes to if one is
// under way, and else with what has become of it since.
func (s *Service) await(ctx context.Context, a *addition) (Pin, error) {
	if a.first != nil {
		timer := time.NewTimer(lookTime)
		defer timer.Stop()
		select {
		case <-a.first.looked:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	p, err := s.store.get(context.WithoutCancel(ctx), a.account, a.pin.ID)
	if err != nil {
		// It was recorded, and that is what the client must learn: deleted since, or not readable just now.
		return a.pin, nil //nolint:nilerr // as said above
	}
	return p, nil
}

// look holds a DAG whose blocks are already here and tells whether the root needs no more of this process.
func (s *Service) look(ctx context.Context, a *addition) bool {
	if s.now().UnixNano()-s.nodeAway.Load() < int64(nodePause) {
		return false
	}
	if a.root.Damaged {
		return false // the tier may still protect it
	}
	// The request is recorded: a client that goes away changes nothing about it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTime)
	defer cancel()
	size, err := s.lookHot(ctx, a)
	if errors.Is(err, ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		s.nodeAway.Store(s.now().UnixNano())
	}
	if err != nil {
		return false
	}
	if s.cfg.Sponsor != nil {
		j := &job{root: a.root}
		err := s.carry(ctx, j, size)
		s.settle(ctx, j)
		if err != nil {
			return false // the scheduler finds it, too, and says so
		}
	}
	root, orphans, err := s.store.move(ctx, a.root.id, false, func(r Root) Root {
		return After(r, nil, size.Blocks, size.Bytes, s.cfg.Policy, s.now())
	})
	s.sched.orphaned(orphans)
	if err != nil {
		// Whoever deleted it meanwhile, or the scheduler, carries on from the row.
		s.log.Debug("recording a dag that was already here", "cid", a.root.CID, "err", err)
		return errors.Is(err, errStale)
	}
	s.meter.held(size.Blocks, size.Bytes)
	a.pin.DAG = root.DAG
	return true
}

// lookHot holds a DAG whose blocks are already here, and returns its size. What an upload has just had held, however
// large, is not walked again: while its root is claimed nobody lets it go.
func (s *Service) lookHot(ctx context.Context, a *addition) (Extent, error) {
	if a.upload.Size.Blocks > 0 {
		if held, err := s.hot.Held(ctx, a.root.CID); err != nil || held {
			return a.upload.Size, err
		}
	}
	limits := s.cfg.Limits
	limits.Offline = true
	if limits.Blocks == 0 || limits.Blocks > lookBlocks {
		limits.Blocks = lookBlocks
	}
	var progress Progress
	err := s.hot.Hold(OnBehalf(ctx, a.pin.Account), a.root.CID, limits, &progress)
	return progress.extent(), err
}
