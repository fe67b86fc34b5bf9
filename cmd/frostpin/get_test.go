package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	format "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"
)

// An entry is one line of a directory that no honest program has made.
type entry struct {
	name string
	cid  cid.Cid
}

// put stores a node and returns its CID.
func (m *model) put(node *merkledag.ProtoNode) cid.Cid {
	_ = node.SetCidBuilder(cid.V1Builder{Codec: cid.DagProtobuf, MhType: multihash.SHA2_256})
	b, _ := blocks.NewBlockWithCid(node.RawData(), node.Cid())
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blocks[b.Cid()] = b
	return b.Cid()
}

func (m *model) file(text string) cid.Cid {
	b := raw([]byte(text))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blocks[b.Cid()] = b
	return b.Cid()
}

func (m *model) link(target string) cid.Cid {
	data, err := unixfs.SymlinkData(target)
	if err != nil {
		panic(err)
	}
	return m.put(merkledag.NodeWithData(data))
}

func (m *model) directory(entries ...entry) cid.Cid {
	node := unixfs.EmptyDirNode()
	for _, e := range entries {
		_ = node.AddRawLink(e.name, &format.Link{Name: e.name, Cid: e.cid})
	}
	return m.put(node)
}

func getterOf(t *testing.T, m *model, root cid.Cid, output string) *getter {
	t.Helper()
	p := newProgram(nil, nil, nil)
	meter := p.meter("received", 0)
	t.Cleanup(meter.stop)
	return &getter{api: testAPI(t, m), meter: meter, root: root, output: output}
}

// left lists what is in a directory.
func left(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestGetLeavesNothingOfWhatIsNotWholeAndRight(t *testing.T) {
	for name, mangle := range map[string]func(victim cid.Cid, b blocks.Block) (blocks.Block, bool){
		"wrong bytes": func(victim cid.Cid, b blocks.Block) (blocks.Block, bool) {
			if b.Cid() == victim {
				b, _ = blocks.NewBlockWithCid([]byte("other"), victim)
			}
			return b, true
		},
		"another block": func(victim cid.Cid, b blocks.Block) (blocks.Block, bool) {
			if b.Cid() == victim {
				b = raw([]byte("other"))
			}
			return b, true
		},
		"a block is missing": func(victim cid.Cid, b blocks.Block) (blocks.Block, bool) { return b, b.Cid() != victim },
	} {
		t.Run(name, func(t *testing.T) {
			m := newModel(t)
			victim := m.file("three")
			root := m.directory(entry{"a", m.file("one")}, entry{"b", m.file("two")}, entry{"c", victim})
			for _, car := range []bool{false, true} {
				dir := t.TempDir()
				g := getterOf(t, m, root, filepath.Join(dir, "out"))
				g.car = car
				m.mangles(func(b blocks.Block) (blocks.Block, bool) { return mangle(victim, b) })
				if err := g.run(t.Context()); err == nil || len(left(t, dir)) != 0 {
					t.Errorf("as a CAR %t: %v, and %q is left", car, err, left(t, dir))
				}
				m.mangles(nil)
				if err := g.run(t.Context()); err != nil || len(left(t, dir)) != 1 {
					t.Errorf("as a CAR %t, once it is right: %v, and %q is left", car, err, left(t, dir))
				}
			}
		})
	}
}

func TestGetLeavesNothingWhenItIsEnded(t *testing.T) {
	m := newModel(t)
	root := m.directory(entry{"a", m.file("one")}, entry{"b", m.file("two")})
	for _, car := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		m.mangles(func(b blocks.Block) (blocks.Block, bool) { cancel(); return b, true })
		dir := t.TempDir()
		g := getterOf(t, m, root, filepath.Join(dir, "out"))
		g.car = car
		if err := g.run(ctx); !errors.Is(err, context.Canceled) || len(left(t, dir)) != 0 {
			t.Errorf("as a CAR %t: %v, and %q is left", car, err, left(t, dir))
		}
	}
}

func TestMeterSaysHowMuchHasMovedAndHowFast(t *testing.T) {
	begun := time.Unix(1000, 0)
	m := meter{verb: "sent", begun: begun, now: func() time.Time { return begun.Add(4 * time.Second) }}
	if _, err := io.Copy(io.Discard, m.reads(strings.NewReader(strings.Repeat("x", 8<<20)))); err != nil {
		t.Fatal(err)
	}
	if got, want := m.line(), "8.0 MiB sent, 2.0 MiB/s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	m.total = 80 << 20
	m.reads(nil) // another try
	if got, want := m.line(), "0 B of 80 MiB sent, 0 B/s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestGetTriesAgainWhenTheAnswerEndsBetweenTwoBlocks(t *testing.T) {
	m := newModel(t)
	last := m.file("two")
	root := m.directory(entry{"a", m.file("one")}, entry{"b", last})
	n := 0
	m.mangle = func(b blocks.Block) (blocks.Block, bool) {
		if b.Cid() == last {
			n++
		}
		return b, b.Cid() != last || n > 1
	}
	out := filepath.Join(t.TempDir(), "out")
	if err := getterOf(t, m, root, out).run(t.Context()); err != nil || n != 2 {
		t.Fatalf("%v after %d answers", err, n)
	}
	if text, err := os.ReadFile(filepath.Join(out, "b")); err != nil || string(text) != "two" {
		t.Errorf("%q, %v", text, err)
	}
}

// Whoever made the DAG chose its names; what is written stays below the output.
func TestGetDoesNotLeaveItsOutput(t *testing.T) {
	for name, craft := range map[string]func(m *model, outside string) cid.Cid{
		"up": func(m *model, _ string) cid.Cid {
			return m.directory(entry{"..", m.directory(entry{"x", m.file("evil")})})
		},
		"a path": func(m *model, _ string) cid.Cid {
			return m.directory(entry{"../../outside/x", m.file("evil")})
		},
		"an absolute path": func(m *model, outside string) cid.Cid { return m.directory(entry{outside + "/x", m.file("evil")}) },
		"no name":          func(m *model, _ string) cid.Cid { return m.directory(entry{"", m.file("evil")}) },
		"through a link": func(m *model, outside string) cid.Cid {
			return m.directory(entry{"a", m.link(outside)}, entry{"a", m.directory(entry{"x", m.file("evil")})})
		},
		"onto a link": func(m *model, outside string) cid.Cid {
			return m.directory(entry{"a", m.link(outside + "/x")}, entry{"a", m.file("evil")})
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newModel(t)
			home := t.TempDir()
			outside, inside := filepath.Join(home, "outside"), filepath.Join(home, "inside")
			for _, dir := range []string{outside, inside} {
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			err := getterOf(t, m, craft(m, outside), filepath.Join(inside, "out")).run(t.Context())
			if err == nil || len(left(t, outside)) != 0 || len(left(t, inside)) != 0 || len(left(t, home)) != 2 {
				t.Errorf("%v; outside has %q, inside %q, both %q", err, left(t, outside), left(t, inside), left(t, home))
			}
		})
	}
}

func TestGetReplacesOnlyWhenItIsTold(t *testing.T) {
	m := newModel(t)
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	target := filepath.Join(dir, "target")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("target", out); err != nil {
		t.Fatal(err)
	}
	g := getterOf(t, m, m.directory(entry{"a", m.file("one")}, entry{"away", m.link("/etc")}), out)
	if err := g.run(t.Context()); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("without --force: %v", err)
	}
	g.force = true
	for range 2 { // a link to a directory, which is not followed, and a directory
		if err := g.run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(out, "a")); err != nil || string(text) != "one" {
		t.Errorf("%q, %v", text, err)
	}
	if to, err := os.Readlink(filepath.Join(out, "away")); err != nil || to != "/etc" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if len(left(t, target)) != 0 || len(left(t, dir)) != 2 {
		t.Errorf("%q is in what the link led to, %q beside it", left(t, target), left(t, dir))
	}
}

func TestGetReadsContentByAnyOfItsNames(t *testing.T) {
	const root = "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am"
	for text, want := range map[string]string{
		root:                       "",
		root + "/a/b":              "a/b",
		"/ipfs/" + root + "/a/":    "a",
		"ipfs://" + root + "/a%20": "a%20",
		root + "/a/../b":           "b",
	} {
		c, below, err := parseContent(text)
		if err != nil || c.String() != root || strings.Join(below, "/") != want {
			t.Errorf("%s: %s %q %v", text, c, below, err)
		}
	}
	for _, text := range []string{"", "x", "/ipns/" + root, "https://" + root, "../" + root} {
		if c, below, err := parseContent(text); err == nil {
			t.Errorf("%q is %s %q", text, c, below)
		}
	}
}
