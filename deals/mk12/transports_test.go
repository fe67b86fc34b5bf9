package mk12_test

import (
	"context"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p/core/peer"
	mocknet "github.com/libp2p/go-libp2p/p2p/net/mock"
	"github.com/multiformats/go-multiaddr"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/mk12"
	"github.com/frostpin/frostpin/deals/mk12/wire"
)

func announced(name string, addrs ...string) wire.Protocol {
	p := wire.Protocol{Name: name}
	for _, a := range addrs {
		p.Addresses = append(p.Addresses, multiaddr.StringCast(a).Bytes())
	}
	return p
}

// TestWhereAProviderServes takes what providers announce to base URLs, the best first, and passes over everything else.
func TestWhereAProviderServes(t *testing.T) {
	long := "/dns4/" + strings.Repeat(strings.Repeat("a", 60)+".", 4) + "example/tcp/443/https"
	for name, test := range map[string]struct {
		says    []wire.Protocol
		private bool
		want    []string
	}{
		"nothing":             {nil, false, []string{}},
		"as Curio":            {[]wire.Protocol{announced("libp2p", "/ip4/8.8.8.8/tcp/1"), announced("http", "/dns/sp.example/tcp/443/https")}, false, []string{"https://sp.example"}},
		"another port":        {[]wire.Protocol{announced("http", "/dns4/sp.example/tcp/8443/https")}, false, []string{"https://sp.example:8443"}},
		"tls and http":        {[]wire.Protocol{announced("http", "/dns4/sp.example/tcp/443/tls/http")}, false, []string{"https://sp.example"}},
		"tls with a name":     {[]wire.Protocol{announced("http", "/dns4/sp.example/tcp/443/tls/sni/sp.example/http")}, false, []string{"https://sp.example"}},
		"named https":         {[]wire.Protocol{announced("https", "/dns6/sp.example/tcp/443/https")}, false, []string{"https://sp.example"}},
		"a path":              {[]wire.Protocol{announced("http", "/dns4/sp.example/tcp/443/https/http-path/a%2Fb")}, false, []string{"https://sp.example/a/b"}},
		"a path that climbs":  {[]wire.Protocol{announced("http", "/dns4/sp.example/tcp/443/https/http-path/a%2F..%2Fb")}, false, []string{}},
		"a path with a query": {[]wire.Protocol{announced("http", "/dns4/sp.example/tcp/443/https/http-path/a%3Fb")}, false, []string{}},
		"upper case":          {[]wire.Protocol{announced("http", "/dns4/SP.Example/tcp/80/http")}, false, []string{"http://sp.example"}},
		"ipv6":                {[]wire.Protocol{announced("http", "/ip6/2001:4860:4860::8888/tcp/8080/http")}, false, []string{"http://[2001:4860:4860::8888]:8080"}},
		"ipv6, usual port":    {[]wire.Protocol{announced("http", "/ip6/2001:4860:4860::8888/tcp/80/http")}, false, []string{"http://[2001:4860:4860::8888]"}},
		"the best first": {
			[]wire.Protocol{announced("http", "/ip4/8.8.8.8/tcp/80/http", "/dns4/a.example/tcp/80/http", "/ip4/8.8.8.8/tcp/443/https", "/dns4/a.example/tcp/443/https")},
			false,
			[]string{"https://a.example", "https://8.8.8.8", "http://a.example", "http://8.8.8.8"},
		},
		"twice the same":   {[]wire.Protocol{announced("http", "/dns4/a.example/tcp/443/https", "/dns/a.example/tcp/443/tls/http")}, false, []string{"https://a.example"}},
		"private":          {[]wire.Protocol{announced("http", "/ip4/10.0.0.1/tcp/80/http", "/ip4/127.0.0.1/tcp/80/http", "/ip6/::1/tcp/80/http")}, false, []string{}},
		"private, devnet":  {[]wire.Protocol{announced("http", "/ip4/127.0.0.1/tcp/1234/http")}, true, []string{"http://127.0.0.1:1234"}},
		"names of no host": {[]wire.Protocol{announced("http", "/dns4/localhost/tcp/80/http", "/dns4/a.local/tcp/80/http", "/dns4/10.0.0.1/tcp/80/http", "/dns4/a@b.example/tcp/80/http", "/dns4/a b.example/tcp/80/http")}, false, []string{}},
		"not http":         {[]wire.Protocol{announced("http", "/dns4/a.example/tcp/80", "/dns4/a.example/udp/80/quic-v1", "/dns4/a.example/tcp/80/ws", "/dnsaddr/a.example/tcp/80/http", "/dns4/a.example/tcp/0/http")}, false, []string{}},
		"other protocols":  {[]wire.Protocol{announced("ws", "/dns4/a.example/tcp/80/http")}, false, []string{}},
		"no address":       {[]wire.Protocol{{Name: "http", Addresses: [][]byte{nil, {1, 2, 3}, []byte(strings.Repeat("x", 5000))}}}, false, []string{}},
		"a long name":      {[]wire.Protocol{announced("http", long)}, false, []string{"https" + "://" + long[len("/dns4/"):len(long)-len("/tcp/443/https")]}},
	} {
		if diff := cmp.Diff(test.want, mk12.BaseURLs(&wire.QueryResponse{Protocols: test.says}, test.private)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

func TestAProviderIsAskedWhereItServes(t *testing.T) {
	net, err := mocknet.FullMeshConnected(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { net.Close() })
	hosts := net.Hosts()
	many := announced("http")
	for range 30 {
		many.Addresses = append(many.Addresses, multiaddr.StringCast("/dns4/sp.example/tcp/443/https").Bytes())
	}
	stop := wire.Handle(hosts[1], slog.New(slog.DiscardHandler), wire.Handlers{Transports: func(context.Context, peer.ID) (*wire.QueryResponse, error) {
		return &wire.QueryResponse{Protocols: []wire.Protocol{many}}, nil
	}})
	m := mk12.New(hosts[0], mk12.Config{AllowPrivate: true})
	contact := deals.Contact{Provider: provider, PeerID: hosts[1].ID().String(), Addrs: []string{hosts[1].Addrs()[0].String()}}
	got, err := m.Transports(t.Context(), contact)
	if diff := cmp.Diff([]string{"https://sp.example"}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	stop()
	if got, err := m.Transports(t.Context(), contact); err == nil {
		t.Errorf("one that does not speak the protocol serves from %q", got)
	}
	if _, err := m.Transports(t.Context(), deals.Contact{Provider: provider}); err == nil {
		t.Error("nobody was asked, and there is an answer")
	}
}

// FuzzTransports has a stranger say anything about where it serves: what comes out are plain base URLs, or nothing.
func FuzzTransports(f *testing.F) {
	for _, a := range []string{
		"/dns4/sp.example/tcp/443/https", "/ip6/2001:4860:4860::8888/tcp/8080/http", "/dns/a.example/tcp/1/tls/sni/b.example/http/http-path/a%2Fb",
	} {
		f.Add(multiaddr.StringCast(a).Bytes())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, private := range []bool{false, true} {
			for _, text := range mk12.BaseURLs(&wire.QueryResponse{Protocols: []wire.Protocol{{Name: "http", Addresses: [][]byte{raw}}}}, private) {
				u, err := url.Parse(text)
				if err != nil || u.String() != text || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
					u.Scheme != "http" && u.Scheme != "https" || strings.HasSuffix(text, "/") || len(text) > 512 {
					t.Errorf("%q, %v", text, err)
				}
			}
		}
	})
}
