package sp

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"
	dagpb "github.com/ipld/go-codec-dagpb"
	"github.com/ipld/go-ipld-prime/codec"
	"github.com/ipld/go-ipld-prime/codec/dagcbor"
	"github.com/ipld/go-ipld-prime/codec/dagjson"
	cidlink "github.com/ipld/go-ipld-prime/linking/cid"
	"github.com/ipld/go-ipld-prime/node/basicnode"
	"github.com/ipld/go-ipld-prime/traversal"
	"github.com/multiformats/go-multicodec"
	"github.com/multiformats/go-multihash"
)

// maxBlock bounds what one section may make us read.
const maxBlock = 4 << 20

var errNoBlock = errors.New("block not found")

// block returns a block of a served piece. An identity CID carries its own.
func (s *pieces) block(c cid.Cid) ([]byte, error) {
	if c.Prefix().MhType == multihash.IDENTITY {
		decoded, err := multihash.Decode(c.Hash())
		if err != nil {
			return nil, fmt.Errorf("decoding %s: %w", c, err)
		}
		return decoded.Digest, nil
	}
	at, ok := s.find(c.Hash())
	if !ok {
		return nil, errNoBlock
	}
	f, err := s.open(at.piece)
	if err != nil {
		return nil, fmt.Errorf("opening piece %s: %w", at.piece, err)
	}
	defer f.Close()
	r := bufio.NewReader(io.NewSectionReader(f, at.offset, maxBlock+1024))
	length, err := binary.ReadUvarint(r)
	if err != nil || length > maxBlock {
		return nil, fmt.Errorf("reading a section of %d bytes: %w", length, errNoBlock)
	}
	section := make([]byte, length)
	if _, err := io.ReadFull(r, section); err != nil {
		return nil, fmt.Errorf("reading a section: %w", err)
	}
	n, _, err := cid.CidFromBytes(section)
	if err != nil {
		return nil, fmt.Errorf("reading a section: %w", err)
	}
	return section[n:], nil
}

// links returns what a block refers to, in its order.
func links(c cid.Cid, data []byte) ([]cid.Cid, error) {
	var decode codec.Decoder
	switch multicodec.Code(c.Prefix().Codec) {
	case multicodec.Raw:
		return nil, nil
	case multicodec.DagPb:
		decode = dagpb.Decode
	case multicodec.DagCbor:
		decode = dagcbor.Decode
	case multicodec.DagJson:
		decode = dagjson.Decode
	default:
		return nil, fmt.Errorf("codec 0x%x of %s is not known", c.Prefix().Codec, c)
	}
	builder := basicnode.Prototype.Any.NewBuilder()
	if err := decode(builder, bytes.NewReader(data)); err != nil {
		return nil, fmt.Errorf("decoding %s: %w", c, err)
	}
	found, err := traversal.SelectLinks(builder.Build())
	if err != nil {
		return nil, fmt.Errorf("reading the links of %s: %w", c, err)
	}
	var out []cid.Cid
	for _, l := range found {
		if link, ok := l.(cidlink.Link); ok {
			out = append(out, link.Cid)
		}
	}
	return out, nil
}
