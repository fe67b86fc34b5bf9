package server_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/exchange"
	"github.com/ipfs/boxo/exchange/offline"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	uio "github.com/ipfs/boxo/ipld/unixfs/io"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	cbornode "github.com/ipfs/go-ipld-cbor"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/server"
	"github.com/frostpin/frostpin/spec"
)

// world is what a gateway reads from: hot blocks, and cold ones with one honest provider that fails where it is told to.
// It is the server.Blocks and the server.Roots of the tests.
type world struct {
	hot blockstore.Blockstore

	mu       sync.Mutex
	cold     map[cid.Cid]blocks.Block
	faults   map[cid.Cid]error // of the provider; nil element: it hangs until the reader goes
	fetched  []cid.Cid
	prefetch []cid.Cid
	touched  []touched
	pinned   map[cid.Cid]pins.Account
	asked    int // for pins
	err      error
	slow     time.Duration // each block of the provider
}

// Errors of the provider, with texts that nobody may see.
var (
	errProviderRefused = errors.New("dial tcp 10.1.2.3:80: secret refused")
	errProviderSlow    = errors.New("secret: slow")
	errProviderBusy    = errors.New("secret: busy")
)

func newWorld() *world {
	return &world{
		hot:    blockstore.NewBlockstore(dssync.MutexWrap(datastore.NewMapDatastore())),
		cold:   map[cid.Cid]blocks.Block{},
		faults: map[cid.Cid]error{},
		pinned: map[cid.Cid]pins.Account{},
	}
}

type (
	rootKey  struct{}
	trailKey struct{}
)

// trail is a server.Trail.
type trail struct {
	mu   sync.Mutex
	cold bool
}

func (t *trail) Tier() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cold {
		return server.TierCold
	}
	return server.TierHot
}

func (t *trail) Providers() []string {
	if t.Tier() == server.TierHot {
		return nil
	}
	return []string{"f01000"}
}

func (w *world) Blocks() blockservice.BlockService {
	return blockservice.New(blockstore.NewIdStore(w.hot), provider{w})
}

func (w *world) HotBlocks() blockservice.BlockService {
	return blockservice.New(blockstore.NewIdStore(w.hot), offline.Exchange(w.hot))
}

func (w *world) WithRoot(ctx context.Context, root cid.Cid) context.Context {
	return context.WithValue(ctx, rootKey{}, root)
}

func (w *world) WithTrail(ctx context.Context) (context.Context, server.Trail) {
	t := new(trail)
	return context.WithValue(ctx, trailKey{}, t), t
}

func (w *world) Prefetch(_ context.Context, _, top cid.Cid) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.prefetch = append(w.prefetch, top)
}

func (w *world) Fault(err error) server.Fault {
	switch {
	case errors.Is(err, errProviderRefused):
		return server.FaultRefused
	case errors.Is(err, errProviderSlow):
		return server.FaultSlow
	case errors.Is(err, errProviderBusy):
		return server.FaultBusy
	}
	return server.FaultNone
}

func (w *world) Known(_ context.Context, root cid.Cid) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	_, ok := w.pinned[root]
	return ok, w.err
}

func (w *world) KnownTo(_ context.Context, account pins.Account, root cid.Cid) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, ok := w.pinned[root]
	return ok && a == account, w.err
}

func (w *world) Touched(root cid.Cid, cold bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.touched = append(w.touched, touched{root, cold})
}

// touched is what the gateway has said of a read.
type touched struct {
	root cid.Cid
	cold bool
}

// provider is an exchange over the cold blocks.
type provider struct{ *world }

func (p provider) GetBlock(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	if _, ok := ctx.Value(rootKey{}).(cid.Cid); !ok {
		return nil, ipld.ErrNotFound{Cid: c}
	}
	p.mu.Lock()
	p.fetched = append(p.fetched, c)
	b, held := p.cold[spec.Canonical(c)]
	fault, faulty := p.faults[c]
	p.mu.Unlock()
	if p.slow > 0 {
		<-time.After(p.slow)
	}
	switch {
	case faulty && fault == nil:
		<-ctx.Done()
		return nil, ctx.Err()
	case faulty:
		return nil, fault
	case !held:
		return nil, ipld.ErrNotFound{Cid: c}
	}
	if t, ok := ctx.Value(trailKey{}).(*trail); ok {
		t.mu.Lock()
		t.cold = true
		t.mu.Unlock()
	}
	return blocks.NewBlockWithCid(b.RawData(), c)
}

func (p provider) GetBlocks(context.Context, []cid.Cid) (<-chan blocks.Block, error) {
	return nil, errors.New("not used: reasons get lost in it")
}

func (provider) NotifyNewBlocks(context.Context, ...blocks.Block) error { return nil }
func (provider) Close() error                                           { return nil }

var _ exchange.Interface = provider{}

// dags are the DAGs that tests read.
type dags struct {
	file, small, dir, site, hamt, cbor, text cid.Cid
	index                                    cid.Cid   // of site
	leaves                                   []cid.Cid // of file
	content                                  []byte    // of file
}

const hamtEntries = 2000

// made are the DAGs and their blocks: they are the same for all tests.
var made struct {
	sync.Mutex
	dags   dags
	blocks []blocks.Block
}

// fill puts the DAGs into the hot tier, pinned by alice.
func (w *world) fill(tb testing.TB) dags {
	tb.Helper()
	made.Lock()
	defer made.Unlock()
	if made.blocks == nil {
		first := newWorld()
		made.dags = first.make(tb)
		first.chill(tb, everything)
		for c, b := range first.cold {
			if c.Type() == cid.Raw {
				made.blocks = append(made.blocks, b)
			}
		}
	}
	if err := w.hot.PutMany(tb.Context(), made.blocks); err != nil {
		tb.Fatal(err)
	}
	d := made.dags
	for _, c := range []cid.Cid{d.file, d.small, d.dir, d.site, d.hamt, d.cbor, d.text} {
		w.pinned[spec.Canonical(c)] = 1
	}
	return d
}

func (w *world) make(tb testing.TB) dags {
	tb.Helper()
	ctx := tb.Context()
	bs := blockservice.New(w.hot, offline.Exchange(w.hot))
	dag := merkledag.NewDAGService(bs)
	var d dags
	d.content = make([]byte, 3<<20)
	random := rand.NewChaCha8([32]byte{4})
	random.Read(d.content) //nolint:errcheck // it cannot fail
	d.file = w.add(tb, d.content)
	root, err := dag.Get(ctx, d.file)
	if err != nil {
		tb.Fatal(err)
	}
	for _, l := range root.Links() {
		d.leaves = append(d.leaves, l.Cid)
	}
	d.text = w.add(tb, []byte("hello\n"))
	d.small = w.add(tb, bytes.Repeat([]byte("<p>page</p>\n"), 10_000))

	d.dir = w.addDir(tb, map[string]cid.Cid{"a b.txt": d.text, "ü.bin": d.file, "100%2F.txt": d.text})
	d.index = d.small
	d.site = w.addDir(tb, map[string]cid.Cid{
		"index.html": d.small, "sub": d.dir, "hello.txt": d.text,
		"_redirects": w.add(tb, []byte("/old/* /hello.txt 301\n/spa/* /index.html 200\n")),
	})
	sharded, err := uio.NewHAMTDirectory(dag, 0, uio.WithCidBuilder(builder))
	if err != nil {
		tb.Fatal(err)
	}
	leaf, err := dag.Get(ctx, d.text)
	if err != nil {
		tb.Fatal(err)
	}
	for i := range hamtEntries {
		if err := sharded.AddChild(ctx, "file-"+string(rune('a'+i%26))+strings.Repeat("x", i/26), leaf); err != nil {
			tb.Fatal(err)
		}
	}
	d.hamt = w.addNode(tb, sharded)
	object, err := cbornode.WrapObject(map[string]any{"n": 7, "file": d.file, "deep": map[string]any{"x": "y"}}, multihash.SHA2_256, -1)
	if err != nil {
		tb.Fatal(err)
	}
	if err := dag.Add(ctx, object); err != nil {
		tb.Fatal(err)
	}
	d.cbor = object.Cid()
	return d
}

var builder = cid.V1Builder{Codec: cid.DagProtobuf, MhType: multihash.SHA2_256}

// add makes a file of chunks of 64 KiB.
func (w *world) add(tb testing.TB, content []byte) cid.Cid {
	tb.Helper()
	dag := merkledag.NewDAGService(blockservice.New(w.hot, offline.Exchange(w.hot)))
	params := helpers.DagBuilderParams{Maxlinks: 174, RawLeaves: true, CidBuilder: builder, Dagserv: dag}
	db, err := params.New(chunk.NewSizeSplitter(bytes.NewReader(content), 64<<10))
	if err != nil {
		tb.Fatal(err)
	}
	node, err := balanced.Layout(db)
	if err != nil {
		tb.Fatal(err)
	}
	return node.Cid()
}

func (w *world) addDir(tb testing.TB, entries map[string]cid.Cid) cid.Cid {
	tb.Helper()
	dag := merkledag.NewDAGService(blockservice.New(w.hot, offline.Exchange(w.hot)))
	dir, err := uio.NewDirectory(dag, uio.WithCidBuilder(builder))
	if err != nil {
		tb.Fatal(err)
	}
	for name, c := range entries {
		node, err := dag.Get(tb.Context(), c)
		if err != nil {
			tb.Fatal(err)
		}
		if err := dir.AddChild(tb.Context(), name, node); err != nil {
			tb.Fatal(err)
		}
	}
	return w.addNode(tb, dir)
}

func (w *world) addNode(tb testing.TB, dir uio.Directory) cid.Cid {
	tb.Helper()
	dag := merkledag.NewDAGService(blockservice.New(w.hot, offline.Exchange(w.hot)))
	node, err := dir.GetNode()
	if err != nil {
		tb.Fatal(err)
	}
	if err := dag.Add(tb.Context(), node); err != nil {
		tb.Fatal(err)
	}
	return node.Cid()
}

// chill moves blocks to the provider: those that which says.
func (w *world) chill(tb testing.TB, which func(i int, c cid.Cid) bool) {
	tb.Helper()
	keys, err := w.hot.AllKeysChan(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	var all []blocks.Block
	for c := range keys { // under the raw codec
		b, err := w.hot.Get(tb.Context(), c)
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b blocks.Block) int { return strings.Compare(a.Cid().String(), b.Cid().String()) })
	for i, b := range all {
		if !which(i, b.Cid()) {
			continue
		}
		for _, codec := range []uint64{cid.Raw, cid.DagProtobuf, cid.DagCBOR} {
			c := cid.NewCidV1(codec, b.Cid().Hash())
			cold, err := blocks.NewBlockWithCid(b.RawData(), c)
			if err != nil {
				tb.Fatal(err)
			}
			w.cold[c] = cold
		}
		if err := w.hot.DeleteBlock(tb.Context(), b.Cid()); err != nil {
			tb.Fatal(err)
		}
	}
}

func everything(int, cid.Cid) bool { return true }

// lose makes a block that neither tier has.
func (w *world) lose(tb testing.TB, c cid.Cid) {
	tb.Helper()
	if err := w.hot.DeleteBlock(tb.Context(), c); err != nil {
		tb.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.cold, c)
}

// distinct is how many different blocks were fetched.
func (w *world) distinct() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	set := cid.NewSet()
	for _, c := range w.fetched {
		set.Add(c)
	}
	return set.Len()
}

// reads is a fixture with a gateway over a world.
type reads struct {
	*fixture
	*world
	dags
}

func newReads(tb testing.TB, change ...func(*server.Config)) *reads {
	tb.Helper()
	w := newWorld()
	r := &reads{world: w, dags: w.fill(tb)}
	r.fixture = newFixture(tb, append([]func(*server.Config){func(c *server.Config) {
		c.Gateway = &server.Gateway{Blocks: w, Roots: w}
	}}, change...)...)
	return r
}

// get reads without a token.
func (r *reads) get(target string, headers ...string) *httptest.ResponseRecorder {
	return r.do("", "GET", target, "", headers...)
}

func (r *reads) head(target string, headers ...string) *httptest.ResponseRecorder {
	return r.do("", "HEAD", target, "", headers...)
}

// over is a real connection to the server, where an answer that was cut short shows.
func over(tb testing.TB, h http.Handler) *httptest.Server {
	tb.Helper()
	s := httptest.NewServer(h)
	tb.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// answer is what a client has of a request after all of it was read, and the error that ended the reading.
type answer struct {
	*http.Response
	body []byte
	err  error
}

func fetchAll(tb testing.TB, s *httptest.Server, method, target string, headers ...string) answer {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, s.URL+target, nil)
	if err != nil {
		tb.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	client := *s.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := client.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{res, body, err}
}

// cborWith makes an object that links to others.
func (w *world) cborWith(tb testing.TB, links ...cid.Cid) cid.Cid {
	tb.Helper()
	object, err := cbornode.WrapObject(map[string]any{"links": links}, multihash.SHA2_256, -1)
	if err != nil {
		tb.Fatal(err)
	}
	if err := w.hot.Put(tb.Context(), object); err != nil {
		tb.Fatal(err)
	}
	return object.Cid()
}

// quietReads is the server over the same world that keeps no log, for many requests.
func quietReads(tb testing.TB, r *reads) *server.Server {
	tb.Helper()
	s, err := server.New(server.Config{Gateway: &server.Gateway{Blocks: r.world, Roots: r.world}}, r.fixture.pins, r.tokens, discard())
	if err != nil {
		tb.Fatal(err)
	}
	return s
}
