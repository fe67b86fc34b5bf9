package server

import (
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/labstack/echo/v4"
	"golang.org/x/net/netutil"
)

// Connections bounds those of one listener; zero means no bound. Beyond Total, clients wait to be accepted; beyond
// PerAddress, they are hung up on, so that none can use up the total for all.
type Connections struct {
	Total      int
	PerAddress int
	Proxies    []netip.Prefix // whose connections are many clients': PerAddress is not for them
}

// Listener returns ln with these bounds.
func (c Connections) Listener(ln net.Listener) net.Listener {
	if c.PerAddress > 0 {
		ln = &fairListener{Listener: ln, most: c.PerAddress, exempt: c.Proxies, open: make(map[netip.Prefix]int)}
	}
	if c.Total > 0 {
		ln = netutil.LimitListener(ln, c.Total)
	}
	return ln
}

// A fairListener gives no address more than its share. This machine itself has no bound: a proxy may run on it.
type fairListener struct {
	net.Listener
	most   int
	exempt []netip.Prefix

	mu   sync.Mutex
	open map[netip.Prefix]int
}

// Accept implements net.Listener.
func (l *fairListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr := addressOf(conn.RemoteAddr().String())
		if !addr.IsValid() || addr.IsLoopback() || within(l.exempt, addr) {
			return conn, nil
		}
		whose := Neighbourhood(addr)
		if l.enter(whose) {
			return &countedConn{Conn: conn, leave: sync.OnceFunc(func() { l.leave(whose) })}, nil
		}
		_ = conn.Close() // nothing was promised
	}
}

func (l *fairListener) enter(whose netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[whose] >= l.most {
		return false
	}
	l.open[whose]++
	return true
}

func (l *fairListener) leave(whose netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[whose]--; l.open[whose] == 0 {
		delete(l.open, whose)
	}
}

type countedConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// Neighbourhood is what counts as one client where clients are counted by address: an IPv4 address, or the IPv6 network
// of 64 bits that everyone gets at least.
func Neighbourhood(addr netip.Addr) netip.Prefix {
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	return netip.PrefixFrom(addr.WithZone(""), bits).Masked()
}

// clientAddress is where a request comes from: the peer or, when that is one of Config.Proxies, the last address in
// X-Forwarded-For that is none of them. It is invalid where there is no network, as in tests.
func clientAddress(c echo.Context) netip.Addr {
	addr, _ := netip.ParseAddr(c.RealIP())
	return addr.Unmap()
}

// extractor lets echo's RealIP do what clientAddress says.
func extractor(proxies []netip.Prefix) echo.IPExtractor {
	if len(proxies) == 0 {
		return echo.ExtractIPDirect()
	}
	trust := []echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}
	for _, p := range proxies {
		p = p.Masked()
		trust = append(trust, echo.TrustIPRange(&net.IPNet{
			IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
		}))
	}
	return echo.ExtractIPFromXFFHeader(trust...)
}

// addressOf is the address of host:port; invalid where it has none.
func addressOf(hostport string) netip.Addr {
	at, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap()
}

func within(networks []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(addr) })
}
