// Package database opens the one database of a Frostpin server, SQLite in a file or PostgreSQL by a DSN, and hides
// which of the two it is.
//
// It owns connections, transactions, durability, the order of migrations and the translation of driver errors. It
// must not know any table but the one that lists migrations. Packages that store something declare an interface with
// Read and Write of their own; *DB satisfies it.
//
// Invariants:
//
//   - Write returns nil only after its commit is durable: synchronous=FULL on SQLite, synchronous_commit on PostgreSQL.
//   - A function given to Write or Read may run more than once and must set, not add to, what it leaves outside.
//   - A Write that has begun runs to its end, whatever happens to the caller's context; one that has not is dropped.
//   - Read sees one snapshot and can change nothing.
//   - The transaction travels in tx.Statement.Context: Write or Read with that context joins it. When a joined
//     function fails, the whole transaction fails, even if the outer function overlooks the error.
//   - Whatever means "not now" (busy, disk full, connection lost) is ErrUnavailable; no other package looks at a
//     driver's errors.
//
// What differs and cannot be hidden: SQLite runs Writes one after another, PostgreSQL runs them side by side at READ
// COMMITTED. A Write that computes from what it has read locks those rows first (clause.Locking, which SQLite
// leaves out) or relies on a unique index or a compare-and-set.
//
// Decisions:
//
//   - SQLite commits in groups. One goroutine runs every waiting Write in one transaction, each in a savepoint of its
//     own, so that 64 clients share an fsync (4 times the rate of single commits) and a failing Write takes nobody
//     with it. A Write that comes alone waits for nobody.
//   - Statements of a Write are never cancelled on SQLite: interrupting one rolls back the whole transaction, which
//     belongs to others too. Nor are those of a Read by its caller's context: the driver pays a goroutine for every
//     cancellable row. Reading has only so many connections, so whoever may read for long gives its statements a
//     context that ends (tx.WithContext); interrupting them leaves nothing behind.
//   - gorm's own statement cache is not used. On SQLite each connection has its own, without the preparation that
//     database/sql repeats in every transaction; pgx has one already.
//   - A busy SQLite file is polled every few milliseconds, not with SQLite's own growing pauses, because a busy server
//     leaves only short gaps between two groups to `frostpin token create` in another process.
//   - No mmap: an I/O error would be a SIGBUS that kills the process instead of an error.
package database
