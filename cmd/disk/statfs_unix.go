//go:build linux || darwin

package disk

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Statfs asks the kernel. Total is without what only the superuser may use.
func Statfs(dir string) (Space, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return Space{}, err
	}
	var at unix.Stat_t
	if err := unix.Stat(dir, &at); err != nil {
		return Space{}, err
	}
	size := int64(fs.Bsize)
	free := int64(fs.Bavail) * size
	return Space{Device: fmt.Sprint(at.Dev), Total: int64(fs.Blocks-fs.Bfree)*size + free, Free: free}, nil
}
