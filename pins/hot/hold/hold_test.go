package hold_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multicodec"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot/hold"
	"github.com/frostpin/frostpin/pins/pinstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf is a set of blocks.
type shelf map[cid.Cid][]byte

func onShelf(all ...blocks.Block) shelf {
	s := make(shelf)
	for _, b := range all {
		s[b.Cid()] = b.RawData()
	}
	return s
}

func (s shelf) get(ctx context.Context, c cid.Cid) (hold.Block, error) {
	data, ok := s[c]
	if !ok {
		<-ctx.Done() // nobody has it
		return hold.Block{}, context.Cause(ctx)
	}
	return hold.Block{Size: len(data), Data: data}, nil
}

// One worker's error must end those that wait for blocks that never come (H18).
func TestFirstErrorEndsEveryWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		children := make([]cid.Cid, 20)
		for i := range children {
			children[i] = pinstest.Raw(fmt.Sprintf("missing %d", i)).Cid()
		}
		root := pinstest.Node("root", children...)
		have := onShelf(root)
		broken := errors.New("the disk is broken")
		var waiting atomic.Int64
		_, err := hold.Walk{Root: root.Cid(), Workers: 8, Get: func(ctx context.Context, c cid.Cid) (hold.Block, error) {
			if c == children[7] {
				<-time.After(time.Second)
				return hold.Block{}, broken
			}
			waiting.Add(1)
			return have.get(ctx, c)
		}}.Run(t.Context())
		if !errors.Is(err, broken) {
			t.Errorf("the walk ended with %v", err)
		}
		if waiting.Load() < 8 {
			t.Errorf("only %d blocks were asked for, so this test proves nothing", waiting.Load())
		}
	})
}

// Strangers' blocks are decoded in the workers, where a panic would end the process.
func TestAPanicInAWorkerIsTheErrorOfItsWalk(t *testing.T) {
	children := make([]cid.Cid, 20)
	for i := range children {
		children[i] = pinstest.Raw(fmt.Sprintf("child %d", i)).Cid()
	}
	root := pinstest.Node("root", children...)
	have := onShelf(root)
	var waiting sync.WaitGroup
	waiting.Add(7)
	_, err := hold.Walk{Root: root.Cid(), Workers: 8, Get: func(ctx context.Context, c cid.Cid) (hold.Block, error) {
		switch c {
		case root.Cid():
			return have.get(ctx, c)
		case children[7]:
			waiting.Wait() // all others are at work: this one cannot be the caller's goroutine alone
			panic("a decoder")
		}
		waiting.Done()
		return have.get(ctx, c)
	}}.Run(t.Context())
	p, panicked := errors.AsType[*pins.PanicError](err)
	if !panicked || p.Value != "a decoder" || !strings.Contains(string(p.Stack), "hold_test.go") {
		t.Errorf("the walk ended with %v", err)
	}
}

// A block that links to millions must not fill the memory with what is to be done.
func TestTooManyLinksAreRefusedBeforeTheyAreFollowed(t *testing.T) {
	wide := pinstest.Tree("wide", 1000)
	var asked atomic.Int64
	have := onShelf(wide.Blocks...)
	_, err := hold.Walk{Root: wide.Root, Workers: 4, Limits: pins.Limits{Blocks: 500}, Get: func(ctx context.Context, c cid.Cid) (hold.Block, error) {
		asked.Add(1)
		return have.get(ctx, c)
	}}.Run(t.Context())
	var refused *pins.Refused
	if !errors.As(err, &refused) || asked.Load() != 1 {
		t.Errorf("after %d blocks: %v", asked.Load(), err)
	}
}

// Whatever the DAG, a walk asks for each block once and counts it once, and sees what a naive walk sees.
func TestWalkSeesEachBlockOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []blocks.Block
		for i := range rapid.IntRange(1, 40).Draw(t, "blocks") {
			var links []cid.Cid
			for range rapid.IntRange(0, min(i, 6)).Draw(t, "links") {
				to := all[rapid.IntRange(0, len(all)-1).Draw(t, "to")].Cid()
				if rapid.Bool().Draw(t, "v0") && to.Type() == cid.DagProtobuf {
					to = pinstest.V0(to)
				}
				links = append(links, to)
			}
			all = append(all, pinstest.Node(fmt.Sprint(i), links...))
		}
		root := all[len(all)-1].Cid()
		have := onShelf(all...)
		var mu sync.Mutex
		asked := make(map[cid.Cid]int)
		got, err := hold.Walk{
			Root: root, Workers: rapid.IntRange(1, 8).Draw(t, "workers"),
			Get: func(ctx context.Context, c cid.Cid) (hold.Block, error) {
				mu.Lock()
				asked[c]++
				mu.Unlock()
				return have.get(ctx, c)
			},
		}.Run(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		want := hold.Totals{}
		naive := map[cid.Cid]bool{}
		decoder := hold.NewDecoder()
		var visit func(cid.Cid)
		visit = func(c cid.Cid) {
			if naive[c] {
				return
			}
			naive[c] = true
			want.Blocks++
			want.Bytes += int64(len(have[c]))
			links, err := decoder.Links(c, have[c])
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range links {
				visit(l)
			}
		}
		visit(root)
		if got != want || len(asked) != len(naive) {
			t.Errorf("the walk saw %+v and asked for %d blocks, want %+v", got, len(asked), want)
		}
		for c, n := range asked {
			if n != 1 {
				t.Errorf("block %s was asked for %d times", c, n)
			}
		}
	})
}

func TestReasonsAreForUsers(t *testing.T) {
	d := pinstest.Tree("large", 3)
	for want, limits := range map[string]pins.Limits{
		"the DAG is larger than the limit of 2 KiB":        {Bytes: 2 << 10},
		"the DAG is larger than the limit of 1500 bytes":   {Bytes: 1500},
		"the DAG has more blocks than the limit of 3":      {Blocks: 3},
		"the DAG is deeper than the limit of 1 links":      {Depth: 1},
		"is larger than the limit of 1000 bytes":           {BlockSize: 1000},
		"the codec dag-jose, but only raw, dag-pb, dag-cb": {},
	} {
		root := pinstest.Node("above", d.Root)
		if strings.Contains(want, "codec") {
			jose := pinstest.Block(0x85, 0x12, []byte("x"))
			root = pinstest.Node("above", jose.Cid())
		}
		_, err := hold.Walk{Root: root.Cid(), Workers: 1, Limits: limits, Get: onShelf(append(d.Blocks, root)...).get}.Run(t.Context())
		var refused *pins.Refused
		if !errors.As(err, &refused) || !strings.Contains(refused.Reason, want) {
			t.Errorf("reason %v; want %q", err, want)
		}
	}
}

// node is the smallest Node.
type node struct {
	shelf
	pin func() error
}

func (n node) Session(context.Context, bool) hold.Get { return n.get }
func (n node) Pin(context.Context, cid.Cid) error     { return n.pin() }

// Between the last block and the durable pin nothing may be collected.
func TestCollectorWaitsForPinsAndNotForBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		whole, stuck := pinstest.Tree("whole", 3), pinstest.Tree("stuck", 3)
		pinning, pinned := make(chan struct{}), make(chan struct{})
		h := hold.NewHolder(node{onShelf(append(whole.Blocks, stuck.Blocks[:3]...)...), func() error {
			close(pinning)
			<-pinned
			return nil
		}}, 4, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var holding sync.WaitGroup
		holding.Go(func() {
			if err := h.Hold(ctx, whole.Root, pins.Limits{}, nil); err != nil {
				t.Error(err)
			}
		})
		holding.Go(func() {
			if err := h.Hold(ctx, stuck.Root, pins.Limits{}, nil); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		<-pinning
		var collecting atomic.Bool
		holding.Go(func() {
			if err := h.Pause(ctx, func(running []cid.Cid) error {
				collecting.Store(true)
				if len(running) != 1 || running[0] != stuck.Root {
					t.Errorf("the collector was told to keep %v", running)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		if collecting.Load() {
			t.Error("the collector ran while a pin was made")
		}
		close(pinned)
		synctest.Wait()
		if !collecting.Load() {
			t.Error("the collector waits for a block that nobody has")
		}
		cancel()
		holding.Wait()
	})
}

func TestGivenUpCollectionLetsWalksGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := pinstest.Leaf("pinned slowly")
		pinned := make(chan struct{})
		h := hold.NewHolder(node{onShelf(d.Blocks...), func() error { <-pinned; return nil }}, 1, nil)
		var holding sync.WaitGroup
		holding.Go(func() {
			if err := h.Hold(t.Context(), d.Root, pins.Limits{}, nil); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := h.Pause(ctx, func([]cid.Cid) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the collection: %v", err)
		}
		close(pinned)
		holding.Wait()
		if err := h.Hold(t.Context(), d.Root, pins.Limits{}, nil); err != nil {
			t.Errorf("after the collection was given up: %v", err)
		}
	})
}

// FuzzLinks reads what strangers send as blocks.
func FuzzLinks(f *testing.F) {
	for _, codec := range []uint64{cid.DagProtobuf, cid.DagCBOR, cid.DagJSON, 0x51, 0x0200} {
		f.Add(codec, pinstest.Node("seed", pinstest.Raw("x").Cid()).RawData())
		f.Add(codec, []byte{0xd8, 0x2a, 0x43, 0, 1, 2})
		f.Add(codec, []byte(`{"/":"bafkqaaa"}`))
	}
	decoder := hold.NewDecoder()
	f.Fuzz(func(t *testing.T, codec uint64, data []byte) {
		c := cid.NewCidV1(codec, pinstest.Raw("").Cid().Hash())
		if hold.Admit(c) != nil {
			return
		}
		links, err := decoder.Links(c, data)
		if err != nil {
			return
		}
		for _, l := range links {
			if !l.Defined() || l.Version() != 1 {
				t.Errorf("the link %q is not canonical", l)
			}
			_ = hold.Admit(l)
			hold.Identity(l)
		}
	})
}

// Blocks of content find its roots by these codecs.
func TestCodecsAreThoseThatAreHeld(t *testing.T) {
	hash := pinstest.Raw("x").Cid().Hash()
	for _, code := range multicodec.KnownCodes() {
		admitted := hold.Admit(cid.NewCidV1(uint64(code), hash)) == nil
		if listed := slices.Contains(pins.Codecs(), code); listed != admitted {
			t.Errorf("%s: held %t, listed %t", code, admitted, listed)
		}
	}
}
