//go:build !linux && !darwin

package main

// openFileLimit is how many files this process may open.
func openFileLimit() (limit uint64, known bool) { return 0, false }
