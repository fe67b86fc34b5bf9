// Package e2e tests Frostpin as a stranger meets it: the compiled binary, its command line and the Pinning Service
// API, with the programs people use as clients (the real ipfs command and daemon, Go's two client libraries, the
// JavaScript ones, the official compliance suite), and with processes that are killed, stopped and started again.
//
// It owns nothing but the harness, and it must not know the inside of the program: it imports no other package of
// this module, opens no database and reads no file of a data directory. [TestPackagesKeepTheirDistance] holds it and
// every other package to that.
//
// Invariants of the harness:
//
//   - The binaries are built once, from this checkout, by TestMain's first user; the server is built with the race
//     detector when the tests are.
//   - Every process belongs to one test, listens on loopback only, and is gone when the test ends.
//   - Nothing sleeps: a test waits for a line of output, for an answer, or polls with a ticker until a deadline.
//   - What needs more than Go and a C compiler runs when the environment offers it, and is a failure when it is
//     missing under CI=true.
//
// Settings, all from the environment:
//
//	FROSTPIN_KILL_CYCLES    how often the crash test kills the server (10, and 6 during uploads)
//	FROSTPIN_E2E_LONG=1     longer loops and larger lists, in the tests that .ci/long names; they wait for epochs and need -parallel 40
//	FROSTPIN_E2E_NODE       directory made by .ci/node: the JavaScript clients and the compliance suite
//	FROSTPIN_TEST_POSTGRES  DSN of a PostgreSQL that may create databases
package e2e
