// Package deny knows which content must not be served or pinned: what is on denylists in the IPFS community's compact
// format (IPIP-383), as badbits.dwebops.pub and Kubo use it. The format is read by nopfs.
//
// It owns the lists: reading them, looking for changes, and the answer to one CID or path. It must not know who asks,
// nor speak HTTP.
//
// # Invariants
//
//   - Rules change all at once or not at all: a list that cannot be read keeps the rules it had.
//   - The first list in the configured order that has a rule decides; in a list the last matching rule does.
//   - The text of a match names the content and nothing else. Which list and line it was is for the operator's log.
//
// # Decisions
//
//   - nopfs is asked to read, not to follow. Following starts before the file has been read, so that what is denied is
//     served for a moment after each start; it sees lines appended and misses a file that is replaced, which is how
//     lists are updated; and it writes maps that are being read. Looking at size and time every few seconds is enough.
//   - nopfs skips lines that it cannot read and the last line when no newline ends it. Here the first are named in the
//     log, and the second is read.
//   - Nothing is looked for in the user's home or /etc, where nopfs finds lists by itself.
package deny
