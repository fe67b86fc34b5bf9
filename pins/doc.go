// Package pins keeps the promise: every request names a DAG, and every DAG that a request names is held whole on the
// hot tier, or the request says why not.
//
// It owns the requests (pins), the DAGs they name (roots), the status that is derived from what is known of a root,
// and the scheduler that moves roots on. It knows neither HTTP nor tokens, reaches IPFS only through HotTier, and cold
// copies only through Archive: it says what is wanted cold and whether it is held, and is told how that stands.
//
// # Rows
//
// A pin is what a user asked for; it never changes after it was inserted. A root is one DAG, whatever the number of
// pins that name it: there is one fetch and one hot copy. A root lives as long as a pin names it, or a replaced pin's
// DAG is kept until its successor is held (retained). Such a DAG goes on to count and to cost as that of a pin, and gives
// way to what its account asks for.
//
// A pin also carries terms: what was decided about its cold copies when it was made (Decide). A root under terms is a
// wish; pins that agree in both share it. While a pin has a wish the archive has it on record as wanted, and as held
// exactly while the root is.
//
// # States of a root
//
//	queued     wanted; nobody has its root block yet        moved on by: the scheduler
//	fetching   its root block is here, the rest is coming   moved on by: the scheduler
//	held       whole, verified and pinned on the hot tier   final until the last pin goes or the copy is lost
//	offloaded  let go here; proven deals hold it whole        moved on by: a request, a deal that needs bytes
//	restoring  wanted here and not whole, cold copies exist   moved on by: the scheduler; it has no deadline
//	gave_up    refused, blocked, or past its deadline       final until it is asked for again
//	releasing  no pin wants it any more                     moved on by: the scheduler, which deletes the row
//
// Transitions are the pure functions of next.go; each is stored in one transaction together with the status of the
// pins that name the root, under a condition that the root is still what the decision was based on. A process works
// on a root only while the row carries its claim, so that several servers can share one database; the claims of a
// process that no longer reports itself are taken away by the others.
//
// # Invariants
//
//   - A pin that was acknowledged is committed. The status `pinned` is written only after HotTier.Hold returned nil.
//   - A deleted pin is a deleted row. Workers update rows and never insert them, so none comes back.
//   - A pin that was let go because it was not paid for (Lapse) is failed, whatever becomes of its DAG, keeps nothing here and
//     costs no hot storage. Its row, its terms and its wish stay; a root that only such pins name is released and given up.
//   - A pin that has an end is removed after it and never before, by whichever server sees it first, as if it were deleted.
//   - DAGs that wait for each other's room do not wait for ever (relief.go): the oldest goes on, others give up what has come
//     of them and are queued again. None of them fails for it.
//   - A DAG is released only in state releasing, which it enters in the transaction that removed its last reference.
//   - created is unique and increasing in an account, in whole milliseconds, whatever the clock does.
//   - The counters of pin_counts equal the rows of pins, because the transaction that inserts pins counts them and triggers
//     do the rest.
//   - A span of names has the names of all pins that an account has between two created times (name_spans): none can be
//     added there, and a trigger deletes the span when one goes.
//   - The archive is told in the transaction that makes it true: a pin without its wish is never committed, nor a wish
//     without its pin. What it has to be told while it is not there is recorded (cold_owed), and told at the next start.
//   - What is blocked is not brought back: every transition out of gave_up asks in its transaction. Roots that were there
//     before are given up, and their copies let go, by a loop that compares the blocks with the roots, so that nothing has
//     to be remembered and a server that was away makes up for it.
//   - What the accounts are told of a DAG that none of them can have is kept beside its root where it is not the same for all
//     (refusals), exactly as long as the root is given up for it. Reading pins asks for it only where a pin is one of those.
//   - What becomes of cold copies changes a status only under a rule that asks for them (PinnedWhen).
//
// # Decisions
//
//   - Deleting removes the row instead of marking it: indexes and counters hold live pins only. History belongs to a
//     table of its own.
//   - Counting is by counters per account, status and span of time (see store_list.go): a client that walks a million pins
//     ten by ten asks for a hundred thousand counts.
//   - A part of a name is looked for in spans once an account is large (see store_spans.go), on SQLite: walking an index takes
//     100 ns for each pin whatever is compared, reading texts a third of that. An index of parts would cost every POST.
//   - Terms are decided once, when the pin is made: who changes a policy does not change what others were promised. Pins
//     from before there was an archive are undecided and get the service's own terms when there is one.
//   - The wish goes with the pin, although its DAG may be kept for a successor: what is being replaced is not worth money.
//   - A change of PinnedWhen is applied before the first request is answered, so that lists and answers agree.
//   - A root is claimed by a process, not leased row by row: one heartbeat covers ten thousand roots being looked for. The
//     key of an upload is claimed in the same way, and its pin inserted only while the claim stands.
package pins
