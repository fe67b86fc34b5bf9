package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// bench is where the binaries are built. TestMain makes and removes it.
var bench string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "frostpin-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "making a directory for the binaries:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	bench = dir
	return m.Run()
}

// buildFrostpin and buildIPFS build on first use, so that a run of one small test does not wait for both.
var (
	buildFrostpin = sync.OnceValues(func() (string, error) {
		return build("frostpin", "github.com/frostpin/frostpin/cmd/frostpin", raced)
	})
	buildIPFS = sync.OnceValues(func() (string, error) {
		return build("ipfs", "github.com/ipfs/kubo/cmd/ipfs", false)
	})
)

func build(name, pkg string, race bool) (string, error) {
	bin := filepath.Join(bench, name)
	args := []string{"build", "-o", bin}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, pkg)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return bin, nil
}

func binary(t *testing.T, build func() (string, error)) string {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// patience is how long a test waits for something that must happen but whose speed is not the promise under test.
const patience = 90 * time.Second

// eventually polls ok until it is true, and fails the test with what and the last answer when patience ends.
func eventually(t *testing.T, what string, ok func() (done bool, got any)) {
	t.Helper()
	within(t, patience, what, ok)
}

func within(t *testing.T, limit time.Duration, what string, ok func() (done bool, got any)) {
	t.Helper()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(limit)
	for {
		done, got := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s; last seen: %v", what, limit, got)
		}
		<-tick.C
	}
}

// needs returns the environment variable that offers something not every machine has. Without it the test ends: as
// skipped on a developer's machine, as failed where CI=true says that everything must be there.
func needs(t *testing.T, variable string) string {
	t.Helper()
	value := os.Getenv(variable)
	if value == "" {
		if ci, _ := strconv.ParseBool(os.Getenv("CI")); ci {
			t.Fatalf("%s is not set, and under CI everything must run", variable)
		}
		t.Skipf("%s is not set", variable)
	}
	return value
}

// count is a number of repetitions: the variable's value, or the default.
func count(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	value := os.Getenv(variable)
	if value == "" {
		return otherwise
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number from 1 up", variable, value)
	}
	return n
}

func long() bool { return os.Getenv("FROSTPIN_E2E_LONG") == "1" }

// environment is the environment of a child process: what programs need to start at all, nothing that would configure
// them, and a home of their own.
func environment(home string, extra ...string) []string {
	env := []string{"HOME=" + home}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "PATH", "TMPDIR", "LANG", "GORACE", "GOCOVERDIR":
			env = append(env, kv)
		}
	}
	return append(env, extra...)
}
