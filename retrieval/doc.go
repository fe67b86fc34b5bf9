// Package retrieval reads DAGs, hot first and then cold: from the hot blocks while they are there and right, and else from
// the storage providers that have proven copies, verified block by block, so that a reader gets the right bytes or a
// clean error.
//
// It owns where bytes are looked for and in which order, what is believed of an answer, what is remembered of providers,
// and the transfers of whole DAGs. It knows sources, not why they are sources: no pins, no deals, no accounts, no HTTP
// server, no IPFS node. What it needs of those are the small interfaces Directory, Store and Network.
//
// # Order
//
//  1. The hot blocks (Store), and those of them that somebody has just read. A block that is missing, wrong, or does not come in time is looked for elsewhere.
//  2. Providers with a proven copy of the root that the context names (WithRoot), best first by what they have done
//     before. The next is asked too when one is slow, for a block and for a whole DAG; three at most. The first that
//     brings something goes on alone.
//  3. Strangers that an IPNI router names, where one is configured, and the IPFS network.
//  4. The root's own bytes of the piece, from providers that index nothing.
//
// Without a root in the context nothing is fetched from afar: nobody can use the service as an open proxy.
//
// # Invariants
//
//   - No byte is given to anybody, or stored, before its block was verified against its CID.
//   - A CAR is taken block by block in the order of the walk; the first block that is not the next one of the DAG ends it,
//     whatever it hashes to. So an endless stream costs the few blocks that were read ahead.
//   - Limits of a transfer are checked as bytes come, never from what a provider claims.
//   - A block is asked for once at a time, however many readers wait for it, and a DAG is transferred once at a time.
//   - Who was only slower than another has not failed: it is called back, and that it takes longer is remembered.
//   - What an error tells a reader is one of four classes. Addresses and causes go to the log.
//   - Every request leaves through a guarded client (see guard), also after redirects.
//
// # Decisions
//
//   - Whole DAGs travel as CARs, single blocks as raw blocks: a CAR is about nine times faster for a whole DAG, a block
//     needs no more than itself.
//   - What is fetched is stored hot, unpinned. Pinning it again is the business of whoever wants it kept. A single block is
//     stored beside its readers, who do not wait for a store that is being collected; too many at once are not stored.
//   - A provider that has lied is asked last, for an hour. Everybody may be down; few return wrong bytes.
//   - A transfer walks the DAG itself and asks for a CAR at each place where a block is missing. So it goes on where the
//     last provider stopped, and after a restart, without any record of how far it came. A provider that falls silent
//     keeps its connection while others are asked for what is missing: whoever goes on first has it.
//   - A block that was read hot and verified is given to others for a second (Recent): what many read at once is read and
//     hashed once. Transfers and checks of what is held always look into the store.
//   - A CAR is read, hashed and stored at the same time, each a few blocks or one batch ahead of the next.
//   - A whole file below a root is a transfer of its own, from the copies of the root.
//   - Readers wait for a transfer as long as it goes on: not for a place, for which restores leave some, nor for a block
//     that has passed.
//   - A walk keeps each CID once, at the place of its next turn, and refuses a DAG by how many it has met.
//   - Strangers are remembered in memory, a thousand of them: anybody can make more of them than can be stored.
package retrieval
