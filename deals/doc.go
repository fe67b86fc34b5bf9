// Package deals keeps cold copies: every DAG that is wanted at replication factor X lies in X storage deals with X
// different Filecoin providers, from the moment it is held hot until nobody wants it any more.
//
// It owns what is wanted cold (archives), the promise of each copy (slots), every try to keep one (attempts), the
// providers, and the money that deals cost. It knows CIDs, pieces and providers; it knows neither pins nor accounts
// nor HTTP. Filecoin is reached through Chain (a node) and Market (a deal protocol), bytes through piece.Blocks.
//
// # Rows
//
// An archive is one DAG under one set of terms: pins that ask the same of the same DAG share it. Its X slots are the
// promise; a slot is filled while one of its attempts is active on chain. A piece is a CAR with its commitment; pieces
// and roots are many-to-many, although today a piece carries one root.
//
// # States of an attempt
//
//	planned       recorded, nothing signed                          moved on by: the maker
//	proposing     signed and stored; perhaps sent                   moved on by: the provider's answer or status
//	accepted      the provider has said yes                         moved on by: the provider's pull, or the chain
//	transferring  the provider has begun to pull                    moved on by: the chain
//	published     the chain knows the proposal, its id is unknown   moved on by: the chain
//	sealing       on chain under an id, not activated               moved on by: the chain
//	active        proven                                            moved on by: the chain
//	rejected, failed, missed, expired, terminated, cancelled        final; but failed, where the provider had accepted it,
//	                                                                is moved on by the chain until its start is final
//
// Next (slots) and Track (attempts) are pure functions; the loops load, look, call them and store.
//
// # Invariants
//
//   - The intent is committed before anything is signed, the signed bytes before anything is sent. After that the same
//     bytes are sent again as often as needed, never others: a lost answer makes no second deal.
//   - Only the chain makes an attempt active, missed, expired or terminated. A provider's word moves nothing but the
//     display, except that it can refuse. An error of the network or of the node is never "not found".
//   - What is lost is concluded from a final tipset, and a proven deal only after several such observations.
//   - No two live attempts of one root are with one provider, unless one renews the other.
//   - Every attempt that may still become a deal keeps its reservation and counts against the caps. Caps are checked
//     in the transaction that writes the intent, and again in the one that writes the signed bytes.
//   - One process at a time makes deals: the holder of a lease in the database. A transaction of the loops that finds
//     the lease gone writes nothing.
//   - What was observed is applied to the row as it is in the transaction, under a lock on the archives of its root, and
//     only if the row is still what was looked at. Everything that follows (slot, money, provider's record, standing,
//     follower) is in that transaction.
//   - Standing (what pins show) is written by one function, in the transaction that changed a slot or an attempt.
//
// # Decisions
//
//   - Pins with the same terms share slots; other terms make other slots, and copies are not counted twice. It may
//     store a copy too many, never one too few.
//   - With regions, copy i lies in region i mod n of the list: strict, so that nothing is relaxed silently.
//   - A copy that was made under terms which nobody wants any more is adopted by a slot of other terms for its root, where
//     provider and region suit. So two copies raised to three make one deal, and lowering three to two makes none; and
//     with as many providers as copies it is possible at all.
//   - A slot that lacks a place, money or datacap waits in a queue, not for a time: when an attempt ends, and now and
//     then, the first of the queue are tried: renewals by the end of their copy, then slots that have lost their copy,
//     then the rest, each by how long they wait. Where some of one kind (terms and region) find nothing the others of it
//     are passed over, so that they hide nobody. A backlog of a million slots costs nothing while it waits.
//   - A quarter of the deals at once is held for renewals and lost copies: a backlog of first copies never takes it.
//   - A slot that nobody can fill, or pays for, looks less and less often. A change of the registry or of an ask wakes
//     it; whoever is told of a payment wakes those that it pays for.
//   - An attempt that was never sent (its provider could not be asked, or reached) does not count against the tries of
//     its slot, and neither does one that is withdrawn for want of money.
//   - A proposal that may have been sent is sent again only while the slot has no better attempt and a quarter of the
//     delay to its start is left. Otherwise it runs out.
//   - That a proposal was never published is concluded only if the chain was asked all the time: what is pending stops
//     being so when it is activated. After a gap the provider has to deny it, or a month to pass (Attempt.Blind).
//   - A published deal whose id nobody tells keeps its slot waiting until its start is final. Then another copy is made; it
//     counts as missed once it is not pending any more and the market has had a month to drop it.
//   - One that the provider gave up keeps its reservation, and its provider from other attempts, until its start.
//   - One that the provider refused is refunded at once. The provider has what was signed all the same: events of the market
//     show where it publishes that, and then it is charged and taken up, or only charged beside another of the provider.
//   - One maker under a lease instead of claims row by row: money, nonces and per-provider limits want one place.
//   - Active deals are watched by comparing the market's state tree with the one seen last (see Chain.Changed): a round
//     costs as many calls as the tree has changed nodes on the paths to our deals, not one call per deal.
//   - What was seen last is in the database: the root of the tree, and of each attempt whether its deal was active under
//     it. So the first round of a process is as cheap as any. That a root is no secret of one chain makes it safe: what
//     is the same under two CIDs is the same, also after a reset of the network, or when another node is asked.
//   - An attempt that has become active is outside the snapshot until a round has found its deal active in a final
//     tipset and a look has shown that it is ours. That costs one call in its life, and no reorganisation is overlooked.
//   - With no snapshot, or where the node no longer has the state it is of (after a downtime longer than it keeps), all
//     leaves of our deals are read: at best one call for 64 of them. No method of Lotus gives more of a tree at once but
//     StateMarketDeals, which is the whole market of everybody; and to send many requests in one message costs the node
//     as much. Snapshots begin with the first deal, so that many deals are never met by the first round of a database.
//   - The market's ProviderSectors would show the same by sector, and is not read: its nodes hold 7 to 20 sectors, so that
//     for 300,000 deals with three providers it takes 0.9 calls per hundred at 16 deals in a sector, 1.15 at 5, and 13 at
//     one, where the leaves take 1.6. A miner's partitions would take some 50 calls for each provider, but show only that
//     a sector lives: the sector of a deal is taken from the head, and a reorganisation can make that untrue.
//   - What a deal costs is handed over (Bill) by days, in the transaction that records up to which epoch, and only up to the
//     snapshot in which it was active: so nothing that the chain did not take is charged, whenever a deal is dropped. At which
//     epoch it was dropped the chain does not tell afterwards; what it took after the last snapshot is not charged.
package deals
