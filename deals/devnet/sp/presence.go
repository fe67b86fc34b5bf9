package sp

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/frostpin/frostpin/deals/mk12/wire"
)

// ports are kept so that a restarted provider is found where it was.
type ports struct {
	Libp2p int `json:"libp2p"`
	HTTP   int `json:"http"`
}

// A presence is what others reach of a provider: a libp2p host and an HTTP server, on loopback. It can be taken down and
// put up again, under the same key and ports.
type presence struct {
	p     *Provider
	key   crypto.PrivKey
	id    peer.ID
	bogus peer.ID // what the chain is told under NoPeer
	ports atomic.Pointer[ports]

	mu    sync.Mutex // held while handlers are waited for, so that no handler may take it
	host  host.Host
	stop  func() // of the handlers
	http  *http.Server
	done  sync.WaitGroup
	ended bool
}

func newPresence(ctx context.Context, p *Provider) (*presence, error) {
	n := &presence{p: p}
	n.ports.Store(&ports{})
	var err error
	if n.key, err = loadKey(filepath.Join(p.cfg.Dir, "peer.key")); err != nil {
		return nil, err
	}
	if n.id, err = peer.IDFromPrivateKey(n.key); err != nil {
		return nil, fmt.Errorf("deriving the peer id: %w", err)
	}
	other, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	if n.bogus, err = peer.IDFromPrivateKey(other); err != nil {
		return nil, fmt.Errorf("deriving a peer id: %w", err)
	}
	if data, err := os.ReadFile(n.portsFile()); err == nil {
		var last ports
		if json.Unmarshal(data, &last) == nil { // else: other ports, nothing worse
			n.ports.Store(&last)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down() {
		return n, nil
	}
	return n, n.up(ctx)
}

func (n *presence) portsFile() string { return filepath.Join(n.p.cfg.Dir, "ports.json") }

func loadKey(path string) (crypto.PrivKey, error) {
	data, err := os.ReadFile(path)
	if err == nil {
		key, err := crypto.UnmarshalPrivateKey(data)
		if err != nil {
			return nil, fmt.Errorf("reading the peer key: %w", err)
		}
		return key, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading the peer key: %w", err)
	}
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the peer key: %w", err)
	}
	if data, err = crypto.MarshalPrivateKey(key); err != nil {
		return nil, fmt.Errorf("encoding the peer key: %w", err)
	}
	return key, writeFile(path, data)
}

// down tells whether the network ought to be down now.
func (n *presence) down() bool { return n.p.faults.holds(Offline) || n.p.faults.holds(Vanish) }

// adjust brings the network to where the faults want it.
func (n *presence) adjust(ctx context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return
	}
	switch down := n.down(); {
	case down && n.host != nil:
		n.take()
	case !down && n.host == nil:
		if err := n.up(ctx); err != nil {
			n.p.log.Warn("coming back online", "err", err)
		}
	}
}

// up listens, on the ports of last time if they are free.
func (n *presence) up(ctx context.Context) error {
	last := *n.ports.Load()
	h, err := n.listenLibp2p(last.Libp2p)
	if err != nil && last.Libp2p != 0 {
		h, err = n.listenLibp2p(0)
	}
	if err != nil {
		return fmt.Errorf("listening for libp2p: %w", err)
	}
	listener, err := listenTCP(ctx, last.HTTP)
	if err != nil && last.HTTP != 0 {
		listener, err = listenTCP(ctx, 0)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("listening for HTTP: %w", err), h.Close())
	}
	now := ports{Libp2p: portOf(h), HTTP: listener.Addr().(*net.TCPAddr).Port} //nolint:errcheck // a TCP listener
	n.ports.Store(&now)
	n.host = h
	n.stop = wire.Handle(h, n.p.log, n.p.handlers())
	n.http = &http.Server{
		Handler: n.p.retrievalHandler(), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(n.p.log.Handler(), slog.LevelDebug),
	}
	srv := n.http
	n.done.Go(func() { _ = srv.Serve(listener) })
	data, err := json.Marshal(now)
	if err != nil {
		return fmt.Errorf("encoding ports: %w", err)
	}
	return writeFile(n.portsFile(), data)
}

// take puts everything down, with the connections.
func (n *presence) take() {
	if n.host == nil {
		return
	}
	n.stop()
	if err := errors.Join(n.host.Close(), n.http.Close()); err != nil {
		n.p.log.Debug("going offline", "err", err)
	}
	n.done.Wait()
	n.host, n.stop, n.http = nil, nil, nil
}

func (n *presence) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ended = true
	n.take()
}

func (n *presence) listenLibp2p(port int) (host.Host, error) {
	return libp2p.New(
		libp2p.Identity(n.key),
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/"+strconv.Itoa(port)),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
	)
}

func listenTCP(ctx context.Context, port int) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

func portOf(h host.Host) int {
	for _, a := range h.Addrs() {
		if text, err := a.ValueForProtocol(multiaddr.P_TCP); err == nil {
			if port, err := strconv.Atoi(text); err == nil {
				return port
			}
		}
	}
	return 0
}

// addrs are what is announced, up or down.
func (n *presence) addrs() (libp2p, http []multiaddr.Multiaddr) {
	last := n.ports.Load()
	if last.Libp2p == 0 {
		return nil, nil // never up
	}
	base := "/ip4/127.0.0.1/tcp/"
	return []multiaddr.Multiaddr{multiaddr.StringCast(base + strconv.Itoa(last.Libp2p))},
		[]multiaddr.Multiaddr{multiaddr.StringCast(base + strconv.Itoa(last.HTTP) + "/http")}
}

func (n *presence) info() peer.AddrInfo {
	addrs, _ := n.addrs()
	return peer.AddrInfo{ID: n.id, Addrs: addrs}
}

func (n *presence) url() string { return "http://127.0.0.1:" + strconv.Itoa(n.ports.Load().HTTP) }

// announcedID is the peer id that the chain is told.
func (n *presence) announcedID() peer.ID {
	if n.p.faults.holds(NoPeer) {
		return n.bogus
	}
	return n.id
}
