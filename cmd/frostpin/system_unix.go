//go:build linux || darwin

package main

import "syscall"

// openFileLimit is how many files this process may open.
func openFileLimit() (limit uint64, known bool) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return 0, false
	}
	return files.Cur, true
}
