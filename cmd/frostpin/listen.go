package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/frostpin/frostpin/server"
)

// What the HTTP server listens on, and who may connect.

// connections are the bounds on those of the HTTP server. Half of the files that may be open is left to blocks, the
// database and peers.
func (c *Config) connections(proxies []netip.Prefix) server.Connections {
	total := c.MaxConnections
	if files, known := openFileLimit(); known {
		total = int(max(1, min(uint64(total), files/2)))
	}
	return server.Connections{Total: total, PerAddress: c.MaxConnectionsPerAddress, Proxies: proxies}
}

// listenHTTP listens for what is not encrypted yet; nil when nothing does.
func (c *Config) listenHTTP(ctx context.Context, proxies []netip.Prefix) (net.Listener, error) {
	if c.ListenHTTP == "" {
		return nil, nil //nolint:nilnil // there is none, and nothing went wrong
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", c.ListenHTTP)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", c.ListenHTTP, err)
	}
	few := c.connections(proxies)
	few.Total = max(1, few.Total/10) // browsers that come once
	return few.Listener(ln), nil
}
