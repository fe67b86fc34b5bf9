package retrieval

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/singleflight"

	"github.com/frostpin/frostpin/retrieval/guard"
)

// Config says how patient a Service is. Zero means the default.
type Config struct {
	Allow      []netip.Prefix     // private addresses at which providers may be: a devnet's
	IPNI       string             // base URL of a router that names strangers; empty: none is asked
	HotTime    time.Duration      // for one hot block, then it is looked for elsewhere; 5 s
	Hedge      time.Duration      // until the next provider is asked too; 2 s
	BlockTime  time.Duration      // for one block from one provider; 30 s
	FetchTime  time.Duration      // for one block from anywhere; 60 s
	Idle       time.Duration      // without a whole new block of a transfer: the next provider; 15 s
	Header     time.Duration      // until a provider begins to answer; 10 s
	BlockSize  int                // largest block, in bytes; 2 MiB
	Budget     Budget             // of a transfer that a reader has begun
	Transfers  int                // of whole DAGs at once; 8
	Recent     int64              // bytes of blocks just read hot that are kept in memory for other readers; 0: none are
	ProbeEvery time.Duration      // between two copies that are read back by the way; 0: none is
	Doubt      func(root cid.Cid) // a block below root that should be hot was missing or wrong; nil: nobody is told
}

func (c Config) withDefaults() Config {
	c.HotTime = cmp.Or(c.HotTime, 5*time.Second)
	c.Hedge = cmp.Or(c.Hedge, 2*time.Second)
	c.BlockTime = cmp.Or(c.BlockTime, 30*time.Second)
	c.FetchTime = cmp.Or(c.FetchTime, time.Minute)
	c.Idle = cmp.Or(c.Idle, 15*time.Second)
	c.Header = cmp.Or(c.Header, 10*time.Second)
	c.BlockSize = cmp.Or(c.BlockSize, 2<<20)
	c.Transfers = cmp.Or(c.Transfers, 8)
	if c.Doubt == nil {
		c.Doubt = func(cid.Cid) {}
	}
	return c
}

// restoresMost is how many of the places for transfers restores may take: they leave a quarter to readers.
func restoresMost(transfers int) int { return max(1, transfers-max(1, transfers/4)) }

// Parts are what a Service works with.
type Parts struct {
	Directory Directory
	Store     Store
	Network   Network // nil: none is asked
	Codec     Codec
	DB        DB
}

// A Service reads DAGs. Its methods may be called concurrently.
type Service struct {
	cfg    Config
	parts  Parts
	log    *slog.Logger
	now    func() time.Time
	client *http.Client
	ranks  *ranks
	store  *store
	recent *recents
	meter  *meter
	flight singleflight.Group
	slots  chan struct{} // transfers of whole DAGs

	restores chan struct{} // those of them that no reader wants

	mu      sync.Mutex
	jobs    map[string]*job
	sources map[string]remembered
	refills map[string]got // fetched, and being stored
}

// remembered is an answer of the directory.
type remembered struct {
	list []Source
	at   time.Time
}

// sourcesFor is how long an answer of the directory is good.
const sourcesFor = 5 * time.Second

// New returns a Service that reads at once; Run adds what it does by the way.
func New(cfg Config, parts Parts, log *slog.Logger, now func() time.Time) *Service {
	cfg = cfg.withDefaults()
	s := &Service{
		cfg: cfg, parts: parts, log: log, now: now,
		client: guard.NewClient(guard.Config{Allow: cfg.Allow, Header: cfg.Header, Idle: cfg.Idle, PerHost: 64}),
		ranks:  newRanks(now, log),
		store:  &store{db: parts.DB, now: now},
		meter:  newMeter(),
		recent: newRecents(cfg.Recent, now),
		slots:  make(chan struct{}, cfg.Transfers), restores: make(chan struct{}, restoresMost(cfg.Transfers)),
		jobs: map[string]*job{}, sources: map[string]remembered{}, refills: map[string]got{},
	}
	return s
}

// Recall reads what earlier runs have learnt of providers.
func (s *Service) Recall(ctx context.Context) error {
	stored, err := s.store.providers(ctx)
	if err != nil {
		return fmt.Errorf("reading what is known of providers: %w", err)
	}
	s.ranks.adopt(stored)
	return nil
}

// FirstByte tells how long a provider takes to begin an answer, as far as it was asked; zero when nothing is known.
func (s *Service) FirstByte(provider string) time.Duration { return s.ranks.firstByte(provider) }

// Run remembers providers from run to run, and reads cold copies back by the way, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	if err := s.Recall(ctx); err != nil {
		s.log.Warn("starting without what was learnt before", "err", err)
	}
	var done sync.WaitGroup
	done.Go(func() { every(ctx, keepEvery, s.keep) })
	if s.cfg.ProbeEvery > 0 {
		done.Go(func() { s.probes(ctx) })
	}
	done.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTime)
	defer cancel()
	s.keep(ctx)
	s.client.CloseIdleConnections()
	return nil
}

const (
	keepEvery = 30 * time.Second
	keepTime  = 5 * time.Second
)

// keep stores what is known of providers, and forgets what is too old to be used.
func (s *Service) keep(ctx context.Context) {
	s.recent.expire()
	changed := s.ranks.changed()
	if err := s.store.keep(ctx, changed); err != nil {
		s.ranks.unkept(changed)
		if ctx.Err() == nil {
			s.log.Warn("storing what is known of providers", "err", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for root, r := range s.sources {
		if s.now().Sub(r.at) > sourcesFor {
			delete(s.sources, root)
		}
	}
}

// every calls do once per period until ctx ends.
func every(ctx context.Context, period time.Duration, do func(context.Context)) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			do(ctx)
		}
	}
}

// holders asks the directory, or remembers what it said, and puts the best first.
func (s *Service) holders(ctx context.Context, root cid.Cid) ([]Source, error) {
	key := root.KeyString()
	s.mu.Lock()
	r, ok := s.sources[key]
	s.mu.Unlock()
	if !ok || s.now().Sub(r.at) > sourcesFor {
		list, err := s.parts.Directory.Sources(ctx, root)
		if err != nil {
			return nil, err
		}
		r = remembered{list, s.now()}
		s.mu.Lock()
		s.sources[key] = r
		s.mu.Unlock()
	}
	return s.ranks.order(r.list), nil
}

// note remembers what a provider has failed with.
func (s *Service) note(provider string, err error) failure {
	s.notePanic(err)
	f := failure{class: Refused, err: err}
	if known := (*failure)(nil); errors.As(err, &known) {
		f = *known
	}
	s.ranks.failed(provider, f)
	if f.lie {
		s.meter.lies.Inc()
	}
	return f
}
