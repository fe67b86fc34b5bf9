package e2e_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// node returns a command that runs a script of the directory that .ci/node made.
func node(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("node", args...)
	cmd.Dir = filepath.Join(needs(t, "FROSTPIN_E2E_NODE"), dir)
	cmd.Env = environment(t.TempDir())
	return cmd
}

// The suite's exit code is 0 whatever happened, and its report says success when checks were left out, so the number
// of checks and the age of the report decide.
func TestComplianceSuite(t *testing.T) {
	contract, err := filepath.Abs(filepath.Join("..", "openapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := node(t, "compliance", "package/dist/src/index.js", "-s")
	reports := filepath.Join(cmd.Dir, "package", "dist", "docs")
	if err := os.RemoveAll(reports); err != nil {
		t.Fatal(err)
	}
	s := startServer(t)
	cmd.Args = append(cmd.Args, s.endpoint, s.newToken("compliance")) // an account that nothing else uses
	cmd.Env = append(cmd.Env, "PSA_SPEC="+contract)
	run := finish(t, cmd, 300*time.Second)

	text, err := os.ReadFile(filepath.Join(reports, "127.0.0.1.json"))
	if err != nil {
		t.Fatalf("the suite wrote no report: %v\n%s%s", err, run.stdout, run.stderr)
	}
	var report struct{ Total, Passed, Failed int }
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	if report.Total != 9 || report.Failed != 0 || strings.Contains(run.stdout+run.stderr, "❌") {
		t.Errorf("report %s; want 9 checks, none failed\n%s%s", text, run.stdout, run.stderr)
	}
	t.Logf("compliance suite: %s", text)
}

func TestHeliaRemotePins(t *testing.T) {
	cmd := node(t, "js", "client.mjs")
	script, err := os.ReadFile(filepath.Join("js", "client.mjs"))
	if err != nil {
		t.Fatal(err)
	}
	// Modules are looked for from where the script lies.
	if err := os.WriteFile(filepath.Join(cmd.Dir, "client.mjs"), script, 0o600); err != nil {
		t.Fatal(err)
	}
	s := startServer(t)
	cmd.Env = append(cmd.Env, "ENDPOINT="+s.endpoint, "TOKEN="+s.newToken("helia"))
	run := finish(t, cmd, patience)
	if run.code != 0 || !strings.HasSuffix(strings.TrimSpace(run.stdout), "all good") {
		t.Errorf("client.mjs ended with %d\n%s%s", run.code, run.stdout, run.stderr)
	}
	t.Log(run.stdout)
}
