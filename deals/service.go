package deals

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals/piece"
)

// Config says how promises are kept and what that may cost.
type Config struct {
	Policy      Policy
	Caps        Caps
	Funding     Funding
	PublicURL   string              // where providers get pieces: the address of the CAR endpoint, to which the piece CID is added
	Secret      []byte              // key of the tokens for that endpoint; at least 32 bytes
	Global      int                 // attempts in flight at once
	PerProvider int                 // attempts in flight with one provider about whom the operator says nothing
	MaxPiece    abi.PaddedPieceSize // largest piece that is made
	MaxReplicas int                 // most copies that may be asked for
	Verified    bool                // deals use datacap
	Instance    string              // names the data directory of this process among the servers of one database
	LeaseTTL    time.Duration       // how long others wait before they take a silent maker's place; 0: 30 s
	Tick        time.Duration       // how often the database is looked at for what another process has written; 0: 500 ms
	At          func(step string)   // is called between any two steps with an effect; nil: nobody looks
}

// Parts are what the service works with. A service that is never run needs none of them.
type Parts struct {
	Chain   Chain
	Market  Market
	Blocks  piece.Blocks
	Layouts *piece.Store
}

// A Follower learns how archives stand.
type Follower interface {
	// Archived is called in the transaction, which ctx carries, that has changed a standing. Its error undoes that.
	Archived(ctx context.Context, w Wish, s Standing) error
}

// A Service keeps cold copies of what is wanted. Its methods may be called concurrently.
type Service struct {
	cfg     Config
	store   *store
	parts   Parts
	log     *slog.Logger
	now     func() time.Time
	prober  *prober
	locator *locator
	keeper  *keeper
	maker   *maker
	pulls   *pulls
	meter   *meter
	forbid  func(root cid.Cid) bool // never nil
	away    atomic.Bool             // the node did not answer when it was asked last

	mu    sync.Mutex
	terms map[TermsID]Terms
}

const (
	defaultLeaseTTL = 30 * time.Second
	defaultTick     = 500 * time.Millisecond
	minSecret       = 32
)

// New returns a Service that takes wishes at once; Run makes it work on them.
func New(cfg Config, db DB, parts Parts, log *slog.Logger, now func() time.Time) (*Service, error) {
	if len(cfg.Secret) < minSecret {
		return nil, fmt.Errorf("making the deal service: the key of its tokens has less than %d bytes", minSecret)
	}
	if cfg.LeaseTTL <= 0 {
		cfg.LeaseTTL = defaultLeaseTTL
	}
	if cfg.Tick <= 0 {
		cfg.Tick = defaultTick
	}
	if cfg.At == nil {
		cfg.At = func(string) {}
	}
	// Times are stored in milliseconds: with finer ones nothing would equal what is read back.
	stored := func() time.Time { return now().UTC().Truncate(time.Millisecond) }
	s := &Service{
		cfg: cfg, parts: parts, log: log, now: stored, terms: map[TermsID]Terms{},
		store: &store{db: db, now: stored, policy: cfg.Policy, me: cfg.Instance + "/" + uuid.NewString()},
	}
	s.prober = newProber(s.store, parts.Chain, parts.Market, log, stored)
	s.prober.tick = min(s.prober.pace(), 10*cfg.Tick)
	s.locator = newLocator(s.store, parts, log, stored)
	s.prober.locate = s.locator.refresh
	s.keeper = newKeeper(cfg.Funding, s.store, parts.Chain, log, stored, cfg.At)
	s.pulls = newPulls()
	s.forbid = func(cid.Cid) bool { return false }
	s.meter = newMeter(s)
	s.maker = newMaker(s)
	return s, nil
}

// Follow names who learns of changes; nobody else does. It is called before Run.
func (s *Service) Follow(f Follower) { s.store.follow = f.Archived }

// Charge names who knows whether anybody pays for a deal for a wish, new or renewed. It is asked in the transaction, which ctx
// carries, that would plan it; while the answer is no, no deal is begun. It is called before Run.
func (s *Service) Charge(paid func(ctx context.Context, w Wish) (bool, error)) { s.store.paid = paid }

// Paid lets slots that nobody paid for look again now, those of roots that concerns picks out: of whoever can pay again.
func (s *Service) Paid(ctx context.Context, concerns func(ctx context.Context, roots []cid.Cid) ([]cid.Cid, error)) error {
	now := s.now()
	for last := (due{id: math.MaxInt64, at: now}); ; {
		list, err := s.store.unpaidSlots(ctx, last, now.Add(unpaidMost), unpaidAtOnce)
		if err != nil {
			return fmt.Errorf("looking for copies that nobody paid for: %w", err)
		}
		if len(list) == 0 {
			return nil
		}
		last = list[len(list)-1]
		roots := make([]cid.Cid, len(list))
		for i, slot := range list {
			roots[i] = slot.root
		}
		if roots, err = concerns(ctx, roots); err != nil {
			return err
		}
		list = slices.DeleteFunc(list, func(slot due) bool { return !slices.Contains(roots, slot.root) })
		if err := s.store.wakeUnpaid(ctx, list, now); err != nil {
			return fmt.Errorf("waking copies that are paid for: %w", err)
		}
		signal(s.maker.slots)
	}
}

// Forbid names who knows which DAGs must not be given to anybody: no piece of them is served, and no proposal sent. It is
// asked often and must answer at once. That no deal is planned for them follows from their not being held. It is called
// before Run.
func (s *Service) Forbid(forbidden func(root cid.Cid) bool) { s.forbid = forbidden }

// Terms records terms and returns their number: the same for equal ones. Those that can never be met here are an
// *UnmetError.
func (s *Service) Terms(ctx context.Context, t Terms) (TermsID, error) {
	t = t.Canonical()
	providers, err := s.store.providerList(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading the registry of providers: %w", err)
	}
	if err := Meets(t, providers, Bounds{MaxReplicas: s.cfg.MaxReplicas, StartDelay: s.cfg.Policy.StartDelay}); err != nil {
		return 0, err
	}
	return s.Record(ctx, t)
}

// Record records terms without asking whether they can be met: for those that an operator has decided on before the
// providers are known.
func (s *Service) Record(ctx context.Context, t Terms) (TermsID, error) {
	id, err := s.store.recordTerms(ctx, t.Canonical())
	if err != nil {
		return 0, fmt.Errorf("recording terms: %w", err)
	}
	return id, nil
}

// TermsOf returns recorded terms, or ErrNotFound.
func (s *Service) TermsOf(ctx context.Context, id TermsID) (Terms, error) {
	s.mu.Lock()
	t, ok := s.terms[id]
	s.mu.Unlock()
	if ok {
		return t, nil
	}
	t, err := s.store.termsOf(ctx, id)
	if err != nil {
		return Terms{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.terms[id] = t // terms are never changed
	return t, nil
}

// Want records that archives are wanted, and whether their bytes are held hot. It is idempotent, and joins the
// transaction of ctx. The follower is not told: the caller asks for Standings.
func (s *Service) Want(ctx context.Context, held bool, wishes ...Wish) error {
	first := map[TermsID]string{}
	for _, w := range wishes {
		if _, ok := first[w.Terms]; ok {
			continue
		}
		t, err := s.TermsOf(ctx, w.Terms)
		if err != nil {
			return err
		}
		standing, err := json.Marshal(StandingOf(Archive{Root: w.Root, Terms: t, Wanted: true, Held: held}, nil, nil))
		if err != nil {
			return fmt.Errorf("encoding the standing of a new archive: %w", err)
		}
		first[w.Terms] = string(standing)
	}
	if err := s.store.want(ctx, held, wishes, first); err != nil {
		return fmt.Errorf("wanting cold copies: %w", err)
	}
	s.Poke()
	return nil
}

// Unwant records that nobody wants archives any more: nothing more is sent for them, and what is on chain runs out. It
// is idempotent, and joins the transaction of ctx. The follower is not told.
func (s *Service) Unwant(ctx context.Context, wishes ...Wish) error {
	if err := s.store.unwant(ctx, wishes); err != nil {
		return fmt.Errorf("giving cold copies up: %w", err)
	}
	s.Poke()
	return nil
}

// Held records that the bytes of a root are held hot, or that they are not any more. It joins the transaction of ctx.
func (s *Service) Held(ctx context.Context, root cid.Cid, held bool) error {
	if err := s.store.held(ctx, root, held); err != nil {
		return fmt.Errorf("recording whether %s is held: %w", root, err)
	}
	s.Poke()
	return nil
}

// Poke makes the service look for work now. Whoever has committed a wish may call it; without it the service looks
// within a moment, too.
func (s *Service) Poke() { s.maker.poke() }

// Standings returns how archives stand; those that were never wanted are not in it. It joins the transaction of ctx.
func (s *Service) Standings(ctx context.Context, wishes []Wish) (map[Wish]Standing, error) {
	out, err := s.store.standings(ctx, wishes)
	if err != nil {
		return nil, fmt.Errorf("reading how archives stand: %w", err)
	}
	return out, nil
}

// Deals returns all attempts of an archive with the bytes that were signed, newest last.
func (s *Service) Deals(ctx context.Context, w Wish) ([]Attempt, error) {
	all, err := s.store.dealsOf(ctx, w)
	if err != nil {
		return nil, fmt.Errorf("reading the deals of %s: %w", w.Root, err)
	}
	return all, nil
}

// List returns a page of attempts, newest first, without the bytes that were signed.
func (s *Service) List(ctx context.Context, f Filter) ([]Attempt, error) {
	all, err := s.store.list(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("listing deals: %w", err)
	}
	return all, nil
}

// Find returns an attempt with the bytes that were signed, or ErrNotFound.
func (s *Service) Find(ctx context.Context, id uuid.UUID) (Attempt, error) {
	a, err := s.store.attempt(ctx, byUUID, id.String())
	if err != nil {
		return Attempt{}, fmt.Errorf("reading deal %s: %w", id, err)
	}
	return a, nil
}

// Retry makes every slot of a root try again now and forgives what has failed so far, also with the same provider. It
// returns how many copies are tried again, or ErrNotFound when nothing of the root is wanted.
func (s *Service) Retry(ctx context.Context, root cid.Cid) (int, error) {
	n, err := s.store.retry(ctx, root)
	if err != nil {
		return 0, fmt.Errorf("trying %s again: %w", root, err)
	}
	s.Poke()
	return n, nil
}

// ErrSent is the answer to whoever cancels a deal that has been proposed: a deal cannot be called back.
var ErrSent = errors.New("the proposal was sent, and cannot be called back")

// Cancel withdraws a planned attempt. It returns ErrSent when it is too late and ErrNotFound when there is none.
func (s *Service) Cancel(ctx context.Context, id uuid.UUID) error {
	if err := s.store.cancel(ctx, id); err != nil {
		return fmt.Errorf("cancelling deal %s: %w", id, err)
	}
	s.Poke()
	return nil
}

// Steps lists the steps between which Config.At is called.
func Steps() []string {
	return []string{
		"piece-built", "piece-stored", "planned", "asked", "drafted", "signed", "stored", "sending", "answered", "accepted",
		"rejected", "unreached", "publish-found", "published", "active-seen", "active", "lost-seen", "ended",
		"compared", "doubts-stored", "snapshot-stored",
		"escrow-planned", "escrow-sent", "escrow-stored",
	}
}
