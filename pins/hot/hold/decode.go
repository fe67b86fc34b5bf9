package hold

import (
	"context"
	"fmt"

	"github.com/ipfs/boxo/ipld/merkledag"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	legacy "github.com/ipfs/go-ipld-legacy"
	dagpb "github.com/ipld/go-codec-dagpb"
	_ "github.com/ipld/go-ipld-prime/codec/cbor"    // Kubo registers these four in its commands only, which an
	_ "github.com/ipld/go-ipld-prime/codec/dagcbor" // embedded node does not import. Without them the collector
	_ "github.com/ipld/go-ipld-prime/codec/dagjson" // could not read what is held here and would remove nothing,
	_ "github.com/ipld/go-ipld-prime/codec/json"    // ever.
	_ "github.com/ipld/go-ipld-prime/codec/raw"
	basicnode "github.com/ipld/go-ipld-prime/node/basic"

	"github.com/frostpin/frostpin/spec"
)

// A Decoder finds the links of blocks, exactly as Kubo's collector does.
type Decoder struct{ legacy *legacy.Decoder }

// NewDecoder returns a Decoder for every codec that Admit lets in.
func NewDecoder() Decoder {
	d := legacy.NewDecoder()
	d.RegisterCodec(cid.DagProtobuf, dagpb.Type.PBNode, merkledag.ProtoNodeConverter)
	d.RegisterCodec(cid.Raw, basicnode.Prototype.Bytes, merkledag.RawNodeConverter)
	return Decoder{legacy: d}
}

// Links returns the canonical CIDs that the block c with this data links to, in order. The data is not checked
// against c.
func (d Decoder) Links(c cid.Cid, data []byte) ([]cid.Cid, error) {
	if c.Type() == cid.Raw {
		return nil, nil
	}
	block, err := blocks.NewBlockWithCid(data, c)
	if err != nil {
		return nil, fmt.Errorf("reading block %s: %w", c, err)
	}
	node, err := d.legacy.DecodeNode(context.Background(), block)
	if err != nil {
		return nil, fmt.Errorf("decoding block %s: %w", c, err)
	}
	links := node.Links()
	out := make([]cid.Cid, len(links))
	for i, link := range links {
		if !link.Cid.Defined() {
			return nil, fmt.Errorf("decoding block %s: link %d names no block", c, i)
		}
		out[i] = spec.Canonical(link.Cid)
	}
	return out, nil
}
