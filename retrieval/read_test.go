package retrieval_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"

	"github.com/frostpin/frostpin/retrieval"
)

// whole reads every block of a DAG the way a gateway does.
func (f *fixture) whole(ctx context.Context, d *dag) error {
	for _, c := range d.order {
		b, err := f.Blocks().GetBlock(ctx, c)
		if err != nil {
			return err
		}
		if !bytes.Equal(b.RawData(), d.blocks[c.KeyString()]) {
			panic("wrong bytes of " + c.String())
		}
	}
	return nil
}

func TestHotBlocksAreReadWithoutAskingAnybody(t *testing.T) {
	d := newDAG(1, 20, 100)
	p := newProvider(t, "f01000", d)
	f := newFixture(t, nil, d, p)
	maps.Copy(f.shelf.blocks, d.blocks)
	ctx, trail := retrieval.WithTrail(retrieval.WithRoot(t.Context(), d.root))
	if err := f.whole(ctx, d); err != nil {
		t.Fatal(err)
	}
	if trail.Tier() != retrieval.TierHot || p.requests.Load() != 0 {
		t.Errorf("tier %s, %d requests", trail.Tier(), p.requests.Load())
	}
}

func TestNothingIsFetchedWithoutARoot(t *testing.T) {
	d := newDAG(2, 4, 100)
	p := newProvider(t, "f01000", d)
	f := newFixture(t, nil, d, p)
	if _, err := f.Blocks().GetBlock(t.Context(), d.root); !ipld.IsNotFound(err) || p.requests.Load() != 0 {
		t.Errorf("%v after %d requests", err, p.requests.Load())
	}
	if _, err := f.HotBlocks().GetBlock(retrieval.WithRoot(t.Context(), d.root), d.root); !ipld.IsNotFound(err) || p.requests.Load() != 0 {
		t.Errorf("hot only: %v after %d requests", err, p.requests.Load())
	}
}

// What is missing, wrong, or on a node that is away comes from a provider, and is stored where that is possible.
func TestColdBlocksReplaceWhatIsNotHot(t *testing.T) {
	d := newDAG(3, 20, 100)
	for name, spoil := range map[string]func(*shelf){
		"missing": func(*shelf) {},
		"wrong": func(s *shelf) {
			for key, data := range d.blocks {
				s.blocks[key], s.wrong[key] = data, true
			}
		},
		"away": func(s *shelf) { s.away.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			doubted := make(chan cid.Cid, 1000)
			p := newProvider(t, "f01000", d)
			f := newFixture(t, func(c *retrieval.Config) { c.Doubt = func(c cid.Cid) { doubted <- c } }, d, p)
			spoil(f.shelf)
			ctx, trail := retrieval.WithTrail(retrieval.WithRoot(t.Context(), d.root))
			if err := f.whole(ctx, d); err != nil {
				t.Fatal(err)
			}
			if trail.Tier() != retrieval.TierCold || len(trail.Providers()) != 1 || trail.Providers()[0] != "f01000" {
				t.Errorf("tier %s from %v", trail.Tier(), trail.Providers())
			}
			if name == "away" {
				f.shelf.away.Store(false)
				return
			}
			for deadline := time.After(10 * time.Second); f.shelf.len() < len(d.blocks) || f.shelf.spoiled() > 0; { // they are stored beside
				select {
				case <-deadline:
					t.Fatalf("%d of %d blocks are hot, %d of them wrong", f.shelf.len(), len(d.blocks), f.shelf.spoiled())
				case <-time.After(time.Millisecond):
				}
			}
			if c := <-doubted; !c.Equals(d.root) {
				t.Errorf("%s was doubted", c)
			}
		})
	}
}

// cut sends a part of the body and drops the connection.
func cut(n int) func(w http.ResponseWriter, r *http.Request, body []byte) bool {
	return func(w http.ResponseWriter, _ *http.Request, body []byte) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)+1))
		_, _ = w.Write(body[:min(n, len(body))])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// faults are the ways in which a provider may fail its readers.
var faults = map[string]func(w http.ResponseWriter, r *http.Request, body []byte) bool{
	"wrong block": func(w http.ResponseWriter, _ *http.Request, body []byte) bool {
		wrong := bytes.Clone(body)
		wrong[len(wrong)-1] ^= 1
		_, _ = w.Write(wrong)
		return true
	},
	"extra blocks": func(w http.ResponseWriter, _ *http.Request, body []byte) bool {
		other := newDAG(99, 3, 50)
		extra := other.below(other.root)
		head := int(extra[0]) + 1 // its header
		_, _ = w.Write(body[:int(body[0])+1])
		_, _ = w.Write(extra[head:])
		_, _ = w.Write(body[int(body[0])+1:])
		return true
	},
	"endless CAR": func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		other := newDAG(98, 1, 30_000)
		extra := other.below(other.root)
		_, _ = w.Write(body[:int(body[0])+1])
		for r.Context().Err() == nil {
			if _, err := w.Write(extra[int(extra[0])+1:]); err != nil {
				break
			}
		}
		return true
	},
	"truncated CAR": func(w http.ResponseWriter, _ *http.Request, body []byte) bool {
		_, _ = w.Write(body[:len(body)/2]) // and a clean end
		return true
	},
	"HTML with 200": func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html><body>Welcome to the portal</body></html>"))
		return true
	},
	"drip-feed": func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		for _, b := range body {
			if _, err := w.Write([]byte{b}); err != nil || http.NewResponseController(w).Flush() != nil {
				return true
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-r.Context().Done():
				return true
			}
		}
		return true
	},
	"redirect inward": func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		http.Redirect(w, r, "http://10.0.0.1/secret", http.StatusFound)
		return true
	},
	"wrong piece bytes": func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		if !strings.HasPrefix(r.URL.Path, "/piece/") {
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(make([]byte, len(body)))
		return true
	},
	"429 forever": func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	},
	"stale index": func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if r.Method != http.MethodHead {
			w.WriteHeader(http.StatusNotFound)
		}
		return true
	},
	"closes mid-block": func(w http.ResponseWriter, r *http.Request, body []byte) bool { return cut(len(body)/2)(w, r, body) },
	"vanishes":         func(http.ResponseWriter, *http.Request, []byte) bool { panic(http.ErrAbortHandler) },
}

// Ten thousand reads of faulty providers: each is right, or fails cleanly; and each is right while one honest copy lives.
func TestReadsAreRightOrFailCleanly(t *testing.T) {
	t.Parallel()
	reads := 10_000 / (2 * len(faults))
	d := newDAG(4, 60, 2_000)
	for name, spoil := range faults {
		for _, honest := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, honest %v", name, honest), func(t *testing.T) {
				t.Parallel()
				bad := newProvider(t, "f01000", d)
				bad.spoil = spoil
				providers := []*provider{bad}
				if honest {
					providers = append(providers, newProvider(t, "f01001", d))
				}
				f := newFixture(t, func(c *retrieval.Config) {
					c.Hedge, c.BlockTime, c.FetchTime, c.Idle, c.Header = 50*time.Millisecond, 300*time.Millisecond, 5*time.Second, 150*time.Millisecond, 300*time.Millisecond
					if honest { // the bad one is got round by the hedge
						c.BlockTime, c.FetchTime, c.Idle, c.Header = 5*time.Second, 20*time.Second, 2*time.Second, 5*time.Second
					}
				}, d, providers...)
				n := reads
				if !honest && (name == "drip-feed" || name == "vanishes") {
					n = 20 // each takes its whole time
				}
				var group sync.WaitGroup
				todo := make(chan int)
				for range 8 {
					group.Go(func() {
						for i := range todo {
							if i%len(d.order) == 0 {
								f.shelf.wipe()
							}
							ctx := retrieval.WithRoot(t.Context(), d.root)
							c := d.order[rand.IntN(len(d.order))]
							if i%50 == 0 { // a whole DAG
								inner, cancel := context.WithCancel(ctx)
								f.Prefetch(inner, d.root, d.root)
								t.Cleanup(cancel)
							}
							b, err := f.Blocks().GetBlock(ctx, c)
							var failed *retrieval.FailedError
							switch {
							case err == nil && !bytes.Equal(b.RawData(), d.blocks[c.KeyString()]):
								t.Errorf("wrong bytes of %s", c)
							case err != nil && honest:
								t.Errorf("%s, which an honest provider has: %v", c, err)
							case err != nil && !errors.As(err, &failed):
								t.Errorf("not a clean error: %v", err)
							case err != nil && strings.Contains(err.Error(), "127.0.0.1"):
								t.Errorf("the error names an address: %v", err)
							}
						}
					})
				}
				for i := range n {
					todo <- i
				}
				close(todo)
				group.Wait()
			})
		}
	}
}

// A DAG is restored whole from one honest provider whatever the others do, and by each kind of transfer.
func TestRestoreBringsEverythingBack(t *testing.T) {
	t.Parallel()
	d := newDAG(5, 200, 3_000)
	for name, spoil := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad, good := newProvider(t, "f01000", d), newProvider(t, "f01001", d)
			bad.spoil = spoil
			f := newFixture(t, nil, d, bad, good)
			for i, c := range d.order {
				if i%3 == 0 { // some of it is here
					f.shelf.blocks[c.KeyString()] = d.blocks[c.KeyString()]
				}
			}
			var n, size int64
			err := f.Restore(t.Context(), d.root, retrieval.Budget{}, func(blocks, bytes int64) { n, size = blocks, bytes })
			if err != nil || f.shelf.len() != len(d.blocks) {
				t.Fatalf("%d of %d blocks: %v", f.shelf.len(), len(d.blocks), err)
			}
			if n != int64(len(d.blocks)) || size < 200*3000 {
				t.Errorf("told of %d blocks and %d bytes", n, size)
			}
		})
	}
	t.Run("of a provider that indexes nothing", func(t *testing.T) {
		p := newProvider(t, "f01000", d)
		p.pieces = true
		f := newFixture(t, nil, d, p)
		ctx := retrieval.WithRoot(t.Context(), d.root)
		last := d.order[len(d.order)-1]
		if b, err := f.Blocks().GetBlock(ctx, last); err != nil || !bytes.Equal(b.RawData(), d.blocks[last.KeyString()]) {
			t.Errorf("one block: %v", err)
		}
		if err := f.Restore(t.Context(), d.root, retrieval.Budget{}, nil); err != nil || f.shelf.len() != len(d.blocks) {
			t.Errorf("%d of %d blocks: %v", f.shelf.len(), len(d.blocks), err)
		}
	})
}

func TestCutTransferKeepsItsBlocksAndGoesOnElsewhere(t *testing.T) {
	d := newDAG(6, 300, 3_000)
	first, second := newProvider(t, "f01000", d), newProvider(t, "f01001", d)
	first.spoil = func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		return r.URL.Query().Get("format") == "car" && cut(len(body)/2)(w, r, body)
	}
	f := newFixture(t, func(c *retrieval.Config) { c.Hedge = time.Minute }, d, first)
	f.dir.sources[d.root.KeyString()] = append(f.dir.sources[d.root.KeyString()], second.source(d))
	if err := f.Restore(t.Context(), d.root, retrieval.Budget{}, nil); err != nil {
		t.Fatal(err)
	}
	if f.shelf.len() != len(d.blocks) {
		t.Errorf("%d of %d blocks are here", f.shelf.len(), len(d.blocks))
	}
	if n := second.sent["car"+d.root.KeyString()]; n != 0 {
		t.Errorf("the second provider was asked for the whole DAG %d times", n)
	}
}

func TestRestoreKeepsToItsBudget(t *testing.T) {
	d := newDAG(7, 300, 3_000)
	for name, budget := range map[string]retrieval.Budget{
		"bytes": {Bytes: 100_000}, "blocks": {Blocks: 50}, "depth": {Depth: 1}, "block size": {BlockSize: 2_000},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, nil, d, newProvider(t, "f01000", d))
			var refused *retrieval.RefusedError
			if err := f.Restore(t.Context(), d.root, budget, nil); !errors.As(err, &refused) {
				t.Errorf("ended with %v", err)
			}
			if f.shelf.len() > len(d.blocks)/2 {
				t.Errorf("%d blocks were stored all the same", f.shelf.len())
			}
		})
	}
}

func TestWithoutACopyThereIsNoSource(t *testing.T) {
	d := newDAG(8, 3, 100)
	f := newFixture(t, nil, d)
	if err := f.Restore(t.Context(), d.root, retrieval.Budget{}, nil); !errors.Is(err, retrieval.ErrNoSource) {
		t.Errorf("ended with %v", err)
	}
	if _, err := f.Blocks().GetBlock(retrieval.WithRoot(t.Context(), d.root), d.root); !ipld.IsNotFound(err) {
		t.Errorf("reading: %v", err)
	}
}

// patient asks nobody a second time because the first time took long.
func patient(c *retrieval.Config) {
	c.Hedge, c.BlockTime, c.FetchTime, c.Header, c.Idle = time.Minute, time.Minute, time.Minute, time.Minute, time.Minute
}

// A hundred readers of a DAG that is not hot cost one transfer: no block crosses the wire twice.
func TestHundredReadersFetchEachBlockOnce(t *testing.T) {
	d := newDAG(9, 200, 3_000)
	p := newProvider(t, "f01000", d)
	p.delay = 20 * time.Millisecond
	f := newFixture(t, patient, d, p)
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ctx, _ = retrieval.WithTrail(retrieval.WithRoot(ctx, d.root))
			f.Prefetch(ctx, d.root, d.root)
			if err := f.whole(ctx, d); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for key, n := range f.shelf.puts {
		if n != 1 {
			t.Errorf("block %x was stored %d times", key, n)
		}
	}
	if n := p.requests.Load(); n != 1 {
		t.Errorf("%d requests; want one CAR", n)
	}
}

// Readers of all of a file below a root share one CAR: of that file, and of nothing else.
func TestWholeFileBelowARootIsOneTransfer(t *testing.T) {
	d := newDAG(16, 100, 3_000)
	file := &dag{blocks: d.blocks}
	file.walk(d.order[1], map[string]bool{})
	for name, pieces := range map[string]bool{"indexed": false, "pieces only": true} {
		t.Run(name, func(t *testing.T) {
			p := newProvider(t, "f01000", d)
			p.delay, p.pieces = 20*time.Millisecond, pieces
			f := newFixture(t, patient, d, p)
			var group sync.WaitGroup
			for range 20 {
				group.Go(func() {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					ctx, _ = retrieval.WithTrail(retrieval.WithRoot(ctx, d.root))
					f.Prefetch(ctx, d.root, file.order[0])
					if err := f.whole(ctx, file); err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
			if pieces {
				return // all of the DAG comes, for there is no other way
			}
			if n := p.requests.Load(); n != 1 || p.sent["car"+file.order[0].KeyString()] != 1 {
				t.Errorf("%d requests; want one CAR", n)
			}
			if f.shelf.len() != len(file.order) {
				t.Errorf("%d blocks were stored of %d", f.shelf.len(), len(file.order))
			}
		})
	}
}

// Without a transfer, readers of one block share one request.
func TestReadersOfOneBlockShareOneRequest(t *testing.T) {
	d := newDAG(10, 3, 3_000)
	p := newProvider(t, "f01000", d)
	p.delay = 100 * time.Millisecond
	f := newFixture(t, patient, d, p)
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			if _, err := f.Blocks().GetBlock(retrieval.WithRoot(t.Context(), d.root), d.root); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := p.requests.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// A slow provider does not cost the reader what it takes: the next is asked beside it.
func TestSlowProviderIsHedged(t *testing.T) {
	d := newDAG(11, 30, 100)
	slow, fast := newProvider(t, "f01000", d), newProvider(t, "f01001", d)
	slow.delay = time.Hour
	f := newFixture(t, func(c *retrieval.Config) {
		c.Hedge, c.BlockTime, c.FetchTime, c.Header = 20*time.Millisecond, time.Minute, time.Minute, time.Minute
	}, d, slow, fast)
	if err := f.whole(retrieval.WithRoot(t.Context(), d.root), d); err != nil {
		t.Fatal(err)
	}
}

func TestLiarIsAskedLast(t *testing.T) {
	d := newDAG(12, 60, 100)
	liar, honest := newProvider(t, "f01000", d), newProvider(t, "f01001", d)
	liar.spoil = faults["wrong block"]
	f := newFixture(t, func(c *retrieval.Config) { c.Hedge = time.Minute }, d, liar, honest) // it is left because it lies
	if err := f.whole(retrieval.WithRoot(t.Context(), d.root), d); err != nil {
		t.Fatal(err)
	}
	if n := liar.requests.Load(); n > 2 {
		t.Errorf("who has lied was asked %d times", n)
	}
}

func TestProofIsRecordedAndLostAgain(t *testing.T) {
	d := newDAG(13, 60, 100)
	for name, pieces := range map[string]bool{"indexed": false, "pieces only": true} {
		t.Run(name, func(t *testing.T) {
			p := newProvider(t, "f01000", d)
			p.pieces = pieces
			f := newFixture(t, nil, d, p)
			if at, err := f.Proven(t.Context(), d.root); err != nil || !at.IsZero() {
				t.Errorf("proven at %v before anything was read: %v", at, err)
			}
			if who, err := f.Prove(t.Context(), d.root); err != nil || who != "f01000" {
				t.Errorf("proved by %q: %v", who, err)
			}
			if at, err := f.Proven(t.Context(), d.root); err != nil || time.Since(at) > time.Minute {
				t.Errorf("proven at %v: %v", at, err)
			}
			if f.shelf.len() != 0 {
				t.Error("a proof has stored blocks")
			}
			p.spoil = faults["wrong block"]
			if pieces {
				p.spoil = faults["wrong piece bytes"]
			}
			var failed *retrieval.FailedError
			if _, err := f.Prove(t.Context(), d.root); !errors.As(err, &failed) {
				t.Errorf("a liar proved it: %v", err)
			}
			if at, err := f.Proven(t.Context(), d.root); err != nil || !at.IsZero() {
				t.Errorf("still proven at %v: %v", at, err)
			}
		})
	}
}

func TestWhoWishesToBeLeftAloneHasFailedNoProof(t *testing.T) {
	d := newDAG(15, 60, 100)
	shy, other := newProvider(t, "f01000", d), newProvider(t, "f01001", d)
	alone, both := newFixture(t, nil, d, shy), newFixture(t, nil, d, shy, other)
	for range 2 {
		if _, err := both.Prove(t.Context(), d.root); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := alone.Prove(t.Context(), d.root); err != nil {
		t.Fatal(err)
	}
	busy := func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	shy.spoil = busy
	if _, err := alone.Blocks().GetBlock(retrieval.WithRoot(t.Context(), d.root), d.root); err == nil {
		t.Fatal("a provider that is busy has answered")
	}
	asked := shy.requests.Load()
	if _, err := alone.Prove(t.Context(), d.root); !errors.Is(err, retrieval.ErrUnasked) {
		t.Errorf("proving while it wishes to be left alone: %v, want ErrUnasked", err)
	}
	if err := alone.Probe(t.Context(), retrieval.CopyRef{Root: d.root, Provider: shy.name}); !errors.Is(err, retrieval.ErrUnasked) {
		t.Errorf("its turn among the copies that are read back by the way: %v, want ErrUnasked", err)
	}
	if at, err := alone.Proven(t.Context(), d.root); err != nil || at.IsZero() {
		t.Errorf("proven at %v: %v; want the proof that there was", at, err)
	}
	if n := shy.requests.Load(); n != asked {
		t.Errorf("it was asked %d times meanwhile", n-asked)
	}
	var busyOnce *retrieval.FailedError
	if _, err := both.Prove(t.Context(), d.root); !errors.As(err, &busyOnce) || busyOnce.Class != retrieval.Busy {
		t.Fatalf("asking the one whose turn it is: %v, want that it is busy", err)
	}
	for range 3 {
		if who, err := both.Prove(t.Context(), d.root); err != nil || who != other.name {
			t.Errorf("proved by %q: %v; want the other provider", who, err)
		}
	}
}

// A thousand bytes at an offset are the blocks on one path: at most four round trips to a file of this depth.
func TestRangeCostsOneRequestForEachBlockOfItsPath(t *testing.T) {
	d := newDAG(14, 16*16*2, 1_000)
	p := newProvider(t, "f01000", d)
	f := newFixture(t, func(c *retrieval.Config) { c.Hedge = time.Minute }, d, p)
	at := d.root
	depth := 0
	for {
		if _, err := f.Blocks().GetBlock(retrieval.WithRoot(t.Context(), d.root), at); err != nil {
			t.Fatal(err)
		}
		depth++
		links, _ := pbCodec{}.Links(at, d.blocks[at.KeyString()])
		if len(links) == 0 {
			break
		}
		at = links[len(links)/2]
	}
	if n := p.requests.Load(); n != int64(depth) || n > 4 {
		t.Errorf("%d requests for a path of %d blocks", n, depth)
	}
}

// Every copy is read back in its turn, by the way.
func TestCopiesAreReadBackByTheWay(t *testing.T) {
	d := newDAG(15, 20, 100)
	first, second := newProvider(t, "f01000", d), newProvider(t, "f01001", d)
	f := newFixture(t, func(c *retrieval.Config) { c.ProbeEvery = 5 * time.Millisecond }, d, first, second)
	deadline := time.After(20 * time.Second)
	for first.requests.Load() < 8 || second.requests.Load() < 8 {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			t.Fatalf("%d and %d requests", first.requests.Load(), second.requests.Load())
		}
	}
	if at, err := f.Proven(t.Context(), d.root); err != nil || at.IsZero() {
		t.Errorf("proven at %v: %v", at, err)
	}
}

// Who says when to come back is not asked before, and the reader is told the same.
func TestBusyProviderIsLeftAloneUntilItSaid(t *testing.T) {
	d := newDAG(20, 60, 100)
	p := newProvider(t, "f01000", d)
	var said atomic.Value
	p.spoil = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.Header().Set("Retry-After", said.Load().(string))
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	for _, after := range []string{"30", time.Now().Add(30 * time.Second).UTC().Format(http.TimeFormat), "99999999999999"} {
		said.Store(after)
		p.requests.Store(0)
		f := newFixture(t, nil, d, p)
		for range 20 {
			_, err := f.Blocks().GetBlock(retrieval.WithRoot(t.Context(), d.root), d.root)
			var failed *retrieval.FailedError
			if !errors.As(err, &failed) || failed.Class != retrieval.Busy || failed.After < 20*time.Second || failed.After > time.Hour {
				t.Fatalf("after %q: %#v", after, err)
			}
		}
		if n := p.requests.Load(); n != 1 {
			t.Errorf("after %q it was asked %d times", after, n)
		}
	}
}

// What is missing in the middle of a DAG comes from a provider that indexes nothing as well: out of the piece.
func TestPieceMendsTheMiddleOfADAG(t *testing.T) {
	d := newDAG(21, 200, 3_000)
	for name, broken := range map[string]int{"a leaf": len(d.order) - 1, "a node": 18} {
		t.Run(name, func(t *testing.T) {
			p := newProvider(t, "f01000", d)
			p.pieces = true
			f := newFixture(t, nil, d, p)
			c := d.order[broken]
			if leaf := c.Type() == cid.Raw; leaf != (name == "a leaf") {
				t.Fatalf("block %d is not %s", broken, name)
			}
			lose := func() {
				f.shelf.mu.Lock()
				defer f.shelf.mu.Unlock()
				maps.Copy(f.shelf.blocks, d.blocks)
				f.shelf.wrong[c.KeyString()] = true
			}
			lose()
			b, err := f.Blocks().GetBlock(retrieval.WithRoot(t.Context(), d.root), c)
			if err != nil || !bytes.Equal(b.RawData(), d.blocks[c.KeyString()]) {
				t.Fatalf("reading: %v", err)
			}
			lose()
			if err := f.Restore(t.Context(), d.root, retrieval.Budget{}, nil); err != nil {
				t.Fatalf("restoring: %v", err)
			}
			if data, err := f.shelf.Block(t.Context(), c); err != nil || !bytes.Equal(data, d.blocks[c.KeyString()]) {
				t.Errorf("it is still wrong here: %v", err)
			}
		})
	}
}

// A store that hangs costs a reader a bounded time, and no transfer for ever.
func TestStoreThatHangsIsLeft(t *testing.T) {
	d := newDAG(22, 20, 100)
	f := newFixture(t, func(c *retrieval.Config) { c.HotTime = 20 * time.Millisecond }, d, newProvider(t, "f01000", d))
	f.shelf.hangs.Store(true)
	if b, err := f.Blocks().GetBlock(retrieval.WithRoot(t.Context(), d.root), d.root); err != nil || !bytes.Equal(b.RawData(), d.blocks[d.root.KeyString()]) {
		t.Errorf("reading: %v", err)
	}
	if err := f.Restore(t.Context(), d.root, retrieval.Budget{}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("restoring: %v", err)
	}
}

// Who joins a transfer that somebody else has begun with other limits keeps to its own.
func TestJoinedTransferKeepsToOwnLimits(t *testing.T) {
	d := newDAG(23, 300, 3_000)
	small := retrieval.Budget{Blocks: 50}
	for name, test := range map[string]struct {
		reader, own retrieval.Budget
		refused     bool
	}{
		"a reader's are smaller": {reader: small},
		"one's own are smaller":  {own: small, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProvider(t, "f01000", d)
			p.delay = 100 * time.Millisecond // both have begun before anything comes
			f := newFixture(t, func(c *retrieval.Config) { c.Budget = test.reader }, d, p)
			f.Prefetch(t.Context(), d.root, d.root)
			err := f.Restore(t.Context(), d.root, test.own, nil)
			var refused *retrieval.RefusedError
			if errors.As(err, &refused) != test.refused || !test.refused && (err != nil || f.shelf.len() != len(d.blocks)) {
				t.Errorf("%d of %d blocks: %v", f.shelf.len(), len(d.blocks), err)
			}
		})
	}
}
