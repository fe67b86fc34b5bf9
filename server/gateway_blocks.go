package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/gateway"
	"github.com/ipfs/boxo/ipld/unixfs"
	unixfspb "github.com/ipfs/boxo/ipld/unixfs/pb"
	"github.com/ipfs/boxo/verifcid"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/frostpin/frostpin/pins"
)

// A Fault is why a block could not be read, as far as a reader is concerned. The text of an error never goes to a
// reader: it names providers, hosts and files.
type Fault string

// Faults.
const (
	FaultNone    Fault = ""        // not known to be any of the others: ours
	FaultAbsent  Fault = "absent"  // nobody who was asked has it: 404
	FaultRefused Fault = "refused" // somebody should have it and refused, failed or lied: 502
	FaultSlow    Fault = "slow"    // somebody should have it and did not answer in time: 504
	FaultBusy    Fault = "busy"    // asking costs more than there is now: 429
)

// A fault is one failed read with its place in an answer.
type fault struct {
	rank   int // of several in one request, the highest is told
	status int
	text   string // for the reader
	cid    cid.Cid
	cause  error // for the operator
}

// Texts of errors. They are fixed, so that nothing of ours leaks into them.
const (
	textAbsent    = "this content is not held by this service"
	textNotCached = "this content is not in the hot tier of this service"
	textRefused   = "no provider of this content could answer; try again later"
	textSlow      = "the providers of this content did not answer in time; try again later"
	textBusy      = "too much content is being fetched now; try again in a few seconds"
	textMalformed = "the content is malformed, or of a kind that cannot be given in this format"
	textUnsafe    = "the content is addressed with a hash function that this service does not trust"
	textFruitless = "the content has too many parts with nothing in them"
	textDenied    = "this content is blocked and cannot be provided"
	textOurs      = "something went wrong here; the operator finds it in the log under request "
)

// A reading is what happens to blocks during one request. boxo carries it in the context of every read.
type reading struct {
	root  cid.Cid // of the path; undefined when the path makes no sense
	trail Trail
	// effort is what reading the blocks, and boxo's work on them, costs.
	effort *pins.Effort
	// prefetch is called once, when all below top is wanted and something of it turned out not to be hot.
	prefetch func(top cid.Cid)
	top      atomic.Pointer[cid.Cid] // all below it is wanted; nil: nothing whole, as far as is known
	asked    sync.Once
	blocks   atomic.Int64 // read since the last byte that went to the reader

	mu      sync.Mutex
	worst   *fault
	stalled bool
}

type readingKey struct{}

func readingOf(ctx context.Context) *reading {
	r, _ := ctx.Value(readingKey{}).(*reading)
	return r
}

// got looks at a block on its way to the reader.
func (r *reading) got(b blocks.Block) {
	if r.prefetch == nil {
		return
	}
	if r.top.Load() == nil && isLongFile(b) { // no path leads through a file: the first one that is read is the one that is wanted
		r.whole(b.Cid())
	}
	if r.top.Load() != nil && r.trail.Tier() != TierHot {
		r.announce()
	}
}

// whole remembers that all below a block is wanted. The first block counts.
func (r *reading) whole(top cid.Cid) { r.top.CompareAndSwap(nil, &top) }

// announce says so to whom it is read from, once.
func (r *reading) announce() {
	r.asked.Do(func() { r.prefetch(*r.top.Load()) })
}

// isLongFile reports whether a block is the root of a file that has others. Every block of a listing is asked, so the links
// of what is no file, which can be very many, are not decoded.
func isLongFile(b blocks.Block) bool {
	if b.Cid().Type() != cid.DagProtobuf {
		return false
	}
	data, hasLinks := dagPBData(b.RawData())
	if !hasLinks {
		return false
	}
	file, err := unixfs.FSNodeFromBytes(data)
	return err == nil && file.Type() == unixfspb.Data_File
}

// dagPBData is the Data of a dag-pb node, and whether it has Links; nothing of what is no such node.
func dagPBData(node []byte) (data []byte, hasLinks bool) {
	const dataField, linksField = 1, 2
	for len(node) > 0 {
		field, kind, n := protowire.ConsumeTag(node)
		if n < 0 || kind != protowire.BytesType {
			return nil, false
		}
		value, m := protowire.ConsumeBytes(node[n:])
		if m < 0 {
			return nil, false
		}
		if field == dataField {
			data = value
		}
		hasLinks = hasLinks || field == linksField
		node = node[n+m:]
	}
	return data, hasLinks
}

// failed remembers why a block could not be read.
func (r *reading) failed(f *fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.worst == nil || f.rank > r.worst.rank {
		r.worst = f
	}
}

// fault is the worst that has happened, nil for nothing.
func (r *reading) fault() *fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stalled {
		return &fault{status: http.StatusGatewayTimeout, text: textSlow, cid: r.root, cause: errNoProgress}
	}
	return r.worst
}

// stall is called when nothing has reached the reader for too long.
func (r *reading) stall() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stalled = true
}

// maxFruitless is how many blocks may be read without a byte that goes to the reader. The listing of a sharded directory
// of a million entries takes fewer; a file of nothing but empty parts could take for ever.
const maxFruitless = 100_000

var errFruitless = errors.New("too many blocks were read without a byte for the reader")

var errNoProgress = errors.New("no progress for too long")

// readBlocks makes a blockservice for boxo's gateway out of one of ours. It goes between them because boxo loses why
// blocks could not be read (merkledag answers "failed to fetch all nodes"), takes error texts for answers, and reads
// past a blockservice's own methods in sessions.
func readBlocks(from blockservice.BlockGetter, denied Denylist, why func(error) Fault) blockservice.BlockService {
	r := &blockReader{from: from, denied: denied, why: why}
	return blockservice.New(readStore{r}, readExchange{r}, blockservice.WithAllowlist(anyHash{}))
}

// anyHash leaves it to blockReader to refuse unsafe hashes, so that the reason is remembered.
type anyHash struct{}

func (anyHash) IsAllowed(uint64) bool    { return true }
func (anyHash) MinDigestSize(uint64) int { return 0 }
func (anyHash) MaxDigestSize(uint64) int { return 1 << 20 }

type blockReader struct {
	from   blockservice.BlockGetter
	denied Denylist
	why    func(error) Fault
}

// get reads one block. Its errors are made for boxo: the status is in them, and their text can be shown.
func (b *blockReader) get(ctx context.Context, c cid.Cid) (block blocks.Block, err error) {
	r := readingOf(ctx)
	var step *pins.Step
	if r != nil {
		step = r.effort.Step()
		defer step.Done()
		ctx = pins.WithStep(ctx, step)
		if r.blocks.Add(1) > maxFruitless {
			return nil, fail(ctx, r, c, errFruitless, b.why)
		}
	}
	defer func() { // boxo and readExchange read in goroutines, where a panic would end the program
		if v := recover(); v != nil {
			block, err = nil, fail(ctx, r, c, fmt.Errorf("panic: %v\n%s", v, debug.Stack()), b.why)
		}
	}()
	if b.denied != nil {
		if err := b.denied.Denied(c); err != nil {
			return nil, fail(ctx, r, c, err, b.why)
		}
	}
	if err := verifcid.ValidateCid(verifcid.DefaultAllowlist, c); err != nil {
		return nil, fail(ctx, r, c, err, b.why)
	}
	block, err = inlinedBlock(c)
	if block == nil && err == nil {
		block, err = b.from.GetBlock(ctx, c)
	}
	if err != nil {
		return nil, fail(ctx, r, c, err, b.why)
	}
	if r == nil {
		return block, nil
	}
	if c.Type() != cid.Raw {
		step.Node(len(block.RawData()))
		if err := step.Work(ctx); err != nil {
			return nil, fail(ctx, r, c, err, b.why)
		}
	}
	r.got(block)
	return block, nil
}

// inlinedBlock is the block that a CID itself holds, nil when it holds none.
func inlinedBlock(c cid.Cid) (blocks.Block, error) {
	if c.Prefix().MhType != multihash.IDENTITY {
		return nil, nil //nolint:nilnil // there is no such block, and nothing went wrong
	}
	hash, err := multihash.Decode(c.Hash())
	if err != nil {
		return nil, err
	}
	return blocks.NewBlockWithCid(hash.Digest, c)
}

// fail turns the error of a read into what boxo needs, and remembers it.
func fail(ctx context.Context, r *reading, c cid.Cid, err error, why func(error) Fault) error {
	f := judgeRead(c, err, why)
	if r != nil && (ctx.Err() == nil || !errors.Is(err, context.Canceled)) { // what is cancelled was not to blame
		r.failed(f)
	}
	switch f.status {
	case http.StatusNotFound:
		return ipld.ErrNotFound{Cid: c}
	case http.StatusGone, http.StatusUnavailableForLegalReasons:
		return err // boxo looks for its words
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusGatewayTimeout:
		return gateway.NewErrorRetryAfter(gateway.NewErrorStatusCode(errors.New(f.text), f.status), retryAfter)
	}
	return gateway.NewErrorStatusCode(errors.New(f.text), f.status)
}

// judgeRead is the one table from errors of reads to answers.
func judgeRead(c cid.Cid, err error, why func(error) Fault) *fault {
	var denied interface {
		error
		Status() int
	}
	switch {
	case errors.As(err, &denied):
		return &fault{rank: 6, status: denied.Status(), text: textDenied, cid: c, cause: err}
	case errors.Is(err, verifcid.ErrPossiblyInsecureHashFunction), errors.Is(err, verifcid.ErrDigestTooSmall), errors.Is(err, verifcid.ErrDigestTooLarge):
		return &fault{rank: 1, status: http.StatusBadRequest, text: textUnsafe, cid: c, cause: err}
	case errors.Is(err, errFruitless):
		return &fault{rank: 7, status: http.StatusBadRequest, text: textFruitless, cid: c, cause: err}
	}
	f := why(err)
	switch {
	case f == FaultSlow, f == FaultNone && errors.Is(err, context.DeadlineExceeded):
		return &fault{rank: 4, status: http.StatusGatewayTimeout, text: textSlow, cid: c, cause: err}
	case f == FaultRefused:
		return &fault{rank: 3, status: http.StatusBadGateway, text: textRefused, cid: c, cause: err}
	case f == FaultBusy:
		return &fault{rank: 2, status: http.StatusTooManyRequests, text: textBusy, cid: c, cause: err}
	case f == FaultAbsent, ipld.IsNotFound(err):
		return &fault{rank: 0, status: http.StatusNotFound, text: textAbsent, cid: c, cause: err}
	}
	return &fault{rank: 5, status: http.StatusInternalServerError, text: textOurs, cid: c, cause: err}
}

// retryAfter is when to come back after an error that may go away.
const retryAfter = 5 * time.Second

// readAtOnce is how many blocks of one list are read at the same time.
const (
	readAtOnce = 32
	fewAtOnce  = 2 // while they are hot
)

// readExchange is where boxo's sessions get blocks.
type readExchange struct{ *blockReader }

// GetBlock implements exchange.Fetcher.
func (e readExchange) GetBlock(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	return e.get(ctx, c)
}

// GetBlocks implements exchange.Fetcher. Blocks that cannot be read are left out, as the interface has it; why is kept
// in the reading. Blocks at hand are read one after the other, as the reader takes them: boxo asks for more than it may
// need. When they have to come from elsewhere, many are asked for at once.
func (e readExchange) GetBlocks(ctx context.Context, ks []cid.Cid) (<-chan blocks.Block, error) {
	out := make(chan blocks.Block)
	give := func(c cid.Cid) (took time.Duration, ok bool) {
		start := time.Now()
		b, err := e.get(ctx, c)
		if err != nil {
			return 0, false
		}
		took = time.Since(start)
		select {
		case out <- b:
			return took, true
		case <-ctx.Done():
			return took, false
		}
	}
	r := readingOf(ctx)
	go func() {
		defer close(out)
		for len(ks) > 0 && r.atHand() {
			took, ok := give(ks[0])
			if !ok {
				return
			}
			ks = ks[1:]
			if took > notAtHand {
				break
			}
		}
		var next atomic.Int64
		var running sync.WaitGroup
		atOnce := readAtOnce
		if r.atHand() { // slow, but here: more at once would read what may not be needed before what is
			atOnce = fewAtOnce
		}
		for range min(len(ks), atOnce) {
			running.Go(func() {
				for i := next.Add(1) - 1; i < int64(len(ks)) && ctx.Err() == nil; i = next.Add(1) - 1 {
					if _, ok := give(ks[i]); !ok {
						next.Store(int64(len(ks))) // the list cannot be completed any more
					}
				}
			})
		}
		running.Wait()
	}()
	return out, nil
}

// notAtHand is what a block may take that lies on this machine.
const notAtHand = 2 * time.Millisecond

// atHand reports whether all blocks so far were hot.
func (r *reading) atHand() bool { return r == nil || r.trail.Tier() == TierHot }

// NotifyNewBlocks implements exchange.Interface.
func (readExchange) NotifyNewBlocks(context.Context, ...blocks.Block) error { return nil }

// Close implements exchange.Interface.
func (readExchange) Close() error { return nil }

// readStore is a blockstore that holds nothing itself: all reads go to the exchange, and through it to the blockservice
// behind, which looks into its own store first.
type readStore struct{ *blockReader }

var errReadOnly = errors.New("the gateway stores nothing")

// Get implements blockstore.Blockstore.
func (readStore) Get(_ context.Context, c cid.Cid) (blocks.Block, error) {
	return nil, ipld.ErrNotFound{Cid: c}
}

// Has implements blockstore.Blockstore. Only boxo's answer to only-if-cached asks it.
func (s readStore) Has(ctx context.Context, c cid.Cid) (bool, error) {
	_, err := s.get(ctx, c)
	return err == nil, nil
}

// GetSize implements blockstore.Blockstore.
func (s readStore) GetSize(ctx context.Context, c cid.Cid) (int, error) {
	b, err := s.get(ctx, c)
	if err != nil {
		return 0, err
	}
	return len(b.RawData()), nil
}

// Put implements blockstore.Blockstore: what was read is stored behind, or was there.
func (readStore) Put(context.Context, blocks.Block) error { return nil }

// PutMany implements blockstore.Blockstore.
func (readStore) PutMany(context.Context, []blocks.Block) error { return nil }

// DeleteBlock implements blockstore.Blockstore.
func (readStore) DeleteBlock(_ context.Context, c cid.Cid) error {
	return fmt.Errorf("deleting %s: %w", c, errReadOnly)
}

// AllKeysChan implements blockstore.Blockstore.
func (readStore) AllKeysChan(context.Context) (<-chan cid.Cid, error) { return nil, errReadOnly }

var _ blockstore.Blockstore = readStore{}
