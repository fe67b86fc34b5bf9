//go:build failpoints

package main

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// failpoint kills this process, as a power cut would, at the n-th time that a step is reached:
// FROSTPIN_TEST_FAILPOINT=accepted:3. Only tests build with it.
func failpoint() func(step string) {
	name, count, _ := strings.Cut(os.Getenv("FROSTPIN_TEST_FAILPOINT"), ":")
	if name == "" {
		return nil
	}
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil || n < 1 {
		n = 1
	}
	var reached atomic.Int64
	return func(step string) {
		if step == name && reached.Add(1) == n {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // nothing more must happen while the signal is on its way
		}
	}
}
