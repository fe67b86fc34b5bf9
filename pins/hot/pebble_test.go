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
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
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
			if _, err := tier.Collect(t.Context(), nil); err == nil {
				t.Error("a collection that could not read everything said nothing")
			}
			if got := slices.Concat(wrong(t, tier, other.Root), wrong(t, tier, d.Root)); !slices.Equal(got, []cid.Cid{bad.Cid()}) {
				t.Errorf("after the collection wrong are %s, want %s", got, bad.Cid())
			}

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

// What is only wanted, because it is being fetched, is kept below a block that cannot be read.
func TestCollectionKeepsWhatLiesBelowARottenBlock(t *testing.T) {
	dir := t.TempDir()
	d := noisyTree("fetched by half")
	holdOnDisk(t, dir, func(tier *hot.Embedded) {
		if err := tier.Release(t.Context(), d.Root); err != nil {
			t.Fatal(err)
		}
	}, d)
	rot(t, dir, d.Blocks[1].RawData())
	tier := openEmbedded(t, hot.Config{Dir: dir})
	if removed, err := tier.Collect(t.Context(), []cid.Cid{d.Root}); err == nil || removed != 0 {
		t.Errorf("a collection removed %d blocks, %v", removed, err)
	}
	store(t, tier, d.Blocks[1])
	if got := wrong(t, tier, d.Root); len(got) > 0 {
		t.Errorf("wrong are %s", got)
	}
}

// Kubo takes a pinset that cannot be read to its end for a smaller one.
func TestCollectionRemovesNothingWhenThePinsCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	d := noisyTree("held")
	entry := noise("index entry")
	holdOnDisk(t, dir, func(tier *hot.Embedded) {
		index := tier.Node().Repo.Datastore()
		found, err := index.Query(t.Context(), query.Query{Prefix: "/pins/index/cidRindex", KeysOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		entries, err := found.Rest()
		if err != nil || len(entries) != 1 {
			t.Fatalf("the index of pins has %d entries, %v", len(entries), err)
		}
		// No value is read. The first one fills the block of a table that the node reads when it starts.
		for key, value := range map[string][]byte{"/pins/index/cidA": noise("before"), entries[0].Key: entry} {
			if err := index.Put(t.Context(), datastore.RawKey(key), value); err != nil {
				t.Fatal(err)
			}
		}
	}, d)
	rot(t, dir, entry)
	tier := openEmbedded(t, hot.Config{Dir: dir})
	if removed, err := tier.Collect(t.Context(), nil); err == nil || removed != 0 {
		t.Errorf("a collection without the pins removed %d blocks, %v", removed, err)
	}
	if got := wrong(t, tier, d.Root); len(got) > 0 {
		t.Errorf("the collection removed %s", got)
	}
	if held, err := tier.Held(t.Context(), d.Root); err == nil {
		t.Errorf("the root counts as held: %t, though the pins cannot be read", held)
	}
}

func TestListingOfAStoreIsWholeOrFails(t *testing.T) {
	dir := t.TempDir()
	s, err := hot.OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	keys := []string{"/a", "/a/1", "/a/2", "/a/3", "/ab/4", "/b/5"}
	for _, k := range keys {
		if err := s.Put(t.Context(), datastore.NewKey(k), noise(k)); err != nil {
			t.Fatal(err)
		}
	}
	list := func(q query.Query) (got string, err error) {
		found, err := s.Query(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := found.Rest()
		for _, e := range entries {
			if (e.Value == nil) != q.KeysOnly || e.Value != nil && !bytes.Equal(e.Value, noise(e.Key)) {
				t.Errorf("%+v: %s has the wrong %d bytes", q, e.Key, len(e.Value))
			}
			if q.ReturnsSizes && e.Size != 20<<10 {
				t.Errorf("%+v: %s has the size %d", q, e.Key, e.Size)
			}
			got += e.Key + " "
		}
		return got, err
	}
	for _, c := range []struct {
		q    query.Query
		want string
	}{
		{query.Query{}, "/a /a/1 /a/2 /a/3 /ab/4 /b/5 "},
		{query.Query{Prefix: "/"}, "/a /a/1 /a/2 /a/3 /ab/4 /b/5 "},
		{query.Query{Prefix: "a"}, "/a/1 /a/2 /a/3 "},
		{query.Query{Prefix: "/a/", KeysOnly: true}, "/a/1 /a/2 /a/3 "},
		{query.Query{Prefix: "/a", KeysOnly: true, ReturnsSizes: true}, "/a/1 /a/2 /a/3 "},
		{query.Query{Prefix: "/none"}, ""},
		{query.Query{Prefix: "/a", Offset: 1, Limit: 1}, "/a/2 "},
		{query.Query{Orders: []query.Order{query.OrderByKey{}}, Limit: 2}, "/a /a/1 "},
		{query.Query{Prefix: "/a", Orders: []query.Order{query.OrderByKeyDescending{}}}, "/a/3 /a/2 /a/1 "},
		{query.Query{Filters: []query.Filter{query.FilterKeyCompare{Op: query.GreaterThan, Key: "/ab"}}}, "/ab/4 /b/5 "},
	} {
		if got, err := list(c.q); err != nil || got != c.want {
			t.Errorf("%+v: %q, %v; want %q", c.q, got, err, c.want)
		}
	}

	open, err := s.Query(t.Context(), query.Query{})
	if err != nil {
		t.Fatal(err)
	}
	open.NextSync()
	if err := s.Close(); err != nil {
		t.Errorf("closing a store that is being listed: %v", err)
	}
	if r, ok := open.NextSync(); !ok || r.Error == nil {
		t.Errorf("a listing went on to %q after its store was closed", r.Key)
	}
	if _, err := s.Query(t.Context(), query.Query{}); err == nil {
		t.Error("a closed store was listed")
	}

	rot(t, dir, noise("/a/2"))
	if s, err = hot.OpenStore(dir); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for _, q := range []query.Query{{}, {KeysOnly: true}, {Prefix: "/a", KeysOnly: true}} {
		if got, err := list(q); err == nil {
			t.Errorf("%+v: %q of a damaged store, and no error", q, got)
		}
	}
	if got, err := list(query.Query{Prefix: "/b"}); err != nil || got != "/b/5 " {
		t.Errorf("what is not damaged: %q, %v", got, err)
	}
}
