// Package sp is a storage provider for the devnet: a process's worth of one, with a libp2p host, an HTTP server, a disk
// and a miner on chain. To a client it is what Boost or Curio is, including their texts and their quirks; on demand it
// misbehaves (see [Fault]).
//
// It owns what a provider keeps: proposals, pieces, and how far each deal has come. It reaches the chain only through
// the Lotus API, with keys that lie in the node's wallet, and imports nothing of the client it is there to test: only
// the wire types are shared. What it concludes about a piece (its size, its commitment) it computes itself.
//
// # Life of a deal
//
//	accepted          checked in the order of a real provider, stored    moved on by: the pull
//	transferred       pulled, of the exact size, commitment equal        moved on by: the batch being due
//	published         PublishStorageDeals is signed                      moved on by: its receipt
//	publishConfirmed  the deal has an id                                 moved on by: PreCommitSectorBatch2 on chain
//	addedPiece        it lies in a sector of its own                     moved on by: ProveCommitSectors3 on chain
//	sealed            active                                             moved on by: the index being built
//	complete          indexed and served                                 final, until the deal ends
//	failed            final, with the reason                             (Curio forgets the deal if it was not published)
//	ended             final: expired or terminated, no longer served
//
// # Invariants
//
//   - A deal is stored, flushed to disk, before its acceptance is answered. Proposals are kept for ever, so a repeated
//     one is refused by name.
//   - Every chain message has an identity that is stored before it is sent; a killed provider sends it again under the
//     same identity, which a node answers with the message it has already signed.
//   - Bytes become a piece only after their count and commitment have been checked, by flush and rename.
//   - Nothing depends on wall time except what depends on the network: a devnet with a manual clock moves only when
//     told to.
//
// # Decisions
//
//   - One sector per deal: aggregation changes nothing that a client can see.
//   - Proofs and replicas are made up, and the devnet's miner actor does not verify them.
//   - State is an append-only journal of whole deals, one line each, compacted at start: a provider of the devnet
//     carries hundreds of deals, and a torn last line is all that a crash can leave.
package sp
