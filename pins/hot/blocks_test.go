package hot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/deals/piece"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot"
	"github.com/frostpin/frostpin/pins/pinstest"
)

// A daemon is another machine: what it sends is looked at like what a stranger sends.
func TestBlockThatTheDaemonChangesIsCorrupt(t *testing.T) {
	daemon := startDaemon(t)
	target, err := url.Parse(daemon.url())
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	proxy.ModifyResponse = func(r *http.Response) error {
		if !strings.HasSuffix(r.Request.URL.Path, "/block/get") {
			return nil
		}
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		data[0] ^= 1
		r.Body = io.NopCloser(bytes.NewReader(data))
		r.Header.Set("Content-Length", strconv.Itoa(len(data)))
		return nil
	}
	server := httptest.NewServer(proxy)
	defer server.Close()
	leaf := pinstest.Raw("honest")
	add(t, daemon, leaf)
	tier := openRemote(t, hot.RemoteConfig{URL: server.URL})
	if data, err := tier.Block(t.Context(), leaf.Cid()); !errors.Is(err, pins.ErrCorrupt) || data != nil {
		t.Errorf("the changed block is %q, %v; want pins.ErrCorrupt", data, err)
	}
}

// add puts blocks into a daemon, without pinning them.
func add(t *testing.T, daemon *daemonProcess, all ...blocks.Block) {
	t.Helper()
	for _, b := range all {
		p := b.Cid().Prefix()
		put := daemon.command("block", "put", "--allow-big-block", "--cid-codec", codecs[p.Codec], "--mhtype", "sha2-256")
		put.Stdin = bytes.NewReader(b.RawData())
		if out, err := put.CombinedOutput(); err != nil {
			t.Fatalf("putting block %s: %v\n%s", b.Cid(), err, out)
		}
	}
}

var codecs = map[uint64]string{cid.Raw: "raw", cid.DagProtobuf: "dag-pb", cid.DagCBOR: "dag-cbor"}

// Every tier must give the bytes that the rest of the world gives for the same root: providers and readers compare.
func TestCARIsTheSameFromEveryTierAndFromKubo(t *testing.T) {
	daemon := startDaemon(t)
	remote := openRemote(t, hot.RemoteConfig{URL: daemon.url()})
	embedded := openEmbedded(t, hot.Config{})
	store, err := piece.OpenStore(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}

	shared, deep := pinstest.Tree("shared", 5), pinstest.Chain("deep", 12)
	old := pinstest.Node("old spelling", shared.Root)
	record := pinstest.Block(cid.DagCBOR, multihash.SHA2_256, cborLinks(deep.Root, shared.Blocks[3].Cid(), deep.Root))
	root := pinstest.Node("root",
		shared.Root, record.Cid(), shared.Root, pinstest.V0(old.Cid()), shared.Blocks[2].Cid(), old.Cid(), deep.Blocks[4].Cid())
	all := append(append([]blocks.Block{root, record, old}, shared.Blocks...), deep.Blocks...)
	add(t, daemon, all...)
	if err := embedded.Node().Blocks.AddBlocks(t.Context(), all); err != nil {
		t.Fatal(err)
	}

	export := daemon.command("dag", "export", "--progress=false", root.Cid().String())
	want, err := export.Output()
	if err != nil {
		t.Fatal(err)
	}
	for name, tier := range map[string]piece.Blocks{"embedded": embedded, "remote": remote} {
		p, err := store.Build(t.Context(), tier, root.Cid(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if sum, err := piece.Sum(bytes.NewReader(want)); err != nil || sum != p {
			t.Errorf("%s: the piece of what kubo exports is %+v, %v; want %+v", name, sum, err, p)
		}
		got, err := readPiece(t.Context(), store, tier, root.Cid(), p)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the CAR has %d bytes, kubo's %d, and they differ", name, len(got), len(want))
		}
	}
}

// readPiece reads all bytes of a piece.
func readPiece(ctx context.Context, store *piece.Store, from piece.Blocks, root cid.Cid, p piece.Piece) ([]byte, error) {
	r, err := store.Open(ctx, from, root, p.RawSize)
	if err != nil {
		return nil, fmt.Errorf("opening: %w", err)
	}
	defer r.Close()
	return io.ReadAll(r)
}

// cborLinks is the DAG-CBOR of a list of links.
func cborLinks(cids ...cid.Cid) []byte {
	out := []byte{0x80 | byte(len(cids))}
	for _, c := range cids {
		out = append(out, 0xd8, 0x2a, 0x58, byte(c.ByteLen()+1), 0)
		out = append(out, c.Bytes()...)
	}
	return out
}

// One account's read of a DAG of very many nodes is not to take the disk from everybody.
func TestAReadOfManyNodesTakesTurnsAtTheDisk(t *testing.T) {
	turns := pins.NewTurns()
	tier := openEmbedded(t, hot.Config{Turns: turns})
	b := pinstest.Raw("wanted")
	in, err := tier.Import(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := in.Put(t.Context(), []blocks.Block{b}); err != nil {
		t.Fatal(err)
	}
	effort := pins.NewEffort(turns, "reader")
	read := func(limit time.Duration) error {
		step := effort.Step()
		defer step.Done()
		ctx, cancel := context.WithTimeout(pins.WithStep(t.Context(), step), limit)
		defer cancel()
		_, err := tier.Block(ctx, b.Cid())
		return err
	}
	taken := 0
	for ; taken < runtime.NumCPU(); taken++ { // all there are
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err := turns.Take(ctx, "another")
		cancel()
		if err != nil {
			break
		}
	}
	if err := read(time.Minute); err != nil {
		t.Errorf("a read of few nodes: %v", err)
	}
	effort.Step().Node(1 << 20)
	if err := read(100 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a read of many nodes when it is not its turn: %v", err)
	}
	for range taken {
		turns.Give()
	}
	if err := read(time.Minute); err != nil {
		t.Errorf("a read of many nodes when it is its turn: %v", err)
	}
	effort.End()
}
