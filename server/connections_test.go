package server_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/frostpin/frostpin/server"
)

// visitors is a listener whose connections come from the addresses it is given.
type visitors struct {
	from chan string
}

func (v *visitors) Accept() (net.Conn, error) {
	from, ok := <-v.from
	if !ok {
		return nil, net.ErrClosed
	}
	ours, theirs := net.Pipe()
	return &visitor{ours, theirs, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))}, nil
}
func (v *visitors) Close() error   { return nil }
func (v *visitors) Addr() net.Addr { return &net.TCPAddr{} }

type visitor struct {
	net.Conn
	theirs net.Conn
	from   net.Addr
}

func (v *visitor) RemoteAddr() net.Addr { return v.from }
func (v *visitor) Close() error         { return errors.Join(v.Conn.Close(), v.theirs.Close()) }

func TestNoAddressTakesMoreConnectionsThanItsShare(t *testing.T) {
	proxy := netip.MustParsePrefix("10.0.0.0/8")
	for _, c := range []struct {
		name string
		from []string
		want int
	}{
		{"one address", []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4"}, 2},
		{"others besides", []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.2:1"}, 3},
		{"the same as IPv6", []string{"192.0.2.1:1", "[::ffff:192.0.2.1]:2", "192.0.2.1:3"}, 2},
		{"one network of IPv6", []string{"[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "[2001:db8:0:1::1]:1"}, 3},
		{"this machine", []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "[::1]:1"}, 4},
		{"a proxy", []string{"10.1.2.3:1", "10.1.2.3:2", "10.1.2.3:3"}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := &visitors{from: make(chan string, len(c.from))}
			ln := server.Connections{PerAddress: 2, Proxies: []netip.Prefix{proxy}}.Listener(v)
			for _, from := range c.from {
				v.from <- from
			}
			close(v.from)
			var conns []net.Conn
			for {
				conn, err := ln.Accept()
				if err != nil {
					break
				}
				conns = append(conns, conn)
			}
			if len(conns) != c.want {
				t.Errorf("%d connections, want %d", len(conns), c.want)
			}
			for _, conn := range conns {
				_ = conn.Close()
				_ = conn.Close() // twice is no second place
			}
			// What was closed makes room again.
			v.from = make(chan string, 1)
			v.from <- c.from[0]
			conn, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
		})
	}
}

func TestClientsBeyondTheTotalWaitForTheirTurn(t *testing.T) {
	v := &visitors{from: make(chan string, 4)}
	ln := server.Connections{Total: 2}.Listener(v)
	accepted := make(chan net.Conn)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- conn
		}
	}()
	for i := range 3 {
		v.from <- fmt.Sprintf("192.0.2.%d:1", i+1)
	}
	first, second := <-accepted, <-accepted
	select {
	case <-accepted:
		t.Error("a third connection was accepted")
	default:
	}
	_ = first.Close()
	third := <-accepted
	_, _ = second.Close(), third.Close()
	close(v.from)
	<-accepted
}

func TestTheAddressOfAClientIsBelievedOnlyFromTrustedProxies(t *testing.T) {
	inner := netip.MustParsePrefix("10.0.0.0/8")
	other := netip.MustParsePrefix("2001:db8:1::/48")
	for _, c := range []struct {
		name, peer string
		forwarded  []string
		trusted    []netip.Prefix
		want       string
	}{
		{"nobody is trusted", "10.0.0.1:1", []string{"192.0.2.7"}, nil, "10.0.0.1"},
		{"loopback is not trusted by itself", "127.0.0.1:1", []string{"192.0.2.7"}, []netip.Prefix{inner}, "127.0.0.1"},
		{"a stranger", "192.0.2.9:1", []string{"192.0.2.7"}, []netip.Prefix{inner}, "192.0.2.9"},
		{"a proxy", "10.0.0.1:1", []string{"192.0.2.7"}, []netip.Prefix{inner}, "192.0.2.7"},
		{"what the client has put in before", "10.0.0.1:1", []string{"198.51.100.1, 192.0.2.7"}, []netip.Prefix{inner}, "192.0.2.7"},
		{"two headers", "10.0.0.1:1", []string{"198.51.100.1", "192.0.2.7"}, []netip.Prefix{inner}, "192.0.2.7"},
		{"two proxies", "[2001:db8:1::1]:1", []string{"192.0.2.7, 10.0.0.2"}, []netip.Prefix{inner, other}, "192.0.2.7"},
		{"a proxy that says nothing", "10.0.0.1:1", nil, []netip.Prefix{inner}, "10.0.0.1"},
		{"rubbish", "10.0.0.1:1", []string{"x"}, []netip.Prefix{inner}, "10.0.0.1"},
	} {
		f := newFixture(t, func(cfg *server.Config) { cfg.Proxies = c.trusted })
		r := httptest.NewRequest("GET", "/healthz", nil)
		r.RemoteAddr = c.peer
		for _, value := range c.forwarded {
			r.Header.Add("X-Forwarded-For", value)
		}
		f.ServeHTTP(httptest.NewRecorder(), r)
		if !strings.Contains(f.log.String(), `"client":"`+c.want+`"`) {
			t.Errorf("%s: want %s in %s", c.name, c.want, f.log)
		}
	}
}

// Host and scheme of a forwarded request go into links and redirects.
func TestForwardedHostsAreBelievedOnlyFromTrustedProxies(t *testing.T) {
	r := newReads(t, func(c *server.Config) {
		c.Gateway.LinkKey = []byte(strings.Repeat("k", 32))
		c.Proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	})
	for peer, want := range map[string]string{"10.0.0.1:1": "https://", "192.0.2.1:1": "http://"} {
		req := httptest.NewRequest("POST", "/api/v1/links", strings.NewReader(`{"cid":"`+r.text.String()+`"}`))
		req.RemoteAddr = peer
		req.Header.Set("Authorization", "Bearer "+alice)
		req.Header.Set("X-Forwarded-Proto", "https")
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		body, err := io.ReadAll(w.Body)
		if err != nil || !strings.Contains(string(body), `"`+want) {
			t.Errorf("%s: %s, %v", peer, body, err)
		}
	}
}
