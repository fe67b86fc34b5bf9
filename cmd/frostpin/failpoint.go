//go:build !failpoints

package main

// failpoint is nil in a real program: see failpoint_on.go.
func failpoint() func(step string) { return nil }
