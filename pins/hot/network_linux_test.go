package hot_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/sys/unix"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot"
	"github.com/frostpin/frostpin/pins/pinstest"
)

// sockets are the local and remote ends of all sockets of this process.
func sockets(t *testing.T) (local, remote []netip.Addr) {
	t.Helper()
	own := make(map[string]bool)
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:[") {
			own[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
		}
	}
	for _, kind := range []string{"tcp", "tcp6", "udp", "udp6"} {
		f, err := os.Open("/proc/self/net/" + kind)
		if errors.Is(err, os.ErrNotExist) {
			continue // no IPv6 here
		}
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		lines.Scan() // the head
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if own[fields[9]] {
				local, remote = append(local, kernelAddr(t, fields[1])), append(remote, kernelAddr(t, fields[2]))
			}
		}
	}
	return local, remote
}

// kernelAddr reads an address of /proc/net: words in the order of the machine, which is little-endian here.
func kernelAddr(t *testing.T, s string) netip.Addr {
	t.Helper()
	text, _, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+4 <= len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	addr, ok := netip.AddrFromSlice(raw)
	if !ok {
		t.Fatalf("the kernel says %q", s)
	}
	return addr.Unmap()
}

func TestPrivateNodeStaysOnLoopback(t *testing.T) {
	tier := openEmbedded(t, hot.Config{AllowPrivateOrigins: true})
	id, err := peer.Decode(other)
	if err != nil {
		t.Fatal(err)
	}
	tier.Connect(t.Context(), []peer.AddrInfo{{ID: id, Addrs: []ma.Multiaddr{
		ma.StringCast("/ip4/192.0.2.1/tcp/4001"), ma.StringCast("/dns4/example.com/tcp/4001"), ma.StringCast("/ip4/1.1.1.1/udp/4001/quic-v1"),
	}}})()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	finding := make(chan error, 1)
	go func() {
		finding <- tier.Find(ctx, []cid.Cid{pinstest.Leaf("nobody has this").Root}, func(cid.Cid) {})
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	seen := 0
	for looking := true; looking; {
		select {
		case err := <-finding:
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			looking = false
		case <-tick.C:
			local, remote := sockets(t)
			seen = max(seen, len(local))
			for i := range local {
				if !local[i].IsLoopback() || !remote[i].IsLoopback() && !remote[i].IsUnspecified() {
					t.Fatalf("there is a socket from %s to %s", local[i], remote[i])
				}
			}
		}
	}
	if seen == 0 {
		t.Error("not even the listener was seen, so this test proves nothing")
	}
}

// stranded tells the test binary to be a public node on a machine without any network.
const stranded = "FROSTPIN_TEST_STRANDED_DIR"

func TestPublicNodeWorksWithoutInternet(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), stranded+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EINVAL) {
		if os.Getenv("CI") == "true" {
			t.Fatalf("a process cannot have a network of its own here: %v", err)
		}
		t.Skipf("a process cannot have a network of its own here: %v", err)
	}
	if err != nil {
		t.Fatalf("a public node without internet: %v\n%s", err, out)
	}
	if noise := strings.TrimSpace(string(out)); noise != "" {
		t.Errorf("the node wrote:\n%s", noise)
	}
}

// beStranded starts, uses and stops a public node.
func beStranded(dir string) error {
	if err := raiseLoopback(); err != nil {
		return fmt.Errorf("raising the loopback: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	begun := time.Now()
	tier, err := hot.OpenEmbedded(ctx, hot.Config{Dir: dir, Listen: []string{"/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"}})
	if err != nil {
		return err
	}
	if took := time.Since(begun); took > 30*time.Second {
		return fmt.Errorf("the start took %s", took)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "config"))
	if err != nil {
		return err
	}
	for _, want := range []string{`"Strategy": "roots"`, "/dnsaddr/bootstrap.libp2p.io", "cid.contact", "/ip4/10.0.0.0/ipcidr/8"} {
		if !strings.Contains(string(raw), want) {
			return fmt.Errorf("the settings lack %s:\n%s", want, raw)
		}
	}
	if strings.Contains(string(raw), `: "auto"`) && !strings.Contains(string(raw), `"Type": "auto"`) ||
		strings.Count(string(raw), `"auto"`) > 1 { // the type of routing is one
		return fmt.Errorf("the settings have an auto left:\n%s", raw)
	}
	// The filters hold whatever name led there.
	for _, addr := range []string{
		"/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip4/172.16.0.1/tcp/1", "/ip4/192.168.0.1/tcp/1", "/ip4/169.254.169.254/tcp/80",
		"/ip4/100.64.0.1/tcp/1", "/ip4/0.0.0.0/tcp/1", "/ip4/224.0.0.1/udp/1/quic-v1", "/ip6/::1/tcp/1", "/ip6/fd00::1/tcp/1",
		"/ip6/fe80::1/tcp/1", "/ip6/::ffff:127.0.0.1/tcp/1", "/ip6/64:ff9b::7f00:1/tcp/1", "/ip6/2002:7f00:1::/tcp/1",
	} {
		if !tier.Node().Filters.AddrBlocked(ma.StringCast(addr)) {
			return fmt.Errorf("a public node may dial %s", addr)
		}
	}
	if tier.Node().Filters.AddrBlocked(ma.StringCast("/ip4/1.1.1.1/tcp/4001")) {
		return errors.New("a public node may not dial public addresses")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	tier.Connect(ctx, trap(l.Addr().(*net.TCPAddr).Port))()
	if err := l.(*net.TCPListener).SetDeadline(time.Now()); err != nil {
		return err
	}
	if conn, err := l.Accept(); err == nil {
		return fmt.Errorf("an origin made the node connect to %s", conn.LocalAddr())
	}
	told, err := tier.Delegates(ctx)
	if err != nil || len(told) == 0 {
		return fmt.Errorf("delegates %q, %w", told, err)
	}
	d := pinstest.Tree("stranded", 5)
	if err := tier.Node().Blocks.AddBlocks(ctx, d.Blocks); err != nil {
		return err
	}
	if err := tier.Hold(ctx, d.Root, pins.Limits{Idle: time.Second}, nil); err != nil {
		return err
	}
	if err := tier.Announce(ctx, d.Root); err != nil {
		return fmt.Errorf("announcing: %w", err)
	}
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := tier.Find(short, []cid.Cid{pinstest.Leaf("far away").Root}, func(cid.Cid) {}); !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("finding what nobody has: %w", err)
	}
	begun = time.Now()
	if err := tier.Close(); err != nil {
		return fmt.Errorf("stopping: %w", err)
	}
	if took := time.Since(begun); took > 30*time.Second {
		return fmt.Errorf("the stop took %s", took)
	}
	return nil
}

func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}
