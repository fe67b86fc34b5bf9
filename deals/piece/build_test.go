package piece_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/filecoin-project/go-fil-commcid"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/deals/piece"
)

func TestCARIsTheOneThatGoCarWrites(t *testing.T) {
	s := openStore(t, t.TempDir(), 0)
	rapid.Check(t, func(rt *rapid.T) {
		m := newMemory()
		root := anyDAG(rt, m)
		want := reference(t, m, root)
		p := build(t, s, m, root)
		sum, err := piece.Sum(bytes.NewReader(want))
		if err != nil || sum != p {
			rt.Fatalf("the piece is %+v, that of go-car's CAR %+v, %v", p, sum, err)
		}
		got := readAll(t, open(t, s, m, root, p.RawSize))
		if !bytes.Equal(got[:p.CARSize], want) || strings.Trim(string(got[p.CARSize:]), "\x00") != "" {
			rt.Fatalf("the CAR\n%x\nis not that of go-car\n%x", got, want)
		}
	})
}

func TestAnyRangeIsThatOfTheWhole(t *testing.T) {
	s := openStore(t, t.TempDir(), 0)
	m := newMemory()
	root := m.tree("ranges", 9, 3, 200) // 820 sections: several groups of the layout
	p := build(t, s, m, root)
	padded, err := p.PadTo(2 * p.Size)
	if err != nil {
		t.Fatal(err)
	}
	whole := append(reference(t, m, root), make([]byte, padded.RawSize-p.CARSize)...)
	r := open(t, s, m, root, padded.RawSize)
	if got := readAll(t, r); !bytes.Equal(got, whole) {
		t.Fatalf("read %d bytes in sequence, and they are not the CAR", len(got))
	}
	rapid.Check(t, func(rt *rapid.T) {
		from := rapid.Int64Range(0, padded.RawSize+10).Draw(rt, "from")
		n := rapid.IntRange(1, 3000).Draw(rt, "n")
		var at int64
		var err error
		switch rapid.IntRange(0, 2).Draw(rt, "whence") {
		case 0:
			at, err = r.Seek(from, io.SeekStart)
		case 1:
			at, err = r.Seek(from-padded.RawSize, io.SeekEnd)
		default:
			now, _ := r.Seek(0, io.SeekCurrent)
			at, err = r.Seek(from-now, io.SeekCurrent)
		}
		if err != nil || at != from {
			rt.Fatalf("seeking to %d: %d, %v", from, at, err)
		}
		got, err := io.ReadAll(io.LimitReader(r, int64(n)))
		if err != nil {
			rt.Fatal(err)
		}
		want := whole[min(from, padded.RawSize):min(from+int64(n), padded.RawSize)]
		if !bytes.Equal(got, want) {
			rt.Fatalf("bytes %d+%d differ", from, n)
		}
	})
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Error("a seek before the start was let through")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a closed reader answered %v", err)
	}
}

// A range must not cost the whole DAG.
func TestRangeReadsOnlyTheBlocksConcerned(t *testing.T) {
	s := openStore(t, t.TempDir(), 0)
	m := newMemory()
	root := m.tree("few", 20, 2, 64<<10)
	p := build(t, s, m, root)
	before := m.asked.Load()
	r := open(t, s, m, root, p.RawSize)
	if _, err := r.Seek(p.CARSize/2, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 100<<10)); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if asked := m.asked.Load() - before; asked > 3+(2<<20)/(64<<10) {
		t.Errorf("for 100 KiB of 25 MiB %d blocks were read", asked)
	}
}

func TestPaddingIsArithmeticAndEqualsHashingTheZeros(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 1, 3000).Draw(t, "car")
		p, err := piece.Sum(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if p.RawSize != max(127, int64(len(data))) || p.CARSize != int64(len(data)) {
			t.Fatalf("the sizes of %+v are not those of %d bytes", p, len(data))
		}
		size := p.Size << rapid.IntRange(0, 5).Draw(t, "doublings")
		got, err := p.PadTo(size)
		if err != nil {
			t.Fatal(err)
		}
		if size == p.Size {
			if got != p {
				t.Fatalf("padding %+v to its own size made %+v", p, got)
			}
			return
		}
		raw := int64(size.Unpadded())
		want, err := piece.Sum(bytes.NewReader(append(data, make([]byte, raw-int64(len(data)))...)))
		want.CARSize = p.CARSize
		if err != nil || got != want {
			t.Fatalf("padded to %d: %+v, want %+v, %v", size, got, want, err)
		}
		// What is written in a version 2 piece CID is what a provider will check.
		v1, payload, err := commcid.PieceCidV1FromV2(got.CIDv2)
		if err != nil || !v1.Equals(got.CIDv1) || payload != uint64(raw) {
			t.Fatalf("the version 2 CID says %s, %d, %v", v1, payload, err)
		}
	})
	p, err := piece.Sum(strings.NewReader(strings.Repeat("x", 1000)))
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []abi.PaddedPieceSize{0, 100, 127, 1000, 1 << 60} {
		if got, err := p.PadTo(size); err == nil {
			t.Errorf("padding to %d made %+v", size, got)
		}
	}
	var large *piece.TooLargeError
	if _, err := p.PadTo(512); !errors.As(err, &large) || large.Limit != 512 {
		t.Errorf("1000 bytes padded to 512: %v", err)
	}
}

func TestTinyDAGsArePieces(t *testing.T) {
	s := openStore(t, t.TempDir(), 0)
	m := newMemory()
	for name, root := range map[string]cid.Cid{
		"no block": inline(cid.Raw, nil), "one byte inline": inline(cid.Raw, []byte("x")),
		"an empty block": m.leaf(""), "one byte": m.leaf("x"), "an empty node": m.node(""),
	} {
		p := build(t, s, m, root)
		want := reference(t, m, root)
		if p.CARSize != int64(len(want)) || p.RawSize != max(127, p.CARSize) || p.Size < 128 {
			t.Errorf("%s: %+v", name, p)
		}
		got := readAll(t, open(t, s, m, root, p.RawSize))
		if !bytes.Equal(got, append(want, make([]byte, p.RawSize-p.CARSize)...)) {
			t.Errorf("%s: the piece is %x", name, got)
		}
	}
}

// Everyone in the field reads CARs with go-car.
func TestGoCarReadsPaddedPieces(t *testing.T) {
	s := openStore(t, t.TempDir(), 0)
	m := newMemory()
	root := m.tree("readable", 5, 2, 300)
	p := build(t, s, m, root)
	padded, err := p.PadTo(p.Size * 4)
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := car.NewBlockReader(open(t, s, m, root, padded.RawSize), car.ZeroLengthSectionAsEOF(true))
	if err != nil {
		t.Fatal(err)
	}
	if len(blocks.Roots) != 1 || !blocks.Roots[0].Equals(root) || blocks.Version != 1 {
		t.Errorf("version %d, roots %v", blocks.Version, blocks.Roots)
	}
	n := 0
	for {
		if _, err := blocks.Next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != len(m.data) {
		t.Errorf("go-car read %d blocks of %d", n, len(m.data))
	}
}

func TestTooLargeIsRefusedBeforeItIsRead(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, 0)
	m := newMemory()
	root := m.tree("large", 200, 1, 256<<10) // 50 MiB
	var large *piece.TooLargeError
	if _, err := s.Build(t.Context(), m, root, 1<<20); !errors.As(err, &large) || large.Limit != 1<<20 {
		t.Errorf("building 50 MiB into 1 MiB: %v", err)
	}
	if asked := m.asked.Load(); asked > 60 {
		t.Errorf("%d of 201 blocks were read to find that 1 MiB is not enough", asked)
	}
	noFiles(t, dir)
	p := build(t, s, m, root)
	if _, err := s.Build(t.Context(), m, root, p.Size); err != nil {
		t.Errorf("with the size it has: %v", err)
	}
	if _, err := s.Build(t.Context(), m, root, p.Size/2); !errors.As(err, &large) {
		t.Errorf("with half of the size it has: %v", err)
	}
}

func TestErrorsOfBlocksPassThrough(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, 0)
	m := newMemory()
	root := m.node("root", m.node("left", m.leaf("a")), inline(cid.DagProtobuf, nodeBytes("", []cid.Cid{m.leaf("gone")})))
	p := build(t, s, m, root)
	r := open(t, s, m, root, p.RawSize)
	delete(m.data, string(m.leaf("gone").Hash()))
	if _, err := io.ReadAll(r); !errors.Is(err, errAbsent) {
		t.Errorf("reading a piece with a missing block: %v", err)
	}
	m.leaf("gone") // a block that comes back
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, r); int64(len(got)) != p.RawSize {
		t.Errorf("after an error %d bytes were read", len(got))
	}
	if err := s.Remove(root); err != nil {
		t.Fatal(err)
	}
	delete(m.data, string(m.leaf("gone").Hash()))
	if _, err := s.Build(t.Context(), m, root, 0); !errors.Is(err, errAbsent) {
		t.Errorf("building with a missing block: %v", err)
	}
	if _, err := s.Open(t.Context(), m, root, p.RawSize); !errors.Is(err, errAbsent) {
		t.Errorf("opening with a missing block: %v", err)
	}
	if _, err := s.Build(t.Context(), m, cid.Undef, 0); err == nil {
		t.Error("no root was built")
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := s.Build(ctx, m, root, 0); !errors.Is(err, why) {
		t.Errorf("a cancelled build returned %v", err)
	}
	for name, bad := range map[string]cid.Cid{
		"malformed": m.put(cid.DagProtobuf, []byte{0xff, 1}), "of an unknown codec": m.put(0x1234, []byte("x")),
	} {
		if _, err := s.Build(t.Context(), m, m.node("bad", bad), 0); err == nil || !strings.Contains(err.Error(), bad.String()) {
			t.Errorf("a block that is %s: %v; want its CID named", name, err)
		}
	}
	m.before = func(context.Context, cid.Cid) error { panic("a decoder of someone else") }
	if _, err := s.Build(t.Context(), m, root, 0); err == nil || !strings.Contains(err.Error(), "panic") {
		t.Errorf("a panic became %v", err)
	}
	noFiles(t, dir)
}

// Blocks that come slowly and out of turn make the same CAR: the walk asks ahead and guesses.
func TestOrderDoesNotDependOnWhenBlocksCome(t *testing.T) {
	s := openStore(t, t.TempDir(), 0)
	m := newMemory()
	var running, most, turn atomic.Int64
	m.before = func(context.Context, cid.Cid) error {
		now := running.Add(1)
		defer running.Add(-1)
		for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
		}
		for range turn.Add(7919) % 50 {
			runtime.Gosched()
		}
		return nil
	}
	deep := m.leaf("bottom")
	for i := range 300 { // a chain with something on the side of each node
		deep = m.node(fmt.Sprint(i), m.node(fmt.Sprint("side ", i%7)), deep, m.leaf(fmt.Sprint("leaf ", i)))
	}
	for name, root := range map[string]cid.Cid{
		"wide": m.tree("w", 300, 1, 10), "bushy": m.tree("b", 4, 6, 10), "deep": deep,
		"nodes only": m.node("n", m.tree("n", 40, 1, 10), m.node("x", m.tree("n", 3, 5, 1)), m.tree("n", 40, 1, 10)),
	} {
		p := build(t, s, m, root)
		if got, want := readAll(t, open(t, s, m, root, p.CARSize)), reference(t, m, root); !bytes.Equal(got, want) {
			t.Errorf("%s: the CAR differs from go-car's", name)
		}
	}
	if most.Load() < 4 {
		t.Errorf("at most %d blocks were asked for at once: the walk does not read ahead", most.Load())
	}
}

// The links of nodes on the way down could fill any memory: each of these has 50,000 that wait for the first.
func TestPendingLinksAreDroppedAndReadAgain(t *testing.T) {
	s := openStore(t, t.TempDir(), 0)
	m := newMemory()
	side := m.leaf("side")
	root := m.leaf("bottom")
	for i := range 8 {
		children := []cid.Cid{root}
		for range 50_000 {
			children = append(children, side)
		}
		root = m.node(fmt.Sprint(i), append(children, m.leaf(fmt.Sprint("last ", i)))...)
	}
	p := build(t, s, m, root)
	if got, want := readAll(t, open(t, s, m, root, p.CARSize)), reference(t, m, root); !bytes.Equal(got, want) {
		t.Error("the CAR differs from go-car's")
	}
	if asked := m.asked.Load(); asked <= 2*18 {
		t.Errorf("%d reads for 18 blocks, twice: no links were dropped, so the test proves nothing", asked)
	}
}

// On the way up the links of each node are read again, and go with it.
func TestLinksThatWereReadAgainAreLetGo(t *testing.T) {
	s := openStore(t, t.TempDir(), 0)
	m := newMemory()
	side := m.leaf("side")
	root := m.leaf("bottom")
	for i := range 60 {
		children := []cid.Cid{root}
		for range 30_000 {
			children = append(children, side)
		}
		root = m.node(fmt.Sprint(i), children...)
	}
	heap := func() int64 {
		runtime.GC()
		var now runtime.MemStats
		runtime.ReadMemStats(&now)
		return int64(now.HeapAlloc)
	}
	before, most := heap(), int64(0)
	var mu sync.Mutex
	m.before = func(context.Context, cid.Cid) error {
		mu.Lock()
		defer mu.Unlock()
		most = max(most, heap())
		return nil
	}
	build(t, s, m, root)
	if grown := most - before; grown > 64<<20 {
		t.Errorf("the heap grew by %d MiB for 62 blocks", grown>>20)
	}
	runtime.KeepAlive(m)
}

// endless makes blocks when they are asked for and keeps none.
type endless struct {
	memory
	leaves map[cid.Cid]int
	size   int
	peak   atomic.Uint64
}

func (e *endless) data(i int) []byte {
	data := make([]byte, e.size)
	for j := range data {
		data[j] = byte(i>>(j%4*8)) ^ byte(j*31)
	}
	return data
}

func (e *endless) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	i, ok := e.leaves[c]
	if !ok {
		return e.memory.Block(ctx, c)
	}
	if e.asked.Add(1)%32 == 0 {
		var now runtime.MemStats
		runtime.ReadMemStats(&now)
		for seen := e.peak.Load(); now.HeapAlloc > seen && !e.peak.CompareAndSwap(seen, now.HeapAlloc); seen = e.peak.Load() {
		}
	}
	return e.data(i), nil
}

func TestMemoryIsBoundedWhateverTheDAG(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(20)) // so that the heap shows what is kept, not what is left over
	e := &endless{memory: *newMemory(), leaves: make(map[cid.Cid]int), size: 1 << 20}
	var nodes []cid.Cid
	for range 8 {
		var children []cid.Cid
		for range 24 {
			i := len(e.leaves)
			c := e.put(cid.Raw, e.data(i))
			delete(e.memory.data, string(c.Hash()))
			e.leaves[c] = i
			children = append(children, c)
		}
		nodes = append(nodes, e.node("n", children...))
	}
	root := e.node("root", nodes...)
	s := openStore(t, t.TempDir(), 0)
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	p := build(t, s, e, root) // 192 MiB
	r := open(t, s, e, root, p.RawSize)
	if n, err := io.Copy(io.Discard, r); err != nil || n != p.RawSize {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	if grown := int64(e.peak.Load() - before.HeapAlloc); grown > 40<<20 {
		t.Errorf("the heap grew by %d MiB for a DAG of 192 MiB", grown>>20)
	}
}
