// Command bench measures the service and prints a table, each line beside its floor or peer from the same run.
//
//	go run ./cmd/bench [-run REGEXP] [-quick]
//
// The service is the real binary in a process of its own, with a SQLite database and an embedded node on a private
// network; the client and the floors share the machine with it. Following deals is measured on the service's own parts
// in this process, with the devnet in another. Only ratios mean something: both sides of each were
// measured on the same machine, one after the other, in this run.
package main
