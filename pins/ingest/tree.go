package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	gopath "path"
	"strings"
	"unicode/utf8"

	"github.com/ipfs/boxo/blockservice"
	chunker "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	uio "github.com/ipfs/boxo/ipld/unixfs/io"
	"github.com/ipfs/boxo/mfs"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
)

const (
	chunk       = 256 << 10
	maxPath     = 4096
	maxPart     = 255
	maxDepth    = 128
	maxTarget   = 4096
	flushEvery  = 16 << 10 // entries, after which those that are done leave the memory
	freeEntries = 1 << 20  // entries, where no limit says otherwise
)

// A tree is a directory that files are put into.
type tree struct {
	ctx     context.Context
	shelf   *shelf
	dag     ipld.DAGService
	builder cid.Builder
	root    *mfs.Root
	entries int64
	whole   bool // the root itself was named, so it is what is meant, whatever is in it
}

func newTree(ctx context.Context, s *shelf) (*tree, error) {
	t := &tree{ctx: ctx, shelf: s, builder: merkledag.V1CidPrefix()}
	t.dag = merkledag.NewDAGService(blockservice.New(s, nil, blockservice.WriteThrough(true)))
	root, err := mfs.NewEmptyRoot(ctx, t.dag, nil, nil, t.options()...)
	if err != nil {
		return nil, fmt.Errorf("beginning a directory: %w", err)
	}
	t.root = root
	return t, nil
}

func (t *tree) options() []mfs.Option {
	return []mfs.Option{mfs.WithCidBuilder(t.builder), mfs.WithMaxHAMTFanout(uio.DefaultShardWidth)}
}

func (t *tree) close() {
	if t.root != nil {
		_ = t.root.Close() // after an error there is nothing to save
	}
}

// file makes a file of what r holds.
func (t *tree) file(r io.Reader) (ipld.Node, error) {
	buffered := ipld.NewBufferedDAG(t.ctx, t.dag)
	params := helpers.DagBuilderParams{
		Dagserv: buffered, RawLeaves: true, Maxlinks: helpers.DefaultLinksPerBlock, CidBuilder: t.builder,
	}
	builder, err := params.New(chunker.NewSizeSplitter(r, chunk))
	if err != nil {
		return nil, fmt.Errorf("beginning a file: %w", err)
	}
	node, err := balanced.Layout(builder)
	if err != nil {
		return nil, err
	}
	return node, buffered.Commit()
}

// readFile makes a DAG of one file without a name.
func (t *tree) readFile(body *bounded) (cid.Cid, error) {
	node, err := t.file(body)
	if err != nil {
		return cid.Undef, err
	}
	return node.Cid(), nil
}

// addFile puts a file into the tree.
func (t *tree) addFile(path string, r io.Reader) error {
	if err := t.enter(path); err != nil {
		return err
	}
	node, err := t.file(r)
	if err != nil {
		return err
	}
	return t.put(path, node)
}

// addLink puts a symbolic link into the tree. Where it leads is the reader's to judge: nothing is resolved here.
func (t *tree) addLink(path, target string) error {
	if err := t.enter(path); err != nil {
		return err
	}
	if target == "" || len(target) > maxTarget {
		return invalid(fmt.Sprintf("has a symbolic link %s that leads nowhere, or by a path of more than %d bytes", quote(path), maxTarget))
	}
	data, err := unixfs.SymlinkData(target)
	if err != nil {
		return fmt.Errorf("making a symbolic link: %w", err)
	}
	node := merkledag.NodeWithData(data)
	if err := node.SetCidBuilder(t.builder); err != nil {
		return fmt.Errorf("making a symbolic link: %w", err)
	}
	if err := t.dag.Add(t.ctx, node); err != nil {
		return err
	}
	return t.put(path, node)
}

// addDir makes a directory and those above it. One that is there already is as good.
func (t *tree) addDir(path string) error {
	if path == "" {
		t.whole = true
		return nil
	}
	if err := t.enter(path); err != nil {
		return err
	}
	err := mfs.Mkdir(t.root, path, mfs.MkdirOpts{Mkparents: true}, t.options()...)
	return t.explain(path, err)
}

func (t *tree) put(path string, node ipld.Node) error {
	if dir := gopath.Dir(path); dir != "." {
		if err := mfs.Mkdir(t.root, dir, mfs.MkdirOpts{Mkparents: true}, t.options()...); err != nil {
			return t.explain(path, err)
		}
	}
	return t.explain(path, mfs.PutNode(t.root, path, node))
}

// explain tells the user about names that stand in each other's way.
func (t *tree) explain(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, mfs.ErrDirExists), errors.Is(err, os.ErrExist), errors.Is(err, mfs.ErrNotYetImplemented):
		return invalid("has the path " + quote(path) + " twice")
	}
	if dir := gopath.Dir(path); dir != "." {
		if node, lookup := mfs.Lookup(t.root, dir); lookup != nil || !mfs.IsDir(node) {
			return invalid("has the path " + quote(path) + " below one that is no directory")
		}
	}
	return fmt.Errorf("storing a directory: %w", err)
}

// enter counts an entry and keeps the memory small.
func (t *tree) enter(path string) error {
	if path == "" {
		return invalid("has an entry without a name")
	}
	most := t.shelf.lim.Blocks
	if most == 0 {
		most = freeEntries
	}
	if t.entries++; t.entries > most {
		return &LargeError{fmt.Sprintf("the upload has more entries than the limit of %d", most)}
	}
	if t.entries%flushEvery == 0 {
		if err := t.root.FlushMemFree(t.ctx); err != nil {
			return fmt.Errorf("storing directories: %w", err)
		}
	}
	return nil
}

// finish returns the root: the only entry at the top, or else the directory of them.
func (t *tree) finish() (cid.Cid, error) {
	if t.entries == 0 && !t.whole {
		return cid.Undef, invalid("has no file in it")
	}
	top := t.root.GetDirectory()
	if err := top.Flush(); err != nil {
		return cid.Undef, fmt.Errorf("storing a directory: %w", err)
	}
	names, err := top.ListNames(t.ctx)
	if err != nil {
		return cid.Undef, fmt.Errorf("reading a directory: %w", err)
	}
	var root mfs.FSNode = top
	if len(names) == 1 && !t.whole {
		if root, err = top.Child(names[0]); err != nil {
			return cid.Undef, fmt.Errorf("reading a directory: %w", err)
		}
	}
	node, err := root.GetNode()
	if err != nil {
		return cid.Undef, fmt.Errorf("reading a directory: %w", err)
	}
	return node.Cid(), t.dag.Add(t.ctx, node)
}

// cleanPath turns the name of an entry into a path below the root, "" for the root itself. It refuses what would lead
// out of it, and what no file system could take.
func cleanPath(name string) (string, error) {
	switch {
	case len(name) > maxPath:
		return "", invalid(fmt.Sprintf("has a path of more than %d bytes", maxPath))
	case !utf8.ValidString(name):
		return "", invalid("has the path " + quote(strings.ToValidUTF8(name, "?")) + ", which is not UTF-8")
	case strings.HasPrefix(name, "/"), strings.ContainsRune(name, 0):
		return "", invalid("has the path " + quote(name) + ", which is not below a directory of its own")
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return "", invalid("has the path " + quote(name) + ", which leads out of its directory")
		case len(part) > maxPart:
			return "", invalid(fmt.Sprintf("has a name of more than %d bytes", maxPart))
		}
		parts = append(parts, part)
	}
	if len(parts) > maxDepth {
		return "", invalid(fmt.Sprintf("has a path of more than %d directories", maxDepth))
	}
	return strings.Join(parts, "/"), nil
}

// quote shows a path that a stranger made up.
func quote(path string) string {
	const most = 80
	if len(path) > most {
		path = strings.ToValidUTF8(path[:most], "") + "..."
	}
	return fmt.Sprintf("%q", path)
}
