package deals

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
)

// How much the maker does at once. What costs money or a provider's patience is bounded by Config.
const (
	preparing   = 2    // CARs at once: each is walked as fast as the disk goes
	looking     = 256  // attempts looked at at once: nearly all of them wait for somebody
	lookingEach = 4    // of these with one provider, so that one that hangs delays no other
	batch       = 64   // slots per pass
	queueTries  = 16   // slots of one kind in the queue that are tried in vain before the others of it have to wait
	queueMost   = 128  // of any kind
	queuePage   = 256  // slots in the queue that are read at once, and
	queueScan   = 4096 // that a pass reads of a class
	stepTime    = 3 * time.Minute
)

// A maker makes deals and follows them. It is level-triggered: each pass reads from the database what is due, so that
// nothing waits in memory only and a restart needs no recovery of its own.
type maker struct {
	s                                  *Service
	prepare, slots, queue, looks, head chan struct{} // poked when there may be work
	preparing                          lane[cid.Cid]
	looking                            lane[AttemptID]
	watch                              *watcher
	resume                             map[Epoch]place // of passQueue: where the last pass has ended, by class
	workers                            sync.WaitGroup
}

func newMaker(s *Service) *maker {
	poke := func() chan struct{} { return make(chan struct{}, 1) }
	return &maker{
		s: s, prepare: poke(), slots: poke(), queue: poke(), looks: poke(), head: poke(),
		preparing: newLane[cid.Cid](preparing, preparing), looking: newLane[AttemptID](looking, lookingEach),
		watch: newWatcher(s), resume: map[Epoch]place{},
	}
}

// signal wakes whoever reads c, once, without waiting for it.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (m *maker) poke() {
	signal(m.prepare)
	signal(m.slots)
	signal(m.looks)
}

// run works until ctx ends. The caller holds the lease.
func (m *maker) run(ctx context.Context) {
	m.s.prober.begin() // before a loop asks it
	tick := m.s.cfg.Tick
	loops := []func(){
		func() { m.loop(ctx, "preparing pieces", tick, m.prepare, m.passPrepare) },
		func() { m.loop(ctx, "planning deals", tick, m.slots, m.passSlots) },
		func() { m.loop(ctx, "planning queued deals", m.s.cfg.Policy.Poll, m.queue, m.passQueue) },
		func() { m.loop(ctx, "looking at deals", tick, m.looks, m.passLooks) },
		func() { m.loop(ctx, "watching active deals", m.s.cfg.Policy.Poll, m.head, m.watch.pass) },
		func() { m.s.parts.Chain.Follow(ctx, func() { signal(m.head) }) },
		func() { m.report(ctx, "keeping escrow", m.s.keeper.run(ctx)) },
		func() { m.report(ctx, "probing providers", m.s.prober.run(ctx)) },
	}
	for _, loop := range loops {
		m.workers.Go(loop)
	}
	m.workers.Wait()
}

// passApart is the least time between two passes of a loop: what is poked gathers.
const passApart = 5 * time.Millisecond

// loop calls pass when it is poked and when the time has come that the last pass named, at the latest every tick.
func (m *maker) loop(ctx context.Context, what string, tick time.Duration, poked <-chan struct{}, pass func(context.Context) (time.Time, error)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-poked:
			// Whoever pokes has perhaps not committed yet.
			timer.Reset(passApart)
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
		}
		next, err := pass(ctx)
		m.report(ctx, what, err)
		wait := tick
		if !next.IsZero() {
			wait = min(tick, max(passApart, next.Sub(m.s.now())))
		}
		timer.Reset(wait)
	}
}

// report logs what an operator should see of an error.
func (m *maker) report(ctx context.Context, what string, err error) {
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, errLease), errors.Is(err, errStale), err.Error() == errEnded.Error(): // joined with nothing else it is no error
	case errors.Is(err, ErrChain):
		m.s.log.Debug("the Filecoin node does not answer", "step", what, "err", err) // the operator was told by heads
	default:
		m.s.log.Error("making deals", "step", what, "err", err)
	}
}

// guard makes a panic in the work on one row its error: the others go on.
func (m *maker) guard(err *error) {
	if p := recover(); p != nil {
		m.s.log.Error("panic while making deals", "panic", p, "stack", string(debug.Stack()))
		*err = fmt.Errorf("panic: %v", p)
	}
}

// passSlots takes the next step for slots that are due.
func (m *maker) passSlots(ctx context.Context) (time.Time, error) {
	all, err := m.s.store.dueSlots(ctx, batch)
	if err != nil {
		return time.Time{}, err
	}
	ready, next := split(all, m.s.now())
	if len(ready) == 0 {
		return next, nil
	}
	_, err = m.planAll(ctx, ready)
	if len(ready) == batch {
		next = m.s.now()
	}
	return next, err
}

// passQueue takes the next step for slots that wait for others: renewals first, those whose copy ends first, then slots
// that have lost their copy, then the rest.
func (m *maker) passQueue(ctx context.Context) (time.Time, error) {
	from := Epoch(0)
	for _, to := range []Epoch{turnLost - 1, turnLost, turnFirst} {
		if err := m.passClass(ctx, place{turn: from}, to); err != nil || ctx.Err() != nil {
			return time.Time{}, err
		}
		from = to + 1
	}
	return time.Time{}, nil
}

// passClass does it for those of one class, until no more deals are allowed. When some of a kind in a row have found
// nothing it passes over the others of that kind. It reads the first of the class each time, and then goes on where it
// ended the last time: so none is hidden behind many that find nothing.
func (m *maker) passClass(ctx context.Context, from place, to Epoch) (failed error) {
	began, seen, vain, failures := ms(m.s.now()), map[cid.Cid]bool{}, map[kind]int{}, 0
	at := from
	for scanned := 0; scanned < queueScan && ctx.Err() == nil; {
		page, err := m.s.store.queue(ctx, at, to, queuePage)
		if err != nil {
			return fmt.Errorf("reading the queue of slots: %w", err)
		}
		if len(page) == 0 {
			delete(m.resume, to)
			return failed
		}
		in, err := m.planning(ctx, true)
		if err != nil {
			return err
		}
		end := page[len(page)-1].place
		for i, w := range page {
			if at == from && failures >= queueMost/2 {
				end = page[i-1].place // the other half is for those behind
				break
			}
			if seen[w.root] || w.since > began || vain[w.kind] >= queueTries {
				continue
			}
			seen[w.root] = true
			n, err := m.plan(ctx, w.root, &in)
			failed = errors.Join(failed, err)
			if errors.Is(err, errLease) || ctx.Err() != nil {
				return failed
			}
			if errors.Is(err, errStale) { // the funds are not what they were
				if in, err = m.planning(ctx, true); err != nil {
					return errors.Join(failed, err)
				}
			}
			switch {
			case n > 0:
				vain[w.kind] = 0
				signal(m.looks)
				m.s.cfg.At("planned")
				continue
			case in.full:
				return failed
			}
			if vain[w.kind]++; vain[w.kind] == queueTries {
				m.s.log.Debug("no place for copies of a kind", "region", w.kind.region, "terms", int64(w.kind.terms),
					"size", uint64(w.kind.size), "renews", w.kind.provider.String())
			}
			if failures++; failures >= queueMost {
				m.resume[to] = w.place
				return failed
			}
		}
		scanned += len(page)
		if last, ok := m.resume[to]; at == from && ok && end.before(last) {
			end = last
		}
		at = end
		m.resume[to] = at
	}
	return failed
}

func (p place) before(other place) bool {
	return cmp.Or(cmp.Compare(p.turn, other.turn), cmp.Compare(p.since, other.since), cmp.Compare(p.slot, other.slot)) < 0
}

// split parts what is due from what is not yet, and tells when the first of these will be.
func split(all []due, now time.Time) (ready []due, next time.Time) {
	for i, d := range all {
		if now.Before(d.at) {
			return all[:i], d.at
		}
	}
	return all, time.Time{}
}

// planAll plans for the roots of slots, and returns how many attempts were recorded.
func (m *maker) planAll(ctx context.Context, ready []due) (planned int, err error) {
	in, err := m.planning(ctx, false)
	if err != nil {
		return 0, err
	}
	seen := map[cid.Cid]bool{}
	var failed error
	for _, d := range ready {
		if seen[d.root] {
			continue
		}
		seen[d.root] = true
		n, err := m.plan(ctx, d.root, &in)
		if err != nil {
			failed = errors.Join(failed, err)
			if errors.Is(err, errLease) || ctx.Err() != nil {
				break
			}
			continue
		}
		if n > 0 {
			planned += n
			signal(m.looks)
			m.s.cfg.At("planned")
		}
	}
	return planned, failed
}

// plan takes the next step for the slots of a root that are due. Where that fails they wait: they would stay the first that
// are due, be tried again at once, and let no others have their turn.
func (m *maker) plan(ctx context.Context, root cid.Cid, in *planning) (n int, err error) {
	n, err = m.planNow(ctx, root, in)
	if err == nil || errors.Is(err, errLease) || errors.Is(err, errStale) || ctx.Err() != nil {
		return n, err
	}
	return 0, errors.Join(err, m.s.store.planLater(ctx, root, in.queued, m.s.now().Add(m.s.cfg.Policy.Poll)))
}

func (m *maker) planNow(ctx context.Context, root cid.Cid, in *planning) (n int, err error) {
	defer m.guard(&err)
	n, short, err := m.s.store.plan(ctx, root, in)
	if err != nil {
		return 0, fmt.Errorf("planning deals for %s: %w", root, err)
	}
	for slot, amount := range short {
		m.s.keeper.want(slot, amount)
	}
	return n, nil
}

// planning gathers what providers are chosen by. A node that does not answer leaves the funds out: what is planned is
// checked again before it is signed.
func (m *maker) planning(ctx context.Context, queued bool) (planning, error) {
	providers, err := m.s.store.providerList(ctx)
	if err != nil {
		return planning{}, fmt.Errorf("reading the registry of providers: %w", err)
	}
	cfg := m.s.cfg
	in := planning{
		providers: providers, caps: cfg.Caps, global: cfg.Global, perProvider: cfg.PerProvider, maxPiece: cfg.MaxPiece,
		verified: cfg.Verified, protocol: m.s.parts.Market.Name(), rand: newRand(), queued: queued,
	}
	if m.s.store.height() == 0 {
		m.s.heads(ctx)
	}
	if funds, err := m.s.funds(ctx); err == nil {
		in.funds = funds
	}
	return in, nil
}

// chainTime bounds a look at the chain that others wait for.
const chainTime = 20 * time.Second

// heads asks where the chain stands and remembers it; zero when it does not answer.
func (s *Service) heads(ctx context.Context) Heads {
	ctx, cancel := context.WithTimeout(ctx, chainTime)
	defer cancel()
	heads, err := s.parts.Chain.Heads(ctx)
	if err != nil {
		if ctx.Err() == nil && !s.away.Swap(true) {
			s.log.Warn("the Filecoin node does not answer as it should: nothing is concluded until it does", "err", err)
		}
		return Heads{}
	}
	if s.away.Swap(false) {
		s.log.Info("the Filecoin node answers again", "head", int64(heads.Head))
	}
	s.store.head.Store(int64(heads.Head))
	return heads
}

// funds asks what we have, knowing when.
func (s *Service) funds(ctx context.Context) (funding, error) {
	ctx, cancel := context.WithTimeout(ctx, chainTime)
	defer cancel()
	released := s.store.released.Load()
	have, err := s.parts.Chain.Funds(ctx)
	if err != nil {
		return funding{}, fmt.Errorf("looking at the funds: %w", err)
	}
	return funding{Funds: &have, released: released}, nil
}
