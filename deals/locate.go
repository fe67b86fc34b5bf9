package deals

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/frostpin/frostpin/deals/piece"
)

const (
	// locateEvery is how old what a provider has announced may be.
	locateEvery = 24 * time.Hour
	// locateTimeout bounds all of asking a provider where it serves.
	locateTimeout = 15 * time.Second
	// locateAgain is how soon one is asked again that has just answered, or not.
	locateAgain = 10 * time.Second
	// locatingAtOnce bounds how many are asked at the same time.
	locatingAtOnce = 32
)

// A locator finds out where providers serve over HTTP. All methods may be called concurrently, in a service that makes
// deals and in one that does not.
type locator struct {
	store  *store
	chain  Chain
	market Market
	log    *slog.Logger
	now    func() time.Time
	slots  chan struct{}

	mu      sync.Mutex
	flights map[ProviderID]*search
	last    map[ProviderID]*search // that have ended; one for each provider of the registry at most
	running sync.WaitGroup
}

// A search is a question to a provider, for all who want its answer.
type search struct {
	done chan struct{} // closed when the rest is there
	at   time.Time
	urls []string
	err  error
}

func newLocator(s *store, parts Parts, log *slog.Logger, now func() time.Time) *locator {
	return &locator{
		store: s, chain: parts.Chain, market: parts.Market, log: log, now: now, slots: make(chan struct{}, locatingAtOnce),
		flights: map[ProviderID]*search{}, last: map[ProviderID]*search{},
	}
}

// Locate asks a provider now where it serves over HTTP, unless that was done just before, and returns its base URLs, the
// best first: the one that the operator decided on, if any, before all others. Those who ask at the same time share one
// question. Errors: ErrNoProvider; others say why there is no answer.
func (s *Service) Locate(ctx context.Context, id ProviderID) ([]string, error) {
	known, err := s.store.readProvider(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("looking up where %s serves: %w", id, err)
	}
	f := s.locator.join(id) //nolint:contextcheck // the question is shared: it outlives those who ask for it
	if f == nil {
		return nil, errNotAsking
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if f.err != nil && known.HTTP == "" {
		return nil, f.err
	}
	return Holder{HTTP: known.HTTP, Found: slices.Clone(f.urls)}.URLs(), nil
}

var errNotAsking = errors.New("looking up where a provider serves: there is no network to ask in")

// refresh has a provider asked, without waiting for it.
func (l *locator) refresh(id ProviderID) { l.join(id) }

// join returns the question to a provider that is under way or was answered just before, or begins one; nil where there
// is nobody to ask.
func (l *locator) join(id ProviderID) *search {
	if l.chain == nil || l.market == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.flights[id]; f != nil {
		return f
	}
	if f := l.last[id]; f != nil && l.now().Sub(f.at) < locateAgain {
		return f
	}
	f := &search{done: make(chan struct{})}
	l.flights[id] = f
	l.running.Go(func() {
		ctx, cancel := context.WithTimeoutCause(context.Background(), locateTimeout, errors.New("it did not answer in time"))
		defer cancel()
		f.err = piece.Calm(func() (err error) {
			f.urls, err = l.ask(ctx, id)
			return err
		})
		f.at = l.now()
		if f.err != nil {
			l.log.Debug("asking a provider where it serves", "provider", id.String(), "err", f.err)
		}
		l.mu.Lock()
		delete(l.flights, id)
		l.last[id] = f
		l.mu.Unlock()
		close(f.done)
	})
	return f
}

func (l *locator) ask(ctx context.Context, id ProviderID) ([]string, error) {
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	known, err := l.store.readProvider(ctx, id)
	if err != nil {
		return nil, err
	}
	contact := known.Contact
	if known.PeerID == "" || len(known.Addrs) == 0 {
		miner, found, err := l.chain.Miner(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("looking up %s on chain: %w", id, err)
		}
		if !found {
			return nil, fmt.Errorf("looking up %s on chain: there is no such storage provider", id)
		}
		contact = known.contact(miner.PeerID, miner.Addrs)
	}
	urls, err := l.market.Transports(ctx, contact)
	if err != nil {
		return nil, err
	}
	if err := l.store.saveLocation(ctx, id, urls, l.now()); err != nil {
		return nil, fmt.Errorf("recording where %s serves: %w", id, err)
	}
	return urls, nil
}

// wait returns when nobody is asked any more: soon, for every question is bounded.
func (l *locator) wait() { l.running.Wait() }
