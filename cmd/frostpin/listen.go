package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/frostpin/frostpin/server"
)

// A door is where clients come in: what the HTTP server listens on, and who may connect.
type door struct {
	address      string // that it really listens on
	listener     net.Listener
	plain        net.Listener   // for what is not encrypted yet; nil when nothing listens there
	certificates *certifier     // nil: no TLS
	proxies      []netip.Prefix // whose word on the client's address counts
}

// openDoor listens as the settings say. Nobody is let in before the server takes connections.
func (c *Config) openDoor(ctx context.Context, log *slog.Logger) (_ *door, err error) {
	d := &door{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.proxies, err = networks(c.TrustedProxies); err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", c.Listen, err)
	}
	d.address = listener.Addr().String()
	d.listener = c.connections(d.proxies).Listener(listener)
	if d.certificates, err = c.certifier(ctx, log); err != nil || d.certificates == nil {
		return d, err
	}
	d.listener = tls.NewListener(d.listener, d.certificates.tls)
	d.plain, err = c.listenHTTP(ctx, d.proxies)
	return d, err
}

// close lets nobody in any more. The listeners are closed already when the server has ended.
func (d *door) close() {
	if d.plain != nil {
		_ = d.plain.Close()
	}
	if d.listener != nil {
		_ = d.listener.Close()
	}
	if d.certificates != nil {
		d.certificates.close()
	}
}

// redirect sends those who come without encryption to where there is some, until ctx ends.
func (d *door) redirect(ctx context.Context, log *slog.Logger) error {
	if d.plain == nil {
		return nil
	}
	return serveRedirects(ctx, d.plain, d.certificates.challenge(redirected(portOf(d.address))), log)
}

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
