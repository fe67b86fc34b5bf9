package pinstest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// A Hostile is a DAG that is made to cost more than it is worth to whoever keeps or reads it.
type Hostile struct {
	Name string
	DAG
	Refused string // in the reason why it cannot be pinned under the default limits; empty: it can
}

// Hostiles returns one of each kind, all of it below the default limits on blocks and bytes.
func Hostiles() []Hostile {
	deepCBOR := append(bytes.Repeat([]byte{0x81}, 1<<20), 0x80)
	return []Hostile{
		{"a chain of 100,000 blocks", Chain("deep", 100_000), "deeper than the limit"},
		{"a chain whose every block is near the root", Shortcuts(20_000), ""},
		{"2^60 leaves out of 61 blocks", Doubling(60, Raw("x"), file(1)), ""},
		{"2^60 empty leaves out of 61 blocks", Doubling(60, Raw(""), file(0)), ""},
		{"2^60 directories out of 61 blocks", Doubling(60, Raw(""), UnixFS{Type: Directory}), ""},
		{"a file that claims more than there can be", claim(math.MaxUint64, math.MaxUint64), ""},
		{"a file whose parts are said to be endless", claim(4, math.MaxInt64, math.MaxInt64, 2), ""},
		{"a file that claims less than it has", claim(1, 1), ""},
		{"a file whose parts do not add up", claim(1<<40, 1, 2, 3), ""},
		{"a directory of 100,000 entries", Fan(100_000, cid.NewCidV1(cid.Raw, identity(nil)), UnixFS{Type: Directory}), ""},
		{"many links to one block, many times", Ladder(8, 30_000), ""},
		{"a block that carries 100,000 blocks in its links", Inlined(1, 100_000), ""},
		{"a sharded directory without a fanout", shard(0, nil), ""},
		{"a sharded directory of fanout 1", shard(1, []byte{1}), ""},
		{"a sharded directory of fanout 2^30", shard(1<<30, []byte{1}), ""},
		{"a sharded directory of fanout 2^62", shard(1<<62, []byte{1}), ""},
		{"a sharded directory with too long a bitfield", shard(256, bytes.Repeat([]byte{0xff}, 1<<20)), ""},
		{"a sharded directory with more bits than links", shard(256, bytes.Repeat([]byte{0xff}, 32)), ""},
		{"a sharded directory without its bits", shard(256, nil), ""},
		{"shards of shards without an end", Doubling(60, Raw(""), UnixFS{Type: Sharded, Data: []byte{3}, HashType: 0x22, Fanout: 256}), ""},
		{"an unknown codec", single(Block(0x0129fe, multihash.SHA2_256, []byte("x"))), "the codec"},
		{"a weak hash function", single(Block(cid.Raw, multihash.MURMUR3X64_64, []byte("x"))), "the hash function"},
		{"a large identity CID", single(Node("", Identity(cid.Raw, make([]byte, 100_000)))), "the identity CID"},
		{"dag-cbor nested a million deep", single(Block(cid.DagCBOR, multihash.SHA2_256, deepCBOR)), "is not valid dag-cbor"},
		{"dag-cbor of 2^62 entries", single(Block(cid.DagCBOR, multihash.SHA2_256, []byte{0x9b, 0x40, 0, 0, 0, 0, 0, 0, 0})), "is not valid dag-cbor"},
		{"dag-cbor with a text of 2^62 bytes", single(Block(cid.DagCBOR, multihash.SHA2_256, []byte{0x7b, 0x40, 0, 0, 0, 0, 0, 0, 0})), "is not valid dag-cbor"},
		{"dag-json nested a million deep", single(Block(cid.DagJSON, multihash.SHA2_256, []byte(strings.Repeat("[", 1<<20)))), "is not valid dag-json"},
		{"json nested a million deep", single(Block(0x0200, multihash.SHA2_256, []byte(strings.Repeat(`{"":`, 1<<18)))), "is not valid json"},
		{"a site whose rules lead in circles", redirects(strings.Repeat("/* /:splat/a 200\n", 1000)), ""},
		{"a site with a megabyte of rules", redirects(strings.Repeat("/a/:b/* /c/:b/:splat 200\n", 40_000)), ""},
		{"links that lead in circles", circles(), ""},
	}
}

// Types of UnixFS.
const (
	Directory = 1
	File      = 2
	Symlink   = 4
	Sharded   = 5
)

// UnixFS is what a node says of itself, true or not.
type UnixFS struct {
	Type     uint64
	Data     []byte
	Filesize uint64
	Sizes    []uint64
	HashType uint64
	Fanout   uint64
}

func (u UnixFS) bytes() []byte {
	b := binary.AppendUvarint([]byte{1 << 3}, u.Type)
	if u.Data != nil {
		b = append(binary.AppendUvarint(append(b, 2<<3|2), uint64(len(u.Data))), u.Data...)
	}
	if u.Type == File {
		b = binary.AppendUvarint(append(b, 3<<3), u.Filesize)
	}
	for _, s := range u.Sizes {
		b = binary.AppendUvarint(append(b, 4<<3), s)
	}
	if u.Type == Sharded {
		b = binary.AppendUvarint(append(b, 5<<3), u.HashType)
		b = binary.AppendUvarint(append(b, 6<<3), u.Fanout)
	}
	return b
}

// A Link is a link of dag-pb.
type Link struct {
	Name string
	CID  cid.Cid
	Size uint64 // that it claims
}

// PB returns a dag-pb block with these links, in this order.
func PB(data []byte, links ...Link) blocks.Block {
	var b, one []byte
	for _, l := range links {
		one = append(binary.AppendUvarint(append(one[:0], 1<<3|2), uint64(l.CID.ByteLen())), l.CID.Bytes()...)
		one = append(binary.AppendUvarint(append(one, 2<<3|2), uint64(len(l.Name))), l.Name...)
		one = binary.AppendUvarint(append(one, 3<<3), l.Size)
		b = append(binary.AppendUvarint(append(b, 2<<3|2), uint64(len(one))), one...)
	}
	if data != nil {
		b = append(binary.AppendUvarint(append(b, 1<<3|2), uint64(len(data))), data...)
	}
	return Block(cid.DagProtobuf, multihash.SHA2_256, b)
}

// Doubling returns levels nodes of one kind, each of which links twice to the next; the last to a leaf.
func Doubling(levels int, leaf blocks.Block, u UnixFS) DAG {
	list := []blocks.Block{leaf}
	for i := range levels {
		below := list[len(list)-1].Cid()
		if u.Type == File {
			size := u.Filesize << min(i, 61)
			list = append(list, PB(UnixFS{Type: File, Filesize: size * 2, Sizes: []uint64{size, size}}.bytes(), Link{"", below, size}, Link{"", below, size}))
			continue
		}
		list = append(list, PB(u.bytes(), Link{"00", below, 1}, Link{"01", below, 1}))
	}
	return upsideDown(list)
}

// Ladder returns a chain of nodes, each of which links once to the next and, with names of their own, this often to one
// block that all of them share.
func Ladder(levels, links int) DAG {
	shared := Raw("shared")
	list := []blocks.Block{shared}
	for range levels {
		all := []Link{{"", list[len(list)-1].Cid(), 0}}
		for range links {
			all = append(all, Link{"", shared.Cid(), 0})
		}
		list = append(list, PB(UnixFS{Type: Directory}.bytes(), all...))
	}
	return upsideDown(list)
}

// Inlined returns a chain of nodes, each with this many different CIDs that carry a dag-pb node each.
func Inlined(levels, links int) DAG {
	var list []blocks.Block
	for level := range levels {
		var all []Link
		if level > 0 {
			all = append(all, Link{"", list[level-1].Cid(), 0})
		}
		for i := range links {
			node := []byte{1<<3 | 2, 6, byte(level >> 8), byte(level), byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
			all = append(all, Link{"", cid.NewCidV1(cid.DagProtobuf, identity(node)), 0})
		}
		list = append(list, PB(nil, all...))
	}
	return upsideDown(list)
}

// Fan returns a node with this many links to one CID that carries its block.
func Fan(links int, to cid.Cid, u UnixFS) DAG {
	all := make([]Link, links)
	for i := range all {
		all[i] = Link{fmt.Sprintf("%06d", i), to, 0}
	}
	return single(PB(u.bytes(), all...))
}

// Shortcuts returns a chain that has a link from near the root to each of its blocks, the uppermost first, so that all of
// them are met at once by whoever looks at the root before what is below it.
func Shortcuts(length int) DAG {
	chain := Chain("shortcut", length)
	links := make([]Link, length)
	for i, b := range chain.Blocks {
		links[i] = Link{"", b.Cid(), 0}
	}
	root := PB(nil, links...)
	return DAG{root.Cid(), append([]blocks.Block{root}, chain.Blocks...)}
}

func upsideDown(list []blocks.Block) DAG {
	out := make([]blocks.Block, len(list))
	for i, b := range list {
		out[len(list)-1-i] = b
	}
	return DAG{out[0].Cid(), out}
}

func single(b blocks.Block) DAG { return DAG{b.Cid(), []blocks.Block{b}} }

func identity(data []byte) multihash.Multihash {
	digest, err := multihash.Encode(data, multihash.IDENTITY)
	if err != nil {
		panic(fmt.Sprintf("carrying a block in a CID: %v", err))
	}
	return digest
}

func file(leafSize uint64) UnixFS { return UnixFS{Type: File, Filesize: leafSize} }

// claim returns a file of four bytes for each part, whatever is said of them.
func claim(filesize uint64, sizes ...uint64) DAG {
	leaf := Raw("four")
	links := make([]Link, len(sizes))
	for i, s := range sizes {
		links[i] = Link{"", leaf.Cid(), s}
	}
	root := PB(UnixFS{Type: File, Filesize: filesize, Sizes: sizes}.bytes(), links...)
	return DAG{root.Cid(), []blocks.Block{root, leaf}}
}

// shard returns a sharded directory of one entry.
func shard(fanout uint64, bitfield []byte) DAG {
	leaf := Raw("entry")
	root := PB(UnixFS{Type: Sharded, Data: bitfield, HashType: 0x22, Fanout: fanout}.bytes(), Link{"00name", leaf.Cid(), 5})
	return DAG{root.Cid(), []blocks.Block{root, leaf}}
}

func redirects(rules string) DAG {
	leaf := Raw(rules)
	root := PB(UnixFS{Type: Directory}.bytes(), Link{"_redirects", leaf.Cid(), uint64(len(rules))})
	return DAG{root.Cid(), []blocks.Block{root, leaf}}
}

// circles returns a directory of symbolic links, each of which leads to itself through the other.
func circles() DAG {
	to := func(target string) blocks.Block { return PB(UnixFS{Type: Symlink, Data: []byte(target)}.bytes()) }
	a, b := to("b"), to("../x/a")
	dir := PB(UnixFS{Type: Directory}.bytes(), Link{"a", a.Cid(), 0}, Link{"b", b.Cid(), 0})
	root := PB(UnixFS{Type: Directory}.bytes(), Link{"x", dir.Cid(), 0})
	return DAG{root.Cid(), []blocks.Block{root, dir, a, b}}
}
