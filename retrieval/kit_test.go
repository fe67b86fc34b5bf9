package retrieval_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	car "github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/storage"
	"github.com/multiformats/go-multihash"
	"go.uber.org/goleak"

	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/retrieval"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A dag is a root and its blocks in the order of a walk.
type dag struct {
	root   cid.Cid
	order  []cid.Cid
	blocks map[string][]byte
	car    func() []byte // of all of it, made once
}

// newDAG makes a tree of so many leaves of so many bytes, all different from those of another seed.
func newDAG(seed uint64, leaves, size int) *dag {
	d := &dag{blocks: map[string][]byte{}}
	random := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	var level []cid.Cid
	for range leaves {
		data := make([]byte, size)
		_, _ = random.Read(data)
		level = append(level, d.put(cid.Raw, data))
	}
	for len(level) > 1 || level[0].Type() == cid.Raw {
		var above []cid.Cid
		for len(level) > 0 {
			n := min(16, len(level))
			node := merkledag.NodeWithData(nil)
			_ = node.SetCidBuilder(merkledag.V1CidPrefix())
			for i, c := range level[:n] {
				_ = node.AddRawLink(fmt.Sprintf("%03d", i), &ipld.Link{Cid: c})
			}
			above = append(above, d.put(cid.DagProtobuf, node.RawData()))
			level = level[n:]
		}
		level = above
	}
	d.root = level[0]
	d.walk(d.root, map[string]bool{})
	d.car = sync.OnceValue(func() []byte { return d.carOf(d.root) })
	return d
}

func (d *dag) put(codec uint64, data []byte) cid.Cid {
	hash, err := multihash.Sum(data, multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	c := cid.NewCidV1(codec, hash)
	d.blocks[c.KeyString()] = data
	return c
}

func (d *dag) walk(c cid.Cid, seen map[string]bool) {
	if seen[c.KeyString()] {
		return
	}
	seen[c.KeyString()] = true
	d.order = append(d.order, c)
	links, _ := pbCodec{}.Links(c, d.blocks[c.KeyString()])
	for _, l := range links {
		d.walk(l, seen)
	}
}

// below is the CAR of everything below a block.
func (d *dag) below(c cid.Cid) []byte {
	if c.Equals(d.root) {
		return d.car()
	}
	return d.carOf(c)
}

func (d *dag) carOf(c cid.Cid) []byte {
	part := &dag{blocks: d.blocks}
	part.walk(c, map[string]bool{})
	var out strings.Builder
	w, err := storage.NewWritable(&out, []cid.Cid{c}, car.WriteAsCarV1(true))
	if err != nil {
		panic(err)
	}
	for _, b := range part.order {
		if err := w.Put(context.Background(), b.KeyString(), d.blocks[b.KeyString()]); err != nil {
			panic(err)
		}
	}
	return []byte(out.String())
}

type pbCodec struct{}

func (pbCodec) Admit(cid.Cid) error { return nil }

func (pbCodec) Inline(c cid.Cid) ([]byte, bool) {
	if c.Prefix().MhType != multihash.IDENTITY {
		return nil, false
	}
	hash, err := multihash.Decode(c.Hash())
	return hash.Digest, err == nil
}

func (pbCodec) Links(c cid.Cid, data []byte) ([]cid.Cid, error) {
	if c.Type() != cid.DagProtobuf {
		return nil, nil
	}
	node, err := merkledag.DecodeProtobuf(data)
	if err != nil {
		return nil, err
	}
	var out []cid.Cid
	for _, l := range node.Links() {
		out = append(out, l.Cid)
	}
	return out, nil
}

// A shelf is a hot store in memory that counts what is put on it.
type shelf struct {
	mu     sync.Mutex
	blocks map[string][]byte
	wrong  map[string]bool
	puts   map[string]int
	away   atomic.Bool
	hangs  atomic.Bool // its reads end with their context
}

func newShelf() *shelf {
	return &shelf{blocks: map[string][]byte{}, wrong: map[string]bool{}, puts: map[string]int{}}
}

func (s *shelf) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if s.hangs.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if s.away.Load() {
		return nil, fmt.Errorf("the node is away")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := cid.NewCidV1(c.Type(), c.Hash()).KeyString()
	if s.wrong[key] {
		return nil, retrieval.ErrCorrupt
	}
	data, ok := s.blocks[key]
	if !ok {
		return nil, retrieval.ErrAbsent
	}
	return data, nil
}

func (s *shelf) Put(_ context.Context, list []blocks.Block) error {
	if s.away.Load() {
		return fmt.Errorf("the node is away")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range list {
		s.blocks[b.Cid().KeyString()] = b.RawData()
		delete(s.wrong, b.Cid().KeyString())
		s.puts[b.Cid().KeyString()]++
	}
	return nil
}

func (s *shelf) wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.blocks)
	clear(s.puts)
}

func (s *shelf) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.blocks)
}

// spoiled is how many of its blocks are wrong.
func (s *shelf) spoiled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.wrong)
}

// A provider serves DAGs over HTTP as Curio does, and may misbehave.
type provider struct {
	*httptest.Server
	name     string
	dags     []*dag
	delay    time.Duration
	spoil    func(w http.ResponseWriter, r *http.Request, body []byte) bool // true: it has answered
	pieces   bool                                                           // it indexes nothing
	piece    cid.Cid
	offset   int
	requests atomic.Int64
	mu       sync.Mutex
	sent     map[string]int // of raw blocks and of CARs
}

func newProvider(t testing.TB, name string, dags ...*dag) *provider {
	t.Helper()
	p := &provider{name: name, dags: dags, sent: map[string]int{}, offset: 128}
	hash, _ := multihash.Sum([]byte(name), multihash.SHA2_256, -1)
	p.piece = cid.NewCidV1(cid.Raw, hash)
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) source(d *dag) retrieval.Source {
	return retrieval.Source{
		Provider: p.name, URLs: []string{p.URL}, Piece: p.piece, Offset: int64(p.offset), Length: int64(len(d.below(d.root))),
	}
}

func (p *provider) serve(w http.ResponseWriter, r *http.Request) {
	p.requests.Add(1)
	if p.delay > 0 {
		select {
		case <-time.After(p.delay):
		case <-r.Context().Done():
			return
		}
	}
	kind, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if kind == "piece" {
		body := append(make([]byte, p.offset), p.dags[0].below(p.dags[0].root)...)
		from, to, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-")
		start, _ := strconv.Atoi(from)
		end, _ := strconv.Atoi(to)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, end, len(body)))
		w.Header().Set("Content-Length", strconv.Itoa(end-start+1))
		if p.spoil != nil && p.spoil(w, r, body[start:end+1]) {
			return
		}
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(body[start : end+1])
		return
	}
	c, err := cid.Decode(name)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	for _, d := range p.dags {
		data, ok := d.blocks[c.KeyString()]
		if !ok || p.pieces {
			continue
		}
		body := data
		w.Header().Set("Content-Type", "application/vnd.ipld.raw")
		if r.URL.Query().Get("format") == "car" {
			w.Header().Set("Content-Type", "application/vnd.ipld.car; version=1; order=dfs; dups=n")
			body = d.below(c)
		}
		p.mu.Lock()
		p.sent[r.URL.Query().Get("format")+c.KeyString()]++
		p.mu.Unlock()
		if p.spoil != nil && p.spoil(w, r, body) {
			return
		}
		_, _ = w.Write(body)
		return
	}
	w.WriteHeader(http.StatusNotFound)
}

// A directory knows which providers have which DAG.
type directory struct {
	mu      sync.Mutex
	sources map[string][]retrieval.Source
}

func (d *directory) Sources(_ context.Context, root cid.Cid) ([]retrieval.Source, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sources[root.KeyString()], nil
}

func (d *directory) Copies(_ context.Context, after retrieval.CopyRef, n int) (out []retrieval.CopyRef, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, list := range d.sources {
		_, c, err := cid.CidFromBytes([]byte(key))
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			out = append(out, retrieval.CopyRef{Root: c, Provider: s.Provider})
		}
	}
	name := func(r retrieval.CopyRef) string { return r.Root.KeyString() + r.Provider }
	slices.SortFunc(out, func(a, b retrieval.CopyRef) int { return strings.Compare(name(a), name(b)) })
	out = slices.DeleteFunc(out, func(r retrieval.CopyRef) bool { return after.Root.Defined() && name(r) <= name(after) })
	return out[:min(n, len(out))], nil
}

// A fixture is a service with providers on loopback.
type fixture struct {
	*retrieval.Service
	shelf *shelf
	dir   *directory
}

func newFixture(t testing.TB, change func(*retrieval.Config), d *dag, providers ...*provider) *fixture {
	t.Helper()
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), retrieval.Migrations()...); err != nil {
		t.Fatal(err)
	}
	return newFixtureOn(t, db, change, d, providers...)
}

// newFixtureOn makes one on a migrated database.
func newFixtureOn(t testing.TB, db retrieval.DB, change func(*retrieval.Config), d *dag, providers ...*provider) *fixture {
	t.Helper()
	f := &fixture{shelf: newShelf(), dir: &directory{sources: map[string][]retrieval.Source{}}}
	for _, p := range providers {
		f.dir.sources[d.root.KeyString()] = append(f.dir.sources[d.root.KeyString()], p.source(d))
	}
	cfg := retrieval.Config{
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Hedge: 100 * time.Millisecond, BlockTime: 2 * time.Second, FetchTime: 5 * time.Second,
		Idle: 500 * time.Millisecond, Header: 500 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	log := slog.New(slog.DiscardHandler)
	f.Service = retrieval.New(cfg, retrieval.Parts{Directory: f.dir, Store: f.shelf, Codec: pbCodec{}, DB: db}, log, time.Now)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the service ended with %v", err)
		}
	})
	return f
}
