// Package hold is what every hot tier does the same way: it knows what a DAG may be made of, walks it under limits,
// starts a stalled walk again, and lets the collector in between.
//
// It owns the policy (which codecs and hash functions are held), the decoding of links, the walk, the watchdog, the
// order of calls for one root, and the gate between fetching and collecting. A Node adds how blocks are got and how a
// root is pinned; the embedded node, the remote one and the model in pinstest are such Nodes. It must not know Kubo,
// the network, or who wants the DAG.
//
// Invariants:
//
//   - A walk visits every CID once, in its canonical spelling, without recursion. Depth is that of the path on which
//     a block was met first.
//   - Only received bytes are counted. Nothing a block claims about others (Tsize, UnixFS sizes) is believed. What
//     may refuse early is a fact: a DAG that links to more distinct CIDs than it may have blocks is too large.
//   - The first error of any worker ends all of them; Run returns when the last one has left.
//   - A block is accepted only if the decoder of Kubo's collector reads it too. A pinned block that the collector
//     cannot read would stop every later collection.
//   - From the first block of an attempt until the pin is durable the gate is held: nothing is collected in between.
//     Closing the gate ends the walks inside, which start again by themselves when it opens, and never waits for the
//     network.
//   - At most one Hold or Release per root is at work.
//
// Decisions:
//
//   - SHA-1 is refused although boxo allows it: it is kept there for git objects, and the git codec is not held here.
//   - Identity CIDs carry their data, so they are not blocks: neither fetched nor counted, but their links are. Those that
//     may have links are remembered until the walk ends, so the limit on blocks bounds their number too.
//   - Quiet time is what the watchdog measures: time in which no block was visited at all. It adds up over attempts
//     and starts from nothing at each new high-water mark. So walking again what is here is no progress, but a walk
//     over millions of blocks that are here is not mistaken for a stall either.
package hold
