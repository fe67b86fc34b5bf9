package hot

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/kubo/core"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/frostpin/frostpin/pins"
)

const (
	maxOrigins = 20
	dialTime   = 5 * time.Second
)

// A dialPolicy says which addresses that strangers name are dialled. Names are looked up later, so the node's own
// filters check every address again after that.
type dialPolicy struct {
	private      bool // loopback and private addresses too
	loopbackOnly bool // nothing leaves this machine
}

// filter returns the addresses that may be dialled.
func (p dialPolicy) filter(addrs []ma.Multiaddr) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, addr := range addrs {
		if p.allows(addr) {
			out = append(out, addr)
		}
	}
	return out
}

func (p dialPolicy) allows(addr ma.Multiaddr) bool {
	if len(addr) == 0 {
		return false
	}
	for _, part := range addr {
		switch part.Protocol().Code {
		case ma.P_IP4, ma.P_IP6, ma.P_DNS, ma.P_DNS4, ma.P_DNS6, ma.P_DNSADDR, ma.P_TCP, ma.P_UDP, ma.P_QUIC_V1,
			ma.P_WS, ma.P_WSS, ma.P_TLS, ma.P_SNI, ma.P_WEBTRANSPORT, ma.P_WEBRTC_DIRECT, ma.P_CERTHASH, ma.P_P2P:
		case ma.P_CIRCUIT:
			if p.loopbackOnly {
				return false // a relay may be anywhere
			}
		default:
			return false // http above all: it would be dialled past every filter (H12)
		}
	}
	switch {
	case p.loopbackOnly:
		return p.private && manet.IsIPLoopback(addr) // not even a name is looked up
	case p.private:
		return true
	default:
		return manet.IsPublicAddr(addr)
	}
}

// stayOnLoopback makes the node refuse every connection that would leave the machine, whoever asks for it.
func stayOnLoopback(filters *ma.Filters) {
	for _, rule := range []struct {
		ip     net.IP
		ones   int
		bits   int
		action ma.Action
	}{
		{net.IPv4zero.To4(), 0, 32, ma.ActionDeny},
		{net.IPv6zero, 0, 128, ma.ActionDeny},
		{net.IPv4(127, 0, 0, 0).To4(), 8, 32, ma.ActionAccept}, // the last rule that fits decides
		{net.IPv6loopback, 128, 128, ma.ActionAccept},
	} {
		filters.AddFilter(net.IPNet{IP: rule.ip, Mask: net.CIDRMask(rule.ones, rule.bits)}, rule.action)
	}
}

// Connect implements pins.HotTier.
func (e *Embedded) Connect(ctx context.Context, origins []peer.AddrInfo) (release func()) {
	ctx, done, err := e.life.begin(ctx)
	if err != nil {
		return func() {}
	}
	defer done()
	usable := e.policy.usable(origins, e.node.Identity)
	release = e.origins.protect(e.node, usable)
	var dials sync.WaitGroup
	for _, origin := range usable {
		dials.Go(func() { apart(e.log, "dialling an origin", func() { e.dial(ctx, origin) }) })
	}
	dials.Wait()
	return release
}

// usable returns the first origins that have an address to dial, each peer once.
func (p dialPolicy) usable(origins []peer.AddrInfo, self peer.ID) []peer.AddrInfo {
	var out []peer.AddrInfo
	at := make(map[peer.ID]int)
	for _, origin := range origins {
		addrs := p.filter(origin.Addrs)
		if len(addrs) == 0 || origin.ID == self || origin.ID.Validate() != nil {
			continue
		}
		if i, again := at[origin.ID]; again {
			out[i].Addrs = append(out[i].Addrs, addrs...)
			continue
		}
		if len(out) == maxOrigins {
			continue
		}
		at[origin.ID] = len(out)
		out = append(out, peer.AddrInfo{ID: origin.ID, Addrs: addrs})
	}
	return out
}

// dial connects, best effort. Without addresses it tries those that are known.
func (e *Embedded) dial(ctx context.Context, to peer.AddrInfo) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	if net, ok := e.node.PeerHost.Network().(*swarm.Swarm); ok {
		net.Backoff().Clear(to.ID) // it was named just now
	}
	if err := e.node.PeerHost.Connect(ctx, to); err != nil {
		e.log.Debug("could not connect to a peer", "peer", to.ID, "err", err)
	}
}

// apart does something in a goroutine of its own, where a panic would end the process. Addresses are what strangers say.
func apart(log *slog.Logger, what string, do func()) {
	if err := pins.Safely(func() error { do(); return nil }); err != nil {
		log.Error("panic while looking for peers", "at", what, "err", err)
	}
}

// origins are the peers whose connections are kept for someone.
type origins struct {
	calls atomic.Int64
	mu    sync.Mutex
	users map[peer.ID]int
}

// protect keeps connections to these peers, and makes them again when they break, until release is called.
func (o *origins) protect(node *core.IpfsNode, peers []peer.AddrInfo) (release func()) {
	tag := "frostpin-" + strconv.FormatInt(o.calls.Add(1), 10)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.users == nil {
		o.users = make(map[peer.ID]int)
	}
	for _, p := range peers {
		node.PeerHost.ConnManager().Protect(p.ID, tag)
		o.users[p.ID]++
		node.Peering.AddPeer(p)
	}
	return sync.OnceFunc(func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, p := range peers {
			node.PeerHost.ConnManager().Unprotect(p.ID, tag)
			if o.users[p.ID]--; o.users[p.ID] == 0 {
				delete(o.users, p.ID)
				node.Peering.RemovePeer(p.ID)
			}
		}
	})
}

// forget lets go of all peers when the node stops.
func (o *origins) forget(node *core.IpfsNode) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id := range o.users {
		node.Peering.RemovePeer(id)
	}
}
