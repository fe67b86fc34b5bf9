package piece

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
	dagpb "github.com/ipld/go-codec-dagpb"
	"github.com/ipld/go-ipld-prime/codec"
	"github.com/ipld/go-ipld-prime/codec/cbor"
	"github.com/ipld/go-ipld-prime/codec/dagcbor"
	"github.com/ipld/go-ipld-prime/codec/dagjson"
	"github.com/ipld/go-ipld-prime/codec/json"
	"github.com/ipld/go-ipld-prime/datamodel"
	cidlink "github.com/ipld/go-ipld-prime/linking/cid"
	basicnode "github.com/ipld/go-ipld-prime/node/basic"
	"github.com/ipld/go-ipld-prime/traversal"
	"github.com/multiformats/go-multicodec"
	"github.com/multiformats/go-multihash"
)

// leaf reports whether a block with this CID has no links, whatever is in it.
func leaf(c cid.Cid) bool { return c.Type() == cid.Raw }

// identity returns the data that c carries itself, if it is an identity CID.
func identity(c cid.Cid) (data []byte, ok bool, err error) {
	if c.Prefix().MhType != multihash.IDENTITY {
		return nil, false, nil
	}
	digest, err := multihash.Decode(c.Hash())
	if err != nil {
		return nil, true, fmt.Errorf("reading the identity CID %s: %w", c, err)
	}
	return digest.Digest, true, nil
}

// links returns the CIDs that the block c with this data links to, in order and as they are spelled there.
func links(c cid.Cid, data []byte) ([]cid.Cid, error) {
	out, err := decodeLinks(multicodec.Code(c.Type()), data)
	if err != nil {
		return nil, fmt.Errorf("finding the links of block %s: %w", c, err)
	}
	return out, nil
}

func decodeLinks(code multicodec.Code, data []byte) ([]cid.Cid, error) {
	var decode codec.Decoder
	switch code { //nolint:exhaustive // of some hundred codecs these are the ones that hot tiers hold
	case multicodec.Raw:
		return nil, nil
	case multicodec.DagPb:
		return pbLinks(data)
	case multicodec.DagCbor:
		decode = dagcbor.Decode
	case multicodec.DagJson:
		decode = dagjson.Decode
	case multicodec.Cbor:
		decode = cbor.Decode
	case multicodec.Json:
		decode = json.Decode
	default:
		return nil, fmt.Errorf("blocks of codec %s cannot be read", code)
	}
	node := basicnode.Prototype.Any.NewBuilder()
	if err := decode(node, bytes.NewReader(data)); err != nil {
		return nil, err
	}
	found, err := traversal.SelectLinks(node.Build())
	if err != nil {
		return nil, err
	}
	out := make([]cid.Cid, len(found))
	for i, link := range found {
		if out[i], err = linkCID(link); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func pbLinks(data []byte) ([]cid.Cid, error) {
	node := dagpb.Type.PBNode.NewBuilder()
	if err := dagpb.DecodeBytes(node, data); err != nil {
		return nil, err
	}
	pb, ok := node.Build().(dagpb.PBNode)
	if !ok {
		return nil, errors.New("the decoder returned no dag-pb node")
	}
	out := make([]cid.Cid, 0, pb.Links.Length())
	for it := pb.Links.Iterator(); !it.Done(); {
		_, link := it.Next()
		c, err := linkCID(link.Hash.Link())
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func linkCID(link datamodel.Link) (cid.Cid, error) {
	l, ok := link.(cidlink.Link)
	if !ok || !l.Defined() {
		return cid.Undef, errors.New("a link names no block")
	}
	return l.Cid, nil
}
