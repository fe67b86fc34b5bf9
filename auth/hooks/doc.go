// Package hooks tells accounts what happens by calling addresses that they name: each event of package events is posted,
// signed, until somebody has taken it.
//
// It owns the tables webhooks and webhook_deliveries. An account is a number to it; it must not know accounts, pins, deals,
// the server or configuration. Whom it may call, its client knows.
//
// Invariants:
//
//   - Which events a hook has got is a position in the account's events, which changes in the transaction that makes their
//     deliveries. So a crash neither leaves one out nor makes it twice; one that was sent and not recorded is sent again,
//     under the same id.
//   - One process at a time works for a hook, for as long as its lease runs. What it has done is only recorded while it has
//     the lease, and it stops when it has lost it: after a removal or a replay only the call that is under way goes on.
//   - A secret is stored, because it signs; it is shown when the hook is made, and never again.
//
// # Decisions
//
//   - Deliveries are tried in their order, and one that fails does not hold up those after it: whoever needs the order has
//     it in the ids. After three calls in a row without an answer, or answered 5xx or 429, the hook rests, and after the rest
//     what was not tried yet comes first. Any other refusal shows that the address is alive: only what was refused waits.
//   - What fails is tried again after 10 seconds, twice as long each time up to six hours, and is dead after three days.
//     The account can have it tried again, and have everything since an event sent again.
//   - While 10,000 deliveries of a hook wait no more are made: the hook stands still in the events, which are kept for thirty
//     days, and goes on when some are over. An event that goes meanwhile, with its pin or for its age, is never told.
//   - A replay and a removal write the hook and no more than what waits for it. What is over is made anew when the hook comes
//     to its event; a removed hook is there for nobody at once, and is emptied in steps within a minute or so. Until then it
//     counts as one that its account has.
//   - A process calls 64 hooks at the same time, four of one account: addresses that do not answer take their own account's
//     places, and whoever else has waited longest gets the next that is free.
//   - Most events are somebody else's. A server reads them before it takes a hook, remembers how far it has read for those that
//     they do not concern, and writes that once a minute, where nobody has moved the hook meanwhile: a commit for each hook and
//     event would be thousands. After a crash the same is read again.
//   - 410 from the address ends the hook: that is what it says. Redirects are failures.
package hooks
