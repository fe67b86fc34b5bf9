package pins

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A HotTier keeps whole DAGs on an IPFS node. Every root given to it is a CIDv1 (spec.Canonical), because Kubo
// indexes pins by the exact CID. All methods may be called concurrently; calls for one root are put in order by
// the tier. A context that ends makes a call return its cause and never harms a DAG that is already held.
type HotTier interface {
	// Hold makes the whole DAG below root present and protected, and returns nil only then. It walks the DAG,
	// fetching what is missing, counting into p as it goes (p may be nil), and then pins it locally. Calling it for
	// a DAG that is already held verifies it and changes nothing. A walk without a new block for lim.Idle is
	// restarted with a fresh session; one without a new block for lim.Stall returns ErrStalled and keeps its blocks.
	//
	// Errors: ErrAbsent (lim.Offline and a block is not here), ErrStalled, ErrUnavailable (the node does not answer),
	// ErrNoSpace, *Refused (the DAG can never be held under these limits).
	Hold(ctx context.Context, root cid.Cid, lim Limits, p *Progress) error

	// Lacks reports whether the root block is certainly not here, so that an offline Hold would return ErrAbsent. It
	// is asked for every request and looks no further than a local disk: a tier whose blocks are elsewhere, or that
	// cannot tell now, says false.
	Lacks(root cid.Cid) bool

	// Release lets the DAG go; its blocks may be collected later. A DAG that is not held is no error.
	Release(ctx context.Context, root cid.Cid) error

	// Held reports whether root is protected by a recursive pin of its own. It does not walk the DAG.
	Held(ctx context.Context, root cid.Cid) (bool, error)

	// Roots yields every root that is held, in no order, until yield returns an error.
	Roots(ctx context.Context, yield func(cid.Cid) error) error

	// Block returns the bytes of a block that is here, held or not, and never asks the network. They were verified
	// against c, which may be any spelling of the CID, and are the caller's to keep but not to change. Errors:
	// ErrAbsent (it is not here; an identity CID has no block), ErrCorrupt, ErrUnavailable (the node does not answer).
	Block(ctx context.Context, c cid.Cid) ([]byte, error)

	// Verify reads every block of a DAG that is here and hashes it. pace is called with the size of each, and bad for
	// each that is missing (ErrAbsent) or wrong (ErrCorrupt); what lies below such a block is not looked at. Their errors
	// end it and are returned as they are. The network is never asked.
	Verify(ctx context.Context, root cid.Cid, pace func(ctx context.Context, bytes int) error, bad func(c cid.Cid, err error) error) error

	// Fetch returns the verified bytes of a block, and asks the network for one that is not here or wrong. It looks until
	// ctx ends, and returns its cause then. *Refused: blocks like this are not held here.
	Fetch(ctx context.Context, c cid.Cid) ([]byte, error)

	// Import begins to store blocks that come from elsewhere.
	Import(ctx context.Context) (Import, error)

	// Find looks for the root blocks of at most MaxFind DAGs on the network and calls found, from one goroutine,
	// for each that has arrived and is stored. It returns nil when all were found, else when ctx ends.
	Find(ctx context.Context, roots []cid.Cid, found func(cid.Cid)) error

	// Connect dials peers that may have data: in parallel, best effort, each for a few seconds, and keeps the
	// connections protected until release is called. Addresses that policy forbids are not dialled. Never nil.
	Connect(ctx context.Context, origins []peer.AddrInfo) (release func())

	// Announce tells the network that this node has root. Failure harms nothing.
	Announce(ctx context.Context, root cid.Cid) error

	// Delegates returns 1 to 20 dialable addresses of the node, best first, each ending in /p2p/<peer id>. When the
	// node is down the last known ones are returned; an error means there never were any.
	Delegates(ctx context.Context) ([]string, error)

	// Usage tells how much room the blocks take.
	Usage(ctx context.Context) (Usage, error)

	// Collect removes blocks that no held DAG needs. What is present below the roots in keep, DAGs that are being
	// fetched, stays as far as the tier can tell the node so. Running Holds pause for it. It returns the number of
	// blocks removed. *HeldUp: nothing was removed, because of blocks that cannot be read.
	Collect(ctx context.Context, keep []cid.Cid) (removed int64, err error)

	// Close stops the node, or the connection to it. Running calls return.
	Close() error
}

// An Import stores blocks that come from elsewhere. What it has stored stays until Close, whatever is collected meanwhile;
// after that it stays if a held DAG, or one that is being fetched, needs it. Its methods may be called concurrently.
type Import interface {
	// Put stores blocks under their CIDs, also over wrong bytes that are here. Each is verified first: *Refused for one
	// that is not what its CID names, or of a kind that is not held. Nothing of the list is stored then. ErrNoSpace: some
	// may be stored.
	Put(ctx context.Context, blocks []blocks.Block) error

	// Stored tells whether Put was given a block with the hash of this CID.
	Stored(c cid.Cid) bool

	// Close ends the import. It may be called more than once.
	Close() error
}

// MaxFind is the most roots one Find may look for. A bitswap session asks for at most 64 blocks at a time, and one
// that nobody has would hold back the rest.
const MaxFind = 40

// Limits bound one Hold while it runs. Zero means no bound.
type Limits struct {
	Bytes     int64         // sum of the sizes of distinct blocks
	Blocks    int64         // distinct blocks
	Depth     int           // links from the root; the root has depth 0
	BlockSize int           // bytes in one block
	Idle      time.Duration // without a new block: a new session
	Stall     time.Duration // without a new block: ErrStalled
	Offline   bool          // use only what is already here
}

// Usage is the space the hot tier takes, in bytes. Free is -1 where the tier cannot tell.
type Usage struct {
	Bytes int64
	Free  int64
}

// Progress counts what a Hold has walked. The zero value is ready; all methods are safe for concurrent use.
type Progress struct{ blocks, bytes atomic.Int64 }

// Add counts n more blocks of size bytes in all and returns the new totals.
func (p *Progress) Add(n, size int64) (blocks, bytes int64) {
	return p.blocks.Add(n), p.bytes.Add(size)
}

// Totals returns the distinct blocks and bytes walked so far.
func (p *Progress) Totals() (blocks, bytes int64) { return p.blocks.Load(), p.bytes.Load() }

func (p *Progress) extent() Extent { return Extent{p.blocks.Load(), p.bytes.Load()} }

// Reset starts the count again: a restarted walk visits what is already here once more.
func (p *Progress) Reset() { p.blocks.Store(0); p.bytes.Store(0) }

// What a HotTier can answer. Everything else is transient and carries no promise.
var (
	ErrAbsent      = errors.New("a block is not held here")
	ErrStalled     = errors.New("no new block arrived in time")
	ErrCorrupt     = errors.New("the bytes of a block are not those that its CID names")
	ErrUnavailable = errors.New("the hot tier does not answer")
	ErrNoSpace     = errors.New("there is no room on the disk")
)

// Refused says that a DAG can never be held, with the reason in words for the user.
type Refused struct{ Reason string }

func (r *Refused) Error() string { return "refused: " + r.Reason }

// HeldUp says that a collection has removed nothing, because it cannot tell what lies below some blocks. A tier that does
// not know whose they are returns another error.
type HeldUp struct{ Broken []Broken }

func (h *HeldUp) Error() string {
	b := h.Broken[0]
	return fmt.Sprintf("nothing may be removed while %d blocks cannot be read; one is %s, below %s: %v", len(h.Broken), b.Block, b.Root, b.Err)
}

// A Broken block is missing from a held DAG, or wrong (ErrAbsent, ErrCorrupt), or could not be read. A block that several
// roots need is told once, for one of them.
type Broken struct {
	Root, Block cid.Cid
	Err         error
}
