package hot_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore/query"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/goleak"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot"
	"github.com/frostpin/frostpin/pins/pinstest"
)

// impatient is enough for one peer in the same process, also on a busy machine.
var impatient = pins.Limits{Idle: time.Second, Stall: time.Minute}

func TestBytesOfALyingPeerAreNeverStored(t *testing.T) {
	tier := openEmbedded(t, hot.Config{AllowPrivateOrigins: true})
	liar := newPeer(t)
	d := pinstest.Tree("lied about", 5)
	liar.provide(d.Blocks...)
	lied := d.Blocks[2].Cid()
	liar.store.lie(lied, []byte("something else"))
	defer tier.Connect(t.Context(), []peer.AddrInfo{liar.info()})()

	limits := pins.Limits{Idle: time.Second, Stall: 5 * time.Second}
	if err := tier.Hold(t.Context(), d.Root, limits, nil); !errors.Is(err, pins.ErrStalled) {
		t.Fatalf("holding with a liar as the only peer: %v", err)
	}
	if liar.store.asked(lied) == 0 {
		t.Fatal("the liar was never asked, so this test proves nothing")
	}
	if err := tier.Hold(t.Context(), lied, pins.Limits{Offline: true}, nil); !errors.Is(err, pins.ErrAbsent) {
		t.Errorf("the block that was lied about: %v, want it absent", err)
	}
	honest := newPeer(t)
	honest.provide(d.Blocks...)
	defer tier.Connect(t.Context(), []peer.AddrInfo{honest.info()})()
	if err := tier.Hold(t.Context(), d.Root, impatient, nil); err != nil {
		t.Errorf("holding with an honest peer too: %v", err)
	}
}

// Blocks that have arrived are not fetched again by the sessions that follow, nor after a collection.
func TestRestartsFetchNothingTwice(t *testing.T) {
	tier := openEmbedded(t, hot.Config{AllowPrivateOrigins: true})
	p := newPeer(t)
	d := pinstest.Tree("once", 30)
	p.provide(d.Blocks[:30]...)
	defer tier.Connect(t.Context(), []peer.AddrInfo{p.info()})()
	limits := pins.Limits{Idle: time.Second, Stall: 3 * time.Second}
	for range 2 {
		if err := tier.Hold(t.Context(), d.Root, limits, nil); !errors.Is(err, pins.ErrStalled) {
			t.Fatal(err)
		}
		if _, err := tier.Collect(t.Context(), []cid.Cid{d.Root}); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range d.Blocks[:30] {
		if n := p.store.asked(b.Cid()); n != 1 {
			t.Errorf("block %s was fetched %d times", b.Cid(), n)
		}
	}
}

// Pinning what is pinned would first take the old pin away (H1). So the record of the pin must stay the same one.
func TestHoldingWhatIsHeldLeavesItsPinAlone(t *testing.T) {
	tier := openEmbedded(t, hot.Config{})
	d := pinstest.Tree("pinned once", 3)
	if err := tier.Node().Blocks.AddBlocks(t.Context(), d.Blocks); err != nil {
		t.Fatal(err)
	}
	records := func() []string {
		if err := tier.Hold(t.Context(), d.Root, pins.Limits{Offline: true}, nil); err != nil {
			t.Fatal(err)
		}
		found, err := tier.Node().Repo.Datastore().Query(t.Context(), query.Query{Prefix: "/pins/pin", KeysOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		entries, err := found.Rest()
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, e := range entries {
			keys = append(keys, e.Key)
		}
		return keys
	}
	first := records()
	if again := records(); len(first) != 1 || !slices.Equal(first, again) {
		t.Errorf("the pin was %q and is %q", first, again)
	}
}

func TestSecondOpenerIsToldWhy(t *testing.T) {
	dir := t.TempDir()
	openEmbedded(t, hot.Config{Dir: dir})
	_, err := hot.OpenEmbedded(t.Context(), hot.Config{Dir: dir, Network: hot.Private})
	if err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("opening an open repository: %v", err)
	}
}

func TestReopenedNodeKeepsPinsAndIdentity(t *testing.T) {
	dir := t.TempDir()
	p := newPeer(t)
	d := pinstest.Tree("kept", 10)
	p.provide(d.Blocks...)
	first, err := hot.OpenEmbedded(t.Context(), hot.Config{Dir: dir, Network: hot.Private, AllowPrivateOrigins: true})
	if err != nil {
		t.Fatal(err)
	}
	release := first.Connect(t.Context(), []peer.AddrInfo{p.info()})
	if err := first.Hold(t.Context(), d.Root, impatient, nil); err != nil {
		t.Fatal(err)
	}
	id, err := first.ID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	release() // too late, and no harm

	if _, err := hot.OpenEmbedded(t.Context(), hot.Config{Dir: dir, Network: hot.Private, Profile: hot.Flatfs}); err == nil ||
		!strings.Contains(err.Error(), "cannot become flatfs") {
		t.Errorf("opening with another profile: %v", err)
	}
	second := openEmbedded(t, hot.Config{Dir: dir})
	if held, err := second.Held(t.Context(), d.Root); err != nil || !held {
		t.Errorf("after reopening: held %v, %v", held, err)
	}
	if err := second.Hold(t.Context(), d.Root, pins.Limits{Offline: true}, nil); err != nil {
		t.Errorf("after reopening: %v", err)
	}
	if again, err := second.ID(t.Context()); err != nil || again != id {
		t.Errorf("the id became %s, %v; want %s", again, err, id)
	}
}

// Kubo takes the config for the whole repository; a start that was killed after writing it must not be the last one.
func TestHalfMadeRepositoryIsMadeAgain(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"frostpin.creating": "", "config": "{\"Identity\":", "version": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	openEmbedded(t, hot.Config{Dir: dir})
}

func TestCancelledOpeningLeavesTheRepositoryFree(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	tier, err := hot.OpenEmbedded(ctx, hot.Config{Dir: dir, Network: hot.Private})
	if err == nil {
		err = tier.Close() // it was faster
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for {
		again, err := hot.OpenEmbedded(t.Context(), hot.Config{Dir: dir, Network: hot.Private})
		if err == nil {
			if err := again.Close(); err != nil {
				t.Error(err)
			}
			return
		}
		select {
		case <-deadline:
			t.Fatalf("the repository stays locked: %v", err)
		case <-tick.C:
		}
	}
}

func TestFailedStartLeavesTheRepositoryFree(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	port := taken.Addr().(*net.TCPAddr).Port
	for range 2 {
		_, err = hot.OpenEmbedded(t.Context(), hot.Config{
			Dir: dir, Network: hot.Private, Listen: []string{fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port)},
		})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprint(port)) {
			t.Errorf("listening where someone listens: %v", err)
		}
	}
	openEmbedded(t, hot.Config{Dir: dir})
}

func TestWrongSettingsAreNamedTogether(t *testing.T) {
	_, err := hot.OpenEmbedded(t.Context(), hot.Config{
		Network: "moon", Profile: "badgerds", ConnLow: 10, ConnHigh: 5, Listen: []string{"here"}, Announce: []string{"there"},
	})
	for _, part := range []string{"directory", "moon", "badgerds", "connections", "here", "there"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not speak of %s: %v", part, err)
		}
	}
	_, err = hot.OpenEmbedded(t.Context(), hot.Config{
		Dir: t.TempDir(), Network: hot.Private, Listen: []string{"/ip4/0.0.0.0/tcp/0"},
	})
	if err == nil || !strings.Contains(err.Error(), "loopback only") {
		t.Errorf("a private network on all interfaces: %v", err)
	}
}

// Pins that wait for roots that nobody has must cost next to nothing, and must not keep others from theirs (H5, K12).
func TestTenThousandUnfindableRootsAreCheap(t *testing.T) {
	tier := openEmbedded(t, hot.Config{AllowPrivateOrigins: true})
	p := newPeer(t)
	defer tier.Connect(t.Context(), []peer.AddrInfo{p.info()})()
	before := memory()
	ctx, cancel := context.WithCancel(t.Context())
	var finding sync.WaitGroup
	for i := range 250 {
		finding.Go(func() {
			roots := make([]cid.Cid, pins.MaxFind)
			for j := range roots {
				roots[j] = pinstest.Leaf(fmt.Sprintf("nowhere %d/%d", i, j)).Root
			}
			if err := tier.Find(ctx, roots, func(c cid.Cid) { t.Errorf("found %s", c) }); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	var slowest time.Duration
	for i := range 20 {
		d := pinstest.Leaf(fmt.Sprintf("findable %d", i))
		p.provide(d.Blocks...)
		begun := time.Now()
		found := make(chan struct{})
		finding.Go(func() {
			if err := tier.Find(t.Context(), []cid.Cid{d.Root}, func(cid.Cid) { close(found) }); err != nil {
				t.Error(err)
			}
		})
		select {
		case <-found:
		case <-time.After(20 * time.Second):
			t.Fatal("a findable root was not found among those that nobody has")
		}
		slowest = max(slowest, time.Since(begun))
	}
	grown := memory() - before
	t.Logf("10,000 unfindable roots: %d MiB, both ends in one process; the slowest of 20 others took %s", grown>>20, slowest)
	if grown > 120<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
	cancel()
	finding.Wait()
}

func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// holderDir tells the test binary to be the process that TestKilledNodeKeepsEveryAcknowledgedPin kills.
const holderDir = "FROSTPIN_TEST_HOLDER_DIR"

// beHolder holds one DAG after the other, and prints each root when it is held.
func beHolder(dir string) error {
	tier, err := hot.OpenEmbedded(context.Background(), hot.Config{
		Dir: dir, Network: hot.Private, Profile: os.Getenv(holderDir + "_PROFILE"),
	})
	if err != nil {
		return err
	}
	ctx := context.Background()
	var mu sync.Mutex
	var holding sync.WaitGroup
	for w := range 8 {
		holding.Go(func() {
			for i := 0; err == nil; i++ {
				d := pinstest.Tree(fmt.Sprintf("%d/%d/%d", os.Getpid(), w, i), 3)
				if err := tier.Node().Blocks.AddBlocks(ctx, d.Blocks); err != nil {
					return
				}
				if err := tier.Hold(ctx, d.Root, pins.Limits{Offline: true}, nil); err != nil {
					return
				}
				mu.Lock()
				fmt.Println(d.Root)
				mu.Unlock()
			}
		})
	}
	holding.Wait()
	return errors.New("the node ended by itself")
}

func TestKilledNodeKeepsEveryAcknowledgedPin(t *testing.T) {
	for _, profile := range []string{hot.Pebble, hot.Flatfs} {
		t.Run(profile, func(t *testing.T) {
			dir := t.TempDir()
			var acknowledged []cid.Cid
			for round := range 3 {
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), holderDir+"="+dir, holderDir+"_PROFILE="+profile)
				cmd.Stderr = os.Stderr
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				lines := bufio.NewScanner(out)
				for n := 0; lines.Scan(); n++ {
					c, err := cid.Decode(lines.Text())
					if err != nil {
						break // the last line may be cut
					}
					acknowledged = append(acknowledged, c)
					if n == 200+round*77 {
						if err := cmd.Process.Kill(); err != nil {
							t.Fatal(err)
						}
					}
				}
				if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
					t.Fatalf("the node ended: %v", err)
				}
			}
			tier := openEmbedded(t, hot.Config{Dir: dir, Profile: profile})
			for _, c := range acknowledged {
				if held, err := tier.Held(t.Context(), c); err != nil || !held {
					t.Errorf("%s was acknowledged and is held: %v, %v", c, held, err)
				}
				if err := tier.Hold(t.Context(), c, pins.Limits{Offline: true}, nil); err != nil {
					t.Errorf("%s was acknowledged: %v", c, err)
				}
			}
			t.Logf("%d acknowledged pins in three lives", len(acknowledged))
		})
	}
}

func TestClosedNodeLeavesNoGoroutines(t *testing.T) {
	before := goleak.IgnoreCurrent()
	tier, err := hot.OpenEmbedded(t.Context(), hot.Config{Dir: t.TempDir(), Network: hot.Private, AllowPrivateOrigins: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	d := pinstest.Tree("leaky", 3)
	if err := tier.Find(ctx, []cid.Cid{d.Root}, func(cid.Cid) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if err := tier.Node().Blocks.AddBlocks(t.Context(), d.Blocks); err != nil {
		t.Fatal(err)
	}
	if err := tier.Hold(t.Context(), d.Root, impatient, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := tier.Collect(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := tier.Close(); err != nil {
		t.Fatal(err)
	}
	left := goleak.Find(append(kuboLeaks(), before)...)
	for deadline := time.Now().Add(20 * time.Second); left != nil && time.Now().Before(deadline); {
		left = goleak.Find(append(kuboLeaks(), before)...) // it waits itself
	}
	if left != nil {
		t.Error(left)
	}
}

// kuboLeaks are the goroutines that a closed Kubo node leaves behind.
func kuboLeaks() []goleak.Option {
	const manager = "github.com/ipfs/boxo/routing/providerquerymanager.(*ProviderQueryManager)."
	return []goleak.Option{
		goleak.IgnoreAnyFunction(manager + "run"), // boxo makes it with the node and never closes it
		goleak.IgnoreAnyFunction(manager + "findProviderWorker"),
		goleak.IgnoreAnyFunction("github.com/gammazero/chanqueue.(*ChanQueue[...]).bufferData"), // its queue
	}
}
