package pins

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
)

// How often the scheduler does what, and how long others wait before they take over its claims.
const (
	passEvery     = time.Second           // look for due work even if nobody pokes
	passApart     = 20 * time.Millisecond // between two passes: requests gather, and share sessions
	progressEvery = 2 * time.Second
	beatEvery     = 5 * time.Second
	claimTTL      = 30 * time.Second
	sweepEvery    = time.Minute
	compareEvery  = time.Hour
	quietEvery    = 100 * time.Millisecond // between two looks whether a collection would disturb nobody
	releaseAtOnce = 64                     // releases claimed by one pass
	releaseTime   = time.Minute
	leaveTime     = 5 * time.Second
)

// A scheduler moves roots on. It is level-triggered: each pass reads what is due from the database, so nothing waits
// in memory only and a restart needs no recovery of its own.
type scheduler struct {
	s                    *Service
	log                  *slog.Logger
	jobs                 *jobs
	poked                chan struct{}
	slots                chan struct{} // poked when a walk may start
	workers              sync.WaitGroup
	entered              chan struct{} // closed once this process may claim roots
	garbage              chan struct{} // since the last collection blocks may have become such as nothing needs
	dialling, announcing chan struct{} // counting semaphores
	doubted              chan struct{} // a root was put among doubts
	proven               chan struct{} // cold copies were proven
	uploads              *uploadsAtWork
	uploaded             chan struct{} // an upload has ended that held something
	touches              *touches
	comparing            sync.Mutex
	doubting             sync.Mutex
	doubts               map[string]cid.Cid  // roots to be verified out of turn, by their key
	unread               map[int64]time.Time // roots that verifies could not read, and when
	turn                 int                 // which account is first: each pass begins with another
	scarce, full         atomic.Int64        // when there was little or no room last, in Unix milliseconds; 0: never
	failed               atomic.Int64        // when a walk found no room last, likewise
	fetched              atomic.Int64        // walks after which the DAG was held
	urgent               urgent
	holdUpTime           time.Duration
}

func newScheduler(s *Service) *scheduler {
	return &scheduler{
		s:          s,
		log:        s.log,
		jobs:       newJobs(s.cfg.FindRoots, s.cfg.Slots),
		poked:      make(chan struct{}, 1),
		slots:      make(chan struct{}, 1),
		entered:    make(chan struct{}),
		garbage:    make(chan struct{}, 1),
		dialling:   make(chan struct{}, connectAtOnce),
		announcing: make(chan struct{}, announceAtOnce),
		doubted:    make(chan struct{}, 1),
		proven:     make(chan struct{}, 1),
		uploads:    &uploadsAtWork{ids: map[string]bool{}},
		uploaded:   make(chan struct{}, 1),
		touches:    newTouches(),
		doubts:     map[string]cid.Cid{},
		unread:     map[int64]time.Time{},
		holdUpTime: holdUpTime,
	}
}

// signal wakes whoever reads c, once, without waiting for it.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (d *scheduler) poke() { signal(d.poked) }

// A ticket lets a request claim its root, so that it can look for it among the blocks that are here, and may hold a
// place among the roots that are looked for on the network.
type ticket struct {
	account Account
	claim   bool
	place   bool
	look    bool // the root may be among the blocks that are here
}

// ticket draws the ticket of a request that is about to be recorded. Before Run has entered the database as a worker
// nothing may be claimed: others would take a claim for that of a dead process. Nor is there a reason to claim a root
// that is not here and has no place.
func (d *scheduler) ticket(a Account, root cid.Cid) ticket {
	select {
	case <-d.entered:
	default:
		return ticket{account: a}
	}
	look := !d.s.hot.Lacks(root)
	d.jobs.mu.Lock()
	defer d.jobs.mu.Unlock()
	place := d.jobs.finding.room(a) > 0 && d.room() == RoomPlenty
	if place {
		d.jobs.finding.take(a, 1)
	}
	return ticket{account: a, claim: look || place, place: place, look: look}
}

// giveTicket gives the place of a ticket back.
func (d *scheduler) giveTicket(t ticket) {
	if !t.place {
		return
	}
	d.jobs.mu.Lock()
	defer d.jobs.mu.Unlock()
	d.jobs.finding.give(t.account)
}

// offer hands over a root that a request has claimed and not found here. Without a place it goes back to wait its turn.
func (d *scheduler) offer(t ticket, r Root) {
	d.jobs.mu.Lock()
	if t.place {
		d.jobs.offered = append(d.jobs.offered, r)
	} else {
		d.jobs.returned = append(d.jobs.returned, r.id)
	}
	d.jobs.mu.Unlock()
	d.poke()
}

// orphaned stops work on roots that nothing wants any more and has them released.
func (d *scheduler) orphaned(roots []int64) {
	if len(roots) == 0 {
		return
	}
	d.cancel(roots)
	d.poke()
}

// cancel stops work on roots.
func (d *scheduler) cancel(roots []int64) {
	d.jobs.mu.Lock()
	defer d.jobs.mu.Unlock()
	for _, id := range roots {
		if j := d.jobs.byRoot[id]; j != nil && j.cancel != nil {
			j.cancel()
		}
	}
}

// Ready is closed once Run is able to work; requests taken before are left to its first pass.
func (s *Service) Ready() <-chan struct{} { return s.sched.entered }

// Run works until ctx ends, then gives everything back and returns. It may be called once.
func (s *Service) Run(ctx context.Context) error {
	d := s.sched
	if err := s.store.enter(ctx, s.cfg.Instance); err != nil {
		return fmt.Errorf("entering the database as a worker: %w", err)
	}
	if err := s.store.begin(ctx); err != nil {
		return fmt.Errorf("applying what is decided about cold copies: %w", err)
	}
	if err := s.loadBlocks(ctx); err != nil {
		return err // what must not be served is known before anything is
	}
	close(d.entered)
	loops := []func(context.Context){d.passes, d.walks, d.beats, d.progresses, d.sweeps, d.retained, d.uploadHolds, d.compares, d.collections, d.colds, d.verifies, d.touching, d.letGoing, d.rooms, d.expiries, d.blocks, d.obeys, d.spans}
	for _, loop := range loops {
		d.workers.Go(func() { loop(ctx) })
	}
	<-ctx.Done()
	d.workers.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
	defer cancel()
	if err := s.store.leave(ctx); err != nil {
		return fmt.Errorf("giving claims back: %w", err)
	}
	return nil
}

// every calls do now and then once per period until ctx ends.
func every(ctx context.Context, period time.Duration, do func(context.Context)) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		do(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (d *scheduler) passes(ctx context.Context) {
	ticker := time.NewTicker(passEvery)
	defer ticker.Stop()
	apart := time.NewTimer(0)
	defer apart.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-apart.C:
		}
		if err := d.pass(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("looking for due work", "err", err)
		}
		apart.Reset(passApart)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-d.poked:
		}
	}
}

// pass starts work on what is due: first what nobody has tried, then what has failed before, for which at most half
// of the places are used.
func (d *scheduler) pass(ctx context.Context) error {
	offered, returned := d.takeOffered()
	plenty := d.room() == RoomPlenty
	if plenty {
		d.startFinds(ctx, offered, false)
	} else {
		returned = append(returned, d.giveOffered(offered)...)
	}
	if err := d.s.store.unclaim(ctx, returned); err != nil {
		d.offerAgain(returned)
		return err
	}
	if err := d.startReleases(ctx); err != nil {
		return err
	}
	if !plenty {
		return d.claimWithoutRoom(ctx)
	}
	if err := d.claimInTurn(ctx, freshRoots, d.s.store.claimFresh, false); err != nil {
		return err
	}
	return d.claimInTurn(ctx, retryRoots, d.s.store.claimRetry, true)
}

// takeOffered takes what requests have handed over since the last pass.
func (d *scheduler) takeOffered() (offered []Root, returned []int64) {
	d.jobs.mu.Lock()
	defer d.jobs.mu.Unlock()
	offered, returned = d.jobs.offered, d.jobs.returned
	d.jobs.offered, d.jobs.returned = nil, nil
	return offered, returned
}

func (d *scheduler) offerAgain(returned []int64) {
	d.jobs.mu.Lock()
	defer d.jobs.mu.Unlock()
	d.jobs.returned = append(d.jobs.returned, returned...)
}

// claimInTurn claims roots of every account that has some waiting, as far as the account's share goes.
func (d *scheduler) claimInTurn(ctx context.Context, condition string, claim func(context.Context, Account, int) ([]Root, error), retry bool) error {
	accounts, err := d.s.store.waitingAccounts(ctx, condition)
	if err != nil || len(accounts) == 0 {
		return err
	}
	d.turn++
	var claimed []Root
	for i := range accounts {
		account := accounts[(i+d.turn)%len(accounts)]
		n := d.takeRoom(account, retry)
		if n == 0 {
			continue
		}
		roots, err := claim(ctx, account, n)
		d.giveRoom(account, n-len(roots))
		if err != nil {
			return err
		}
		claimed = append(claimed, roots...)
	}
	d.startFinds(ctx, claimed, retry)
	return nil
}

// claimWithoutRoom claims what goes on while nothing else is fetched: what holds up collections, and what was uploaded and
// so is here.
func (d *scheduler) claimWithoutRoom(ctx context.Context) error {
	if d.room() == RoomNone {
		return nil
	}
	claimed, err := d.s.store.claimSome(ctx, d.urgent.roots())
	d.startWithoutRoom(ctx, claimed)
	if err != nil {
		return err
	}
	d.jobs.mu.Lock()
	free := d.jobs.finding.size - d.jobs.finding.used
	d.jobs.mu.Unlock()
	if free <= 0 {
		return nil
	}
	claimed, err = d.s.store.claimUploaded(ctx, free)
	d.startWithoutRoom(ctx, claimed)
	return err
}

func (d *scheduler) startWithoutRoom(ctx context.Context, claimed []Root) {
	d.jobs.mu.Lock()
	for _, r := range claimed {
		d.jobs.finding.take(r.Account, 1) // others take none now
	}
	d.jobs.mu.Unlock()
	d.startFinds(ctx, claimed, true)
}

// claimAtOnce bounds what one pass takes of one account, so that no account waits long for the others.
const claimAtOnce = 1000

func (d *scheduler) takeRoom(a Account, retry bool) int {
	d.jobs.mu.Lock()
	defer d.jobs.mu.Unlock()
	n := min(d.jobs.finding.room(a), claimAtOnce)
	if retry {
		n = min(n, max(1, d.jobs.finding.size/2)-d.jobs.finding.used)
	}
	n = max(n, 0)
	d.jobs.finding.take(a, n)
	return n
}

func (d *scheduler) giveRoom(a Account, n int) {
	d.jobs.mu.Lock()
	defer d.jobs.mu.Unlock()
	for range n {
		d.jobs.finding.give(a)
	}
}

// guard keeps a panic in the work on one root from ending the process.
func (d *scheduler) guard(r Root, err *error) {
	if p := recover(); p != nil {
		*err = &PanicError{Value: p, Stack: debug.Stack()}
	}
	if p, panicked := errors.AsType[*PanicError](*err); panicked { // also one of a worker of the tier
		d.log.Error("panic while working on a dag", "cid", r.CID, "panic", p.Value, "stack", string(p.Stack))
	}
}

func (d *scheduler) beats(ctx context.Context) {
	every(ctx, beatEvery, func(ctx context.Context) {
		alive, err := d.s.store.beat(ctx, claimTTL)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			d.log.Error("reporting this process as alive", "err", err)
		case !alive:
			// Others hold what we held. What is still running here finds that out when it reports.
			d.log.Warn("this process was taken for dead and starts over")
			if err := d.s.store.enter(ctx, d.s.cfg.Instance); err != nil {
				d.log.Error("entering the database as a worker", "err", err)
			}
		}
	})
}

func (d *scheduler) progresses(ctx context.Context) {
	last := map[int64]count{}
	every(ctx, progressEvery, func(ctx context.Context) {
		var changed []count
		seen := map[int64]count{}
		for _, c := range d.jobs.counts() {
			if seen[c.id] = c; last[c.id] != c {
				changed = append(changed, c)
			}
		}
		last = seen
		if err := d.s.store.progress(ctx, changed); err != nil && ctx.Err() == nil {
			d.log.Error("recording progress", "err", err)
		}
	})
}
