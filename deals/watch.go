package deals

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/crypto"
)

const (
	activePage    = 10_000  // ids of active deals read at once
	examineAtOnce = 16      // deals looked at one by one at the same time
	doubtBatch    = 512     // of these per pass
	keepMost      = 100_000 // entries of the caches below
	eventDepth    = 900     // epochs that may be undone, so that their events are read again
	eventPage     = 512     // events compared with what is on record at once, and so many deals looked up per pass
)

// A watcher follows what the chain does to deals: those that are active, and those whose id nobody has told us. Its
// passes run one after another.
type watcher struct {
	s        *Service
	lacksIDs atomic.Bool // a proposal was published, or may have been, and nobody has told its id

	// Of the passes only.
	compared            Epoch                   // the final tipset of the last round
	suspects            map[abi.DealID]struct{} // of the last rounds, and not seen active in a final tipset since
	round, doubt, event time.Time               // when that was done last
	from                Epoch                   // events from here on were not read yet
	published           []Publication           // events that were read, and are to be matched
	upTo                Epoch                   // what from becomes when they are
	eventless           bool                    // the last try to read them failed
	undecided           []Publication           // those to be looked at again, whenever they were published
	known               map[abi.DealID]struct{} // deals whose events were dealt with
	givenUp             bool                    // those that were given up are gone through
	settledTo           AttemptID               // of these, the last one of the last pass
	owing               bool                    // deals may have costs to hand over

	mu         sync.Mutex
	signatures map[AttemptID]crypto.Signature
	proven     map[AttemptID]struct{} // newcomers whose deal was looked at in a final tipset: it is ours, and active
}

func newWatcher(s *Service) *watcher {
	return &watcher{
		s: s, suspects: map[abi.DealID]struct{}{}, known: map[abi.DealID]struct{}{},
		signatures: map[AttemptID]crypto.Signature{}, proven: map[AttemptID]struct{}{},
	}
}

func (w *watcher) signature(id AttemptID) (crypto.Signature, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.signatures[id]
	return s, ok
}

func (w *watcher) keep(id AttemptID, s crypto.Signature) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.signatures) >= keepMost {
		clear(w.signatures)
	}
	w.signatures[id] = s
}

// pass does what is due: it is called after each head, and now and then.
func (w *watcher) pass(ctx context.Context) (time.Time, error) {
	p, now := w.s.cfg.Policy, w.s.now()
	if !w.elapsed(now, p) {
		return time.Time{}, nil
	}
	heads := w.s.heads(ctx)
	if heads.Head == 0 {
		return time.Time{}, nil
	}
	var failed error
	round := now.Sub(w.round) >= p.PollSlow && heads.Final > w.compared
	if round {
		began := w.s.now()
		err := w.compare(ctx, heads)
		w.s.meter.round(w.s.now().Sub(began))
		failed = errors.Join(failed, err)
		w.round, w.owing, w.givenUp = now, true, true
		w.lacksIDs.Store(true) // who has refused a proposal and publishes it all the same does not tell
	}
	if now.Sub(w.doubt) >= p.Poll {
		failed = errors.Join(failed, w.examineDoubtful(ctx, heads))
		w.doubt = now
	}
	if now.Sub(w.event) >= p.Poll && w.lacksIDs.Swap(false) {
		err := w.readEvents(ctx, heads)
		if err != nil {
			w.lacksIDs.Store(true)
		}
		failed = errors.Join(failed, err)
		w.event = now
	}
	if w.givenUp { // after the events, which name what was activated while nobody looked
		failed = errors.Join(failed, w.settleGivenUp(ctx, heads))
	}
	if w.owing {
		var err error
		w.owing, err = w.s.billSome(ctx, heads, w.compared)
		failed = errors.Join(failed, err)
	}
	return time.Time{}, failed
}

func (w *watcher) elapsed(now time.Time, p Policy) bool {
	return now.Sub(w.round) >= p.PollSlow || now.Sub(w.doubt) >= p.Poll || now.Sub(w.event) >= p.Poll && w.lacksIDs.Load()
}

// compare finds the active deals that a final tipset does not show as such. Those that were active in the stored
// snapshot are compared with it; newcomers are looked up.
//
// A deal leaves the snapshot before the next one is stored, where it was missed, and joins it only after that, where it
// was found. So at any moment all that are in the snapshot were active in it: a process that dies leaves newcomers
// behind, which are looked up again, and never a loss that the next comparison would not show.
func (w *watcher) compare(ctx context.Context, heads Heads) error {
	since, err := w.s.store.snapshot(ctx)
	if err != nil {
		return fmt.Errorf("reading the last snapshot: %w", err)
	}
	newcomers, err := w.s.store.newcomers(ctx, heads.Final)
	if err != nil {
		return fmt.Errorf("reading new deals: %w", err)
	}
	missed := map[abi.DealID]struct{}{}
	miss := func(id abi.DealID) error {
		missed[id], w.suspects[id] = struct{}{}, struct{}{} // suspects at once: the round may fail further on
		return nil
	}
	var at Snapshot
	if len(newcomers) > 0 {
		if at, err = w.s.parts.Chain.Changed(ctx, Snapshot{}, dealsOf(newcomers), miss); err != nil {
			return fmt.Errorf("looking up new deals on the chain: %w", err)
		}
	}
	var broken error
	now, err := w.s.parts.Chain.Changed(ctx, since, w.inSnapshot(ctx, &broken), miss)
	if err := errors.Join(err, broken); err != nil {
		return fmt.Errorf("comparing active deals with the chain: %w", err)
	}
	found := w.welcome(newcomers, missed)
	w.s.cfg.At("compared")
	if err := w.s.store.leaveSnapshot(ctx, slices.Sorted(maps.Keys(missed)), now.Height); err != nil {
		return fmt.Errorf("recording doubts: %w", err)
	}
	if err := w.s.store.prove(ctx, found, at.Height); err != nil {
		return fmt.Errorf("recording new deals that were found: %w", err)
	}
	w.s.cfg.At("doubts-stored")
	w.compared = now.Height
	if !now.State.Defined() {
		return nil // the last one stays: it is still true of those that are in it
	}
	if err := w.s.store.keepSnapshot(ctx, now); err != nil { // also of the same state: up to its height all are known to be active
		return fmt.Errorf("storing a snapshot: %w", err)
	}
	w.s.cfg.At("snapshot-stored")
	if at.State != now.State {
		return nil // the chain moved on between the two
	}
	if err := w.s.store.joinSnapshot(ctx, found); err != nil {
		return fmt.Errorf("recording what the snapshot has: %w", err)
	}
	return nil
}

// inSnapshot yields the active deals that were so in the snapshot, until something is broken.
func (w *watcher) inSnapshot(ctx context.Context, broken *error) func(yield func(abi.DealID) bool) {
	return func(yield func(abi.DealID) bool) {
		for above := abi.DealID(0); ; {
			page, err := w.s.store.inSnapshot(ctx, above, activePage)
			if err != nil {
				*broken = err
				return
			}
			for _, id := range page {
				if !yield(id) {
					return
				}
			}
			if len(page) < activePage {
				return
			}
			above = page[len(page)-1]
		}
	}
}

func dealsOf(all []newcomer) func(yield func(abi.DealID) bool) {
	return func(yield func(abi.DealID) bool) {
		for _, n := range all {
			if !yield(n.deal) {
				return
			}
		}
	}
}

// welcome returns the newcomers that were found active and are known to be ours. The others that were found are
// suspects once: the tree says that there is a deal, not whose it is, and a reorganisation may have changed that.
func (w *watcher) welcome(newcomers []newcomer, missed map[abi.DealID]struct{}) (found []AttemptID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	still := map[AttemptID]struct{}{}
	for _, n := range newcomers {
		if _, ok := missed[n.deal]; ok {
			continue
		}
		if _, ok := w.proven[n.attempt]; ok {
			still[n.attempt] = struct{}{}
			found = append(found, n.attempt)
		} else {
			w.suspects[n.deal] = struct{}{}
		}
	}
	w.proven = still
	return found
}

// examineDoubtful looks one by one at the deals about which there is doubt.
func (w *watcher) examineDoubtful(ctx context.Context, heads Heads) error {
	all, err := w.s.store.doubtful(ctx, heads.Final, doubtBatch)
	if err != nil {
		return err
	}
	var ids []abi.DealID
	for id := range w.suspects {
		if ids = append(ids, id); len(ids) == doubtBatch {
			break
		}
	}
	if len(ids) > 0 {
		suspects, err := w.s.store.activeByDeal(ctx, ids)
		if err != nil {
			return err
		}
		for _, id := range ids {
			delete(w.suspects, id) // those that stay so are put back
		}
		all = append(all, suspects...)
	}
	seen := map[AttemptID]bool{}
	all = slices.DeleteFunc(all, func(a Attempt) bool {
		again := seen[a.ID]
		seen[a.ID] = true
		return again
	})
	var mu sync.Mutex
	return atOnce(all, func(a Attempt) error {
		settled, err := w.examine(ctx, a, heads)
		if !settled {
			mu.Lock()
			defer mu.Unlock()
			w.suspects[a.DealID] = struct{}{}
		}
		return err
	})
}

// atOnce does something for each, some at the same time.
func atOnce[T any](all []T, do func(T) error) error {
	var mu sync.Mutex
	var failed error
	var running sync.WaitGroup
	places := make(chan struct{}, examineAtOnce)
	for _, one := range all {
		places <- struct{}{}
		running.Go(func() {
			defer func() { <-places }()
			err := do(one)
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
		})
	}
	running.Wait()
	return failed
}

// looker reads all that is known of an attempt, to look for its deal.
func (w *watcher) looker(ctx context.Context, id AttemptID, heads Heads) (looker, error) {
	a, err := w.s.store.attempt(ctx, byAttemptID, int64(id))
	if err != nil {
		return looker{}, err
	}
	return w.s.maker.looker(ctx, a, heads)
}

// examine looks at one active deal in the final tipset. settled tells that there is no doubt about it any more, or
// that the doubt is on record.
func (w *watcher) examine(ctx context.Context, a Attempt, heads Heads) (settled bool, err error) {
	defer w.s.maker.guard(&err)
	o := Observation{Heads: heads}
	if heads.Final < a.End {
		l, err := w.looker(ctx, a.ID, heads)
		if err != nil {
			return false, err
		}
		d, _, ours, err := l.deal(ctx, a.DealID, true)
		if err != nil {
			return false, fmt.Errorf("looking at deal %s: %w", a.UUID, err)
		}
		o.AtFinal = true
		if ours {
			o.Deal = &d
			l.prove(ctx, &o)
		} else {
			o.Gone = true
		}
	}
	proven := o.Deal != nil && o.Deal.SectorStart >= 0 && o.Deal.SlashEpoch < 0
	switch {
	case proven && a.Missing == 0:
		w.mu.Lock()
		w.proven[a.ID] = struct{}{}
		w.mu.Unlock()
		if o.PublishCID.Defined() || o.Denied {
			err = w.s.maker.record(ctx, a, o)
		}
		return err == nil, err
	case o.AtFinal && !proven && heads.Final <= a.Height:
		return false, nil // it was seen active later than this: wait for the final tipset to get there
	}
	if o.AtFinal && !proven {
		w.s.cfg.At("lost-seen")
	}
	err = w.s.maker.record(ctx, a, o)
	return err == nil, err
}

// settleGivenUp asks the chain for deals that their provider gave up. Until its start epoch a provider that has accepted one
// can publish it all the same. What is there is taken up again; what is not is refunded when it can come no more, and the
// events up to its start are read. A pass asks for some of them, and the next one goes on.
func (w *watcher) settleGivenUp(ctx context.Context, heads Heads) error {
	ids, err := w.s.store.givenUp(ctx, heads.Final, w.settledTo, doubtBatch)
	if err != nil {
		return fmt.Errorf("reading deals that were given up: %w", err)
	}
	if w.givenUp, w.settledTo = len(ids) == doubtBatch, 0; w.givenUp {
		w.settledTo = ids[len(ids)-1]
	}
	return atOnce(ids, func(id AttemptID) error { return w.settleOneGivenUp(ctx, id, heads) })
}

func (w *watcher) settleOneGivenUp(ctx context.Context, id AttemptID, heads Heads) (err error) {
	defer w.s.maker.guard(&err)
	l, err := w.looker(ctx, id, heads)
	if err != nil {
		return err
	}
	a := l.a
	pending, err := w.s.parts.Chain.Pending(ctx, l.signed)
	if err != nil {
		return fmt.Errorf("asking whether deal %s, which was given up, is published: %w", a.UUID, err)
	}
	if pending {
		err := w.s.maker.record(ctx, a, Observation{Heads: heads, Pending: &pending})
		if errors.Is(err, errUndecided) {
			return nil
		}
		return err
	}
	// Beyond their reach events are not read any more, whether they ever were or not.
	if a.Start < max(min(heads.Final, w.from), heads.Final-EventsReach) && a.Reserved.Sign() > 0 {
		return w.s.store.release(ctx, id)
	}
	return nil
}
