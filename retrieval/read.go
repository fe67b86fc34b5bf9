package retrieval

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
)

type (
	rootKey  struct{}
	trailKey struct{}
)

// WithRoot lets reads with this context look for blocks below root from afar.
func WithRoot(ctx context.Context, root cid.Cid) context.Context {
	return context.WithValue(ctx, rootKey{}, canonical(root))
}

func rootOf(ctx context.Context) (cid.Cid, bool) {
	root, ok := ctx.Value(rootKey{}).(cid.Cid)
	return root, ok
}

// Tiers, as headers and metrics have them.
const (
	TierHot  = "hot"
	TierCold = "cold"
)

// A Trail records who answered the reads of one request. The zero value is ready.
type Trail struct {
	mu        sync.Mutex
	providers []string
	whole     cid.Cid // all below it is wanted; undefined: nothing whole
}

// WithTrail begins to record.
func WithTrail(ctx context.Context) (context.Context, *Trail) {
	t := &Trail{}
	return context.WithValue(ctx, trailKey{}, t), t
}

func trailOf(ctx context.Context) *Trail {
	t, _ := ctx.Value(trailKey{}).(*Trail)
	return t
}

// Tier is TierHot as long as nothing came from elsewhere.
func (t *Trail) Tier() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.providers) > 0 {
		return TierCold
	}
	return TierHot
}

// Providers are those who answered with what was not hot, each once.
func (t *Trail) Providers() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.providers)
}

func (t *Trail) add(provider string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Contains(t.providers, provider) {
		t.providers = append(t.providers, provider)
	}
}

func (t *Trail) wantsAll() (top cid.Cid, ok bool) {
	if t == nil {
		return cid.Undef, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.whole, t.whole.Defined()
}

func (t *Trail) wantAll(top cid.Cid) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.whole = top
}

// Blocks reads hot and then, below a root that WithRoot has put into the context, from afar. What came from afar is
// stored hot. Errors: *FailedError, ipld.ErrNotFound for what is not hot and has no root.
func (s *Service) Blocks() blockservice.BlockService {
	return blockservice.New(hotStore{s}, coldExchange{s})
}

// HotBlocks reads hot and never asks anybody else.
func (s *Service) HotBlocks() blockservice.BlockService {
	return blockservice.New(hotStore{s}, nil)
}

// Get returns one block, hot first; see Blocks.
func (s *Service) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	b, err := s.hot(ctx, c)
	if err == nil {
		return b, nil
	}
	return s.cold(ctx, c, err)
}

// hot reads a block that is here, in bounded time. What is not readable is an ErrAbsent, for the reader; why, for the
// rest of us, in what it wraps.
func (s *Service) hot(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	begun := s.now()
	b, again := s.recent.get(c)
	if !again {
		data, err := s.stored(ctx, c)
		if err != nil {
			return nil, err
		}
		if b, err = blocks.NewBlockWithCid(data, c); err != nil {
			return nil, err
		}
		s.recent.add(b)
	}
	s.meter.reads.WithLabelValues(TierHot).Inc()
	s.meter.firstByte.WithLabelValues(TierHot).Observe(s.now().Sub(begun).Seconds())
	return b, nil
}

// stored asks the store for a block, in bounded time.
func (s *Service) stored(ctx context.Context, c cid.Cid) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.HotTime)
	defer cancel()
	return s.parts.Store.Block(ctx, c)
}

// putTime is how long the store may take for one batch.
const putTime = time.Minute

// put stores verified blocks, in bounded time: a store that hangs must not hold a transfer and its place for ever.
func (s *Service) put(ctx context.Context, list []blocks.Block) error {
	ctx, cancel := context.WithTimeout(ctx, putTime)
	defer cancel()
	return s.parts.Store.Put(ctx, list)
}

// cold looks for a block from afar that was not read hot because of err.
func (s *Service) cold(ctx context.Context, c cid.Cid, err error) (blocks.Block, error) {
	root, known := rootOf(ctx)
	if !known {
		if errors.Is(err, ErrAbsent) || errors.Is(err, ErrCorrupt) {
			return nil, ipld.ErrNotFound{Cid: c}
		}
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if errors.Is(err, ErrAbsent) || errors.Is(err, ErrCorrupt) {
		s.cfg.Doubt(root)
	}
	got, err := s.fetch(ctx, root, c)
	if err != nil {
		return nil, err
	}
	if got.provider != TierHot { // else a transfer has stored it in the same moment
		trailOf(ctx).add(got.provider)
	}
	s.meter.reads.WithLabelValues(TierCold).Inc()
	return blocks.NewBlockWithCid(got.data, c)
}

// hotStore is the hot blocks as boxo sees them.
type hotStore struct{ s *Service }

var _ blockstore.Blockstore = hotStore{}

func (h hotStore) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	b, err := h.s.hot(ctx, c)
	if errors.Is(err, ErrAbsent) || errors.Is(err, ErrCorrupt) {
		return nil, ipld.ErrNotFound{Cid: c}
	}
	if _, known := rootOf(ctx); err != nil && known && ctx.Err() == nil {
		return nil, ipld.ErrNotFound{Cid: c} // the store is away: the exchange is asked
	}
	return b, err
}

func (h hotStore) Has(ctx context.Context, c cid.Cid) (bool, error) {
	_, err := h.s.stored(ctx, c)
	if errors.Is(err, ErrAbsent) || errors.Is(err, ErrCorrupt) {
		return false, nil
	}
	return err == nil, err
}

func (h hotStore) GetSize(ctx context.Context, c cid.Cid) (int, error) {
	b, err := h.Get(ctx, c)
	if err != nil {
		return 0, err
	}
	return len(b.RawData()), nil
}

// Put and PutMany do nothing: what the exchange has fetched it has stored itself.
func (hotStore) Put(context.Context, blocks.Block) error       { return nil }
func (hotStore) PutMany(context.Context, []blocks.Block) error { return nil }

var errReadOnly = errors.New("blocks are read here, not kept")

func (hotStore) DeleteBlock(context.Context, cid.Cid) error          { return errReadOnly }
func (hotStore) AllKeysChan(context.Context) (<-chan cid.Cid, error) { return nil, errReadOnly }

// coldExchange is everything that is not hot, as boxo sees it.
type coldExchange struct{ s *Service }

// GetBlock implements exchange.Fetcher.
func (e coldExchange) GetBlock(ctx context.Context, c cid.Cid) (b blocks.Block, err error) {
	err = safely(func() (err error) {
		b, err = e.s.cold(ctx, c, ErrAbsent)
		return err
	})
	e.s.notePanic(err)
	return b, err
}

// readAtOnce is how many blocks of one list are read at the same time.
const readAtOnce = 16

// GetBlocks implements exchange.Fetcher. Blocks that cannot be had are left out.
func (e coldExchange) GetBlocks(ctx context.Context, ks []cid.Cid) (<-chan blocks.Block, error) {
	out := make(chan blocks.Block)
	todo := make(chan cid.Cid)
	var running sync.WaitGroup
	for range min(readAtOnce, len(ks)) {
		running.Go(func() {
			for c := range todo {
				if b, err := e.GetBlock(ctx, c); err == nil {
					select {
					case out <- b:
					case <-ctx.Done():
					}
				}
			}
		})
	}
	go func() {
		defer close(out)
		defer running.Wait()
		defer close(todo)
		for _, c := range ks {
			select {
			case todo <- c:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// NotifyNewBlocks implements exchange.Interface.
func (coldExchange) NotifyNewBlocks(context.Context, ...blocks.Block) error { return nil }

// Close implements exchange.Interface.
func (coldExchange) Close() error { return nil }
