package piece_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/ipld/go-car/v2"
	carstorage "github.com/ipld/go-car/v2/storage"
	"github.com/multiformats/go-multihash"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/deals/piece"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAbsent = errors.New("absent for the test")

// memory is Blocks in a map. It counts what it is asked for.
type memory struct {
	mu     sync.Mutex
	data   map[string][]byte // by hash
	asked  atomic.Int64
	before func(ctx context.Context, c cid.Cid) error // called before each answer, when set
}

func newMemory() *memory { return &memory{data: make(map[string][]byte)} }

func (m *memory) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	m.asked.Add(1)
	if m.before != nil {
		if err := m.before(ctx, c); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if data, ok := m.data[string(c.Hash())]; ok {
		return data, nil
	}
	return nil, errAbsent
}

// put stores a block of any codec and returns its CID.
func (m *memory) put(codec uint64, data []byte) cid.Cid {
	hash, err := multihash.Sum(data, multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data[string(hash)] = data
	return cid.NewCidV1(codec, hash)
}

func (m *memory) leaf(data string) cid.Cid { return m.put(cid.Raw, []byte(data)) }

func (m *memory) node(data string, children ...cid.Cid) cid.Cid {
	return m.put(cid.DagProtobuf, nodeBytes(data, children))
}

func nodeBytes(data string, children []cid.Cid) []byte {
	nd := merkledag.NodeWithData([]byte(data))
	for _, c := range children {
		if err := nd.AddRawLink("", &ipld.Link{Cid: c}); err != nil {
			panic(err)
		}
	}
	return nd.RawData()
}

// list stores a DAG-CBOR list of at most 23 links to CIDs of 23 to 254 bytes.
func (m *memory) list(children ...cid.Cid) cid.Cid {
	out := []byte{0x80 | byte(len(children))}
	for _, c := range children {
		out = append(out, 0xd8, 0x2a, 0x58, byte(c.ByteLen()+1), 0)
		out = append(out, c.Bytes()...)
	}
	return m.put(cid.DagCBOR, out)
}

func inline(codec uint64, data []byte) cid.Cid {
	hash, err := multihash.Sum(data, multihash.IDENTITY, -1)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(codec, hash)
}

func v0(c cid.Cid) cid.Cid { return cid.NewCidV0(c.Hash()) }

// tree stores a DAG of some levels with leaves of size bytes and returns its root.
func (m *memory) tree(seed string, width, levels, size int) cid.Cid {
	if levels == 0 {
		return m.leaf(fmt.Sprintf("%s %0*d", seed, max(0, size-len(seed)-1), 0))
	}
	children := make([]cid.Cid, width)
	for i := range children {
		children[i] = m.tree(fmt.Sprintf("%s/%d", seed, i), width, levels-1, size)
	}
	return m.node(seed, children...)
}

// anyDAG draws a DAG of all that a CAR must cope with.
func anyDAG(t *rapid.T, m *memory) cid.Cid {
	all := []cid.Cid{m.leaf("first")}
	for i := range rapid.IntRange(0, 40).Draw(t, "blocks") {
		some := slices.DeleteFunc(rapid.SliceOfN(rapid.SampledFrom(all), 0, 6).Draw(t, "children"), func(c cid.Cid) bool {
			return c.ByteLen() > 200 // identity CIDs within identity CIDs
		})
		data := fmt.Sprint(i, string(make([]byte, rapid.SampledFrom([]int{0, 1, 90, 127, 2000}).Draw(t, "size"))))
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			all = append(all, m.leaf(data))
		case 1:
			all = append(all, m.list(slices.DeleteFunc(some, func(c cid.Cid) bool { return c.ByteLen() < 23 })...))
		case 2:
			all = append(all, v0(m.node(data, some...)))
		case 3:
			all = append(all, inline(cid.DagProtobuf, nodeBytes("", some)))
		default:
			all = append(all, m.node(data, some...))
		}
	}
	return m.node("root", all[max(0, len(all)-5):]...)
}

// reference makes the CAR the plain way: with go-car, in memory, block by block.
func reference(t testing.TB, m *memory, root cid.Cid) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := carstorage.NewWritable(&out, []cid.Cid{root}, car.WriteAsCarV1(true))
	if err != nil {
		t.Fatal(err)
	}
	seen := cid.NewSet()
	var visit func(c cid.Cid)
	visit = func(c cid.Cid) {
		if !seen.Visit(c) {
			return
		}
		var data []byte
		if c.Prefix().MhType == multihash.IDENTITY {
			digest, err := multihash.Decode(c.Hash())
			if err != nil {
				t.Fatal(err)
			}
			data = digest.Digest
		} else if data = m.data[string(c.Hash())]; data == nil {
			t.Fatalf("there is no block %s", c)
		} else if err := w.Put(context.Background(), c.KeyString(), data); err != nil {
			t.Fatal(err)
		}
		switch c.Type() {
		case cid.DagProtobuf:
			nd, err := merkledag.DecodeProtobuf(data)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range nd.Links() {
				visit(l.Cid)
			}
		case cid.DagCBOR: // only what list has made
			for data = data[1:]; len(data) > 0; {
				n := int(data[3])
				_, c, err := cid.CidFromBytes(data[5 : 4+n])
				if err != nil {
					t.Fatal(err)
				}
				visit(c)
				data = data[4+n:]
			}
		}
	}
	visit(root)
	return out.Bytes()
}

func openStore(t testing.TB, dir string, most int64) *piece.Store {
	t.Helper()
	s, err := piece.OpenStore(dir, most)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func build(t testing.TB, s *piece.Store, m piece.Blocks, root cid.Cid) piece.Piece {
	t.Helper()
	p, err := s.Build(t.Context(), m, root, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func open(t testing.TB, s *piece.Store, m piece.Blocks, root cid.Cid, raw int64) *piece.Reader {
	t.Helper()
	r, err := s.Open(t.Context(), m, root, raw)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func readAll(t testing.TB, r io.Reader) []byte {
	t.Helper()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
