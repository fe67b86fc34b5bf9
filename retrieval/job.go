package retrieval

import (
	"cmp"
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

	blocks, bytes atomic.Int64 // of the DAG, met so far

	// Of the goroutine that runs it.
	counted map[string]struct{} // blocks in the totals
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
	pending map[string]got // arrived and not stored yet
	waiting map[string][]chan got
}

// running returns the transfer that is under way and will bring what the reader of ctx wants; or else that of all below
// root, which may bring it, and all is false; nil for none.
func (s *Service) running(ctx context.Context, root cid.Cid) (j *job, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if top, ok := trailOf(ctx).wantsAll(); ok {
		if j := s.jobs[jobKey(root, top)]; j != nil {
			return j, true
		}
	}
	return s.jobs[jobKey(root, root)], false
}

func jobKey(root, top cid.Cid) string { return root.KeyString() + top.KeyString() }

// begin starts the transfer of all below top or joins it. The caller leaves it; it ends when everybody has.
func (s *Service) begin(root, top cid.Cid, budget Budget) *job {
	root, top = canonical(root), canonical(top)
	key := jobKey(root, top)
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.jobs[key]; j != nil && j.join() {
		return j
	}
	ctx, cancel := context.WithCancel(context.Background()) // it is its users', not the first one's
	j := &job{
		s: s, root: root, top: top, budget: budget, cancel: cancel, done: make(chan struct{}), users: 1,
		counted: map[string]struct{}{}, whole: map[string]struct{}{}, useless: map[string]bool{}, cuts: map[string]int{},
		pending: map[string]got{}, waiting: map[string][]chan got{}, arrivals: make(chan arrival),
	}
	s.jobs[key] = j
	go func() {
		defer cancel()
		err := j.guarded(ctx)
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
	j := s.begin(root, top, s.cfg.Budget)
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
	j := s.begin(root, root, b)
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

// wait returns a block when the transfer has it, or false when it will not come this way. Who wants only a part waits
// only a moment: it may be at the other end of the DAG.
func (j *job) wait(ctx context.Context, c cid.Cid, all bool) (got, bool) {
	c = canonical(c)
	key := c.KeyString()
	arrived := make(chan got, 1)
	j.mu.Lock()
	if g, ok := j.pending[key]; ok {
		j.mu.Unlock()
		return g, true
	}
	j.waiting[key] = append(j.waiting[key], arrived)
	j.mu.Unlock()
	defer j.forget(key, arrived)
	// It may have been stored just before.
	if data, err := j.s.stored(ctx, c); err == nil {
		return got{data, TierHot}, true
	}
	var moment <-chan time.Time
	if !all {
		timer := time.NewTimer(pauseReader)
		defer timer.Stop()
		moment = timer.C
	}
	select {
	case g := <-arrived:
		return g, true
	case <-moment:
	case <-ctx.Done():
	case <-j.done:
		if data, err := j.s.stored(ctx, c); err == nil {
			return got{data, TierHot}, true
		}
	}
	return got{}, false
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

// arrive takes a verified block: to those who wait for it, and into the next batch.
func (j *job) arrive(ctx context.Context, c cid.Cid, data []byte, provider string) error {
	b, err := blocks.NewBlockWithCid(data, c)
	if err != nil {
		return err
	}
	key := c.KeyString()
	j.mu.Lock()
	j.pending[key] = got{data, provider}
	waiting := j.waiting[key]
	delete(j.waiting, key)
	j.mu.Unlock()
	for _, w := range waiting {
		w <- got{data, provider}
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

// count adds a block to the totals, once, and holds them against the budget.
func (j *job) count(c cid.Cid, size, depth int) error {
	if err := j.s.parts.Codec.Admit(c); err != nil {
		return &RefusedError{Reason: err.Error()}
	}
	switch {
	case over(int64(size), int64(j.budget.BlockSize)):
		return &RefusedError{Reason: fmt.Sprintf("a block has %d bytes, more than %d", size, j.budget.BlockSize)}
	case over(int64(depth), int64(j.budget.Depth)):
		return &RefusedError{Reason: fmt.Sprintf("it is deeper than %d links", j.budget.Depth)}
	}
	if _, counted := j.counted[c.KeyString()]; counted {
		return nil
	}
	j.counted[c.KeyString()] = struct{}{}
	return j.budget.holds(j.blocks.Add(1), j.bytes.Add(int64(size)))
}

// guarded runs the job with a panic made an error, when there is a place for it.
func (j *job) guarded(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			j.s.log.Error("panic while transferring a dag", "cid", j.top, "panic", p)
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	select {
	case j.s.slots <- struct{}{}:
		defer func() { <-j.s.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	running, cancel := context.WithCancel(ctx)
	defer j.lanes.Wait()
	defer cancel()
	err = j.run(running)
	// What has arrived stays, also when the rest did not come.
	return cmp.Or(err, j.flush(ctx), j.settle())
}

// run walks the DAG over what is here, and asks for a CAR at each place where something is missing. It ends when the
// walk has met every block.
func (j *job) run(ctx context.Context) error {
	todo := []step{{j.top, 0}}
	for len(todo) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		next := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		data, inline := j.s.parts.Codec.Inline(next.cid)
		if !inline {
			if _, met := j.whole[next.cid.KeyString()]; met {
				continue
			}
			var err error
			var below bool
			if data, below, err = j.visit(ctx, next, todo); err != nil {
				return err
			}
			j.whole[next.cid.KeyString()] = struct{}{}
			if below {
				continue // a CAR has brought everything below it
			}
		}
		links, err := j.s.parts.Codec.Links(next.cid, data)
		if err != nil {
			return &RefusedError{Reason: err.Error()}
		}
		for i := range links {
			todo = append(todo, step{canonical(links[len(links)-1-i]), next.depth + 1})
		}
	}
	return nil
}

// visit returns the block of a step, from here or from afar, or tells that all below it has come too.
func (j *job) visit(ctx context.Context, at step, todo []step) (data []byte, below bool, err error) {
	key := at.cid.KeyString()
	for {
		if g, ok := j.unstored(key); ok {
			return g.data, false, j.count(at.cid, len(g.data), at.depth)
		}
		data, err = j.s.stored(ctx, at.cid)
		if err == nil {
			return data, false, j.count(at.cid, len(data), at.depth)
		}
		if !errors.Is(err, ErrAbsent) && !errors.Is(err, ErrCorrupt) {
			return nil, false, fmt.Errorf("reading what is here of %s: %w", j.top, err)
		}
		if err := j.s.parts.Codec.Admit(at.cid); err != nil {
			return nil, false, &RefusedError{Reason: err.Error()}
		}
		if at.cid.Type() == cid.Raw && !at.cid.Equals(j.top) {
			data, again, err := j.leaves(ctx, at, todo)
			if again {
				continue // who was slow has brought it
			}
			if again, pieceErr := j.byPiece(ctx, err); again || pieceErr != nil {
				if pieceErr != nil {
					return nil, false, pieceErr
				}
				continue
			}
			return data, false, err
		}
		next, err := j.lanesTo(ctx, at)
		if err != nil {
			return nil, false, err
		}
		whole, again, err := j.race(ctx, at, next, nil)
		switch {
		case err != nil:
			return nil, false, err
		case whole:
			return nil, true, nil
		case again:
			continue // what has come of it is here now
		}
		data, err = j.single(ctx, at)
		if again, pieceErr := j.byPiece(ctx, err); again || pieceErr != nil {
			if pieceErr != nil {
				return nil, false, pieceErr
			}
			continue
		}
		return data, false, err
	}
}

// byPiece is the last resort for a block in the middle of the DAG that nobody gives by itself, because of err: the bytes
// of the whole DAG in the piece, also where most of it is here. again: something has come of them, so look once more.
func (j *job) byPiece(ctx context.Context, err error) (again bool, _ error) {
	var failed *FailedError
	if !errors.As(err, &failed) || ctx.Err() != nil || !j.top.Equals(j.root) {
		return false, nil //nolint:nilerr // the caller has err and returns it
	}
	sources, err := j.s.holders(ctx, j.root)
	if err != nil {
		return false, fmt.Errorf("looking for copies of %s: %w", j.root, err)
	}
	whole, again, err := j.race(ctx, step{j.root, 0}, j.piecesOf(sources), nil)
	return whole || again, err
}

func (j *job) unstored(key string) (got, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	g, ok := j.pending[key]
	return g, ok
}

// single fetches one block by itself.
func (j *job) single(ctx context.Context, at step) ([]byte, error) {
	g, err := j.s.fetchAlone(ctx, j.root, at.cid, nil)
	if err != nil {
		return nil, err
	}
	if err := j.count(at.cid, len(g.data), at.depth); err != nil {
		return nil, err
	}
	return g.data, j.arrive(ctx, at.cid, g.data, g.provider)
}

// leaves fetches a leaf together with those missing ones that come next: a CAR of one block each would cost as many
// round trips as there are. again: a lane that was slow has brought something meanwhile.
func (j *job) leaves(ctx context.Context, at step, todo []step) (data []byte, again bool, err error) {
	list := j.missing(ctx, at, todo)
	var slow []string
	for _, l := range j.flying {
		slow = append(slow, l.from.Provider) // it is asked already
	}
	results, failures := make([]got, len(list)), make([]error, len(list))
	fetching, stop := context.WithCancel(ctx)
	fetched := make(chan struct{})
	defer func() {
		stop()
		<-fetched
	}()
	go func() {
		defer close(fetched)
		var group sync.WaitGroup
		for i, leaf := range list {
			group.Go(func() { results[i], failures[i] = j.s.fetchAlone(fetching, j.root, leaf.cid, slow) })
		}
		group.Wait()
	}()
	if _, again, err := j.race(ctx, at, nil, fetched); again || err != nil {
		return nil, again, err
	}
	for i, leaf := range list {
		if failures[i] != nil {
			continue // its own turn comes; what has come of the others stays
		}
		if err := j.count(leaf.cid, len(results[i].data), leaf.depth); err != nil {
			return nil, false, err
		}
		if err := j.arrive(ctx, leaf.cid, results[i].data, results[i].provider); err != nil {
			return nil, false, err
		}
	}
	if failures[0] == nil {
		j.callBack(nil)
		return results[0].data, false, nil
	}
	if _, again, err := j.race(ctx, at, nil, nil); again || err != nil {
		return nil, again, err // nobody else has it, and who was slow does
	}
	return nil, false, failures[0]
}

// missing lists a leaf and those after it that are not here, as far as they are fetched together.
func (j *job) missing(ctx context.Context, at step, todo []step) []step {
	list := []step{at}
	for i := len(todo) - 1; i >= 0 && len(list) < rawAtOnce; i-- {
		next := todo[i]
		if next.cid.Type() != cid.Raw {
			break
		}
		if _, met := j.whole[next.cid.KeyString()]; met {
			continue
		}
		if _, inline := j.s.parts.Codec.Inline(next.cid); inline || j.s.parts.Codec.Admit(next.cid) != nil {
			continue
		}
		if _, here := j.unstored(next.cid.KeyString()); here {
			continue
		}
		if _, err := j.s.stored(ctx, next.cid); err == nil {
			continue
		}
		list = append(list, next)
	}
	return list
}
