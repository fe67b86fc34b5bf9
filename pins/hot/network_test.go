package hot_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/frostpin/frostpin/pins/hot"
)

// A canary listens where nobody has any business and reports who comes.
func canary(t *testing.T) (port int, sang <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	came := make(chan string, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			came <- conn.RemoteAddr().String()
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).Port, came
}

// trap is an origin whose addresses all lead to the canary, some by detours.
func trap(port int) []peer.AddrInfo {
	id, err := peer.Decode(node)
	if err != nil {
		panic(err)
	}
	var addrs []ma.Multiaddr
	for _, s := range []string{
		"/ip4/127.0.0.1/tcp/%d", "/ip4/127.0.0.1/tcp/%d/ws", "/ip4/127.0.0.1/tcp/%d/http", "/ip4/127.1.2.3/tcp/%d",
		"/ip4/0.0.0.0/tcp/%d", "/ip6/::1/tcp/%d", "/ip6/::ffff:127.0.0.1/tcp/%d", "/ip6/2002:7f00:1::/tcp/%d",
		"/dns4/localhost/tcp/%d", "/dns/localhost/tcp/%d/wss", "/dns4/localhost/tcp/%d/http",
	} {
		addrs = append(addrs, ma.StringCast(fmt.Sprintf(s, port)))
	}
	return []peer.AddrInfo{{ID: id, Addrs: addrs}}
}

func TestOriginsCannotReachThisMachine(t *testing.T) {
	port, sang := canary(t)
	tier := openEmbedded(t, hot.Config{})
	tier.Connect(t.Context(), trap(port))()
	select {
	case from := <-sang:
		t.Errorf("the embedded node connected to the canary from %s", from)
	default:
	}
	daemon := startDaemon(t)
	openRemote(t, hot.RemoteConfig{URL: daemon.url()}).Connect(t.Context(), trap(port))()
	select {
	case from := <-sang:
		t.Errorf("the daemon connected to the canary from %s", from)
	default:
	}
	// The trap works: who is allowed to go there does.
	allowed := openEmbedded(t, hot.Config{AllowPrivateOrigins: true})
	allowed.Connect(t.Context(), trap(port))()
	select {
	case <-sang:
	default:
		t.Error("nobody came even when it was allowed, so this test proves nothing")
	}
}

// The policy looks at what a stranger wrote; the node's filters look at every address that is dialled, also after a
// name was looked up, and also when someone forgot the policy.
func TestNodeRefusesToDialBehindThePolicy(t *testing.T) {
	port, sang := canary(t)
	tier := openEmbedded(t, hot.Config{AllowPrivateOrigins: true})
	id, err := peer.Decode(node)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"/ip4/10.255.255.1/tcp/%d", "/ip4/1.2.3.4/tcp/%d", "/ip6/2606:4700::1/tcp/%d", "/ip4/1.2.3.4/udp/%d/quic-v1"} {
		addr := ma.StringCast(fmt.Sprintf(s, port))
		if !tier.Node().Filters.AddrBlocked(addr) {
			t.Errorf("a node of a private network may dial %s", addr)
		}
		err := tier.Node().PeerHost.Connect(t.Context(), peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{addr}})
		if err == nil || !strings.Contains(err.Error(), "gater") {
			t.Errorf("dialling %s: %v", addr, err)
		}
		tier.Node().Peerstore.ClearAddrs(id)
	}
	if len(sang) > 0 {
		t.Error("someone came to the canary")
	}
}

// settings reads the config of a node.
func settings(t *testing.T, dir string) (text string, parsed map[string]any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "config"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &parsed); err != nil {
		t.Fatal(err)
	}
	return string(raw), parsed
}

func setting(t *testing.T, k map[string]any, path string) any {
	t.Helper()
	var v any = k
	for key := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			t.Fatalf("there is no setting %s", path)
		}
		v = m[key]
	}
	return v
}

func TestSettingsOfOneStartDoNotOutliveIt(t *testing.T) {
	dir := t.TempDir()
	open := func(cfg hot.Config) map[string]any {
		cfg.Dir, cfg.Network = dir, hot.Private
		tier, err := hot.OpenEmbedded(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := tier.Close(); err != nil {
			t.Fatal(err)
		}
		_, k := settings(t, dir)
		return k
	}
	k := open(hot.Config{ConnLow: 7, ConnHigh: 9})
	if got := setting(t, k, "Swarm.ConnMgr.HighWater"); got != 9.0 {
		t.Errorf("the setting of the first start is %v", got)
	}
	// Someone edits the file.
	raw, _ := settings(t, dir)
	edited := strings.Replace(raw, `"HTTPRetrieval": {`, `"Plugins": {"Plugins": {"x": {"Disabled": true}}}, "Experimental": {"FilestoreEnabled": true}, "HTTPRetrieval": {"NumWorkers": 3, `, 1)
	if edited == raw {
		t.Fatal("the test does not know the file any more")
	}
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	k = open(hot.Config{})
	if got := setting(t, k, "Swarm.ConnMgr.HighWater"); got != 400.0 {
		t.Errorf("the setting of the first start is still there: %v", got)
	}
	if text, _ := settings(t, dir); strings.Contains(text, "NumWorkers") || strings.Contains(text, `"FilestoreEnabled": true`) {
		t.Error("an edit of the file outlived a start")
	}
}

func TestPrivateSettingsSpeakToNobody(t *testing.T) {
	for _, profile := range []string{hot.Pebble, hot.Flatfs} {
		dir := t.TempDir()
		openEmbedded(t, hot.Config{Dir: dir, Profile: profile})
		text, k := settings(t, dir)
		if strings.Contains(text, `"auto"`) {
			t.Error("the settings contain an auto, which would be replaced by nothing or by a download")
		}
		for path, want := range map[string]any{
			"Routing.Type": "none", "Provide.Enabled": false, "HTTPRetrieval.Enabled": false, "AutoTLS.Enabled": false,
			"AutoConf.Enabled": false, "Discovery.MDNS.Enabled": false, "Swarm.DisableNatPortMap": true,
			"Swarm.RelayClient.Enabled": false, "Swarm.RelayService.Enabled": false, "Swarm.EnableHolePunching": false,
			"AutoNAT.ServiceMode": "disabled",
		} {
			if got := setting(t, k, path); got != want {
				t.Errorf("%s is %v, want %v", path, got, want)
			}
		}
		if profile == hot.Flatfs && !strings.Contains(text, `"sync": true`) {
			t.Error("flatfs does not sync: a pin could outlive its blocks (H7)")
		}
		if _, err := os.Stat(filepath.Join(dir, "api")); !os.IsNotExist(err) {
			t.Errorf("there is an api file: %v", err)
		}
	}
}
