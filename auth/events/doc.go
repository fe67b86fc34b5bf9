// Package events keeps what accounts are told without asking: what has become of a DAG that they have pinned, and of the
// account itself.
//
// It owns the tables events and event_clock. An account is a number, a DAG and a pin are texts to it: it must not know
// accounts, pins, deals, HTTP or configuration. Whose pins name a DAG it asks Pins.
//
// Invariants:
//
//   - An event is written in the transaction of the change it tells: neither is there without the other.
//   - What happens to a DAG is one row, however many pins name it. It becomes an event of each of them when it is read.
//   - Events are read in the order of their numbers, and a number is given only after the event's commit: whoever has
//     read up to a number has missed nothing below it, however slow a transaction was.
//   - A number is never given twice, also not after all events have been swept.
//
// # Decisions
//
//   - Numbers are given by a step of its own, one transaction at a time under a lock on event_clock. Ids of a sequence, and
//     transaction ids of PostgreSQL too, are taken in another order than that of the commits, and the latter begin anew in a
//     database that was restored elsewhere. A lock from the insert to the commit would make all writers wait for each other.
//   - A pin is not told what happened before it was made. Clocks of servers differ, so it may hear of the minute before.
//   - Events are kept for thirty days. Events of a pin go with the pin.
package events
