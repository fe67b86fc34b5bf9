package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/letsencrypt/challtestsrv"
	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
)

// An authority is a certificate authority that speaks ACME and really validates: every name leads to this machine.
type authority struct {
	directory string
	trust     *x509.CertPool // of its own server
	roots     *x509.CertPool // of what it signs
	stop      func()
}

func newAuthority(t *testing.T, tlsPort int) *authority {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	quiet := log.New(io.Discard, "", 0)
	resolver := newResolver(t, quiet)
	store := db.NewMemoryStore()
	signer := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "default"}})
	front := wfe.New(quiet, store, va.New(quiet, 0, tlsPort, false, resolver, store), signer, []string{"pebble.example"}, false, false, 1, 1)
	srv := httptest.NewTLSServer(front.Handler())
	t.Cleanup(srv.Close)
	a := &authority{stop: srv.Close, directory: srv.URL + wfe.DirectoryPath, trust: x509.NewCertPool(), roots: x509.NewCertPool()}
	a.trust.AddCert(srv.Certificate())
	a.roots.AppendCertsFromPEM(signer.GetRootCert(0).PEM())
	return a
}

// newResolver starts a name server for which every name leads to this machine.
func newResolver(t *testing.T, quiet *log.Logger) string {
	t.Helper()
	for range 10 {
		probe, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := probe.LocalAddr().String()
		if err := probe.Close(); err != nil {
			t.Fatal(err)
		}
		names, err := challtestsrv.New(challtestsrv.Config{DNSAddrs: []string{addr}, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		names.SetDefaultDNSIPv4("127.0.0.1")
		names.SetDefaultDNSIPv6("")
		go names.Run()
		t.Cleanup(names.Shutdown)
		if resolves(t, addr) {
			return addr
		} // else somebody has taken the port meanwhile
	}
	t.Fatal("no name server answers")
	return ""
}

// resolves tells whether a name server answers over UDP and TCP.
func resolves(t *testing.T, addr string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, network := range []string{"udp", "tcp"} {
		resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		}}
		for {
			if _, err := resolver.LookupNetIP(ctx, "ip4", "pins.example.org"); err == nil {
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return false
			}
		}
	}
	return true
}

func TestCertificatesAreGotByACMEAndKept(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	a := newAuthority(t, port)
	c := &Config{
		DataDir: t.TempDir(), Listen: "127.0.0.1:" + strconv.Itoa(port), TLSDomains: []string{"pins.example.org"},
		ACMEDirectory: a.directory, ACMEEmail: "operator@example.org",
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	get := func() {
		t.Helper()
		certificates, err := c.acme(ctx, slog.New(slog.DiscardHandler), a.trust)
		if err != nil {
			t.Fatal(err)
		}
		defer certificates.close()
		srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New(io.Discard, "", 0), Handler: http.NotFoundHandler()}
		ended := make(chan struct{})
		go func() { defer close(ended); _ = srv.Serve(tls.NewListener(ln, certificates.tls)) }()
		defer func() { _ = srv.Close(); <-ended }()

		client := plainClient(&tls.Config{RootCAs: a.roots, ServerName: "pins.example.org", MinVersion: tls.VersionTLS12})
		defer client.CloseIdleConnections()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		deadline := time.After(60 * time.Second)
		for {
			var resp *http.Response
			if resp, err = client.Get("https://" + c.Listen); err == nil {
				_ = resp.Body.Close()
				if resp.ProtoMajor != 2 {
					t.Errorf("spoken is %s", resp.Proto)
				}
				return
			}
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("no certificate came: %v", err)
			}
		}
	}
	get()
	// It is in the data directory, so that the next start needs no authority.
	a.stop()
	if ln, err = net.Listen("tcp", c.Listen); err != nil {
		t.Fatal(err)
	}
	get()
}
