package guard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/frostpin/frostpin/retrieval/guard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// canaries listen where nobody may get, on one port of both loopbacks, and count who does.
func canaries(t *testing.T) (port string, hits *atomic.Int64) {
	t.Helper()
	hits = new(atomic.Int64)
	first, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ = net.SplitHostPort(first.Addr().String())
	listeners := []net.Listener{first}
	if second, err := net.Listen("tcp6", "[::1]:"+port); err == nil {
		listeners = append(listeners, second)
	}
	for _, l := range listeners {
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				hits.Add(1)
				_ = conn.Close()
			}
		}()
		t.Cleanup(func() { _ = l.Close() })
	}
	return port, hits
}

// forms spells addresses of this machine and of private networks in every way that one parser or another takes.
func forms() []string {
	out := []string{
		"localhost", "LOCALHOST", "localhost.", "ip6-localhost", "127.1", "127.0.1", "0", "0.0.0.0", "2130706433", "0x7f000001",
		"0x7f.1", "017700000001", "0177.0.0.1", "0x7f.0x0.0x0.0x1", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]",
		"[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]", "[fec0::1]",
		"[fc00::1]", "[fd00::1]", "[ff02::1]", "[100::1]", "[2001:db8::1]", "[2001::1]", "255.255.255.255", "192.0.0.1", "192.0.2.1",
		"198.51.100.1", "203.0.113.1", "240.0.0.1", "192.88.99.1", "169.254.169.254", "[::ffff:169.254.169.254]", "[fd00:ec2::254]",
	}
	for i := range 128 {
		out = append(out, fmt.Sprintf("127.%d.%d.%d", i, (i*37)%256, 1+(i*11)%254), fmt.Sprintf("[::ffff:127.%d.0.1]", i))
	}
	for i := range 64 {
		out = append(out, fmt.Sprintf("10.%d.0.1", i*3), fmt.Sprintf("172.%d.1.1", 16+i%16), fmt.Sprintf("192.168.%d.1", i*3),
			fmt.Sprintf("100.%d.0.1", 64+i), fmt.Sprintf("[fd%02x::1]", i), fmt.Sprintf("198.18.%d.1", i))
	}
	return out
}

func TestNoSpellingReachesThisMachine(t *testing.T) {
	port, hits := canaries(t)
	client := guard.NewClient(guard.Config{Dial: time.Second, Header: time.Second})
	defer client.CloseIdleConnections()
	all := forms()
	if len(all) < 500 {
		t.Fatalf("only %d spellings are tried", len(all))
	}
	for _, host := range all {
		for _, scheme := range []string{"http", "https"} {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+host+":"+port+"/", nil)
			if err == nil {
				var res *http.Response
				if res, err = client.Do(req); err == nil {
					_ = res.Body.Close()
					t.Errorf("%s://%s was reached", scheme, host)
				}
			}
			cancel()
		}
	}
	if n := hits.Load(); n != 0 {
		t.Errorf("the canaries were hit %d times", n)
	}
}

// A server that may be reached redirects to those that may not: each of its redirects ends there.
func TestNoRedirectLeadsInward(t *testing.T) {
	port, hits := canaries(t)
	target := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target, http.StatusFound)
	}))
	defer server.Close()
	// Only this server's own address is allowed, and the canaries are on others.
	host, serverPort, _ := net.SplitHostPort(strings.TrimPrefix(server.URL, "http://"))
	if serverPort == port {
		t.Fatal("the server has the canaries' port")
	}
	client := guard.NewClient(guard.Config{Allow: []netip.Prefix{netip.MustParsePrefix(host + "/32")}, Dial: time.Second})
	defer client.CloseIdleConnections()
	for _, form := range forms() {
		if strings.Contains(form, "127.0.0.1") || form == "localhost" || form == "LOCALHOST" || form == "localhost." || form == "[::ffff:7f00:1]" {
			continue // that is the allowed address
		}
		for _, scheme := range []string{"http", "https", "ftp", "file", "gopher"} {
			target = scheme + "://" + form + ":" + port + "/"
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			if res, err := client.Do(req); err == nil {
				_ = res.Body.Close()
				t.Errorf("a redirect to %s was followed", target)
			}
			cancel()
		}
	}
	if n := hits.Load(); n != 0 {
		t.Errorf("the canaries were hit %d times", n)
	}
}

func TestRedirectsAreBounded(t *testing.T) {
	n := 0
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		http.Redirect(w, r, server.URL, http.StatusFound)
	}))
	defer server.Close()
	client := guard.NewClient(guard.Config{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	defer client.CloseIdleConnections()
	if res, err := client.Get(server.URL); err == nil {
		_ = res.Body.Close()
		t.Error("it redirected for ever, and was followed to the end")
	}
	if n != 4 {
		t.Errorf("%d requests; want the first and three redirects", n)
	}
}

func TestAnswerThatStopsComingIsLeft(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("some"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	client := guard.NewClient(guard.Config{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Idle: 50 * time.Millisecond})
	defer client.CloseIdleConnections()
	res, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if data, err := io.ReadAll(res.Body); !errors.Is(err, guard.ErrIdle) || string(data) != "some" {
		t.Errorf("read %q, %v", data, err)
	}
}

// A reader that takes its time is not the sender's fault.
func TestSlowReaderIsNotTakenForASlowSender(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("all of it"))
	}))
	defer server.Close()
	client := guard.NewClient(guard.Config{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Idle: 20 * time.Millisecond})
	defer client.CloseIdleConnections()
	res, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	<-time.After(100 * time.Millisecond)
	if data, err := io.ReadAll(res.Body); err != nil || string(data) != "all of it" {
		t.Errorf("read %q, %v", data, err)
	}
}
