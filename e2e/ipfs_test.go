package e2e_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// An ipfsNode is one installation of Kubo: a repository and at most one daemon at a time. It knows nobody, looks for
// nobody and listens on loopback.
type ipfsNode struct {
	t    *testing.T
	repo string
	env  []string
	proc *process
	rpc  string // http://127.0.0.1:PORT, once it was started
}

// newIPFS makes a repository without starting a daemon.
func newIPFS(t *testing.T, env ...string) *ipfsNode {
	t.Helper()
	home := t.TempDir()
	n := &ipfsNode{t: t, repo: filepath.Join(home, "repo")}
	n.env = environment(home, append([]string{
		"IPFS_PATH=" + n.repo,
		"IPFS_TELEMETRY=off",
		"IPFS_CONTENT_BLOCKING_DISABLE=1",
	}, env...)...)
	n.must("init", "--profile=test,pebbleds")
	n.configure(map[string]any{
		"Routing.Type":          "none",
		"HTTPRetrieval.Enabled": false,
		"Provide.Enabled":       false,
	})
	return n
}

// startIPFS makes a repository and starts its daemon.
func startIPFS(t *testing.T) *ipfsNode {
	t.Helper()
	n := newIPFS(t)
	n.start()
	return n
}

// configure writes settings, named by their path, into the configuration file.
func (n *ipfsNode) configure(settings map[string]any) {
	n.t.Helper()
	file := filepath.Join(n.repo, "config")
	text, err := os.ReadFile(file)
	if err != nil {
		n.t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		n.t.Fatal(err)
	}
	for path, value := range settings {
		names := strings.Split(path, ".")
		section := config
		for _, name := range names[:len(names)-1] {
			inner, ok := section[name].(map[string]any)
			if !ok {
				inner = map[string]any{}
				section[name] = inner
			}
			section = inner
		}
		section[names[len(names)-1]] = value
	}
	if text, err = json.MarshalIndent(config, "", "  "); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// start starts the daemon; later starts use the port of the first.
func (n *ipfsNode) start() {
	n.t.Helper()
	if n.rpc != "" {
		n.configure(map[string]any{"Addresses.API": "/ip4/127.0.0.1/tcp/" + n.rpc[strings.LastIndex(n.rpc, ":")+1:]})
	}
	n.proc = startProcess(n.t, "ipfs daemon", n.command("daemon", "--migrate=false"))
	port := n.proc.await(`RPC API server listening on /ip4/127\.0\.0\.1/tcp/(\d+)\s`)[1]
	n.proc.await(`Daemon is ready`)
	n.rpc = "http://127.0.0.1:" + port
}

// stop ends the daemon as its operator would.
func (n *ipfsNode) stop() {
	n.t.Helper()
	n.proc.signal(syscall.SIGTERM)
	n.proc.ended(patience)
}

func (n *ipfsNode) command(args ...string) *exec.Cmd {
	n.t.Helper()
	cmd := exec.Command(binary(n.t, buildIPFS), args...)
	cmd.Env = n.env
	return cmd
}

// run runs an ipfs command.
func (n *ipfsNode) run(args ...string) result {
	n.t.Helper()
	return finish(n.t, n.command(args...), patience)
}

// must is run for commands that have to succeed; it returns what they print, without the last newline.
func (n *ipfsNode) must(args ...string) string {
	n.t.Helper()
	r := n.run(args...)
	if r.code != 0 {
		n.t.Fatalf("ipfs %s: exit code %d\nstdout:\n%s\nstderr:\n%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return strings.TrimSuffix(r.stdout, "\n")
}

// fails is run for commands that must not succeed; it returns what the user sees on stderr.
func (n *ipfsNode) fails(args ...string) string {
	n.t.Helper()
	r := n.run(args...)
	if r.code == 0 {
		n.t.Fatalf("ipfs %s succeeded\nstdout:\n%s", strings.Join(args, " "), r.stdout)
	}
	return r.stderr
}

// input is must with something on stdin.
func (n *ipfsNode) input(stdin string, args ...string) string {
	n.t.Helper()
	cmd := n.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	r := finish(n.t, cmd, patience)
	if r.code != 0 {
		n.t.Fatalf("ipfs %s: exit code %d\nstderr:\n%s", strings.Join(args, " "), r.code, r.stderr)
	}
	return strings.TrimSuffix(r.stdout, "\n")
}

// add adds a file or directory, unpinned, and returns its root.
func (n *ipfsNode) add(path string) string {
	n.t.Helper()
	return n.must("add", "-r", "-Q", "--pin=false", path)
}

// addText adds a file with this content and returns its CID.
func (n *ipfsNode) addText(text string, options ...string) string {
	n.t.Helper()
	return n.input(text, append([]string{"add", "-Q", "--pin=false"}, options...)...)
}

// hollow adds a node with a link to data that this IPFS node does not have, and returns it with that data: whoever
// fetches it has to wait until the data is added too.
func (n *ipfsNode) hollow() (root, missing string) {
	n.t.Helper()
	missing = string(noise(600))
	child := sum([]byte(missing), 0x12)
	return n.input(`{"child":{"/":"`+child.String()+`"}}`, "dag", "put"), missing
}

// fill adds the data that a hollow node waits for.
func (n *ipfsNode) fill(missing string) {
	n.t.Helper()
	n.input(missing, "block", "put", "--cid-codec=raw")
}

// addresses are what this node would send as origins.
func (n *ipfsNode) addresses() []string {
	n.t.Helper()
	var id struct{ Addresses []string }
	if err := json.Unmarshal([]byte(n.must("id")), &id); err != nil {
		n.t.Fatal(err)
	}
	if len(id.Addresses) == 0 {
		n.t.Fatal("the ipfs daemon has no address")
	}
	return id.Addresses
}

// refs returns every CID of a DAG, the root included, and fetches what is missing.
func (n *ipfsNode) refs(root string) []string {
	n.t.Helper()
	out := n.must("refs", "-r", "--unique", root)
	return append(strings.Fields(out), root)
}

// use registers the server, as its user would, under the name frostpin.
func (n *ipfsNode) use(s *server) {
	n.t.Helper()
	n.must("pin", "remote", "service", "add", "frostpin", s.endpoint, s.token)
}

// pin runs `ipfs pin remote <command> --service=frostpin ...`.
func (n *ipfsNode) pin(command string, args ...string) string {
	n.t.Helper()
	return n.must(append([]string{"pin", "remote", command, "--service=frostpin"}, args...)...)
}

// A listed pin is one line of `ipfs pin remote ls`.
type listed struct{ Status, Cid, Name string }

// pins runs `ipfs pin remote ls` and returns its lines.
func (n *ipfsNode) pins(filters ...string) []listed {
	n.t.Helper()
	var all []listed
	dec := json.NewDecoder(strings.NewReader(n.pin("ls", append(filters, "--enc=json")...)))
	for dec.More() {
		var l listed
		if err := dec.Decode(&l); err != nil {
			n.t.Fatalf("decoding the list: %v", err)
		}
		all = append(all, l)
	}
	return all
}
