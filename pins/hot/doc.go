// Package hot keeps pinned DAGs on an IPFS node: on Kubo's own core inside this process (Embedded, the default) or on
// a Kubo daemon behind its RPC API (Remote). Both are pins.HotTier and pass the same conformance suite, pinstest.
//
// It owns the node: its repository and settings, its connections, its pinset, and the schedule of its collector. It
// must not know who pins what, or why; which pins exist is decided in pins, and the node's pinset is a cache of that.
// Kubo is imported here and nowhere else. What both tiers do the same way is in the package hold.
//
// Invariants:
//
//   - A pinned root is never pinned again: Kubo would take the old pin away first (H1). So it is looked for before,
//     under a lock per root, and no cancellation gets in between.
//   - Nothing waits for the network while it holds Kubo's pin lock (H2). DAGs are fetched outside, then pinned where
//     they are; a collection ends the walks that run, and they go on after it.
//   - Hold returns nil when the blocks and then the pin are on disk. One flush serves all who wait for one.
//   - What cannot be read is never taken for what is not there: a listing of pins or blocks is whole or an error, and a
//     collection that cannot read a pin or what links to others fails. Only a block is looked for elsewhere then, and
//     stored anew.
//   - An address that strangers name is dialled only if the policy allows it, also after its name was looked up;
//     HTTP never, because Kubo asks no filter before it sends a request (H12).
//   - On the private network nothing leaves this machine: no bootstrap, discovery, routing or name lookups, and the
//     node's filters refuse every connection that is not on loopback.
//   - Every call ends when its context ends or the tier is closed. A daemon that is down, restarts, answers nonsense
//     or hangs makes calls return pins.ErrUnavailable and nothing else.
//
// Decisions:
//
//   - The repository's config is ours and written anew at each start; only the identity and the layout of the store
//     are read from it. So no setting outlives the one that made it, and no "auto" is left in it (H14).
//   - Kubo's plugin loader is not used. Three datastores are registered by hand, so telemetry, denylists in the
//     user's home and executables in the repository have no way in (H15). Denylists belong to admission.
//   - Kubo's RPC is not served and no api file is written: it has no authentication.
//   - Marking and sweeping are ours. Kubo's collector stops for good at the first block that it cannot read, which any
//     stranger can send below an unfinished DAG; it does not say whose block that is, and follows wrong bytes.
//   - A block of a store with checksums is hashed once for readers, and whenever a verification reads it.
//   - Remote cannot keep unfinished DAGs over a collection, and has no sessions: each root that is looked for is a
//     request of its own, and a fixed number of them takes turns.
//   - Room for a third tier, ipfs-cluster: whatever can get blocks and pin a root is a hold.Node.
package hot
