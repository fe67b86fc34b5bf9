package hold

import (
	"context"
	"slices"
	"sync"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multicodec"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/spec"
)

// A Block is what a walk needs to know of one block. Data may be nil where the CID's codec is raw.
type Block struct {
	Size int
	Data []byte
}

// A Walk visits the DAG below Root.
type Walk struct {
	Root    cid.Cid
	Limits  pins.Limits // the bounds on size; the times are for those who supply Get
	Workers int         // blocks asked for at once; at least 1

	// Get returns one verified block, and returns when its context ends. It is called concurrently.
	Get func(context.Context, cid.Cid) (Block, error)

	Turns *pins.Turns // for decoding; nil: at any time

	// Seen is told the totals after each block. It is called by one goroutine at a time and may be nil.
	Seen func(blocks, bytes int64)
}

// Totals are the distinct blocks of a DAG and the sum of their sizes.
type Totals struct{ Blocks, Bytes int64 }

// Run walks until everything was seen or something failed. It returns the first error, which is a *pins.Refused where
// the DAG breaks a limit or a rule, what Get returned, or the cause of ctx.
func (w Walk) Run(ctx context.Context) (Totals, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &run{Walk: w, ctx: ctx, cancel: cancel, decoder: NewDecoder(), seen: make(map[string]struct{})}
	r.Root = spec.Canonical(w.Root)
	if err := r.push([]cid.Cid{r.Root}, 0); err != nil {
		return Totals{}, err
	}
	r.mu.Lock()
	r.active = 1
	r.mu.Unlock()
	r.work()
	r.workers.Wait()
	if err := context.Cause(ctx); err != nil {
		return r.totals, err
	}
	return r.totals, nil
}

type run struct {
	Walk
	ctx     context.Context
	cancel  context.CancelCauseFunc
	decoder Decoder
	workers sync.WaitGroup

	mu         sync.Mutex
	seen       map[string]struct{}
	todo       []task // last in, first out: a deep walk keeps the list of what is still to do short
	active     int
	discovered int64 // distinct CIDs that are remembered
	totals     Totals
}

type task struct {
	cid   cid.Cid
	depth int
}

// push notes the blocks that were not met before.
func (r *run) push(links []cid.Cid, depth int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	// In reverse, so that what was linked first is fetched first.
	for _, c := range slices.Backward(links) {
		if _, met := r.seen[c.KeyString()]; met {
			continue
		}
		if err := Admit(c); err != nil {
			return err
		}
		if r.Limits.Depth > 0 && depth > r.Limits.Depth {
			return refuse("the DAG is deeper than the limit of %d links", r.Limits.Depth)
		}
		if carriedLeaf(c) {
			continue // nothing is below it, and a block may have a hundred thousand of them
		}
		r.seen[c.KeyString()] = struct{}{}
		if r.discovered++; r.Limits.Blocks > 0 && r.discovered > r.Limits.Blocks {
			return refuse("the DAG has more blocks than the limit of %d", r.Limits.Blocks)
		}
		r.todo = append(r.todo, task{c, depth})
	}
	// Workers start when there is work for them: most DAGs are one block and need none but the caller.
	// The one that pushes takes the next task itself.
	for spare := len(r.todo) - 1; r.active > 0 && r.active < r.Workers && spare > 0; spare-- {
		r.active++
		r.workers.Go(r.work)
	}
	return nil
}

// pop returns the next task, or leaves the worker without one for good.
func (r *run) pop() (task, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.todo) == 0 || r.ctx.Err() != nil {
		r.active--
		return task{}, false
	}
	next := r.todo[len(r.todo)-1]
	r.todo = r.todo[:len(r.todo)-1]
	return next, true
}

func (r *run) work() {
	for {
		t, ok := r.pop()
		if !ok {
			return
		}
		if err := pins.Safely(func() error { return r.visit(t) }); err != nil {
			// Every other worker may be waiting for a block that never comes (H18).
			r.cancel(err)
		}
	}
}

func (r *run) visit(t task) error {
	data, err := r.get(t)
	if err != nil || t.cid.Type() == cid.Raw {
		return err
	}
	return r.Turns.Do(r.ctx, pins.BehalfOf(r.ctx), func() error { return r.follow(t, data) })
}

// get returns the data of a block, and counts it.
func (r *run) get(t task) ([]byte, error) {
	if data, inline := Identity(t.cid); inline {
		return data, nil
	}
	block, err := r.Get(r.ctx, t.cid)
	if err != nil {
		return nil, err
	}
	return block.Data, r.count(t.cid, block.Size)
}

// follow notes what a block links to.
func (r *run) follow(t task, data []byte) error {
	links, err := r.decoder.Links(t.cid, data)
	if err != nil {
		return refuse("block %s is not valid %s", t.cid, multicodec.Code(t.cid.Type()))
	}
	return r.push(links, t.depth+1)
}

func (r *run) count(c cid.Cid, n int) error {
	if r.Limits.BlockSize > 0 && n > r.Limits.BlockSize {
		return refuse("block %s is larger than the limit of %s", c, size(int64(r.Limits.BlockSize)))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.totals.Blocks++
	r.totals.Bytes += int64(n)
	if r.Seen != nil {
		r.Seen(r.totals.Blocks, r.totals.Bytes)
	}
	if r.Limits.Bytes > 0 && r.totals.Bytes > r.Limits.Bytes {
		return refuse("the DAG is larger than the limit of %s", size(r.Limits.Bytes))
	}
	return nil
}
