package e2e_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A server is one installation of Frostpin: a data directory, a port, and at most one process at a time.
type server struct {
	t       *testing.T
	network string
	dir     string   // data directory
	env     []string // settings beside the flags
	listen  string
	proc    *process

	root     string // http://127.0.0.1:PORT
	endpoint string // what clients are given: root + base path
	token    string // the first token, printed by the first start
}

// startServer starts a fresh installation on a private network. Settings are FROSTPIN_X=value.
func startServer(t *testing.T, settings ...string) *server {
	t.Helper()
	s := newServer(t, "private", settings...)
	s.start()
	return s
}

func newServer(t *testing.T, network string, settings ...string) *server {
	t.Helper()
	home := t.TempDir()
	return &server{
		t:       t,
		network: network,
		dir:     filepath.Join(home, "data"),
		env:     environment(home, settings...),
		listen:  "127.0.0.1:0",
	}
}

// start starts the process and returns how long it took to be ready. Later starts use the port of the first.
func (s *server) start() time.Duration {
	s.t.Helper()
	begun := time.Now()
	s.proc = startProcess(s.t, "frostpin serve", s.command("serve", "--network", s.network, "--listen", s.listen))
	s.root = s.proc.await(`(http://127\.0\.0\.1:\d+)\D`)[1]
	s.listen = strings.TrimPrefix(s.root, "http://")
	if s.token == "" {
		line := s.proc.await(`ipfs pin remote service add frostpin (\S+) (\S+)\n`)
		s.endpoint, s.token = line[1], line[2]
	}
	within(s.t, patience, "the server is ready", func() (bool, any) {
		code, body := s.fetch("/readyz")
		return code == http.StatusOK, body
	})
	return time.Since(begun)
}

func (s *server) command(args ...string) *exec.Cmd {
	s.t.Helper()
	cmd := exec.Command(binary(s.t, buildFrostpin), append(args, "--data-dir", s.dir)...)
	cmd.Env = s.env
	return cmd
}

// cli runs another frostpin command on the same data directory.
func (s *server) cli(args ...string) result {
	s.t.Helper()
	return finish(s.t, s.command(args...), patience)
}

// must is cli for commands that have to succeed; it returns what they print, without the last newline.
func (s *server) must(args ...string) string {
	s.t.Helper()
	r := s.cli(args...)
	if r.code != 0 {
		s.t.Fatalf("frostpin %s: exit code %d\nstdout:\n%s\nstderr:\n%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return strings.TrimSuffix(r.stdout, "\n")
}

// newToken makes an account and a token for it while the server runs.
func (s *server) newToken(account string) string {
	s.t.Helper()
	s.must("account", "create", account)
	return s.must("token", "create", "--account", account, "--label", "test")
}

// stop asks the server to end and returns how long that took and its exit code.
func (s *server) stop() (time.Duration, int) {
	s.t.Helper()
	begun := time.Now()
	s.proc.signal(syscall.SIGTERM)
	code := s.proc.ended(patience)
	return time.Since(begun), code
}

// fetch gets a path beside the API; code 0 means that nobody answered.
func (s *server) fetch(path string) (code int, body string) {
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Get(s.root + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(text)
}

// fetchAs gets a path beside the API as the owner of the first token.
func (s *server) fetchAs(path string) (code int, body string) {
	s.t.Helper()
	return s.request(http.MethodGet, s.root+path, nil)
}

// postAs posts JSON to the API as the owner of the first token, whatever the answer.
func (s *server) postAs(path string, v any) (code int, body string) {
	s.t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.request(http.MethodPost, s.endpoint+path, bytes.NewReader(text))
}

func (s *server) request(method, url string, content io.Reader) (code int, body string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, url, content)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	client := &http.Client{Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// as is the API as the owner of token sees it.
func (s *server) as(token string) *api {
	return newAPI(s.t, s.endpoint, token)
}

// api is the API as the owner of the first token sees it.
func (s *server) api() *api { return s.as(s.token) }
