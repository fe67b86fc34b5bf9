// Package ingest takes bytes that come with a request and makes pins of them: a CAR, a file, a tar or a form.
//
// It owns how uploads become DAGs and the order in which they become pins. It must not know HTTP, or which node keeps
// the blocks.
//
// Invariants:
//
//   - Nothing is lost between the first block and the pin: an import keeps what it has stored from the collector, the
//     DAG is held before the pin is recorded, and the import is closed after that. A crash in between leaves blocks
//     that the next collection removes, or a held DAG that no pin names, which the scheduler lets go: what is about to be held
//     is recorded before (BeginHold), because a tier that others use too does not tell whose its DAGs are.
//   - Whatever may leave blocks that no pin needs says so to Pins, so that they are collected: an upload that fails, and a
//     CAR, which may have more blocks than its DAGs.
//   - Every block is verified by the tier before it is stored, and the whole DAG must be here: nothing is fetched.
//   - Memory does not grow with the size of a file, and bounds are kept while bytes arrive.
//   - UnixFS is made as `ipfs add --cid-version=1` of the Kubo in go.mod makes it by default, to the same CID: chunks of
//     256 KiB, raw leaves, 174 links to a node, directories that become a HAMT of width 256 above 256 KiB. A test in
//     pins/hot compares the two.
//   - An upload that is repeated with its key within a day returns the pins of the first time, also when that one was
//     cut off after some of its pins, and also when both come at once, to two servers: the key is claimed before a byte is
//     read, and a pin is committed only while the claim is still there.
//
// Decisions:
//
//   - A tar or form with one entry at its top is that entry, one with several is the directory of them. `ipfs add` gives
//     several roots there; one name for one upload is worth more here.
//   - Names of parts are unescaped like Kubo does it, so a plus sign in a name that a browser sends becomes a space.
//   - Times and modes are not kept, as `ipfs add` does not by default.
package ingest
