//go:build !linux && !darwin

package main

// freeSpace is what this user may still write below dir; -1 when that is unknown.
func freeSpace(string) int64 { return -1 }

// openFileLimit is how many files this process may open.
func openFileLimit() (limit uint64, known bool) { return 0, false }
