package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"

	"github.com/ipfs/boxo/blockservice"
	bsfetcher "github.com/ipfs/boxo/fetcher/impl/blockservice"
	"github.com/ipfs/boxo/gateway"
	"github.com/ipfs/boxo/path"
	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2"
	"github.com/ipld/go-ipld-prime/datamodel"
	"github.com/ipld/go-ipld-prime/linking"
	cidlink "github.com/ipld/go-ipld-prime/linking/cid"
	"github.com/ipld/go-ipld-prime/traversal"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/pins"
)

// carBackend is boxo's backend with a walk of its own for CARs of whole DAGs. boxo's keeps every node above the one it is
// at, decoded, which for a few hundred megabytes of blocks with many links is tens of gigabytes; and it counts each link
// of dag-pb as three when it looks how deep it is.
type carBackend struct {
	*gateway.BlocksBackend
	blocks blockservice.BlockService
}

// GetCAR implements gateway.IPFSBackend.
func (b carBackend) GetCAR(ctx context.Context, p path.ImmutablePath, params gateway.CarParams) (gateway.ContentPathMetadata, io.ReadCloser, error) {
	if params.Scope != gateway.DagScopeAll {
		return b.BlocksBackend.GetCAR(ctx, p, params)
	}
	params.Scope = gateway.DagScopeBlock
	md, head, err := b.BlocksBackend.GetCAR(ctx, p, params)
	if err != nil {
		return md, head, err
	}
	out, w := io.Pipe()
	go func() {
		defer head.Close()
		_ = w.CloseWithError(pins.Safely(func() error { // decoders read here what strangers made
			return b.whole(ctx, w, head, md.LastSegment.RootCid(), params.Duplicates.Bool())
		}))
	}()
	return md, out, nil
}

// whole sends a CAR that ends with the block top, and what is below it.
func (b carBackend) whole(ctx context.Context, w io.Writer, head io.Reader, top cid.Cid, dups bool) error {
	section, err := car.NewBlockReader(io.TeeReader(head, w), car.WithTrustedCAR(true))
	if err != nil {
		return err
	}
	for err == nil {
		_, err = section.Next()
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	if len(section.Roots) != 1 || !section.Roots[0].Equals(top) {
		return nil // the path leads nowhere, and its blocks prove it
	}
	walk := carWalk{blocks: b.blocks, out: w, links: cidlink.DefaultLinkSystem()}
	if !dups {
		walk.seen = &seenCIDs{a: maphash.MakeSeed(), b: maphash.MakeSeed(), set: make(map[[2]uint64]struct{})}
	}
	return walk.run(ctx, top)
}

// maxCARLinks is how many links wait for their turn, some 100 bytes each; more are read again when it comes.
const maxCARLinks = 1 << 17

// A carWalk sends the blocks below a node depth first, in the order of their links.
type carWalk struct {
	blocks  blockservice.BlockGetter
	out     io.Writer
	links   linking.LinkSystem // knows codecs
	seen    *seenCIDs          // nil: blocks are sent as often as they are linked to
	path    []*carStep         // from the top down
	waiting int                // links in path
}

// A carStep is a node on the way down.
type carStep struct {
	node  cid.Cid
	links []cid.Cid // nil when they were dropped
	count int       // of links
	next  int       // link to follow
}

func (w *carWalk) run(ctx context.Context, top cid.Cid) error {
	w.seen.add(top)
	if err := w.enter(ctx, top, nil); err != nil {
		return err
	}
	for len(w.path) > 0 {
		at := w.path[len(w.path)-1]
		if at.links == nil {
			if err := w.reload(ctx, at); err != nil {
				return err
			}
		}
		c := at.links[at.next]
		if at.next++; at.next == at.count { // before its last child, so that a long chain takes no room
			w.path[len(w.path)-1] = nil // else its links stay
			w.path = w.path[:len(w.path)-1]
			w.waiting -= at.count
		}
		if !w.seen.add(c) {
			continue
		}
		if err := w.visit(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// visit sends a block and notes what it links to. What a CID carries itself is not sent.
func (w *carWalk) visit(ctx context.Context, c cid.Cid) error {
	block, err := w.blocks.GetBlock(ctx, c)
	if err != nil {
		return err
	}
	data := block.RawData()
	if c.Prefix().MhType != multihash.IDENTITY {
		if err := writeSection(w.out, c, data); err != nil {
			return err
		}
	}
	return w.enter(ctx, c, data)
}

// enter notes what a block links to; its data is read when it is nil.
func (w *carWalk) enter(ctx context.Context, c cid.Cid, data []byte) error {
	s := &carStep{node: c}
	if c.Type() == cid.Raw {
		return nil
	}
	if err := w.load(ctx, s, data); err != nil || s.count == 0 {
		return err
	}
	w.path = append(w.path, s)
	w.waiting += s.count
	for _, above := range w.path[:len(w.path)-1] { // the further up, the later they are needed
		if w.waiting <= maxCARLinks {
			break
		}
		w.waiting -= len(above.links)
		above.links = nil
	}
	return nil
}

// reload reads the links of a step again.
func (w *carWalk) reload(ctx context.Context, s *carStep) error {
	before := s.count
	if err := w.load(ctx, s, nil); err != nil {
		return err
	}
	if s.count != before {
		return fmt.Errorf("block %s has changed", s.node)
	}
	w.waiting += s.count
	return nil
}

// load reads the links of a step.
func (w *carWalk) load(ctx context.Context, s *carStep, data []byte) error {
	if data == nil {
		block, err := w.blocks.GetBlock(ctx, s.node)
		if err != nil {
			return err
		}
		data = block.RawData()
	}
	link := cidlink.Link{Cid: s.node}
	decode, err := w.links.DecoderChooser(link)
	if err != nil {
		return err
	}
	kind, err := bsfetcher.DefaultPrototypeChooser(link, linking.LinkContext{Ctx: ctx})
	if err != nil {
		return err
	}
	node := kind.NewBuilder()
	if err := decode(node, bytes.NewReader(data)); err != nil {
		return fmt.Errorf("decoding block %s: %w", s.node, err)
	}
	if s.links, err = linksOf(node.Build()); err != nil {
		return fmt.Errorf("decoding block %s: %w", s.node, err)
	}
	s.count = len(s.links)
	return nil
}

func linksOf(node datamodel.Node) ([]cid.Cid, error) {
	found, err := traversal.SelectLinks(node)
	if err != nil {
		return nil, err
	}
	out := make([]cid.Cid, len(found))
	for i, l := range found {
		link, ok := l.(cidlink.Link)
		if !ok || !link.Defined() {
			return nil, errors.New("a link names no block")
		}
		out[i] = link.Cid
	}
	return out, nil
}

// writeSection writes one block of a CAR.
func writeSection(w io.Writer, c cid.Cid, data []byte) error {
	head := binary.AppendUvarint(make([]byte, 0, binary.MaxVarintLen64+c.ByteLen()), uint64(c.ByteLen()+len(data)))
	if _, err := w.Write(append(head, c.Bytes()...)); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// seenCIDs is a set of CIDs, whatever their version. It keeps two hashes of each, which nobody can choose without the seeds.
type seenCIDs struct {
	a, b maphash.Seed
	key  []byte
	set  map[[2]uint64]struct{}
}

// add reports whether c is new. Nil has none.
func (s *seenCIDs) add(c cid.Cid) bool {
	if s == nil {
		return true
	}
	s.key = append(binary.AppendUvarint(s.key[:0], c.Type()), c.Hash()...)
	before := len(s.set)
	s.set[[2]uint64{maphash.Bytes(s.a, s.key), maphash.Bytes(s.b, s.key)}] = struct{}{}
	return len(s.set) > before
}
