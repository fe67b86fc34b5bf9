package e2e_test

import (
	"os/exec"
	"strings"
	"testing"
)

// Some packages of Lotus pull in filecoin-ffi, which needs a Rust library: then `go run ./cmd/frostpin` would no
// longer work on a machine that has only Go and a C compiler.
func TestNothingNeedsFilecoinFFI(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-test", "./...")
	cmd.Dir = ".."
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing what is imported: %v\n%s", err, stderr.String())
	}
	all := strings.Fields(string(out))
	if len(all) < 1000 {
		t.Fatalf("only %d packages are listed", len(all))
	}
	for _, pkg := range all {
		if strings.HasPrefix(pkg, "github.com/filecoin-project/filecoin-ffi") {
			t.Errorf("%s is imported", pkg)
		}
	}
}
