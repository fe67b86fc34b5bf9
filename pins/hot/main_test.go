package hot_test

import (
	"fmt"
	"os"
	"testing"
)

// kubo is the path of the daemon's binary.
var kubo string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	// Some tests run this binary again, as a process that they can kill or cut off.
	for role, be := range roles() {
		if dir := os.Getenv(role); dir != "" {
			if err := be(dir); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			return 0
		}
	}
	dir, err := os.MkdirTemp("", "frostpin-hot-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if kubo, err = buildKubo(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
