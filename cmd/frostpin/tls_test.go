package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writePair makes a certificate that signs itself, with a serial number to know it by.
func writePair(t *testing.T, cert, key string, serial int64) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "pins.example.org"}, DNSNames: []string{"pins.example.org"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func pair(t *testing.T) (c *Config, log *strings.Builder) {
	t.Helper()
	dir := t.TempDir()
	c = &Config{TLSCert: filepath.Join(dir, "cert.pem"), TLSKey: filepath.Join(dir, "key.pem"), Listen: "127.0.0.1:0"}
	writePair(t, c.TLSCert, c.TLSKey, 1)
	return c, &strings.Builder{}
}

func TestChangedCertificateIsUsedWithoutARestartAndABrokenOneIsNot(t *testing.T) {
	c, printed := pair(t)
	files, err := openCertFiles(c.TLSCert, c.TLSKey, slog.New(slog.NewTextHandler(printed, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto)
	})}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = srv.Serve(tls.NewListener(ln, serverTLS(files.certificate))) }()
	defer func() { _ = srv.Close(); <-ended }()

	// seen is the serial number of the certificate that a client of this machine gets now.
	seen := func() int64 {
		t.Helper()
		files.mu.Lock()
		files.checked = time.Time{} // time has passed
		files.mu.Unlock()
		origin, expect, err := c.itself(ln.Addr().String())
		if err != nil {
			expect = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the files are broken on purpose
			origin = "https://" + ln.Addr().String()
		}
		client := plainClient(expect)
		defer client.CloseIdleConnections()
		resp, err := client.Get(origin)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if proto, err := io.ReadAll(resp.Body); err != nil || string(proto) != "HTTP/2.0" {
			t.Errorf("spoken is %q, %v", proto, err)
		}
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	if got := seen(); got != 1 {
		t.Fatalf("certificate %d", got)
	}
	writePair(t, c.TLSCert, c.TLSKey, 2)
	if got := seen(); got != 2 {
		t.Errorf("after a change: certificate %d", got)
	}
	if err := os.WriteFile(c.TLSKey, []byte("half a k"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := seen(); got != 2 || !strings.Contains(printed.String(), "cannot be loaded") {
		t.Errorf("with a broken file: certificate %d, log: %s", got, printed)
	}
	writePair(t, c.TLSCert, c.TLSKey, 3)
	if got := seen(); got != 3 {
		t.Errorf("once it is mended: certificate %d", got)
	}
}

func TestOnlyBrowsersAreSentToTLS(t *testing.T) {
	for _, c := range []struct {
		method, host, target, token, port string
		status                            int
		location                          string
	}{
		{"GET", "pins.example.org", "/docs?a=b", "", "443", 308, "https://pins.example.org/docs?a=b"},
		{"HEAD", "pins.example.org:80", "/", "", "443", 308, "https://pins.example.org/"},
		{"GET", "pins.example.org", "/", "", "8443", 308, "https://pins.example.org:8443/"},
		{"POST", "pins.example.org", "/psa/pins", "Bearer x", "443", 400, ""},
		{"GET", "pins.example.org", "/psa/pins", "Bearer x", "443", 400, ""},
	} {
		r := httptest.NewRequest(c.method, c.target, nil)
		r.Host = c.host
		if c.token != "" {
			r.Header.Set("Authorization", c.token)
		}
		w := httptest.NewRecorder()
		redirected(c.port).ServeHTTP(w, r)
		if w.Code != c.status || w.Header().Get("Location") != c.location {
			t.Errorf("%+v: %d %q", c, w.Code, w.Header().Get("Location"))
		}
		if c.status == 400 && !strings.Contains(w.Body.String(), `{"error":{"reason":"BAD_REQUEST"`) {
			t.Errorf("%+v: %s", c, w.Body)
		}
	}
}
