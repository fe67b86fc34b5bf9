// Package piece turns a DAG into the piece that storage providers store: a CAR file, and the commitment (CommP) to its
// bytes. It knows CIDs, blocks and bytes. It must not know deals, providers, or where blocks come from: it imports
// nothing of ours.
//
// # The CAR
//
// CARv1 with one root. Blocks stand depth first, links in order, each CID once, spelled as the link spells it; identity
// CIDs are followed but, having no block, are left out. The bytes are a function of the root alone, so they can be
// made again at any time, and any part of them without the rest.
//
// # No copy on disk
//
// Build walks the DAG once. What it writes to disk is the layout: the length and CID of every section of the CAR, about
// forty bytes for each block. A Reader finds a range in the layout and reads only the blocks concerned. A layout is a
// cache: it is removed when there is no room, and made again by a walk when it is missed.
//
// # Invariants
//
//   - Memory is bounded whatever the DAG: blocks read ahead by a number of bytes, pending links by their number (those
//     of nodes further up are read again). Only the set of blocks seen grows, by some 40 bytes for each.
//   - Blocks are verified against their CIDs by whoever hands them out (Blocks), layouts by checksums, so what a Reader
//     returns is what CommP was computed over, or an error.
//   - A layout appears under its name when it is whole and on disk, never before.
//   - RawSize, the bytes that are served, is at least 127: shorter ones have no version 2 piece CID.
//
// # Decisions
//
//   - The set of blocks seen keeps 16 bytes of a keyed hash of each CID instead of the CID. The key is drawn for each
//     walk, so nobody can prepare a collision, and chance needs 2^64 blocks.
//   - A larger piece of the same DAG is the same CAR with zero bytes after it (PadTo): its commitment follows from the
//     smaller one by arithmetic, and all share one layout.
package piece
