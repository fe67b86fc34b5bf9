package hot_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/frostpin/frostpin/pins/hot"
)

const (
	node  = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"
	other = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
)

func TestPolicyLetsNobodyChooseWhereWeConnect(t *testing.T) {
	for _, c := range []struct {
		addr                     string
		public, private, machine bool // allowed by default; with private origins; the same on the private network
	}{
		{"/ip4/1.2.3.4/tcp/4001", true, true, false},
		{"/ip4/1.2.3.4/udp/4001/quic-v1", true, true, false},
		{"/dns4/example.com/tcp/443/wss", true, true, false},
		{"/dnsaddr/example.com", true, true, false},
		{"/ip6/2606:4700::1/tcp/4001", true, true, false},
		{"/ip4/1.2.3.4/tcp/4001/p2p/" + other + "/p2p-circuit", true, true, false},
		{"/ip4/127.0.0.1/tcp/4001", false, true, true},
		{"/ip4/127.0.0.1/udp/4001/quic-v1", false, true, true},
		{"/ip6/::1/tcp/4001", false, true, true},
		{"/ip4/127.0.0.1/tcp/4001/p2p/" + other + "/p2p-circuit", false, true, false},
		{"/ip4/10.1.2.3/tcp/4001", false, true, false},
		{"/ip4/192.168.1.1/tcp/4001", false, true, false},
		{"/ip4/169.254.169.254/tcp/80", false, true, false},
		{"/ip4/100.64.0.1/tcp/4001", false, true, false},
		{"/ip4/0.0.0.0/tcp/4001", false, true, false},
		{"/ip6/fd00::1/tcp/4001", false, true, false},
		{"/ip6/::ffff:127.0.0.1/tcp/4001", false, true, true},
		{"/dns4/localhost/tcp/4001", false, true, false},
		{"/ip4/1.2.3.4/tcp/80/http", false, false, false},
		{"/ip4/127.0.0.1/tcp/80/http", false, false, false},
		{"/ip4/1.2.3.4/tcp/443/tls/http", false, false, false},
		{"/dns4/example.com/tcp/443/https", false, false, false},
		{"/unix/tmp/socket", false, false, false},
		{"/ip6zone/eth0/ip6/fe80::1/tcp/4001", false, false, false},
	} {
		addr, err := ma.NewMultiaddr(c.addr)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []struct {
			private, loopback, want bool
		}{{false, false, c.public}, {true, false, c.private}, {true, true, c.machine}, {false, true, false}} {
			if got := hot.Allows(p.private, p.loopback, addr); got != p.want {
				t.Errorf("%s with private=%v loopbackOnly=%v: allowed is %v", c.addr, p.private, p.loopback, got)
			}
		}
	}
}

func TestDelegatesBestFirst(t *testing.T) {
	id, err := peer.Decode(node)
	if err != nil {
		t.Fatal(err)
	}
	tail := "/p2p/" + node
	many := make([]string, 40)
	for i := range many {
		many[i] = fmt.Sprintf("/ip4/1.2.3.%d/tcp/4001", i+1)
	}
	for _, c := range []struct {
		name            string
		announce, addrs []string
		want            []string
	}{
		{
			"public ones alone", nil,
			[]string{"/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip4/1.2.3.4/udp/1/quic-v1", "/dns4/n.example/tcp/1"},
			[]string{"/ip4/1.2.3.4/udp/1/quic-v1" + tail, "/dns4/n.example/tcp/1" + tail},
		},
		{
			"private ones when nothing is public", nil,
			[]string{"/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1"},
			[]string{"/ip4/10.0.0.1/tcp/1" + tail},
		},
		{
			"loopback when there is nothing else", nil,
			[]string{"/ip6/::1/tcp/1", "/ip6/fe80::1/tcp/1", "/ip4/0.0.0.0/tcp/1"},
			[]string{"/ip6/::1/tcp/1" + tail},
		},
		{
			"what the operator says comes first, once, and only for this node",
			[]string{"/dns4/pin.example/tcp/4001", "/ip4/5.6.7.8/tcp/1" + tail, "/ip4/9.9.9.9/tcp/1/p2p/" + other},
			[]string{"/ip4/5.6.7.8/tcp/1", "/ip4/1.2.3.4/tcp/1" + tail},
			[]string{"/dns4/pin.example/tcp/4001" + tail, "/ip4/5.6.7.8/tcp/1" + tail, "/ip4/1.2.3.4/tcp/1" + tail},
		},
		{
			"only what every client can read", nil,
			[]string{
				"/ip4/1.2.3.4/udp/1/webrtc-direct", "/ip4/1.2.3.4/udp/1/quic-v1/webtransport", "/ip4/1.2.3.4/tcp/1/tls/ws",
				"/ip4/1.2.3.4/tcp/1/p2p/" + other + "/p2p-circuit", "/ip4/1.2.3.4/tcp/80/http",
			},
			[]string{"/ip4/1.2.3.4/tcp/1/tls/ws" + tail},
		},
		{"nothing", nil, nil, nil},
	} {
		var addrs []ma.Multiaddr
		for _, s := range c.addrs {
			addrs = append(addrs, ma.StringCast(s))
		}
		if diff := cmp.Diff(c.want, hot.ChooseDelegates(c.announce, addrs, id)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	var addrs []ma.Multiaddr
	for _, s := range many {
		addrs = append(addrs, ma.StringCast(s))
	}
	if got := hot.ChooseDelegates(nil, addrs, id); len(got) != 20 || !strings.HasPrefix(got[0], many[0]) {
		t.Errorf("of 40 addresses %d are told, want 20", len(got))
	}
}
