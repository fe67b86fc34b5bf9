package mk12

import (
	"fmt"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// NewHost returns a libp2p host from which providers are called: it listens nowhere, has an identity of its own that
// nobody needs to know again, and dials what Config permits. The caller closes it.
func NewHost(cfg Config) (host.Host, error) {
	h, err := libp2p.New(
		libp2p.NoListenAddrs,
		libp2p.UserAgent("frostpin"),
		libp2p.ConnectionGater(gater{cfg.AllowPrivate}),
		libp2p.DisableMetrics(), // the hot tier's own host has the process's metrics
	)
	if err != nil {
		return nil, fmt.Errorf("making a libp2p host: %w", err)
	}
	return h, nil
}

// A gater keeps a host from dialling addresses that are not public. It sees what names have resolved to, and what a
// peer has told of itself since, which the announced addresses do not show.
type gater struct{ private bool }

func (g gater) InterceptPeerDial(peer.ID) bool { return true }

func (g gater) InterceptAddrDial(_ peer.ID, a multiaddr.Multiaddr) bool {
	return g.private || manet.IsPublicAddr(a)
}

func (g gater) InterceptAccept(network.ConnMultiaddrs) bool { return false }

func (g gater) InterceptSecured(network.Direction, peer.ID, network.ConnMultiaddrs) bool { return true }

func (g gater) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }
