package retrieval

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

const (
	batchBlocks = 64
	batchBytes  = 4 << 20
	rawAtOnce   = 16              // single blocks of a transfer that are fetched at once
	cutsMost    = 5               // times a provider may break off and be asked to go on
	pauseReader = 2 * time.Second // how long one who wants a part waits for a transfer that may be elsewhere
	stillTimes  = 5               // hedges without a new block after which nobody waits for a transfer any more
)

var errNoProgress = errors.New("no new block for too long")

// A job is the transfer of one DAG into the store: of all below top, which is a root or lies below it. Everybody who
// wants the same shares it.
type job struct {
	s      *Service
	root   cid.Cid // whose copies are read
	top    cid.Cid
	budget Budget
	cancel context.CancelFunc
	done   chan struct{} // closed at the end; err is set then
	err    error

	wanted func()        // closes reader
	reader chan struct{} // closed when a reader wants it, and not only a restore
	seated bool          // it has a place; guarded by Service.mu
	behind bool          // and that is one which restores may take

	blocks, bytes atomic.Int64 // of the DAG, met so far

	// Of the goroutine that runs it.
	whole   map[string]struct{} // blocks below which nothing is missing, or that were visited
	useless map[string]bool     // providers that give no CAR of this DAG
	cuts    map[string]int
	batch   []blocks.Block
	size    int
	storing chan error // what comes of the batch before; nil: nothing is being stored
	flying  []*lane    // who has been asked and may still bring something

	lanes    sync.WaitGroup
	arrivals chan arrival

	mu      sync.Mutex
	users   int
	moved   time.Time           // when it met its last new block, or began
	counted map[string]struct{} // blocks in the totals
	pending map[string]got      // arrived and not stored yet
	waiting map[string][]chan got
}

// running returns the transfer that is under way and will bring what the reader of ctx wants; or else that of all below
// root, which may bring it, and all is false; nil for none. One without a place is not under way: it may have to wait for
// as long as many others take.
func (s *Service) running(ctx context.Context, root cid.Cid) (j *job, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if top, ok := trailOf(ctx).wantsAll(); ok {
		if j := s.jobs[jobKey(root, top)]; j != nil && j.seated {
			return j, true
		}
	}
	if j := s.jobs[jobKey(root, root)]; j != nil && j.seated {
		return j, false
	}
	return nil, false
}

func jobKey(root, top cid.Cid) string { return root.KeyString() + top.KeyString() }

// begin starts the transfer of all below top or joins it, for a reader or only to restore it. The caller leaves it; it
// ends when everybody has.
func (s *Service) begin(root, top cid.Cid, budget Budget, reader bool) *job {
	root, top = canonical(root), canonical(top)
	key := jobKey(root, top)
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.jobs[key]; j != nil && j.join() {
		if reader {
			j.wanted()
		}
		return j
	}
	ctx, cancel := context.WithCancel(context.Background()) // it is its users', not the first one's
	j := &job{
		s: s, root: root, top: top, budget: budget, cancel: cancel, done: make(chan struct{}), users: 1,
		counted: map[string]struct{}{}, whole: map[string]struct{}{}, useless: map[string]bool{}, cuts: map[string]int{},
		pending: map[string]got{}, waiting: map[string][]chan got{}, arrivals: make(chan arrival),
		reader: make(chan struct{}), moved: s.now(),
	}
	j.wanted = sync.OnceFunc(func() { close(j.reader) })
	if reader {
		j.wanted()
	}
	seated := j.seat()
	j.seated = seated
	s.jobs[key] = j
	go func() {
		defer cancel()
		err := j.guarded(ctx, seated)
		s.mu.Lock()
		if s.jobs[key] == j {
			delete(s.jobs, key)
		}
		s.mu.Unlock()
		j.err = err
		close(j.done)
		s.meter.transfers.WithLabelValues(outcome(err)).Inc()
	}()
	return j
}

func outcome(err error) string {
	switch {
	case err == nil:
		return "done"
	case errors.Is(err, context.Canceled):
		return "left"
	}
	return "failed"
}

func (j *job) join() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.users == 0 {
		return false // it is being ended
	}
	j.users++
	return true
}

// leave ends the caller's interest.
func (j *job) leave() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.users--; j.users == 0 {
		j.cancel()
	}
}

// Prefetch says that all below top, which is root or lies below it, is about to be read by the request of ctx. It returns
// at once.
func (s *Service) Prefetch(ctx context.Context, root, top cid.Cid) {
	j := s.begin(root, top, s.cfg.Budget, true)
	trailOf(ctx).wantAll(j.top)
	context.AfterFunc(ctx, j.leave)
}

// Restore stores every block below root that is not here. progress, which may be nil, is told the distinct blocks and
// bytes that were met so far. What has arrived before it fails stays. Errors: ErrNoSource, *FailedError, *RefusedError;
// those of the store and of ctx are transient.
func (s *Service) Restore(ctx context.Context, root cid.Cid, b Budget, progress func(blocks, bytes int64)) error {
	sources, err := s.holders(ctx, canonical(root))
	if err != nil {
		return fmt.Errorf("looking for copies of %s: %w", root, err)
	}
	if len(sources) == 0 {
		return ErrNoSource
	}
	for {
		shared, err := s.restore(ctx, root, b, progress)
		var refused *RefusedError
		if shared && errors.As(err, &refused) && ctx.Err() == nil {
			continue // over the limits of somebody else, whose transfer has ended with that
		}
		return err
	}
}

// restore is one transfer, or the rest of one. shared: it was under way with other limits.
func (s *Service) restore(ctx context.Context, root cid.Cid, b Budget, progress func(blocks, bytes int64)) (shared bool, _ error) {
	j := s.begin(root, root, b, false)
	defer j.leave()
	shared = j.budget != b
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	tell := func() {
		if progress != nil {
			progress(j.blocks.Load(), j.bytes.Load())
		}
	}
	for {
		select {
		case <-j.done:
			tell()
			if shared && j.err == nil {
				return false, b.holds(j.blocks.Load(), j.bytes.Load())
			}
			return shared, j.err
		case <-ctx.Done():
			return shared, context.Cause(ctx)
		case <-tick.C:
			tell()
			if err := b.holds(j.blocks.Load(), j.bytes.Load()); shared && err != nil {
				return false, err
			}
		}
	}
}

// wait returns a block when the transfer has it, or false when it will not come this way: it has passed and is not here
// any more, or the transfer has ended, or there is no time left. left, which may be nil, tells how much there is.
func (j *job) wait(ctx context.Context, c cid.Cid, left func() time.Duration) (got, bool) {
	c = canonical(c)
	key := c.KeyString()
	arrived := make(chan got, 1)
	j.mu.Lock()
	if g, ok := j.pending[key]; ok {
		j.mu.Unlock()
		return g, true
	}
	_, passed := j.counted[key]
	j.waiting[key] = append(j.waiting[key], arrived)
	j.mu.Unlock()
	defer j.forget(key, arrived)
	// It may have been stored just before.
	if data, err := j.s.stored(ctx, c); err == nil {
		return got{data, TierHot}, true
	}
	if passed {
		return got{}, false
	}
	var moment <-chan time.Time
	if left != nil {
		timer := time.NewTimer(left())
		defer timer.Stop()
		moment = timer.C
	}
	for {
		select {
		case g := <-arrived:
			return g, true
		case <-moment:
			if more := left(); more > 0 {
				moment = time.After(more)
				continue
			}
		case <-ctx.Done():
		case <-j.done:
			if data, err := j.s.stored(ctx, c); err == nil {
				return got{data, TierHot}, true
			}
		}
		return got{}, false
	}
}

// going is how long one who wants all of it waits still: as long as it goes on.
func (j *job) going() time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.moved.Add(max(stillTimes*j.s.cfg.Hedge, pauseReader)).Sub(j.s.now())
}

// passing is how long one who wants only a part of it waits: a moment, for it may be at the other end of the DAG.
func (j *job) passing() func() time.Duration {
	until := j.s.now().Add(pauseReader)
	return func() time.Duration { return until.Sub(j.s.now()) }
}

func (j *job) forget(key string, arrived chan got) {
	j.mu.Lock()
	defer j.mu.Unlock()
	list := j.waiting[key]
	for i, other := range list {
		if other == arrived {
			list = append(list[:i], list[i+1:]...)
			break
		}
	}
	if len(list) == 0 {
		delete(j.waiting, key)
	} else {
		j.waiting[key] = list
	}
}

// arrive takes a verified block: into the totals, to those who wait for it, and into the next batch.
func (j *job) arrive(ctx context.Context, at step, data []byte, provider string) error {
	b, err := blocks.NewBlockWithCid(data, at.cid)
	if err != nil {
		return err
	}
	if err := j.meet(at, got{data, provider}, true); err != nil {
		return err
	}
	j.batch = append(j.batch, b)
	j.size += len(data)
	if len(j.batch) < batchBlocks && j.size < batchBytes {
		return nil
	}
	return j.flush(ctx)
}

// flush hands the batch to the store, which takes it beside the transfer: it may be one batch behind.
func (j *job) flush(ctx context.Context) error {
	if len(j.batch) == 0 {
		return nil
	}
	if err := j.settle(); err != nil {
		return err
	}
	batch, result := j.batch, make(chan error, 1)
	j.batch, j.size, j.storing = nil, 0, result
	go func() { // what has arrived stays, also when nobody waits for the rest
		result <- safely(func() error { return j.keep(context.WithoutCancel(ctx), batch) })
	}()
	return nil
}

// settle waits until what was flushed is stored.
func (j *job) settle() error {
	if j.storing == nil {
		return nil
	}
	err := <-j.storing
	j.storing = nil
	return err
}

func (j *job) keep(ctx context.Context, batch []blocks.Block) error {
	if err := j.s.put(ctx, batch); err != nil {
		return fmt.Errorf("storing what was fetched of %s: %w", j.top, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, b := range batch {
		delete(j.pending, b.Cid().KeyString())
	}
	return nil
}

// meet counts a block and gives it to those who wait for it. It is pending when it is still to be stored.
func (j *job) meet(at step, g got, pending bool) error {
	key := at.cid.KeyString()
	j.mu.Lock()
	if err := j.count(at, len(g.data)); err != nil {
		j.mu.Unlock()
		return err
	}
	if pending {
		j.pending[key] = g
	}
	waiting := j.waiting[key]
	delete(j.waiting, key)
	j.mu.Unlock()
	for _, w := range waiting {
		w <- g
	}
	return nil
}

// count adds a block to the totals, once, and holds them against the budget. The caller holds mu.
func (j *job) count(at step, size int) error {
	if err := j.s.parts.Codec.Admit(at.cid); err != nil {
		return &RefusedError{Reason: err.Error()}
	}
	switch {
	case over(int64(size), int64(j.budget.BlockSize)):
		return &RefusedError{Reason: fmt.Sprintf("a block has %d bytes, more than %d", size, j.budget.BlockSize)}
	case over(int64(at.depth), int64(j.budget.Depth)):
		return &RefusedError{Reason: fmt.Sprintf("it is deeper than %d links", j.budget.Depth)}
	}
	if _, counted := j.counted[at.cid.KeyString()]; counted {
		return nil
	}
	j.counted[at.cid.KeyString()] = struct{}{}
	j.moved = j.s.now()
	return j.budget.holds(j.blocks.Add(1), j.bytes.Add(int64(size)))
}
