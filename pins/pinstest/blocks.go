package pinstest

import (
	"bytes"
	"fmt"

	"github.com/ipfs/boxo/ipld/merkledag"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/spec"
)

// Raw returns a leaf with this data.
func Raw(data string) blocks.Block {
	return Block(cid.Raw, multihash.SHA2_256, []byte(data))
}

// Block returns a block of any codec and hash function. It panics where the hash function is not known.
func Block(codec, hash uint64, data []byte) blocks.Block {
	digest, err := multihash.Sum(data, hash, -1)
	if err != nil {
		panic(fmt.Sprintf("hashing a test block: %v", err))
	}
	b, err := blocks.NewBlockWithCid(data, cid.NewCidV1(codec, digest))
	if err != nil {
		panic(fmt.Sprintf("making a test block: %v", err))
	}
	return b
}

// Node returns a dag-pb block that links to the children.
func Node(data string, children ...cid.Cid) blocks.Block {
	nd := merkledag.NodeWithData([]byte(data))
	if err := nd.SetCidBuilder(merkledag.V1CidPrefix()); err != nil {
		panic(fmt.Sprintf("choosing CIDv1: %v", err))
	}
	for i, c := range children {
		if err := nd.AddRawLink(fmt.Sprintf("%06d", i), &ipld.Link{Cid: c}); err != nil {
			panic(fmt.Sprintf("linking a test block: %v", err))
		}
	}
	b, err := blocks.NewBlockWithCid(nd.RawData(), nd.Cid())
	if err != nil {
		panic(fmt.Sprintf("making a test block: %v", err))
	}
	return b
}

// A DAG is a root and all its blocks, the root first.
type DAG struct {
	Root   cid.Cid
	Blocks []blocks.Block
}

// Size is the sum of the sizes of the blocks.
func (d DAG) Size() int64 {
	var n int64
	for _, b := range d.Blocks {
		n += int64(len(b.RawData()))
	}
	return n
}

// Leaf returns a DAG of one block.
func Leaf(seed string) DAG {
	b := Raw(seed)
	return DAG{b.Cid(), []blocks.Block{b}}
}

// Tree returns a DAG of one node with n different leaves of about 1 KiB.
func Tree(seed string, n int) DAG {
	leaves := make([]blocks.Block, n)
	links := make([]cid.Cid, n)
	for i := range leaves {
		leaves[i] = Raw(fmt.Sprintf("%s/%d %01000d", seed, i, i))
		links[i] = leaves[i].Cid()
	}
	root := Node(seed, links...)
	return DAG{root.Cid(), append([]blocks.Block{root}, leaves...)}
}

// Chain returns a DAG of n nodes, each the only child of the one before.
func Chain(seed string, n int) DAG {
	chain := make([]blocks.Block, n)
	var links []cid.Cid
	for i := n - 1; i >= 0; i-- {
		chain[i] = Node(fmt.Sprintf("%s/%d", seed, i), links...)
		links = []cid.Cid{chain[i].Cid()}
	}
	return DAG{chain[0].Cid(), chain}
}

// V0 returns the old spelling of a dag-pb CID.
func V0(c cid.Cid) cid.Cid { return cid.NewCidV0(c.Hash()) }

// Identity returns a CID that carries its data.
func Identity(codec uint64, data []byte) cid.Cid {
	return Block(codec, multihash.IDENTITY, data).Cid()
}

// Corrupted returns the block with one bit changed, still under its CID.
func Corrupted(b blocks.Block) blocks.Block {
	data := bytes.Clone(b.RawData())
	data[len(data)-1] ^= 1
	bad, err := blocks.NewBlockWithCid(data, b.Cid())
	if err != nil {
		panic(fmt.Sprintf("making a test block: %v", err))
	}
	return bad
}

func canonical(c cid.Cid) cid.Cid { return spec.Canonical(c) }
