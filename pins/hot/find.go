package hot

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot/hold"
)

const (
	searches     = 16               // searches of the routing system at once, in the whole tier
	searchTime   = 30 * time.Second // one of them
	searchPause  = time.Minute      // before the first root of a Find is searched again; doubles
	searchPauses = time.Hour        // at most
	providers    = 10               // peers taken from one search

	// A bitswap peer remembers the last 1,024 blocks that we asked for and forgets the others, at once where one
	// message asks for more. So we ask at a pace, and ask anew: soon, in case it forgot at once, and then ever more
	// rarely, in case it gets the block after it forgot.
	askBurst  = 800
	askFresh  = 8000 // roots in a second, asked for the first time
	askOld    = 1000 // and those asked for again
	askSoon   = 2 * time.Second
	askRarely = time.Minute
)

// An askPace keeps wants from coming to the peers in heaps.
type askPace struct{ fresh, again *rate.Limiter }

func newAskPace() askPace {
	return askPace{fresh: rate.NewLimiter(askFresh, askBurst), again: rate.NewLimiter(askOld, askBurst)}
}

// errTooMany answers a Find for more roots than one session can ask for.
var errTooMany = errors.New("looking for more roots at once than a session asks for")

// Find implements pins.HotTier. A root that can never be held counts as found: Hold says why. All roots share one
// session, which asks every connected peer for them and is told when one gets them later. Such a session searches the routing system for one of its roots a minute only, so where
// there is routing every root is searched for by ourselves as well (K13).
func (e *Embedded) Find(ctx context.Context, roots []cid.Cid, found func(cid.Cid)) error {
	ctx, done, err := e.life.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if len(roots) > pins.MaxFind {
		return errTooMany
	}
	// Blocks are one by their hash, whatever CIDs name them.
	wanted := make(map[string][]cid.Cid)
	var missing []cid.Cid
	for _, root := range roots {
		here, err := e.has(ctx, root)
		switch {
		case err != nil && !errors.Is(err, pins.ErrCorrupt): // which is looked for like one that is not here
			return err
		case here:
			found(root)
		default:
			key := string(root.Hash())
			if wanted[key] = append(wanted[key], root); len(wanted[key]) == 1 {
				missing = append(missing, root)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var searching sync.WaitGroup
	defer searching.Wait()
	defer cancel() // before waiting
	arrived := newRootSet()
	if e.config.Network == Public {
		unfound := slices.Clone(missing)
		searching.Go(func() { e.searchAll(ctx, unfound, arrived) })
	}
	pace := e.asking.fresh
	for long := askSoon; ; long = min(4*long, askRarely) {
		if err := sleep(ctx, pace.ReserveN(time.Now(), len(missing)).Delay()); err != nil {
			return err
		}
		if err := e.ask(ctx, long, missing, func(key string) {
			arrived.add(key)
			for _, root := range wanted[key] {
				found(root)
			}
		}); err != nil {
			return err
		}
		missing = slices.DeleteFunc(missing, func(c cid.Cid) bool { return arrived.has(string(c.Hash())) })
		if len(missing) == 0 {
			return nil
		}
		pace = e.asking.again
	}
}

// ask asks all peers for these blocks, for about so long, and calls got with the hash of each that came.
func (e *Embedded) ask(ctx context.Context, long time.Duration, cids []cid.Cid, got func(key string)) error {
	inner, cancel := context.WithTimeout(ctx, long+rand.N(long/2)) // not all Finds at the same moment
	defer cancel()
	missing := len(cids)
	for block := range blockservice.NewSession(inner, e.node.Blocks).GetBlocks(inner, cids) {
		got(string(block.Cid().Hash()))
		missing--
	}
	switch {
	case ctx.Err() != nil && missing > 0:
		return context.Cause(ctx)
	case inner.Err() == nil && missing > 0:
		return fmt.Errorf("looking for roots: the node gave up on %d of %d", missing, len(cids))
	default:
		return nil
	}
}

// has tells whether a block is here. pins.ErrCorrupt: there are wrong bytes where it would be.
func (e *Embedded) has(ctx context.Context, c cid.Cid) (bool, error) {
	if _, inline := hold.Identity(c); inline || hold.Admit(c) != nil {
		return true, nil //nolint:nilerr // what can never be held counts as here: Hold says why
	}
	here, err := e.node.Blockstore.Has(ctx, c)
	switch {
	case rotten(err):
		return false, fmt.Errorf("looking for block %s: %w: %w", c, pins.ErrCorrupt, err)
	case err != nil:
		return false, fmt.Errorf("looking for block %s: %w", c, err)
	}
	return here, nil
}

// sleep waits for d, or returns the cause of ctx when that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// searchAll asks the routing system for each root that has not arrived, again and again, ever more rarely.
func (e *Embedded) searchAll(ctx context.Context, roots []cid.Cid, arrived *rootSet) {
	for pause := searchPause; ; pause = min(2*pause, searchPauses) {
		for _, root := range roots {
			if arrived.has(string(root.Hash())) {
				continue
			}
			select {
			case e.search <- struct{}{}:
			case <-ctx.Done():
				return
			}
			apart(e.log, "looking for providers", func() { e.searchOne(ctx, root) })
			<-e.search
		}
		if sleep(ctx, pause) != nil {
			return
		}
	}
}

// searchOne connects to peers that are said to have root; the session that looks for it does the rest.
func (e *Embedded) searchOne(ctx context.Context, root cid.Cid) {
	ctx, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	var dials sync.WaitGroup
	defer dials.Wait()
	for provider := range e.node.Routing.FindProvidersAsync(ctx, root, providers) {
		if provider.ID == e.node.Identity {
			continue
		}
		dials.Go(func() {
			apart(e.log, "dialling a provider", func() {
				e.dial(ctx, peer.AddrInfo{ID: provider.ID, Addrs: e.policy.filter(provider.Addrs)})
			})
		})
	}
}

// A rootSet is a set that one goroutine fills and another one reads.
type rootSet struct {
	mu   sync.Mutex
	keys map[string]struct{}
}

func newRootSet() *rootSet { return &rootSet{keys: make(map[string]struct{})} }

func (s *rootSet) add(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[key] = struct{}{}
}

func (s *rootSet) has(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.keys[key]
	return ok
}
