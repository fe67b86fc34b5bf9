package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
)

// update rewrites golden files with what the program does now.
var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"frostpin": main})
}

// patience is how long a script waits for something that must happen.
const patience = time.Minute

// TestScripts runs the program as its operator does. Beside testscript's own commands there are:
//
//	await-server DIR          wait for a server on this data directory; sets ORIGIN and ENDPOINT
//	keep NAME                 set the variable to what the last command printed
//	request STATUS METHOD URL [TOKEN [BODY]]
//	eventually REGEXP COMMAND [ARGUMENT...]   run the command until it prints that
func TestScripts(t *testing.T) {
	params := scripts()
	params.Dir = filepath.Join("testdata", "script")
	testscript.Run(t, params)
}

// TestScriptsOnPostgres runs those that do not speak of a database file.
func TestScriptsOnPostgres(t *testing.T) {
	databasetest.NeedPostgres(t)
	for _, name := range []string{"serve", "pins"} {
		t.Run(name, func(t *testing.T) { // each on a schema of its own
			params := scripts("FROSTPIN_DATABASE=" + databasetest.DSN(t, database.Postgres))
			params.Files = []string{filepath.Join("testdata", "script", name+".txtar")}
			testscript.Run(t, params)
		})
	}
}

func scripts(environ ...string) testscript.Params {
	return testscript.Params{
		RequireExplicitExec: true,
		UpdateScripts:       *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("FROSTPIN_NETWORK", "private")
			env.Setenv("FROSTPIN_LISTEN", "127.0.0.1:0")
			env.Vars = append(env.Vars, environ...)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"await-server": awaitServer,
			"keep":         keep,
			"request":      request,
			"eventually":   eventually,
		},
	}
}

func awaitServer(ts *testscript.TestScript, _ bool, args []string) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.Now().Add(patience)
	for {
		content, err := os.ReadFile(filepath.Join(ts.MkAbs(args[0]), presenceFile))
		if err == nil {
			var p presence
			if err := json.Unmarshal(content, &p); err != nil {
				ts.Fatalf("%v", err)
			}
			ts.Setenv("ORIGIN", "http://"+p.Listening)
			ts.Setenv("ENDPOINT", p.Endpoint)
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no server on %s: %v", args[0], err)
		}
		<-ticker.C
	}
}

func keep(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSuffix(ts.ReadFile("stdout"), "\n"))
}

func request(ts *testscript.TestScript, _ bool, args []string) {
	args = append(args, "", "") // token, body
	r, err := http.NewRequest(args[1], args[2], strings.NewReader(args[4]))
	if err != nil {
		ts.Fatalf("%v", err)
	}
	if args[3] != "" {
		r.Header.Set("Authorization", "Bearer "+args[3])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	response, err := client.Do(r)
	if err != nil {
		ts.Fatalf("%v", err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		ts.Fatalf("%v", err)
	}
	if !strings.HasPrefix(response.Status, args[0]) {
		ts.Fatalf("%s %s: got %s, want %s\n%s", args[1], args[2], response.Status, args[0], body)
	}
	if _, err := ts.Stdout().Write(body); err != nil {
		ts.Fatalf("%v", err)
	}
}

// command runs one command line in this process, with a home of its own.
func command(t *testing.T, environ []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, problems bytes.Buffer
	code = run(context.Background(), args, environ, &out, &problems)
	return code, out.String(), problems.String()
}

// golden compares text with a file, or writes it when the tests run with -update.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is out of date (go test ./cmd/frostpin -update rewrites it):\n%s", path, diff)
	}
}

func TestHelpAndDocumentsSayWhatTheSettingsAre(t *testing.T) {
	environ := []string{"HOME=/home/operator"}
	for name, args := range map[string][]string{
		"help.txt":       {"--help"},
		"serve-help.txt": {"serve", "--help"},
		"frostpin.yaml":  {"config", "show"},
	} {
		code, stdout, stderr := command(t, environ, args...)
		if code != 0 {
			t.Errorf("%v: exit code %d: %s", args, code, stderr)
		}
		golden(t, filepath.Join("testdata", "golden", name), stdout)
	}
	var settings strings.Builder
	if err := writeMarkdown(&settings); err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join("..", "..", "docs", "settings.md"), settings.String())
}

func TestEveryCommandHelpsAndRefusesWhatItDoesNotKnow(t *testing.T) {
	environ := []string{"HOME=" + t.TempDir()}
	for _, args := range [][]string{
		{"serve"},
		{"account"},
		{"account", "create"},
		{"account", "list"},
		{"token"},
		{"token", "create"},
		{"token", "list"},
		{"token", "revoke"},
		{"pins"},
		{"pins", "list"},
		{"pins", "show"},
		{"providers"},
		{"providers", "add"},
		{"providers", "set"},
		{"providers", "allow"},
		{"providers", "deny"},
		{"providers", "remove"},
		{"providers", "list"},
		{"providers", "show"},
		{"providers", "probe"},
		{"providers", "import"},
		{"providers", "export"},
		{"deals"},
		{"deals", "list"},
		{"deals", "show"},
		{"deals", "retry"},
		{"deals", "cancel"},
		{"funds"},
		{"funds", "give-up"},
		{"receipt", "verify"},
		{"webhook", "add"},
		{"webhook", "list"},
		{"webhook", "remove"},
		{"webhook", "deliveries"},
		{"webhook", "replay"},
		{"status"},
		{"doctor"},
		{"config", "show"},
		{"version"},
	} {
		if code, stdout, stderr := command(t, environ, append(args, "--help")...); code != 0 || !strings.Contains(stdout, "Usage:") || stderr != "" {
			t.Errorf("%v --help: exit code %d\n%s\n%s", args, code, stdout, stderr)
		}
		if code, _, stderr := command(t, environ, append(args, "--no-such-flag")...); code != 1 || !strings.Contains(stderr, "no-such-flag") {
			t.Errorf("%v --no-such-flag: exit code %d, %s", args, code, stderr)
		}
	}
	for _, args := range [][]string{{"nonsense"}, {"token", "nonsense"}, {"account"}} {
		if code, _, stderr := command(t, environ, args...); code != 1 || stderr == "" {
			t.Errorf("%v: exit code %d, %q", args, code, stderr)
		}
	}
}

func TestTextOfUsersCannotDriveATerminal(t *testing.T) {
	if got := plain("a\x1b[31m\u009b\nb\u2028é"); got != "a\ufffd[31m\ufffd\ufffdb\ufffdé" {
		t.Errorf("got %q", got)
	}
}
