package retrieval

import (
	"context"
	"errors"
	"fmt"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
)

// A Source is one provider with a cold copy of a DAG.
type Source struct {
	Provider string   // as headers, logs and metrics show it, such as f01000
	URLs     []string // base URLs (scheme://host[:port][/path]), best first
	Piece    cid.Cid  // v1 commitment of the piece that holds the DAG's CAR; undefined: unknown
	Offset   int64    // of the CAR in the piece, in bytes
	Length   int64    // of the CAR, in bytes; 0: unknown
}

// A CopyRef names one cold copy. The zero value comes before all others.
type CopyRef struct {
	Root     cid.Cid
	Provider string
}

// A Directory knows who has cold copies. Its methods may be called concurrently.
type Directory interface {
	// Sources returns the providers with a proven copy of root, in no order; none when nobody is known to have one.
	Sources(ctx context.Context, root cid.Cid) ([]Source, error)

	// Copies returns up to n copies after one, in a stable order; none after the last.
	Copies(ctx context.Context, after CopyRef, n int) ([]CopyRef, error)
}

// A Store is the hot blocks. Its methods may be called concurrently.
type Store interface {
	// Block returns the verified bytes of a block. ErrAbsent: it is not here. ErrCorrupt: it is, and wrong. Any other error
	// means that the store does not answer.
	Block(ctx context.Context, c cid.Cid) ([]byte, error)

	// Put stores verified blocks, over what is here and wrong.
	Put(ctx context.Context, blocks []blocks.Block) error
}

// A Network is where to look when providers do not answer, such as the IPFS network.
type Network interface {
	// Fetch returns the verified bytes of a block. It looks until ctx ends.
	Fetch(ctx context.Context, c cid.Cid) ([]byte, error)
}

// A Codec knows what DAGs may be made of.
type Codec interface {
	// Admit returns an error for a CID with a codec or hash function that is not held here, with the reason in words.
	Admit(c cid.Cid) error
	// Links returns what the block c with this data links to, in order, identity CIDs too. The data is not checked.
	Links(c cid.Cid, data []byte) ([]cid.Cid, error)
	// Inline returns the data that an identity CID holds in itself.
	Inline(c cid.Cid) (data []byte, ok bool)
}

// What a Store answers.
var (
	ErrAbsent  = errors.New("the block is not here")
	ErrCorrupt = errors.New("the bytes of the block are not those that its CID names")
)

// ErrNoSource says that nobody is known to have a copy.
var ErrNoSource = errors.New("no provider is known to have a copy")

// ErrUnasked says that nobody was asked, because who has a copy wishes to be left alone for now: nothing is known.
var ErrUnasked = errors.New("whoever has a copy has asked to be left alone for now")

// A Class is what a failed read means to a reader. The zero value is invalid.
type Class string

const (
	Absent  Class = "absent"  // everybody who was asked says that it is not there
	Refused Class = "refused" // somebody should have it and refused, failed or lied
	Slow    Class = "slow"    // somebody should have it and did not answer in time
	Busy    Class = "busy"    // somebody has it and has no time now
)

// A FailedError says that a block, or a DAG, could not be had from anywhere. Its text is fixed for each class; what was
// tried is in Cause, for logs.
type FailedError struct {
	CID   cid.Cid
	Class Class
	After time.Duration // Busy: when to come back, as far as somebody said so
	Cause error
}

func (e *FailedError) Error() string {
	switch e.Class {
	case Absent:
		return ipld.ErrNotFound{Cid: e.CID}.Error()
	case Refused:
		return "no provider of this content could answer"
	case Slow:
		return "the providers of this content did not answer in time"
	case Busy:
		return "the providers of this content are busy"
	}
	return "the content could not be read"
}

// NotFound makes ipld.IsNotFound true for what is absent.
func (e *FailedError) NotFound() bool { return e.Class == Absent }

// Is does the same for errors.Is.
func (e *FailedError) Is(target error) bool {
	_, notFound := target.(ipld.ErrNotFound) //nolint:errorlint // it is compared with, not unwrapped
	return notFound && e.Class == Absent
}

// A RefusedError says that a DAG can never be read here: it is over a limit, or made of what is not held.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "refused: " + e.Reason }

// A Budget bounds one transfer of a DAG. Zero means no bound.
type Budget struct {
	Bytes     int64 // sum of the sizes of distinct blocks
	Blocks    int64 // distinct blocks
	Depth     int   // links from the root
	BlockSize int   // bytes in one block
}

func over(n, most int64) bool { return most > 0 && n > most }

// holds returns a *RefusedError when so many distinct blocks of so many bytes are too much.
func (b Budget) holds(blocks, bytes int64) error {
	switch {
	case over(blocks, b.Blocks):
		return &RefusedError{Reason: fmt.Sprintf("it has more than %d blocks", b.Blocks)}
	case over(bytes, b.Bytes):
		return &RefusedError{Reason: fmt.Sprintf("it has more than %d bytes", b.Bytes)}
	}
	return nil
}

// canonical is the spelling under which a block is known here.
func canonical(c cid.Cid) cid.Cid {
	if c.Version() == 1 {
		return c
	}
	return cid.NewCidV1(c.Type(), c.Hash())
}

// verified tells whether c names these bytes.
func verified(c cid.Cid, data []byte) bool {
	sum, err := c.Prefix().Sum(data)
	return err == nil && sum.Equals(c)
}
