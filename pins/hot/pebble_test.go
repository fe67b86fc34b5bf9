package hot_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot"
	"github.com/frostpin/frostpin/pins/pinstest"
)

// noise is what no compression makes smaller, and enough to fill a block of a table alone.
func noise(seed string) []byte {
	var key [32]byte
	copy(key[:], seed)
	data := make([]byte, 20<<10)
	_, _ = rand.NewChaCha8(key).Read(data)
	return data
}

// noisyTree is a root, two nodes below it, and a leaf below each, none of which shares a block of a table with another.
func noisyTree(seed string) pinstest.DAG {
	var links []cid.Cid
	var list []blocks.Block
	for _, side := range []string{"left", "right"} {
		leaf := pinstest.Raw(string(noise(seed + side)))
		node := pinstest.Node(string(noise(seed+side+" node")), leaf.Cid())
		links = append(links, node.Cid())
		list = append(list, node, leaf)
	}
	root := pinstest.Node(string(noise(seed)), links...)
	return pinstest.DAG{Root: root.Cid(), Blocks: append([]blocks.Block{root}, list...)}
}

// rot changes one byte on the disk, in the table that has the data.
func rot(t *testing.T, dir string, data []byte) {
	t.Helper()
	changed := 0
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".sst" {
			return err
		}
		table, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := bytes.Index(table, data[len(data)/2:len(data)/2+64])
		if at < 0 {
			return nil
		}
		changed++
		table[at] ^= 1
		return os.WriteFile(path, table, 0o600)
	})
	if err != nil || changed != 1 {
		t.Fatalf("changing a byte on the disk: %d tables have it, %v", changed, err)
	}
}

// holdOnDisk leaves a closed repository that holds DAGs, all of it in tables.
func holdOnDisk(t *testing.T, dir string, change func(*hot.Embedded), dags ...pinstest.DAG) {
	t.Helper()
	tier, err := hot.OpenEmbedded(t.Context(), hot.Config{Dir: dir, Network: hot.Private})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dags {
		store(t, tier, d.Blocks...)
		if err := tier.Hold(t.Context(), d.Root, pins.Limits{Offline: true}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if change != nil {
		change(tier)
	}
	if err := tier.Close(); err != nil {
		t.Fatal(err)
	}
}

func store(t *testing.T, tier *hot.Embedded, list ...blocks.Block) {
	t.Helper()
	in, err := tier.Import(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	if err := in.Put(t.Context(), list); err != nil {
		t.Fatal(err)
	}
}

// wrong verifies a DAG.
func wrong(t *testing.T, tier *hot.Embedded, root cid.Cid) (bad []cid.Cid) {
	t.Helper()
	err := tier.Verify(t.Context(), root, func(context.Context, int) error { return nil }, func(c cid.Cid, err error) error {
		if !errors.Is(err, pins.ErrCorrupt) {
			t.Errorf("block %s: %v, want pins.ErrCorrupt", c, err)
		}
		bad = append(bad, c)
		return nil
	})
	if err != nil {
		t.Fatalf("verifying: %v", err)
	}
	return bad
}

func TestBlockThatRotsOnTheDiskIsFoundAndReplaced(t *testing.T) {
	for _, c := range []struct {
		name    string
		block   int
		network bool // the right bytes come by a Hold; else by an import
	}{
		{"root, imported", 0, false},
		{"root, fetched", 0, true},
		{"node, imported", 1, false},
		{"leaf, imported", 2, false},
		{"leaf, fetched", 2, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			d, other := noisyTree("rotten"), noisyTree("sound")
			bad := d.Blocks[c.block]
			holdOnDisk(t, dir, nil, d, other)
			rot(t, dir, bad.RawData())

			var said bytes.Buffer
			tier := openEmbedded(t, hot.Config{Dir: dir, AllowPrivateOrigins: true, Log: slog.New(slog.NewTextHandler(&said, nil))})
			if got := wrong(t, tier, d.Root); !slices.Equal(got, []cid.Cid{bad.Cid()}) {
				t.Errorf("wrong are %s, want %s", got, bad.Cid())
			}
			if !strings.Contains(said.String(), "a file of the block store is damaged") {
				t.Errorf("the log says nothing of it: %q", &said)
			}
			if err := tier.Hold(t.Context(), d.Root, pins.Limits{Offline: true}, nil); !errors.Is(err, pins.ErrAbsent) {
				t.Errorf("holding without a network: %v, want pins.ErrAbsent", err)
			}
			findBeside(t, tier, bad.Cid(), other.Root)

			if c.network {
				p := newPeer(t)
				p.provide(d.Blocks...)
				defer tier.Connect(t.Context(), []peer.AddrInfo{p.info()})()
				if err := tier.Hold(t.Context(), d.Root, impatient, nil); err != nil {
					t.Fatalf("holding with a peer that has it: %v", err)
				}
			} else {
				store(t, tier, d.Blocks...)
			}
			if got := wrong(t, tier, d.Root); len(got) > 0 {
				t.Errorf("wrong are still %s", got)
			}
			if data, err := tier.Block(t.Context(), bad.Cid()); err != nil || !bytes.Equal(data, bad.RawData()) {
				t.Errorf("the block has %d bytes now, %v; want %d", len(data), err, len(bad.RawData()))
			}
		})
	}
}

// findBeside looks for a root whose bytes are wrong together with one that is here.
func findBeside(t *testing.T, tier *hot.Embedded, bad, here cid.Cid) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var found []cid.Cid
	err := tier.Find(ctx, []cid.Cid{bad, here}, func(c cid.Cid) {
		found = append(found, c)
		cancel()
	})
	if !errors.Is(err, context.Canceled) || !slices.Equal(found, []cid.Cid{here}) {
		t.Errorf("found %s, %v; want %s alone until the search ends", found, err, here)
	}
}
