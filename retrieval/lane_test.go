package retrieval

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	chunk "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/gateway"
	"github.com/ipfs/boxo/ipld/merkledag"
	mdtest "github.com/ipfs/boxo/ipld/merkledag/test"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-varint"
)

// A planted DAG is a root over nodes over leaves, for rawCodec.
type planted struct {
	root  cid.Cid
	data  map[cid.Cid]string
	nodes []cid.Cid
}

func plant(nodes, leaves int) *planted {
	d := &planted{data: map[cid.Cid]string{}}
	put := func(codec uint64, text string) cid.Cid {
		c := cid.NewCidV1(codec, rawBlock(text).Hash())
		d.data[c] = text
		return c
	}
	var above []string
	for i := range nodes {
		var list []string
		for k := range leaves {
			list = append(list, put(cid.Raw, fmt.Sprintf("leaf %d of node %d", k, i)).String())
		}
		node := put(cid.DagProtobuf, strings.Join(list, " "))
		d.nodes, above = append(d.nodes, node), append(above, node.String())
	}
	d.root = put(cid.DagProtobuf, strings.Join(above, " "))
	return d
}

// below lists a block and those below it, in the order of a walk.
func (d *planted) below(c cid.Cid) []cid.Cid {
	list := []cid.Cid{c}
	links, _ := rawCodec{}.Links(c, []byte(d.data[c]))
	for _, l := range links {
		list = append(list, d.below(l)...)
	}
	return list
}

// A sender is a provider that takes its time.
type sender struct {
	answer time.Duration             // until it answers; negative: it breaks off after so long
	gap    func(n int) time.Duration // before block n of a CAR; nil: none

	asked []string // CIDs, with "car " before those of CARs
	sent  []cid.Cid
}

// never is how long who does not answer takes.
const never = 1000 * time.Hour

// A wire brings requests to senders without a network, so that time can be a bubble's.
type wire struct {
	dag     *planted
	senders map[string]*sender // by host

	mu        sync.Mutex
	now, most int // CARs under way
	searches  int // for blocks on the network, which has none
	rounds    int // requests of which each began after the one before it had been answered
	answered  int // the last of them that was
}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	from := w.senders[r.URL.Host]
	c, err := cid.Decode(strings.TrimPrefix(r.URL.Path, "/ipfs/"))
	if err != nil {
		return nil, err
	}
	car := r.URL.Query().Get("format") == "car"
	w.mu.Lock()
	name := c.String()
	if car {
		name = "car " + name
		w.now++
		w.most = max(w.most, w.now)
	}
	from.asked = append(from.asked, name)
	round := w.answered + 1
	w.rounds = max(w.rounds, round)
	w.mu.Unlock()
	if !rest(r.Context(), max(from.answer, -from.answer)) || from.answer < 0 {
		if car {
			w.over()
		}
		return nil, io.ErrUnexpectedEOF
	}
	w.mu.Lock()
	w.answered = max(w.answered, round)
	w.mu.Unlock()
	res := &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Header: http.Header{}, Request: r}
	if !car {
		res.Body = io.NopCloser(strings.NewReader(w.dag.data[c]))
		return res, nil
	}
	res.Header.Set("Content-Type", typeCAR+"; version=1; order=dfs; dups=n")
	body, into := io.Pipe()
	res.Body = &carBody{ReadCloser: body, over: sync.OnceFunc(w.over)}
	go w.send(r.Context(), from, c, into)
	return res, nil
}

func (w *wire) over() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now--
}

// A carBody tells when it is not read any more.
type carBody struct {
	io.ReadCloser
	over func()
}

func (b *carBody) Close() error {
	b.over()
	return b.ReadCloser.Close()
}

// send writes a CAR as slowly as the sender does.
func (w *wire) send(ctx context.Context, from *sender, c cid.Cid, into *io.PipeWriter) {
	context.AfterFunc(ctx, func() { _ = into.CloseWithError(ctx.Err()) })
	_, _ = io.WriteString(into, "\x3a\xa2\x65roots\x81\xd8\x2a\x58\x25\x00"+string(c.Bytes())+"\x67version\x01")
	for i, b := range w.dag.below(c) {
		if from.gap != nil && !rest(ctx, from.gap(i)) {
			return
		}
		data := w.dag.data[b]
		section := string(varint.ToUvarint(uint64(b.ByteLen()+len(data)))) + string(b.Bytes()) + data
		if _, err := io.WriteString(into, section); err != nil {
			return
		}
		w.mu.Lock()
		from.sent = append(from.sent, b)
		w.mu.Unlock()
	}
	_ = into.Close()
}

// rest waits, or returns false when ctx ends first.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A rack is a hot store that counts how often a block is put on it.
type rack struct {
	mu     sync.Mutex
	blocks map[string][]byte
	puts   map[string]int
}

func (s *rack) Block(_ context.Context, c cid.Cid) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if data, ok := s.blocks[c.KeyString()]; ok {
		return data, nil
	}
	return nil, ErrAbsent
}

func (s *rack) Put(_ context.Context, list []blocks.Block) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range list {
		s.blocks[b.Cid().KeyString()] = b.RawData()
		s.puts[b.Cid().KeyString()]++
	}
	return nil
}

// Sources implements Directory: every sender has everything, in the order of their names.
func (w *wire) Sources(context.Context, cid.Cid) ([]Source, error) {
	var list []Source
	for name := range w.senders {
		list = append(list, Source{Provider: name, URLs: []string{"http://" + name}})
	}
	slices.SortFunc(list, func(a, b Source) int { return strings.Compare(a.Provider, b.Provider) })
	return list, nil
}

// Copies implements Directory.
func (*wire) Copies(context.Context, CopyRef, int) ([]CopyRef, error) { return nil, nil }

// Fetch implements Network.
func (w *wire) Fetch(ctx context.Context, _ cid.Cid) ([]byte, error) {
	w.mu.Lock()
	w.searches++
	w.mu.Unlock()
	<-ctx.Done()
	return nil, ctx.Err()
}

// service returns a service over the wire, and its hot blocks.
func (w *wire) service() (*Service, *rack) {
	hot := &rack{blocks: map[string][]byte{}, puts: map[string]int{}}
	s := New(Config{}, Parts{Directory: w, Store: hot, Network: w, Codec: rawCodec{}}, slog.New(slog.DiscardHandler), time.Now)
	s.client = &http.Client{Transport: w}
	return s, hot
}

// restored transfers a DAG in a bubble and returns how long that took. It has come whole, each block once.
func (w *wire) restored(t *testing.T) (*Service, time.Duration) {
	t.Helper()
	s, hot := w.service()
	begun := time.Now()
	if err := s.Restore(t.Context(), w.dag.root, Budget{}, nil); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begun)
	for c := range w.dag.data {
		if n := hot.puts[c.KeyString()]; n != 1 {
			t.Errorf("block %s was stored %d times", c, n)
		}
	}
	synctest.Wait()
	if w.now != 0 || w.most > 3 {
		t.Errorf("%d CARs were under way at once, and %d still are", w.most, w.now)
	}
	return s, took
}

// blameless fails unless nothing is held against a provider.
func (s *Service) blameless(t *testing.T, provider string) {
	t.Helper()
	if rec := s.ranks.known[provider]; rec.success != 1 || rec.streak != 0 || !rec.until.IsZero() {
		t.Errorf("who was only slow is blamed: %+v", *rec)
	}
}

// Whatever the first provider's way of being slow, the reader waits no longer than it takes until the next is asked, and
// what has come is not asked for again.
func TestSlowTransferCostsOneHedge(t *testing.T) {
	after := func(quiet int, d time.Duration) func(int) time.Duration {
		return func(n int) time.Duration {
			if n == quiet {
				return d
			}
			return 0
		}
	}
	for name, test := range map[string]struct {
		slow *sender
		most time.Duration
		from int // the first block in the order of the walk that the other is asked for
	}{
		"silent":                    {&sender{answer: never}, 2 * time.Second, 0},
		"silent after its headers":  {&sender{gap: after(0, never)}, 2 * time.Second, 0},
		"drip":                      {&sender{gap: func(int) time.Duration { return 3 * time.Second }}, 2 * time.Second, 0},
		"drip after the first":      {&sender{gap: func(n int) time.Duration { return time.Duration(min(n, 1)) * time.Minute }}, 2500 * time.Millisecond, 1},
		"stops before a node":       {&sender{gap: after(6, never)}, 2500 * time.Millisecond, 6},
		"stops in the middle of it": {&sender{gap: after(8, never)}, 2500 * time.Millisecond, 8},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := plant(3, 4)
				other := &sender{}
				w := &wire{dag: d, senders: map[string]*sender{"f01000": test.slow, "f01001": other}}
				s, took := w.restored(t)
				if took > test.most {
					t.Errorf("it took %s", took)
				}
				s.blameless(t, "f01000")
				order := d.below(d.root)
				for _, c := range order[:test.from] {
					if slices.Contains(other.sent, c) || slices.Contains(other.asked, c.String()) {
						t.Errorf("block %s, which was here, was asked for again", c)
					}
				}
				if !slices.ContainsFunc(other.asked, func(name string) bool { return strings.HasSuffix(name, order[test.from].String()) }) {
					t.Errorf("the other was asked for %v", other.asked)
				}
				if first := s.ranks.order([]Source{{Provider: "f01000"}, {Provider: "f01001"}})[0]; first.Provider != "f01001" {
					t.Error("who was slow is still the first to be asked")
				}
			})
		})
	}
}

// Who was slow wins when it goes on before its competitor has brought anything.
func TestSlowTransferGoesOnBesideItsCompetitor(t *testing.T) {
	for name, at := range map[string]int{"before a node": 6, "before a leaf": 8} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				slow := &sender{gap: func(n int) time.Duration {
					if n == at {
						return 5 * time.Second
					}
					return 0
				}}
				other := &sender{answer: 20 * time.Second}
				w := &wire{dag: plant(3, 4), senders: map[string]*sender{"f01000": slow, "f01001": other}}
				s, took := w.restored(t)
				if took != 5*time.Second || len(slow.asked) != 1 {
					t.Errorf("it took %s, and who was slow was asked for %v", took, slow.asked)
				}
				if len(other.asked) == 0 {
					t.Error("nobody else was asked meanwhile")
				}
				s.blameless(t, "f01000")
				s.blameless(t, "f01001")
			})
		})
	}
}

func TestOnlyProviderIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &sender{answer: 4 * time.Second, gap: func(n int) time.Duration { return time.Duration(n%4) * time.Second }}
		w := &wire{dag: plant(3, 4), senders: map[string]*sender{"f01000": slow}}
		if w.restored(t); len(slow.asked) != 1 || w.searches != 0 {
			t.Errorf("it was asked for %v, and the network %d times", slow.asked, w.searches)
		}
	})
}

// Who comes second brings nothing any more.
func TestSecondInARaceIsCalledBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := &sender{answer: 2 * time.Second}
		w := &wire{dag: plant(3, 4), senders: map[string]*sender{
			"f01000": late, "f01001": {gap: func(int) time.Duration { return 700 * time.Millisecond }},
		}}
		s, _ := w.restored(t)
		if len(late.sent) > 0 {
			t.Errorf("it has sent %d blocks", len(late.sent))
		}
		s.blameless(t, "f01000")
	})
}

// Who reads all of a file below a root waits for its transfer, however long that takes to begin.
func TestReaderOfAWholeFileWaitsForItsTransfer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &sender{answer: 8 * time.Second}
		w := &wire{dag: plant(3, 4), senders: map[string]*sender{"f01000": from}}
		s, _ := w.service()
		ctx, cancel := context.WithCancel(t.Context())
		ctx, _ = WithTrail(WithRoot(ctx, w.dag.root))
		file := w.dag.nodes[1]
		s.Prefetch(ctx, w.dag.root, file)
		for _, c := range w.dag.below(file) {
			if b, err := s.Get(ctx, c); err != nil || string(b.RawData()) != w.dag.data[c] {
				t.Fatal(err)
			}
		}
		cancel()
		synctest.Wait()
		if !slices.Equal(from.asked, []string{"car " + file.String()}) {
			t.Errorf("it was asked for %v", from.asked)
		}
	})
}

// Three are asked at once; the fourth, when one of them has failed.
func TestThreeAreAskedForATransferAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{dag: plant(3, 4), senders: map[string]*sender{
			"f01000": {answer: never}, "f01001": {answer: -9 * time.Second}, "f01002": {answer: never}, "f01003": {answer: time.Second},
		}}
		s, took := w.restored(t)
		if w.most != 3 || took != 11200*time.Millisecond { // the second is asked after 1.2 s
			t.Errorf("%d at once, %s in all", w.most, took)
		}
		s.blameless(t, "f01000")
		s.blameless(t, "f01002")
		if rec := s.ranks.known["f01001"]; rec.success == 1 || rec.streak != 1 {
			t.Errorf("who broke off is not blamed: %+v", *rec)
		}
	})
}

// A thousand bytes at an offset of a file of 64 MiB are the blocks on its path, however a gateway reads them: at most
// four requests, one after the other.
func TestBytesAtAnOffsetCostFourRoundTrips(t *testing.T) {
	d := &planted{data: map[cid.Cid]string{}}
	store := mdtest.Mock()
	builder, err := (&helpers.DagBuilderParams{
		Dagserv: store, Maxlinks: helpers.DefaultLinksPerBlock, RawLeaves: true, CidBuilder: merkledag.V1CidPrefix(),
	}).New(chunk.NewSizeSplitter(io.LimitReader(rand.NewChaCha8([32]byte{}), 64<<20), 256<<10))
	if err != nil {
		t.Fatal(err)
	}
	file, err := balanced.Layout(builder)
	if err != nil {
		t.Fatal(err)
	}
	d.root = file.Cid()
	if err := merkledag.Walk(t.Context(), func(ctx context.Context, c cid.Cid) ([]*ipld.Link, error) {
		node, err := store.Get(ctx, c)
		if err != nil {
			return nil, err
		}
		d.data[c] = string(node.RawData())
		return node.Links(), nil
	}, d.root, func(cid.Cid) bool { return true }); err != nil {
		t.Fatal(err)
	}
	for _, offset := range []int64{0, 50_000_000, 44<<20 - 500, 64<<20 - 1000} {
		synctest.Test(t, func(t *testing.T) {
			w := &wire{dag: d, senders: map[string]*sender{"f01000": {answer: 80 * time.Millisecond}}}
			s, _ := w.service()
			backend, err := gateway.NewBlocksBackend(s.Blocks())
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequestWithContext(WithRoot(t.Context(), d.root), http.MethodGet, "/ipfs/"+d.root.String(), nil)
			r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+999))
			answer := httptest.NewRecorder()
			gateway.NewHandler(gateway.Config{DeserializedResponses: true}, backend).ServeHTTP(answer, r)
			if answer.Code != http.StatusPartialContent || answer.Body.Len() != 1000 {
				t.Fatalf("%d bytes with status %d", answer.Body.Len(), answer.Code)
			}
			if w.rounds > 4 || w.rounds < 3 {
				t.Errorf("at %d: %d round trips for %v", offset, w.rounds, w.senders["f01000"].asked)
			}
		})
	}
}
