package deals

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	fbig "github.com/filecoin-project/go-state-types/big"

	"github.com/frostpin/frostpin/deals/piece"
)

const (
	// probeTimeout bounds all of a probe; the provider's part of it has askTimeout.
	probeTimeout = 20 * time.Second
	askTimeout   = 10 * time.Second
	probesAtOnce = 64
	// probeTick is how soon a provider is asked that the operator has just added.
	probeTick = 5 * time.Second
	// askSettled is how old an answer, or its absence, may be to save asking again on demand.
	askSettled = 10 * time.Second
)

// A prober keeps the registry's findings fresh: it asks the chain where providers are and the providers what they
// demand. It writes nothing else. All methods may be called concurrently.
type prober struct {
	store  *store
	chain  Chain
	market Market
	log    *slog.Logger
	now    func() time.Time
	tick   time.Duration    // how often it is looked at who is due
	locate func(ProviderID) // has a provider asked where it serves; nil: nobody is

	mu      sync.Mutex
	life    context.Context //nolint:containedctx // probes are shared: none of those who wait for one may end it
	stop    context.CancelFunc
	flights map[ProviderID]*flight
	running sync.WaitGroup
}

// A flight is a probe under way, for all who want its result.
type flight struct {
	done     chan struct{} // closed when the rest is there
	provider Provider
	err      error
}

var errProber = errors.New("probing has stopped")

func newProber(s *store, chain Chain, market Market, log *slog.Logger, now func() time.Time) *prober {
	p := &prober{store: s, chain: chain, market: market, log: log, now: now, flights: map[ProviderID]*flight{}}
	p.tick = min(p.pace(), probeTick)
	p.begin()
	return p
}

// begin lets probes begin again after a run has ended.
func (p *prober) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life == nil || p.life.Err() != nil {
		p.life, p.stop = context.WithCancel(context.Background())
	}
}

// Findings are what a probe has found. err is why there is no ask, empty when there is one.
type findings struct {
	at    time.Time
	miner Miner
	found bool // the chain knows the provider
	ask   *Ask
	err   string
}

// run probes each provider that may be used when its time has come, until ctx ends; then no probe is under way any
// more and none begins before begin is called, as it is before another run. Each has its own time-out, so that one that
// hangs delays no other.
func (p *prober) run(ctx context.Context) error {
	ticker := time.NewTicker(p.tick)
	defer ticker.Stop()
	var running sync.WaitGroup
	defer running.Wait()
	defer p.end()
	slots := make(chan struct{}, probesAtOnce)
	for {
		list, err := p.store.providerList(ctx)
		if err != nil && ctx.Err() == nil {
			p.log.Warn("reading the registry of providers", "err", err)
		}
		for _, known := range list {
			if !p.due(known) || p.flying(known.ID) {
				continue
			}
			running.Go(func() {
				select {
				case slots <- struct{}{}:
				case <-ctx.Done():
					return
				}
				defer func() { <-slots }()
				if _, err := p.probe(ctx, known.ID); err != nil && ctx.Err() == nil {
					p.log.Warn("probing a provider", "provider", known.ID.String(), "err", err)
				}
			})
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// pace is the service's: what moves is looked at as often everywhere.
func (p *prober) pace() time.Duration { return cmp.Or(p.store.policy.Poll, time.Minute) }

// How many paces lie between two questions to a provider: one that answers, and one that does not.
const (
	pacesAnswered = 15
	pacesSilent   = 3
)

// due tells whether a provider is to be asked again. Jitter keeps those that were added together apart.
func (p *prober) due(known Provider) bool {
	if known.Trust == Denied {
		return false
	}
	every := pacesAnswered * p.pace()
	if known.ProbeError != "" {
		every = pacesSilent * p.pace()
	}
	return p.now().Sub(known.ProbedAt) >= every-rand.N(every/5) //nolint:gosec // jitter, not a secret
}

// probe asks a provider now, unless that was done just before, and returns it as it is known then: its ProbeError says
// when it has not answered. The error is one of the database or wraps ErrChain, and says nothing about the provider.
func (p *prober) probe(ctx context.Context, id ProviderID) (Provider, error) {
	f := p.join(id) //nolint:contextcheck // a probe is shared: it outlives those who ask for it
	select {
	case <-f.done:
		return f.provider, f.err
	case <-ctx.Done():
		return Provider{}, context.Cause(ctx)
	}
}

// join returns the probe of a provider that is under way, or begins one.
func (p *prober) join(id ProviderID) *flight {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f, ok := p.flights[id]; ok {
		return f
	}
	f := &flight{done: make(chan struct{}), err: errProber}
	life := p.life
	if life.Err() != nil {
		close(f.done)
		return f
	}
	p.flights[id] = f
	p.running.Go(func() {
		ctx, cancel := context.WithTimeout(life, probeTimeout)
		defer cancel()
		f.err = piece.Calm(func() (err error) {
			f.provider, err = p.ask(ctx, id)
			return err
		})
		p.mu.Lock()
		delete(p.flights, id)
		p.mu.Unlock()
		close(f.done)
	})
	return f
}

// flying tells whether a provider is being asked.
func (p *prober) flying(id ProviderID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.flights[id] != nil
}

// end stops the probes under way and lets no other begin.
func (p *prober) end() {
	p.mu.Lock()
	p.stop()
	p.mu.Unlock()
	p.running.Wait()
}

func (p *prober) ask(ctx context.Context, id ProviderID) (Provider, error) {
	known, err := p.store.readProvider(ctx, id)
	if err != nil {
		return Provider{}, err
	}
	if p.now().Sub(known.ProbedAt) < askSettled {
		return known, nil
	}
	f, err := p.look(ctx, known)
	if err != nil {
		return Provider{}, err
	}
	f.at = p.now()
	if p.locate != nil && f.found && p.now().Sub(known.FoundAt) >= locateEvery {
		p.locate(id)
	}
	// Copies may wait for the first usable answer.
	wake := f.ask != nil && (known.Ask == nil || known.ProbeError != "")
	if err := p.store.saveFindings(ctx, id, f, wake); err != nil {
		return Provider{}, fmt.Errorf("recording what %s has answered: %w", id, err)
	}
	if was := known.ProbeError; was != f.err {
		if f.err == "" {
			p.log.Info("provider answers again", "provider", id.String(), "err", was)
		} else {
			p.log.Warn("provider gives no usable ask", "provider", id.String(), "err", f.err)
		}
	}
	return p.store.readProvider(ctx, id)
}

// look asks chain and provider. What is wrong with the provider is in the findings.
func (p *prober) look(ctx context.Context, known Provider) (findings, error) {
	var f findings
	var err error
	f.miner, f.found, err = p.chain.Miner(ctx, known.ID)
	if err != nil {
		return f, fmt.Errorf("looking up %s on chain: %w", known.ID, err)
	}
	if !f.found {
		f.err = "the chain knows no such storage provider"
		return f, nil
	}
	asking, cancel := context.WithTimeoutCause(ctx, askTimeout, errors.New("it did not answer in time"))
	defer cancel()
	ask, err := p.market.Ask(asking, known.contact(f.miner.PeerID, f.miner.Addrs))
	if ctx.Err() != nil {
		return f, context.Cause(ctx) // we gave up, not the provider
	}
	if err != nil {
		f.err = clip(err.Error())
		return f, nil //nolint:nilerr // it is a finding
	}
	if f.err = implausible(ask); f.err != "" {
		return f, nil
	}
	signed, err := p.chain.VerifyAsk(ctx, known.ID, ask.Signed, *ask.Signature)
	if err != nil {
		return f, fmt.Errorf("verifying the ask of %s: %w", known.ID, err)
	}
	heads, err := p.chain.Heads(ctx)
	if err != nil {
		return f, fmt.Errorf("verifying the ask of %s: %w", known.ID, err)
	}
	switch {
	case !signed:
		f.err = "its ask is not signed by its worker key"
	case ask.Expiry <= heads.Head:
		f.err = fmt.Sprintf("its ask expired at epoch %d", ask.Expiry)
	default:
		f.ask = &ask
	}
	return f, nil
}

// implausible says what is wrong with an ask by itself.
func implausible(a Ask) string {
	switch {
	case a.Signature == nil:
		return "its ask is not signed"
	case amount(a.Price).LessThan(fbig.Zero()) || amount(a.VerifiedPrice).LessThan(fbig.Zero()):
		return "its ask names a negative price"
	case a.MaxPiece > 0 && a.MaxPiece < a.MinPiece:
		return fmt.Sprintf("its ask takes pieces from %d up to %d bytes: none", a.MinPiece, a.MaxPiece)
	}
	return ""
}
