package main

import (
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
