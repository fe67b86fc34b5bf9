// Package ledger knows what accounts have paid in, what they have used and what is left: an append-only list of entries,
// a balance beside it, and holds for what is not known yet.
//
// It owns the tables ledger_entries, balances, holds, usage_days, tallies, accruals, notices, egress_flushes and deferred_charges, the
// arithmetic of prices, and the check of a payment's signature. An account is a number and a pin a text to it: it must not know accounts,
// tokens, pins, deals, HTTP or configuration. Who pays which prices it asks Plans, what is held it asks a Source.
//
// Invariants:
//
//   - Money is a whole number of 10^-9 credits, attoFIL and byte-seconds are whole numbers of any size. No float comes
//     near them, in Go, in SQL or in JSON.
//   - An entry and the balance change in one transaction, under a lock on the account's row. So the sum of an account's
//     entries is its balance, at every moment and after every crash; Verify checks it, and that holds add up.
//   - A key is booked once. The same event again changes nothing; another event under the key is ErrKeyReused.
//   - Entries are never changed or removed: triggers of the database refuse it. A mistake is corrected by an Adjustment.
//   - No balance is below its floor (zero, unless the operator gives a credit line); the database checks that too. What
//     was used beyond it has happened and cannot be refused, so its entry says what is waived.
//   - What is held, together with the floor, is never more than the balance when a hold is placed or grows. Usage may eat
//     into it later; then no hold grows any more.
//   - Within an account, ids and times of entries grow together, so a page or a statement never misses what comes late.
//   - Usage is counted for every account. Prices are for those with a plan that bills. While the prices of a plan cannot be
//     read, by a server older than the one that wrote them, what its accounts use waits: storage stays not accrued, the
//     rest is in deferred_charges. Nobody else waits for it, and nothing is promised to them.
//   - What an account was told of its balance changes under the lock on its row, so each notice is sent once. Whoever lets go
//     what is not paid for holds the same lock: a payment is before or after it, never in between.
//
// Rounding, stated once: what a kind of usage costs in a month of an account is the exact sum, rounded down to 10^-9
// credits. The rest is carried from charge to charge within the month (the table tallies), so it does not matter into how
// many charges usage is divided, nor whether the price changes between them. Allowances are rounded up, storage counts
// whole seconds within its interval, and what a month leaves of the carry is given away. A GiB-month is 2^30 bytes for 30
// days; the months of allowances are those of the calendar in UTC.
//
// # Crashes
//
//	storage     the intervals of a pin begin where its row in accruals ends; both change with the entries; key: kind,
//	            pin, start. A removed pin's row goes a week after its source has forgotten it.
//	egress      counted in memory, booked every ten seconds under the number of the flush, which changes with the
//	            entries. A crash loses what was counted since, which nobody pays.
//	deals       what they cost is booked in the transaction that records it as taken; key: kind, deal, first epoch, pin.
//	the rest    has the key of the event: a payment's id.
//
// # Decisions
//
//   - Storage is booked per pin and day (UTC), and at the pin's end. The entries of a day tell what each pin cost, at one
//     row per pin and day where storage has a price; shorter periods would multiply that. Where it has none, only the
//     counters are written.
//   - Beyond the floor usage is waived instead of owed. A balance that falls below zero during the grace period would make
//     the next top-up vanish, and prepaid means that nobody owes. An operator who wants it owed gives a credit line.
//   - A hold that asks for nothing is granted at zero: what an allowance covers can be pinned without money. How much a
//     pin asks for is the caller's matter; Prices.Month tells what it adds. Holds for stock (HoldStock) share the
//     allowances: together they hold what all that they are for costs beside what is stored.
//   - The balance stands in every entry. It costs eight bytes and makes the opening balance of a statement one look into
//     an index instead of a sum over years.
//   - Statements go by when an entry was booked, allowances by when the usage happened: a statement that was sent does
//     not change.
//   - A flush of egress waits ten seconds, not for the end of a transfer: an aborted or endless one is charged for what
//     was sent.
package ledger
