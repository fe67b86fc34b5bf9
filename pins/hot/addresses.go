package hot

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/frostpin/frostpin/pins"
)

// maxDelegates is what the Pinning Service API allows.
const maxDelegates = 20

// Delegates implements pins.HotTier.
func (e *Embedded) Delegates(ctx context.Context) ([]string, error) {
	if known, fresh := e.delegates.fresh(time.Second); fresh {
		return known, nil // they are part of every answer of the API
	}
	_, done, err := e.life.begin(ctx)
	if err != nil {
		return e.delegates.last()
	}
	defer done()
	addrs := e.node.PeerHost.Addrs()
	if len(delegates(nil, addrs, e.node.Identity)) == 0 {
		// Behind a router the node announces no address until others have told it one. A private one is better
		// than none: clients must get at least one.
		if bound, err := e.node.PeerHost.Network().InterfaceListenAddresses(); err == nil {
			addrs = bound
		}
	}
	return e.delegates.next(delegates(e.config.Announce, addrs, e.node.Identity))
}

// delegates chooses what to tell clients: first what the operator says, then public addresses; private ones where
// there is nothing else, and loopback last. Clients dial them one after another, and each that cannot be reached costs
// them seconds. Only protocols that every libp2p knows are told.
func delegates(announce []string, addrs []ma.Multiaddr, id peer.ID) []string {
	var told, public, private, loopback []string
	for _, s := range announce {
		if addr, err := ma.NewMultiaddr(s); err == nil {
			told = append(told, withID(addr, id)...)
		}
	}
	for _, addr := range addrs {
		spelled := withID(addr, id)
		switch {
		case !widelyKnown(addr) || manet.IsIPUnspecified(addr) || manet.IsIP6LinkLocal(addr):
		case manet.IsIPLoopback(addr):
			loopback = append(loopback, spelled...)
		case manet.IsPublicAddr(addr):
			public = append(public, spelled...)
		default:
			private = append(private, spelled...)
		}
	}
	out := slices.Concat(told, public)
	for _, instead := range [][]string{private, loopback} {
		if len(out) == 0 {
			out = instead
		}
	}
	var unique []string
	for _, s := range out {
		if !slices.Contains(unique, s) && len(unique) < maxDelegates {
			unique = append(unique, s)
		}
	}
	return unique
}

// withID spells an address with the node's peer id at its end. One that ends in another id is dropped.
func withID(addr ma.Multiaddr, id peer.ID) []string {
	transport, named := peer.SplitAddr(addr)
	if len(transport) == 0 || named != "" && named != id {
		return nil
	}
	return []string{transport.String() + "/p2p/" + id.String()}
}

func widelyKnown(addr ma.Multiaddr) bool {
	for _, part := range addr {
		switch part.Protocol().Code {
		case ma.P_IP4, ma.P_IP6, ma.P_DNS, ma.P_DNS4, ma.P_DNS6, ma.P_DNSADDR, ma.P_TCP, ma.P_UDP, ma.P_QUIC_V1,
			ma.P_WS, ma.P_WSS, ma.P_TLS, ma.P_P2P:
		default:
			return false // a client that cannot parse one address may drop them all
		}
	}
	return len(addr) > 0
}

// A delegateCache keeps the last addresses: for a while instead of asking anew, and for the times when the node does
// not answer.
type delegateCache struct {
	mu    sync.Mutex
	known []string
	asked time.Time
}

// fresh returns the last addresses if they were asked for less than so long ago. Whoever gets no answer is the one to
// ask; the others need not ask at the same time.
func (d *delegateCache) fresh(long time.Duration) ([]string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.known) > 0 && time.Since(d.asked) < long {
		return slices.Clone(d.known), true
	}
	d.asked = time.Now()
	return nil, false
}

func (d *delegateCache) next(now []string) ([]string, error) {
	if len(now) == 0 {
		return d.last()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known = now
	return slices.Clone(now), nil
}

func (d *delegateCache) last() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.known) == 0 {
		return nil, pins.ErrUnavailable
	}
	return slices.Clone(d.known), nil
}
