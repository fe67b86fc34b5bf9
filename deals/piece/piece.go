package piece

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/filecoin-project/go-fil-commcid"
	"github.com/filecoin-project/go-fil-commp-hashhash"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/ipfs/go-cid"
)

// Blocks is where the blocks of a DAG are. Block returns bytes that were verified against the CID and that nobody
// changes afterwards, never from the network. It may be called concurrently, and returns soon after ctx has ended. Its
// errors are passed on wrapped.
type Blocks interface {
	Block(ctx context.Context, c cid.Cid) ([]byte, error)
}

// A Piece is a CAR, with zero bytes after it where it is padded, under its commitment.
type Piece struct {
	CIDv1   cid.Cid             `json:"CIDv1"`   // baga…: the commitment; what deals name
	CIDv2   cid.Cid             `json:"CIDv2"`   // bafkzcib…: the commitment and RawSize
	Size    abi.PaddedPieceSize `json:"Size"`    // a power of two, at least 128
	RawSize int64               `json:"RawSize"` // bytes that are served: the CAR and zeros after it; at least 127
	CARSize int64               `json:"CARSize"` // bytes of the CAR
}

// TooLargeError says that a DAG does not fit a piece of Limit bytes.
type TooLargeError struct{ Limit abi.PaddedPieceSize }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the CAR does not fit a piece of %d bytes", e.Limit)
}

// minRaw is the least RawSize. CommP itself is defined from 65 bytes on; zeros up to 127 do not change it.
const minRaw = 127

// PieceSize returns the size of the smallest piece that takes raw bytes.
func PieceSize(raw int64) abi.PaddedPieceSize {
	padded := (uint64(max(raw, minRaw)) + 126) / 127 * 128
	return abi.PaddedPieceSize(1 << bits.Len64(padded-1))
}

// Sum computes the piece whose CAR is what r reads. It holds none of it in memory.
func Sum(r io.Reader) (Piece, error) {
	s := newSummer()
	defer s.stop()
	if _, err := io.CopyBuffer(struct{ io.Writer }{s}, r, make([]byte, 127<<11)); err != nil {
		return Piece{}, fmt.Errorf("computing the piece commitment: %w", err)
	}
	return s.piece()
}

// PadTo returns the piece of the given size that holds the same CAR and as many zero bytes after it as fit. A piece
// that has the size already is returned as it is.
func (p Piece) PadTo(size abi.PaddedPieceSize) (Piece, error) {
	if err := size.Validate(); err != nil {
		return Piece{}, fmt.Errorf("padding a piece: %w", err)
	}
	if size == p.Size {
		return p, nil
	}
	if size < p.Size {
		return Piece{}, &TooLargeError{Limit: size}
	}
	sum, err := commcid.CIDToDataCommitmentV1(p.CIDv1)
	if err != nil {
		return Piece{}, fmt.Errorf("reading the piece commitment %s: %w", p.CIDv1, err)
	}
	sum, err = commp.PadCommP(sum, uint64(p.Size), uint64(size))
	if err != nil {
		return Piece{}, fmt.Errorf("padding the piece %s to %d bytes: %w", p.CIDv1, size, err)
	}
	return newPiece(sum, p.CARSize, int64(size.Unpadded()))
}

func newPiece(sum []byte, car, raw int64) (p Piece, err error) {
	p = Piece{Size: PieceSize(raw), RawSize: raw, CARSize: car}
	if p.CIDv1, err = commcid.DataCommitmentV1ToCID(sum); err == nil {
		p.CIDv2, err = commcid.DataCommitmentToPieceCidv2(sum, uint64(raw))
	}
	if err != nil {
		return Piece{}, fmt.Errorf("naming the piece: %w", err)
	}
	return p, nil
}

// A summer computes a piece from the bytes of its CAR.
type summer struct {
	calc commp.Calc
	car  int64
}

func newSummer() *summer { return new(summer) }

// Write implements io.Writer.
func (s *summer) Write(p []byte) (int, error) {
	n, err := s.calc.Write(p)
	s.car += int64(n)
	return n, err
}

func (s *summer) piece() (Piece, error) {
	raw := max(s.car, minRaw)
	if _, err := s.calc.Write(make([]byte, raw-s.car)); err != nil {
		return Piece{}, fmt.Errorf("computing the piece commitment: %w", err)
	}
	sum, size, err := s.calc.Digest()
	if err != nil {
		return Piece{}, fmt.Errorf("computing the piece commitment: %w", err)
	}
	if size != uint64(PieceSize(raw)) {
		return Piece{}, errors.New("the commitment is to another size than that of the piece")
	}
	return newPiece(sum, s.car, raw)
}

// stop ends the goroutines of a computation that was given up. After piece it does nothing.
func (s *summer) stop() { s.calc.Reset() }
