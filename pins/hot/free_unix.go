//go:build unix

package hot

import "golang.org/x/sys/unix"

// freeSpace tells how many bytes may still be written below dir, or -1.
func freeSpace(dir string) int64 {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return -1
	}
	return int64(fs.Bavail) * int64(fs.Bsize)
}
