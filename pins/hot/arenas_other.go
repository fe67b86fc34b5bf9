//go:build !cgo || !linux

package hot

// fewArenas is for glibc only.
func fewArenas() {}
