package sp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	commcid "github.com/filecoin-project/go-fil-commcid"
	commp "github.com/filecoin-project/go-fil-commp-hashhash"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	car "github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/index"
	"github.com/multiformats/go-multihash"
)

// errCommP is a piece that is not what the client signed.
var errCommP = errors.New("commp mismatch")

// pieces is a provider's disk: parts of pulls (<uuid>.<n>.part), whole pieces (<cid>) and their indexes (<cid>.idx),
// and in memory where each block of a served piece lies.
type pieces struct {
	dir string

	mu     sync.Mutex
	blocks map[string]place // by multihash
	served map[cid.Cid]bool
}

// A place is where a CAR section begins.
type place struct {
	piece  cid.Cid
	offset int64
}

func openPieces(dir string) (*pieces, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the piece directory: %w", err)
	}
	return &pieces{dir: dir, blocks: make(map[string]place), served: make(map[cid.Cid]bool)}, nil
}

// sweep removes every file that nobody needs. A file's owner, a deal or a piece, is its name up to the first dot.
func (s *pieces) sweep(needed func(owner string) bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("reading the piece directory: %w", err)
	}
	for _, e := range entries {
		if owner, _, _ := strings.Cut(e.Name(), "."); !needed(owner) {
			os.RemoveAll(filepath.Join(s.dir, e.Name()))
		}
	}
	return nil
}

func (s *pieces) path(piece cid.Cid) string { return filepath.Join(s.dir, piece.String()) }

func (s *pieces) partPath(id uuid.UUID, n int) string {
	return filepath.Join(s.dir, id.String()+"."+strconv.Itoa(n)+".part")
}

// partSize is how many bytes of a part have arrived.
func (s *pieces) partSize(id uuid.UUID, n int) int64 {
	info, err := os.Stat(s.partPath(id, n))
	if err != nil {
		return 0
	}
	return info.Size()
}

func (s *pieces) appendPart(id uuid.UUID, n int) (*os.File, error) {
	f, err := os.OpenFile(s.partPath(id, n), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening a part: %w", err)
	}
	return f, nil
}

func (s *pieces) removeParts(id uuid.UUID) {
	parts, err := filepath.Glob(filepath.Join(s.dir, id.String()+".*.part"))
	if err != nil {
		return
	}
	for _, part := range parts {
		os.RemoveAll(part)
	}
}

// has tells whether a piece is stored, with that many bytes.
func (s *pieces) has(piece cid.Cid, size int64) bool {
	info, err := os.Stat(s.path(piece))
	return err == nil && info.Size() == size
}

// An assembly is a piece to be made of the parts of a pull.
type assembly struct {
	id        uuid.UUID
	parts     int
	piece     cid.Cid
	size      abi.PaddedPieceSize
	pad       bool // a smaller piece is filled with zeros
	corrupted bool // a bit is flipped on the way: the fault
}

// assemble joins the parts, which are complete, checks the commitment, and stores the piece durably. A piece that is not
// what was signed is errCommP.
func (s *pieces) assemble(a assembly) error {
	temp, err := os.CreateTemp(s.dir, ".new-*")
	if err != nil {
		return fmt.Errorf("storing a piece: %w", err)
	}
	defer os.RemoveAll(temp.Name()) // gone already if all went well
	defer temp.Close()
	calc := &commp.Calc{}
	defer calc.Reset()
	if err := s.join(a, io.MultiWriter(temp, calc)); err != nil {
		return fmt.Errorf("joining the parts: %w", err)
	}
	got, err := commitment(calc, a)
	if err != nil {
		return err
	}
	if !got.Equals(a.piece) {
		return fmt.Errorf("%w: expected %s, got %s", errCommP, a.piece, got)
	}
	if err := temp.Sync(); err != nil {
		return fmt.Errorf("storing a piece: %w", err)
	}
	if err := os.Rename(temp.Name(), s.path(a.piece)); err != nil {
		return fmt.Errorf("storing a piece: %w", err)
	}
	if err := syncDir(s.dir); err != nil {
		return fmt.Errorf("storing a piece: %w", err)
	}
	s.removeParts(a.id)
	return nil
}

func (s *pieces) join(a assembly, w io.Writer) error {
	for n := range a.parts {
		part, err := os.Open(s.partPath(a.id, n))
		if err != nil {
			return err
		}
		var r io.Reader = part
		if a.corrupted && n == 0 {
			r = &flipReader{r: part}
		}
		_, err = io.CopyBuffer(w, r, make([]byte, 1<<20))
		part.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// commitment is the piece CID of what was hashed, filled up to the deal's size where the provider does that.
func commitment(calc *commp.Calc, a assembly) (cid.Cid, error) {
	raw, padded, err := calc.Digest()
	if err != nil {
		return cid.Undef, fmt.Errorf("%w: %w", errCommP, err)
	}
	if a.pad && padded < uint64(a.size) {
		if raw, err = commp.PadCommP(raw, padded, uint64(a.size)); err != nil {
			return cid.Undef, fmt.Errorf("%w: %w", errCommP, err)
		}
		padded = uint64(a.size)
	}
	if padded != uint64(a.size) {
		return cid.Undef, fmt.Errorf("%w: the piece is of %d bytes, the deal says %d", errCommP, padded, a.size)
	}
	got, err := commcid.DataCommitmentV1ToCID(raw)
	if err != nil {
		return cid.Undef, fmt.Errorf("%w: %w", errCommP, err)
	}
	return got, nil
}

// flipReader flips one bit of the first byte.
type flipReader struct {
	r    io.Reader
	done bool
}

func (f *flipReader) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	if n > 0 && !f.done {
		b[0] ^= 1
		f.done = true
	}
	return n, err
}

func (s *pieces) open(piece cid.Cid) (*os.File, error) { return os.Open(s.path(piece)) }

// remove forgets a piece.
func (s *pieces) remove(piece cid.Cid) {
	s.mu.Lock()
	delete(s.served, piece)
	for mh, at := range s.blocks {
		if at.piece.Equals(piece) {
			delete(s.blocks, mh)
		}
	}
	s.mu.Unlock()
	os.RemoveAll(s.path(piece) + ".idx")
	os.RemoveAll(s.path(piece))
}

// serve makes a piece and its blocks retrievable. A piece that is no CAR is served whole only.
func (s *pieces) serve(piece cid.Cid) error {
	idx, err := s.index(piece)
	if err != nil && !errors.Is(err, errNoCAR) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.served[piece] = true
	if idx == nil {
		return nil
	}
	return idx.ForEach(func(mh multihash.Multihash, offset uint64) error {
		s.blocks[string(mh)] = place{piece, int64(offset)}
		return nil
	})
}

func (s *pieces) isServed(piece cid.Cid) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.served[piece]
}

func (s *pieces) find(mh multihash.Multihash) (place, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.blocks[string(mh)]
	return at, ok
}

var errNoCAR = errors.New("the piece is no CAR")

// carOptions allow for the zeros that fill a piece.
func carOptions() []car.Option {
	return []car.Option{car.ZeroLengthSectionAsEOF(true), car.StoreIdentityCIDs(false)}
}

// index reads the index of a piece or makes it, once.
func (s *pieces) index(piece cid.Cid) (index.IterableIndex, error) {
	path := s.path(piece) + ".idx"
	if f, err := os.Open(path); err == nil {
		defer f.Close()
		idx, err := index.ReadFrom(bufio.NewReader(f))
		if err == nil {
			if iterable, ok := idx.(index.IterableIndex); ok {
				return iterable, nil
			}
		}
	}
	f, err := s.open(piece)
	if err != nil {
		return nil, fmt.Errorf("indexing piece %s: %w", piece, err)
	}
	defer f.Close()
	// The file itself: with a reader that cannot seek, go-car counts its offsets from the end of the header.
	idx, err := car.GenerateIndex(f, carOptions()...)
	if err != nil {
		return nil, fmt.Errorf("indexing piece %s: %w: %w", piece, errNoCAR, err)
	}
	iterable, ok := idx.(index.IterableIndex)
	if !ok {
		return nil, fmt.Errorf("indexing piece %s: an index of kind %s", piece, idx.Codec())
	}
	var encoded strings.Builder
	if _, err := index.WriteTo(idx, &encoded); err != nil {
		return nil, fmt.Errorf("encoding the index of piece %s: %w", piece, err)
	}
	if err := writeFile(path, []byte(encoded.String())); err != nil {
		return nil, err
	}
	return iterable, nil
}
