package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin/v18/market"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/ipfs/go-cid"
	cbg "github.com/whyrusleeping/cbor-gen"
)

// A vertex is a node of an AMT that has deals in it. An AMT is an array as a tree of degree 2^width: entry i of a
// vertex at height h holds the indices whose digit h in that base is i.
type vertex struct {
	present uint64    // entries that there are
	links   []cid.Cid // of those, above height 0
	active  uint64    // at height 0: deals that are proven and not slashed
}

func (v *vertex) child(i uint) (cid.Cid, bool) {
	if v == nil || len(v.links) == 0 || v.present>>i&1 == 0 {
		return cid.Undef, false
	}
	return v.links[bits.OnesCount64(v.present&(1<<i-1))], true
}

// A root is a whole AMT.
type root struct {
	width  uint // bits of a digit, at most 6
	height uint
	top    *vertex
}

// digit is the entry of a vertex at height h under which an index is found.
func (r root) digit(id abi.DealID, h uint) uint {
	return uint(uint64(id) >> (r.width * h) & (1<<r.width - 1))
}

// holds tells whether the tree is high enough for an index.
func (r root) holds(id abi.DealID) bool {
	up := r.width * (r.height + 1)
	return up >= 64 || uint64(id)>>up == 0
}

// How many nodes of the tree of deal states are kept, in all: about 25 MB at most. On a chain where our deals are
// close together that is all of them; elsewhere it is the upper part.
const (
	keptRoots    = 8
	keptBranches = 1 << 12
	keptLeaves   = 1 << 16
)

// A tree keeps what was read of the states AMT, which never changes under a CID.
type tree struct {
	roots    *lru.Cache[cid.Cid, root]
	branches *lru.Cache[cid.Cid, *vertex]
	leaves   *lru.Cache[cid.Cid, uint64] // which deals are active
}

func newTree() (*tree, error) {
	roots, err1 := lru.New[cid.Cid, root](keptRoots)
	branches, err2 := lru.New[cid.Cid, *vertex](keptBranches)
	leaves, err3 := lru.New[cid.Cid, uint64](keptLeaves)
	return &tree{roots, branches, leaves}, errors.Join(err1, err2, err3)
}

// states returns the tree of deal states under a root.
func (l *Lotus) states(ctx context.Context, s *session, c cid.Cid) (root, error) {
	if r, ok := l.tree.roots.Get(c); ok {
		return r, nil
	}
	raw, err := object(ctx, s, c)
	if err != nil {
		return root{}, err
	}
	r, err := readRoot(raw, isActive)
	if err != nil {
		return root{}, fmt.Errorf("%w: reading the root of the deal states: %w", errUnreadable, err)
	}
	l.tree.roots.Add(c, r)
	return r, nil
}

// vertex returns a node of the tree of deal states.
func (l *Lotus) vertex(ctx context.Context, s *session, c cid.Cid, width, height uint) (*vertex, error) {
	if height == 0 {
		if active, ok := l.tree.leaves.Get(c); ok {
			return &vertex{active: active}, nil
		}
	} else if v, ok := l.tree.branches.Get(c); ok {
		return v, nil
	}
	raw, err := object(ctx, s, c)
	if err != nil {
		return nil, err
	}
	v, err := readVertex(cbg.NewCborReader(bytes.NewReader(raw)), width, height, isActive)
	if err != nil {
		return nil, fmt.Errorf("%w: reading a node of the deal states: %w", errUnreadable, err)
	}
	if height == 0 {
		l.tree.leaves.Add(c, v.active)
	} else {
		l.tree.branches.Add(c, v)
	}
	return v, nil
}

// A reader of values takes one from a leaf and tells whether the deal is active; nil leaves them unread.
type valueReader func(r *cbg.CborReader) (bool, error)

func isActive(r *cbg.CborReader) (bool, error) {
	var d market.DealState
	if err := d.UnmarshalCBOR(r); err != nil {
		return false, fmt.Errorf("reading a deal's state: %w", err)
	}
	return d.SectorStartEpoch >= 0 && d.SlashEpoch < 0, nil
}

func readRoot(raw []byte, value valueReader) (r root, err error) {
	in := cbg.NewCborReader(bytes.NewReader(raw))
	if n, err := arrayLen(in); err != nil || n != 4 {
		return r, fmt.Errorf("a root of %d fields: %w", n, orMalformed(err))
	}
	var fields [3]uint64 // width, height, count
	for i := range fields {
		major, v, err := in.ReadHeader()
		if err != nil || major != cbg.MajUnsignedInt {
			return r, fmt.Errorf("field %d of a root: %w", i, orMalformed(err))
		}
		fields[i] = v
	}
	if fields[0] < 1 || fields[0] > 6 || fields[1] > 64/fields[0] {
		return r, fmt.Errorf("a tree of width %d and height %d: %w", fields[0], fields[1], errMalformed)
	}
	r.width, r.height = uint(fields[0]), uint(fields[1])
	r.top, err = readVertex(in, r.width, r.height, value)
	return r, err
}

func readVertex(in *cbg.CborReader, width, height uint, value valueReader) (*vertex, error) {
	if n, err := arrayLen(in); err != nil || n != 3 {
		return nil, fmt.Errorf("a node of %d fields: %w", n, orMalformed(err))
	}
	v := &vertex{}
	major, size, err := in.ReadHeader()
	if err != nil || major != cbg.MajByteString || size != uint64(max(1, 1<<width/8)) {
		return nil, fmt.Errorf("a bitmap of %d bytes: %w", size, orMalformed(err))
	}
	var bitmap [8]byte
	if _, err := io.ReadFull(in, bitmap[:size]); err != nil {
		return nil, fmt.Errorf("reading a bitmap: %w", err)
	}
	for i, b := range bitmap {
		v.present |= uint64(b) << (8 * i)
	}
	if 1<<width < 64 && v.present>>(1<<width) != 0 {
		return nil, fmt.Errorf("a bitmap with %d entries: %w", bits.OnesCount64(v.present), errMalformed)
	}
	entries := bits.OnesCount64(v.present)
	links, err := arrayLen(in)
	if err != nil {
		return nil, err
	}
	if height > 0 && links != uint64(entries) || height == 0 && links != 0 {
		return nil, fmt.Errorf("a node with %d links at height %d: %w", links, height, errMalformed)
	}
	v.links = make([]cid.Cid, links)
	for i := range v.links {
		if v.links[i], err = cbg.ReadCid(in); err != nil {
			return nil, fmt.Errorf("reading a link: %w", err)
		}
	}
	values, err := arrayLen(in)
	if err != nil {
		return nil, err
	}
	if height == 0 && values != uint64(entries) || height > 0 && values != 0 {
		return nil, fmt.Errorf("a node with %d values at height %d: %w", values, height, errMalformed)
	}
	if height > 0 || value == nil {
		return v, nil
	}
	for left := v.present; left != 0; left &= left - 1 {
		active, err := value(in)
		if err != nil {
			return nil, err
		}
		if active {
			v.active |= left & -left
		}
	}
	return v, nil
}

var errMalformed = errors.New("it is malformed")

func orMalformed(err error) error {
	if err != nil {
		return err
	}
	return errMalformed
}

func arrayLen(r *cbg.CborReader) (uint64, error) {
	major, n, err := r.ReadHeader()
	if err != nil {
		return 0, fmt.Errorf("reading an array: %w", err)
	}
	if major != cbg.MajArray {
		return 0, fmt.Errorf("reading an array: %w", errMalformed)
	}
	return n, nil
}

// cborText and cborUint are values as events have them.
func cborText(text string) []byte {
	return append(cbg.CborEncodeMajorType(cbg.MajTextString, uint64(len(text))), text...)
}

func cborUint(v uint64) []byte { return cbg.CborEncodeMajorType(cbg.MajUnsignedInt, v) }

func readUint(raw []byte) (uint64, bool) {
	major, v, err := cbg.CborReadHeader(bytes.NewReader(raw))
	return v, err == nil && major == cbg.MajUnsignedInt
}
