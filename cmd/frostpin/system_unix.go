//go:build linux || darwin

package main

import "syscall"

// freeSpace is what this user may still write below dir; -1 when that is unknown.
func freeSpace(dir string) int64 {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return -1
	}
	return int64(stat.Bavail) * int64(stat.Bsize)
}

// openFileLimit is how many files this process may open.
func openFileLimit() (limit uint64, known bool) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return 0, false
	}
	return files.Cur, true
}
