package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/exchange/offline"
	"github.com/ipfs/boxo/files"
	"github.com/ipfs/boxo/ipld/merkledag"
	unixfile "github.com/ipfs/boxo/ipld/unixfs/file"
	uio "github.com/ipfs/boxo/ipld/unixfs/io"
	"github.com/ipfs/boxo/path"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/ipld/go-car/v2"
	carstore "github.com/ipld/go-car/v2/blockstore"
	"github.com/ipld/go-car/v2/storage"
	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/pins/hot/hold"
	"github.com/frostpin/frostpin/spec"
)

func (p *program) getCommand() *cobra.Command {
	var server serverFlags
	var g getter
	c := &cobra.Command{
		Use:   "get CID[/PATH]",
		Short: "Read a file or a directory back",
		Long: `Read a file or a directory back through the server's gateway, and write it to --output. Nothing is believed: every
block is checked against its CID here, and what is written appears under its name only once it is whole and right. There
must be room for it twice on the way.

Symbolic links are made as they were stored and never followed. With --car the blocks are kept as a CAR, which is also
the way to read what is neither file nor directory. It prints the name of what it has written.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if g.root, g.path, err = parseContent(args[0]); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if g.output == "" {
				g.output = g.defaultName()
			}
			g.output = filepath.Clean(g.output)
			if err := g.free(); err != nil {
				return err
			}
			if g.api, err = p.connect(c, server); err != nil {
				return err
			}
			g.meter = p.meter("received", 0)
			err = g.run(c.Context())
			g.meter.stop()
			if err != nil {
				return fmt.Errorf("getting %s: %w", args[0], err)
			}
			_, err = fmt.Fprintln(p.stdout, g.output)
			return err
		},
	}
	server.add(c)
	flags := c.Flags()
	flags.StringVarP(&g.output, "output", "o", "", "What to write (default: the last part of CID/PATH, here)")
	flags.BoolVar(&g.car, "car", false, "Write the blocks as a CAR (version 1)")
	flags.BoolVar(&g.force, "force", false, "Replace what is there, even a whole directory")
	return c
}

// parseContent reads CID[/PATH], also with /ipfs/ or ipfs:// before it.
func parseContent(text string) (root cid.Cid, below []string, err error) {
	text, isURL := strings.CutPrefix(text, "ipfs://")
	if !isURL {
		text = strings.TrimPrefix(text, "/ipfs/")
	}
	parsed, err := path.NewPath("/ipfs/" + text)
	if err != nil {
		return cid.Undef, nil, errors.New("it is no CID or a path below one")
	}
	segments := parsed.Segments()
	if root, err = cid.Decode(segments[1]); err != nil {
		return cid.Undef, nil, errors.New("it is no CID or a path below one")
	}
	return root, segments[2:], nil
}

// A getter reads one path back.
type getter struct {
	api    *api
	meter  *meter
	root   cid.Cid
	path   []string
	output string
	car    bool
	force  bool
}

func (g *getter) defaultName() string {
	name := g.root.String()
	if len(g.path) > 0 {
		name = filepath.Base(g.path[len(g.path)-1])
	}
	if g.car {
		name += carSuffix
	}
	return name
}

// free tells whether the output may be written.
func (g *getter) free() error {
	_, err := os.Lstat(g.output)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && g.force:
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("%s is there already: give another --output, or --force", g.output)
}

// run writes everything into a directory beside the output, and moves it when it is whole.
func (g *getter) run(ctx context.Context) error {
	work, err := os.MkdirTemp(filepath.Dir(g.output), ".frostpin-get-*")
	if err != nil {
		return err
	}
	blocks, made := filepath.Join(work, "blocks"), filepath.Join(work, "made")
	err = g.api.retry(ctx, func(ctx context.Context) error { return g.attempt(ctx, blocks, made) }, nil)
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = g.move(made, filepath.Join(work, "replaced"))
	}
	// Not all of it: what could not be put back after a failure is still there.
	return errors.Join(err, os.RemoveAll(blocks), os.RemoveAll(made), os.Remove(work))
}

// move gives what was made its name. What had that name goes to replaced, and is removed.
func (g *getter) move(made, replaced string) error {
	if err := g.free(); err != nil { // it may have come meanwhile
		return err
	}
	if !g.force {
		return os.Rename(made, g.output)
	}
	err := os.Rename(g.output, replaced)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	there := err == nil
	if err = os.Rename(made, g.output); err != nil && there {
		return errors.Join(err, os.Rename(replaced, g.output))
	}
	return errors.Join(err, os.RemoveAll(replaced))
}

// attempt fetches blocks to one file and makes the output of them.
func (g *getter) attempt(ctx context.Context, blocks, made string) error {
	if err := g.fetch(ctx, blocks); err != nil {
		return err
	}
	store, err := carstore.OpenReadOnly(blocks)
	if err != nil {
		return fmt.Errorf("opening what was fetched: %w", err)
	}
	defer func() { _ = store.Close() }() // it was only read
	all := blockstore.NewIdStore(store)
	dag := merkledag.NewDAGService(blockservice.New(all, offline.Exchange(all)))
	if g.car && len(g.path) == 0 { // whatever it is
		return missing(writeCAR(ctx, made, all, spec.Canonical(g.root)))
	}
	node, err := find(ctx, dag, spec.Canonical(g.root), g.path)
	if err != nil {
		return missing(err)
	}
	if g.car {
		return missing(writeCAR(ctx, made, all, node.Cid()))
	}
	tree, err := unixfile.NewUnixfsFile(ctx, dag, node)
	if err != nil {
		return fmt.Errorf("it is neither a file nor a directory (%w); --car keeps its blocks", err)
	}
	if err := os.RemoveAll(made); err != nil { // of an attempt before
		return err
	}
	return missing(files.WriteTo(tree, made))
}

// fetch writes the blocks of what is asked for, and of the way there.
func (g *getter) fetch(ctx context.Context, name string) (err error) {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	buffered := bufio.NewWriterSize(file, 256<<10)
	root := spec.Canonical(g.root)
	err = g.api.readCAR(ctx, root, g.path, func(body io.Reader) error { //nolint:contextcheck // decoding is not cancelled
		_, err := copyBlocks(buffered, g.meter.reads(body), root)
		return err
	})
	if errors.Is(err, errNoBlocks) {
		_, err = storage.NewWritable(buffered, []cid.Cid{root}, car.WriteAsCarV1(true))
	}
	return errors.Join(err, buffered.Flush())
}

// find follows the names of a path through directories.
func find(ctx context.Context, dag ipld.DAGService, root cid.Cid, names []string) (ipld.Node, error) {
	node, err := dag.Get(ctx, root)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		dir, err := uio.NewDirectoryFromNode(dag, node)
		if err != nil {
			return nil, fmt.Errorf("%s is in nothing that is a directory: %w", plain(name), err)
		}
		if node, err = dir.Find(ctx, name); err != nil {
			return nil, fmt.Errorf("looking for %s: %w", plain(name), err)
		}
	}
	return node, nil
}

// missing marks the lack of a block: an answer that ends between two blocks looks like a whole one.
func missing(err error) error {
	if ipld.IsNotFound(err) {
		return errors.Join(errCut, err)
	}
	return err
}

// writeCAR writes the DAG below root, which must be whole.
func writeCAR(ctx context.Context, name string, store blockstore.Blockstore, root cid.Cid) error {
	_, err := writeFile(name, func(w io.Writer) error {
		buffered := bufio.NewWriterSize(w, 256<<10)
		out, err := storage.NewWritable(buffered, []cid.Cid{root}, car.WriteAsCarV1(true))
		if err != nil {
			return err
		}
		decoder, met := hold.NewDecoder(), cid.NewSet()
		err = merkledag.Walk(ctx, func(ctx context.Context, c cid.Cid) ([]*ipld.Link, error) {
			block, err := store.Get(ctx, c)
			if err = errors.Join(err, ctx.Err()); err != nil {
				return nil, err
			}
			if err := out.Put(ctx, c.KeyString(), block.RawData()); err != nil {
				return nil, err
			}
			cids, err := decoder.Links(c, block.RawData()) //nolint:contextcheck // decoding is not cancelled
			links := make([]*ipld.Link, len(cids))
			for i, link := range cids {
				links[i] = &ipld.Link{Cid: link}
			}
			return links, err
		}, root, met.Visit)
		return errors.Join(err, buffered.Flush())
	})
	return err
}
