// Package devnet is a Filecoin network of one Lotus-compatible node for tests and for trying Frostpin on a laptop: a
// JSON-RPC endpoint over Lotus' own API structs, a clock, and the actors that storage deals touch, whose rules are
// enforced and whose state is the IPLD that Lotus and its clients read. Storage providers are in sp; they reach this
// node through the Lotus API like anyone else.
//
// It owns the chain, the node's wallet and the node's faults. It knows nothing of Frostpin: it imports none of its
// packages. Its inputs are Lotus calls, the clock, and ControlHandler; its truth for tests is Deals.
//
// # What is real
//
//   - State: a version 5 state tree of go-state-types' newest actors. StateGetActor and ChainReadObj serve the objects, so
//     lotus' market.Load, miner.Load and AMT diffs work on any kept tipset. Reads at a tipset see what its parents left;
//     a message included at height h executes at epoch h and shows from its child on. Null rounds run cron.
//   - Market actor: escrow and locks, publication of batches with invalid deals dropped, activation by the notice of a
//     proven sector, time-out at the deal's turn (id modulo CronInterval) or by settlement, payments by settlement
//     only, termination with refund and burnt collateral, datacap through allocations and claims, FIP-0083 events.
//   - Miner actor: peer id and addresses, pre-commits with fresh numbers, lifetimes and a delay, the data commitment
//     recomputed from the pieces, deadlines and partitions as the place of a sector, power, termination.
//   - Messages: nonces, gas as a fee, estimation that refuses what would fail, MsgUuid, receipts and return values,
//     reorganisation that takes them back, restarts that lose none that was acknowledged.
//
// # What it cannot prove
//
// There is one node and no consensus: blocks carry filler where signatures and tickets belong. Seal proofs and window
// proofs are not verified, nothing is pledged, no sector becomes faulty by itself (a provider that loses one says so with
// TerminateSectors) and sectors do not leave at their expiration. Gas is a rough figure, the base fee never moves.
// Only secp256k1 keys exist. The clock is not 30 seconds. So it shows that Frostpin keeps the protocol and draws the
// right conclusions from a chain; it does not show that a given provider would accept its deals.
//
// # Invariants
//
//   - An execution writes to an overlay; only what its final state reaches becomes part of the chain. Objects are never
//     changed, so readers take no lock beyond finding a tipset.
//   - n.mu orders everything that moves the head or fills the pool. The journal is written before memory changes.
//   - Faults live between the RPC server and the permission check's answer; the node in process (API) is always honest.
//   - What a test learns from Deals comes from executions, not from reading back what clients are told.
//
// # Decisions
//
//   - State as IPLD under real state roots, instead of Go maps with a view on top: history, reorganisation and restart
//     become a choice of root, and what Lotus' own code cannot read fails in our tests.
//   - ChainNotify is computed from the head last sent to the head now, not queued: slow readers, lag and
//     reorganisation are one case.
//   - One append-only journal with checksums, rewritten when garbage prevails: a database would bring a second notion of
//     what is committed.
package devnet
