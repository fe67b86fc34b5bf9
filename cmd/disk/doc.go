// Package disk watches the file systems on which the service writes, so that it stops taking more before they are full.
//
// It owns the two marks and the question of which one is reached. It must not know what is written, nor what is done
// about it: others ask for the Level, which costs them nothing.
//
// Invariants:
//
//   - The level is that of the fullest file system.
//   - It rises at once and falls only when there is some more room than the mark asks for, so that what comes and goes
//     does not make it flap.
//   - A file system that cannot be looked at changes nothing: a guard that fails must not stop the service.
//
// Decisions:
//
//   - Above the stop mark something is kept free for what must go on then: removals, the log of the database, and the
//     node's own housekeeping.
//   - statfs is asked four times a second. It reads what the kernel has in memory.
package disk
