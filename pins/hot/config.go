package hot

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"

	"github.com/ipfs/boxo/autoconf"
	"github.com/ipfs/kubo/config"
	"github.com/ipfs/kubo/core/coreiface/options"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/frostpin/frostpin/pins"
)

// The networks an embedded node may live on.
const (
	Public  = "public"
	Private = "private" // this machine's loopback and nothing else
)

// The ways an embedded node may keep blocks. Both make a pin durable only after its blocks.
const (
	Pebble = "pebbleds" // one pebble database
	Flatfs = "flatfs"   // one file per block, synced, and a leveldb for the rest
)

// Config is what an operator decides about the embedded node. The zero value of each field is the default.
type Config struct {
	Dir                 string      // the node's repository; created when it is missing
	Network             string      // Public or Private
	Profile             string      // Pebble or Flatfs; fixed when the repository is created
	Listen              []string    // swarm multiaddresses to listen on
	Announce            []string    // multiaddresses told to clients before those the node finds out itself
	AllowPrivateOrigins bool        // dial loopback and private addresses that strangers name
	ConnLow, ConnHigh   int         // connections to keep; above high, trimmed to low
	Turns               *pins.Turns // for storing, reading and decoding what accounts want; nil: all at once
	Log                 *slog.Logger
}

// withDefaults fills what was left out and names everything that is wrong.
func (c Config) withDefaults() (Config, error) {
	if c.Network == "" {
		c.Network = Public
	}
	if c.Profile == "" {
		c.Profile = Pebble
	}
	if c.ConnLow == 0 {
		c.ConnLow = 200
	}
	if c.ConnHigh == 0 {
		c.ConnHigh = 2 * c.ConnLow
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if len(c.Listen) == 0 {
		c.Listen = []string{
			"/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001",
			"/ip4/0.0.0.0/udp/4001/quic-v1", "/ip6/::/udp/4001/quic-v1",
		}
		if c.Network == Private {
			c.Listen = []string{"/ip4/127.0.0.1/tcp/0"}
		}
	}
	return c, c.check()
}

func (c Config) check() error {
	var wrong []error
	if c.Dir == "" {
		wrong = append(wrong, errors.New("the node needs a directory"))
	}
	if c.Network != Public && c.Network != Private {
		wrong = append(wrong, fmt.Errorf("the network is %s or %s, not %q", Public, Private, c.Network))
	}
	if c.Profile != Pebble && c.Profile != Flatfs {
		wrong = append(wrong, fmt.Errorf("the profile is %s or %s, not %q", Pebble, Flatfs, c.Profile))
	}
	if c.ConnLow < 0 || c.ConnHigh < c.ConnLow {
		wrong = append(wrong, fmt.Errorf("connections are kept from 0 <= low (%d) to high (%d)", c.ConnLow, c.ConnHigh))
	}
	for _, s := range c.Listen {
		addr, err := ma.NewMultiaddr(s)
		switch {
		case err != nil:
			wrong = append(wrong, fmt.Errorf("listening on %q: %w", s, err))
		case c.Network == Private && !manet.IsIPLoopback(addr):
			wrong = append(wrong, fmt.Errorf("listening on %s: a private network is on loopback only", s))
		}
	}
	for _, s := range c.Announce {
		if _, err := ma.NewMultiaddr(s); err != nil {
			wrong = append(wrong, fmt.Errorf("announcing %q: %w", s, err))
		}
	}
	return errors.Join(wrong...)
}

// repository is the whole Kubo configuration. The file in the repository belongs to us: it is written anew at each
// start from the operator's settings, and only the node's identity and the layout of its store are taken from it.
func (c Config) repository(id config.Identity, store map[string]any) (*config.Config, error) {
	k, err := config.InitWithIdentity(id)
	if err != nil {
		return nil, fmt.Errorf("preparing kubo's settings: %w", err)
	}
	// This profile takes everything off that speaks without being asked, and every "auto", which Kubo would later
	// replace by nothing (H14). The public network then gets back what it needs.
	if err := config.Profiles["test"].Transform(k); err != nil {
		return nil, fmt.Errorf("applying kubo's profile test: %w", err)
	}
	k.Addresses.Swarm = slices.Clone(c.Listen)
	k.Addresses.API, k.Addresses.Gateway = nil, nil
	k.Datastore.Spec = store
	k.HTTPRetrieval.Enabled = config.False // it asks no gater before it connects (H12)
	k.AutoTLS.Enabled = config.False
	k.AutoConf.Enabled = config.False
	k.Swarm.RelayService.Enabled = config.False
	k.Swarm.ConnMgr.Type = config.NewOptionalString("basic")
	k.Swarm.ConnMgr.LowWater = config.NewOptionalInteger(int64(c.ConnLow))
	k.Swarm.ConnMgr.HighWater = config.NewOptionalInteger(int64(c.ConnHigh))
	if c.Network == Private {
		k.Routing.Type = config.NewOptionalString("none")
		k.Provide.Enabled = config.False
		k.Swarm.RelayClient.Enabled = config.False
		k.Swarm.EnableHolePunching = config.False
		k.AutoNAT.ServiceMode = config.AutoNATServiceDisabled
		return k, nil
	}
	known := autoconf.GetMainnetFallbackConfig()
	k.Routing.Type = config.NewOptionalString("auto")
	k.Routing.LoopbackAddressesOnLanDHT = config.False
	k.Provide.Enabled = config.True
	k.Provide.Strategy = config.NewOptionalString("roots")
	k.Bootstrap = known.GetBootstrapPeers(autoconf.SystemAminoDHT)
	for _, base := range slices.Sorted(maps.Keys(known.DelegatedEndpoints)) {
		endpoint := known.DelegatedEndpoints[base]
		// The DHT we ask ourselves; the indexers only by these routers.
		if slices.Contains(endpoint.Systems, autoconf.SystemIPNI) {
			k.Routing.DelegatedRouters = append(k.Routing.DelegatedRouters, base+autoconf.RoutingV1ProvidersPath)
		}
	}
	for domain, resolvers := range known.DNSResolvers {
		if domain != "." && len(resolvers) > 0 {
			k.DNS.Resolvers[domain] = resolvers[0]
		}
	}
	for _, s := range c.Announce { // beside what the node finds out itself, not instead of it
		addr, err := ma.NewMultiaddr(s)
		if err != nil {
			return nil, fmt.Errorf("announcing %q: %w", s, err)
		}
		if transport, _ := peer.SplitAddr(addr); len(transport) > 0 {
			k.Addresses.AppendAnnounce = append(k.Addresses.AppendAnnounce, transport.String())
		}
	}
	if !c.AllowPrivateOrigins {
		if err := config.Profiles["server"].Transform(k); err != nil {
			return nil, fmt.Errorf("applying kubo's profile server: %w", err)
		}
		k.Swarm.AddrFilters = append(k.Swarm.AddrFilters, moreFilters()...)
	}
	return k, nil
}

// moreFilters are the ranges that lead to private hosts, or nowhere, and that Kubo's profile server forgets.
func moreFilters() []string {
	return []string{
		"/ip4/0.0.0.0/ipcidr/8",   // "this host" is the loopback in disguise
		"/ip4/224.0.0.0/ipcidr/4", // multicast
		"/ip6/2001::/ipcidr/32",   // Teredo carries any IPv4 address
		"/ip6/2002::/ipcidr/16",   // so does 6to4
		"/ip6/4000::/ipcidr/2",    // not allocated
		"/ip6/8000::/ipcidr/1",    // not allocated, and multicast
	}
}

// newIdentity makes the key that names the node on the network.
func newIdentity() (config.Identity, error) {
	id, err := config.CreateIdentity(io.Discard, []options.KeyGenerateOption{options.Key.Type(options.Ed25519Key)})
	if err != nil {
		return id, fmt.Errorf("making the node's identity: %w", err)
	}
	return id, nil
}

// store is the layout of a new repository.
func store(profile string) (map[string]any, error) {
	var k config.Config
	if err := config.Profiles[profile].Transform(&k); err != nil {
		return nil, fmt.Errorf("applying kubo's profile %s: %w", profile, err)
	}
	if profile == Flatfs {
		setSync(k.Datastore.Spec)
	}
	return k.Datastore.Spec, nil
}

// setSync makes flatfs sync its files: by default it never does, and a pin could outlive its blocks (H7).
func setSync(spec map[string]any) {
	if spec["type"] == "flatfs" {
		spec["sync"] = true
	}
	for _, part := range parts(spec) {
		setSync(part)
	}
}

// profileOf tells which profile made a layout.
func profileOf(spec map[string]any) string {
	if kind, _ := spec["type"].(string); kind == Pebble || kind == Flatfs {
		return kind
	}
	for _, part := range parts(spec) {
		if p := profileOf(part); p == Flatfs || p == Pebble {
			return p
		}
	}
	return "another layout"
}

// parts are the layouts inside a layout.
func parts(spec map[string]any) []map[string]any {
	var out []map[string]any
	if child, ok := spec["child"].(map[string]any); ok {
		out = append(out, child)
	}
	mounts, _ := spec["mounts"].([]any)
	for _, mount := range mounts {
		if part, ok := mount.(map[string]any); ok {
			out = append(out, part)
		}
	}
	return out
}
