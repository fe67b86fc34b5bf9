package server_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/server"
)

// Whatever strangers have pinned: reading it is an error or right bytes, in every format, and the work is in proportion
// to what was sent.
func TestReadsOfHostileDAGsEnd(t *testing.T) {
	t.Parallel()
	headers, queries := []string{"Accept", "Range"}, []string{
		"", "/", "/x", "/x/a", "?format=raw", "?format=car", "?format=car&car-dups=y", "?format=car&dag-scope=entity",
		"?format=car&entity-bytes=-100:*", "?format=tar", "?format=dag-json", "?format=dag-cbor", "?format=json",
	}
	if testing.Short() {
		headers, queries = headers[:1], []string{"", "?format=car", "?format=tar"}
	}
	for _, d := range pinstest.Hostiles() {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			put(t, w, d.DAG)
			counted := &countedBlocks{world: w}
			f := newFixture(t, func(c *server.Config) { c.Gateway = &server.Gateway{Blocks: counted, Roots: w} })
			for _, query := range queries {
				for _, header := range headers {
					counted.reads.Store(0)
					value := map[string]string{"Accept": "text/html", "Range": "bytes=-100"}[header]
					target := "/ipfs/" + d.Root.String() + query
					sent := readSome(t, f, target, header, value)
					if most := 2*fruitless + sent; counted.reads.Load() > most {
						t.Errorf("%s %s: %d blocks were read for %d bytes", target, value, counted.reads.Load(), sent)
					}
				}
			}
		})
	}
}

// fruitless is about how many blocks a read may cost without a byte that reaches the reader.
const fruitless = 100_000

// readSome reads an answer up to a MiB and returns how much there was. The fault must not be ours.
func readSome(t *testing.T, f *fixture, target string, headers ...string) int64 {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	r.Header.Set(headers[0], headers[1])
	w := &shortWriter{header: http.Header{}, left: 1 << 20, full: cancel}
	func() {
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
				panic(p)
			}
		}()
		f.ServeHTTP(w, r) // an answer that is cut short is an error, too
	}()
	if w.code >= 500 && w.code != http.StatusNotImplemented {
		u, _ := url.PathUnescape(target)
		t.Errorf("%s %v: %d", u, headers, w.code)
	}
	return w.sent
}

// shortWriter is a reader that leaves after so many bytes.
type shortWriter struct {
	header     http.Header
	code       int
	sent, left int64
	full       func()
}

func (w *shortWriter) Header() http.Header { return w.header }
func (w *shortWriter) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
}

func (w *shortWriter) Write(b []byte) (int, error) {
	if w.sent += int64(len(b)); w.sent > w.left {
		w.full()
		return 0, io.ErrClosedPipe
	}
	return len(b), nil
}

// put makes a DAG hot and pinned.
func put(t testing.TB, w *world, d pinstest.DAG) {
	t.Helper()
	if err := w.hot.PutMany(t.Context(), d.Blocks); err != nil {
		t.Fatal(err)
	}
	w.pinned[d.Root] = 1
}

// countedBlocks counts what is read of a world, and may look on.
type countedBlocks struct {
	*world
	reads atomic.Int64
	look  func()
}

func (c *countedBlocks) Blocks() blockservice.BlockService {
	return blockservice.New(countedStore{c.hot, c}, provider{c.world})
}

func (c *countedBlocks) HotBlocks() blockservice.BlockService {
	return blockservice.New(countedStore{c.hot, c}, nil)
}

type countedStore struct {
	blockstore.Blockstore
	c *countedBlocks
}

func (s countedStore) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	s.c.reads.Add(1)
	if s.c.look != nil {
		s.c.look()
	}
	return s.Blockstore.Get(ctx, c)
}

// A CAR of a chain of large nodes must not take the room of all of them, decoded.
func TestMemoryOfACARDoesNotGrowWithTheDepthOfTheDAG(t *testing.T) {
	w := newWorld()
	d := pinstest.Ladder(60, 20_000) // a megabyte for each level
	slices.Reverse(d.Blocks)
	put(t, w, d)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most := int64(heap()), int64(0)
	counted := &countedBlocks{world: w, look: func() { most = max(most, int64(heap())) }}
	f := newFixture(t, func(c *server.Config) { c.Gateway = &server.Gateway{Blocks: counted, Roots: w} })
	sent := &shortWriter{header: http.Header{}, left: 1 << 30, full: func() {}}
	f.ServeHTTP(sent, httptest.NewRequest(http.MethodGet, "/ipfs/"+d.Root.String()+"?format=car", nil))
	if sent.code != http.StatusOK || sent.sent < d.Size() {
		t.Fatalf("%d, %d bytes", sent.code, sent.sent)
	}
	if grown := most - before; grown > 32<<20 {
		t.Errorf("a CAR of %d MiB took %d MiB", d.Size()>>20, grown>>20)
	}
}
