package receipt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/blockstore"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/piece"
)

// Data is where the bytes of a DAG come from.
type Data interface {
	// Piece computes the piece of the receipt's root anew. A *DataError says that the bytes are not those of the root, or
	// not all of them; any other error, that they could not be read.
	Piece(ctx context.Context, r deals.Receipt) (piece.Piece, error)
}

// A DataError says what is wrong with bytes.
type DataError struct{ Reason string }

func (e *DataError) Error() string { return e.Reason }

// A File is a CAR on disk. Dir is a directory that Piece may write to while it runs.
type File struct{ Path, Dir string }

// Piece implements Data. The CAR may be any that holds all blocks of the DAG, with zeros after it or without: the DAG is
// walked from the receipt's root, and our CAR made of it. That a file has the right commitment would not do, for then
// it need not be the CAR of that root.
func (f File) Piece(ctx context.Context, r deals.Receipt) (piece.Piece, error) {
	root, err := cid.Decode(r.Root)
	if err != nil {
		return piece.Piece{}, &DataError{fmt.Sprintf("reading the root: %s", err)}
	}
	if _, err := os.Stat(f.Path); err != nil {
		return piece.Piece{}, err
	}
	store, err := blockstore.OpenReadOnly(f.Path, car.ZeroLengthSectionAsEOF(true))
	if err != nil {
		return piece.Piece{}, &DataError{fmt.Sprintf("reading the CAR: %s", err)}
	}
	defer store.Close() //nolint:errcheck // it was only read
	temp, err := os.MkdirTemp(f.Dir, "receipt-*")
	if err != nil {
		return piece.Piece{}, err
	}
	defer os.RemoveAll(temp)
	layouts, err := piece.OpenStore(temp, 0)
	if err != nil {
		return piece.Piece{}, err
	}
	p, err := layouts.Build(ctx, carBlocks{store}, root, r.Piece.Padded())
	if err == nil || context.Cause(ctx) != nil || errors.As(err, new(*fs.PathError)) {
		return p, err
	}
	return piece.Piece{}, &DataError{fmt.Sprintf("reading the DAG in the CAR: %s", err)}
}

// carBlocks serves the blocks of a CAR, each verified against its CID.
type carBlocks struct{ store *blockstore.ReadOnly }

var errBlock = errors.New("the block is not in the CAR, or not as its CID says")

// Block implements piece.Blocks.
func (b carBlocks) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	block, err := b.store.Get(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errBlock, c, err)
	}
	actual, err := c.Prefix().Sum(block.RawData())
	if err != nil || !actual.Equals(c) {
		return nil, fmt.Errorf("%w: %s", errBlock, c)
	}
	return block.RawData(), nil
}
