package hot_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/frostpin/frostpin/pins/hot"
)

// buildKubo builds the daemon of the same version as our client into dir.
func buildKubo(dir string) (string, error) {
	path := filepath.Join(dir, "ipfs")
	out, err := exec.Command("go", "build", "-o", path, "github.com/ipfs/kubo/cmd/ipfs").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building kubo: %w\n%s", err, out)
	}
	return path, nil
}

// A daemonProcess is a real Kubo daemon on loopback, with nobody to talk to.
type daemonProcess struct {
	t    testing.TB
	home string
	cmd  *exec.Cmd
	done chan error
	out  bytes.Buffer
}

// startDaemon makes a repository and runs a daemon on it until the test ends.
func startDaemon(t testing.TB) *daemonProcess {
	t.Helper()
	d := &daemonProcess{t: t, home: t.TempDir()}
	d.ipfs("init", "--profile=test,pebbleds", "--empty-repo")
	d.ipfs("config", "Routing.Type", "none")
	d.ipfs("config", "--json", "HTTPRetrieval.Enabled", "false")
	d.ipfs("config", "--json", "Provide.Enabled", "false")
	d.run()
	t.Cleanup(d.stop)
	return d
}

func (d *daemonProcess) command(args ...string) *exec.Cmd {
	cmd := exec.Command(kubo, args...)
	cmd.Env = append(os.Environ(), "IPFS_PATH="+d.home, "IPFS_TELEMETRY=off", "IPFS_CONTENT_BLOCKING_DISABLE=1")
	return cmd
}

func (d *daemonProcess) ipfs(args ...string) string {
	d.t.Helper()
	out, err := d.command(args...).CombinedOutput()
	if err != nil {
		d.t.Fatalf("ipfs %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// run starts the daemon and waits until it answers. The first time it chooses a port, which it keeps after that.
func (d *daemonProcess) run() {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.home, "api")); err != nil && !os.IsNotExist(err) {
		d.t.Fatal(err)
	}
	d.cmd = d.command("daemon")
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.out
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan error) { done <- cmd.Wait() }(d.cmd, d.done)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case err := <-d.done:
			d.t.Fatalf("the daemon ended: %v\n%s", err, d.out.String())
		case <-deadline:
			d.t.Fatal("the daemon does not answer")
		case <-tick.C:
			if addr, err := os.ReadFile(filepath.Join(d.home, "api")); err == nil && d.answers() {
				d.ipfs("config", "Addresses.API", string(addr))
				return
			}
		}
	}
}

func (d *daemonProcess) answers() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url()+"/api/v0/version", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
}

// url is where the daemon serves its RPC API.
func (d *daemonProcess) url() string {
	addr, err := os.ReadFile(filepath.Join(d.home, "api"))
	if err != nil {
		d.t.Fatal(err)
	}
	port := string(addr[bytes.LastIndexByte(addr, '/')+1:])
	return "http://127.0.0.1:" + strings.TrimSpace(port)
}

// kill ends the daemon without warning.
func (d *daemonProcess) kill() {
	d.t.Helper()
	if err := d.cmd.Process.Kill(); err != nil {
		d.t.Fatal(err)
	}
	<-d.done
	d.cmd = nil
}

// freeze stops the daemon where it is, or lets it go on.
func (d *daemonProcess) freeze(on bool) {
	d.t.Helper()
	signal := syscall.SIGCONT
	if on {
		signal = syscall.SIGSTOP
	}
	if err := d.cmd.Process.Signal(signal); err != nil {
		d.t.Fatal(err)
	}
}

func (d *daemonProcess) stop() {
	if d.cmd == nil {
		return
	}
	if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
		d.t.Error(err)
	}
	select {
	case <-d.done:
	case <-time.After(10 * time.Second):
		d.kill()
	}
}

func openRemote(t testing.TB, cfg hot.RemoteConfig) *hot.Remote {
	t.Helper()
	tier, err := hot.OpenRemote(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tier.Close(); err != nil {
			t.Errorf("closing the connection: %v", err)
		}
	})
	return tier
}
