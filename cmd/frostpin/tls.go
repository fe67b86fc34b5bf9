package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// Certificates of the HTTP server: from files that somebody else renews, or from a certificate authority that is asked
// by ACME.

// secure tells whether the server speaks TLS itself.
func (c *Config) secure() bool { return c.TLSCert != "" || len(c.TLSDomains) > 0 }

// acmeDir is where certificates and the ACME account's key are kept.
func (c *Config) acmeDir() string { return filepath.Join(c.DataDir, "acme") }

func (c *Config) validateTLS(wrong problems) {
	wrong.check("tls-key", (c.TLSCert == "") != (c.TLSKey == ""), "tls-cert and tls-key are set together or not at all")
	wrong.check("tls-domains", c.TLSCert != "" && len(c.TLSDomains) > 0, "it is set beside tls-cert: choose one")
	for _, name := range c.TLSDomains {
		wrong.check("tls-domains", !isHostname(name), fmt.Sprintf("%q is not a host name such as pins.example.org", name))
	}
	wrong.check("acme-email", c.ACMEEmail != "" && !strings.Contains(c.ACMEEmail, "@"), "it is not an address")
	wrong.add("acme-directory", checkURL(c.ACMEDirectory))
	if c.ListenHTTP != "" {
		wrong.add("listen-http", checkListen(c.ListenHTTP))
		wrong.check("listen-http", !c.secure(), "there is no TLS to redirect to: set tls-cert or tls-domains")
	}
}

// isHostname takes names that certificate authorities give certificates for without a DNS challenge.
func isHostname(name string) bool {
	return strings.Contains(name, ".") && !strings.HasPrefix(name, ".") && !strings.HasSuffix(name, ".") && net.ParseIP(name) == nil &&
		strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-.") == ""
}

// A certifier makes connections secure. With ACME it works in the background until it is closed.
type certifier struct {
	tls       *tls.Config
	challenge func(http.Handler) http.Handler // answers the authority's questions over plain HTTP
	close     func()
}

// certifier is what the settings want; nil: no TLS.
func (c *Config) certifier(ctx context.Context, log *slog.Logger) (*certifier, error) {
	switch {
	case c.TLSCert != "":
		files, err := openCertFiles(c.TLSCert, c.TLSKey, log)
		if err != nil {
			return nil, err
		}
		return &certifier{
			tls:       serverTLS(files.certificate),
			challenge: func(next http.Handler) http.Handler { return next },
			close:     func() {},
		}, nil
	case len(c.TLSDomains) > 0:
		return c.acme(ctx, log, nil)
	}
	return nil, nil //nolint:nilnil // there is none, and nothing went wrong
}

func serverTLS(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: get}
}

// acme gets certificates, keeps them in the data directory and renews them. roots are those that the authority's own
// server is trusted by; nil: the system's.
func (c *Config) acme(ctx context.Context, log *slog.Logger, roots *x509.CertPool) (*certifier, error) {
	_, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return nil, err
	}
	config := certmagic.Config{
		Storage: &certmagic.FileStorage{Path: c.acmeDir()},
		Logger:  zap.NewNop(), // what matters are the events
		OnEvent: func(_ context.Context, event string, data map[string]any) error {
			switch event {
			case "cert_obtained":
				log.Info("certificate obtained", "domain", data["identifier"], "renewal", data["renewal"])
			case "cert_failed":
				log.Error("no certificate could be obtained", "domain", data["identifier"], "err", data["error"])
			}
			return nil
		},
	}
	var magic *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return magic, nil },
		Logger:           config.Logger,
	})
	magic = certmagic.New(cache, config)
	issuer := certmagic.NewACMEIssuer(magic, certmagic.ACMEIssuer{
		CA: c.ACMEDirectory, Email: c.ACMEEmail, Agreed: true, TrustedRoots: roots, Logger: config.Logger,
		DisableHTTPChallenge: c.ListenHTTP == "",
		AltTLSALPNPort:       portNumber(port), AltHTTPPort: portNumber(portOf(c.ListenHTTP)),
	})
	magic.Issuers = []certmagic.Issuer{issuer}
	if err := magic.ManageAsync(ctx, c.TLSDomains); err != nil {
		cache.Stop()
		return nil, fmt.Errorf("preparing certificates: %w", err)
	}
	secured := magic.TLSConfig()
	ours := serverTLS(magic.GetCertificate)
	ours.NextProtos = append(ours.NextProtos, secured.NextProtos...)
	return &certifier{tls: ours, challenge: issuer.HTTPChallengeHandler, close: cache.Stop}, nil
}

func portOf(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	return port
}

// portNumber is 0, certmagic's own choice, where there is no port.
func portNumber(port string) int {
	n, err := strconv.Atoi(port)
	if err != nil {
		return 0
	}
	return n
}

// lookAtFiles is how often at most the files of a certificate are looked at.
const lookAtFiles = time.Second

// certFiles is a certificate in files, loaded again when they have changed. Files that do not fit together, as while
// they are being written, change nothing.
type certFiles struct {
	cert, key string
	log       *slog.Logger

	mu      sync.Mutex
	loaded  *tls.Certificate
	stamp   string // of the files when they were tried last
	checked time.Time
}

func openCertFiles(cert, key string, log *slog.Logger) (*certFiles, error) {
	f := &certFiles{cert: cert, key: key, log: log}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("loading the certificate: %w", err)
	}
	f.loaded, f.stamp, f.checked = &pair, f.now(), time.Now()
	return f, nil
}

// now tells one state of the files from another.
func (f *certFiles) now() string {
	var b strings.Builder
	for _, name := range []string{f.cert, f.key} {
		if info, err := os.Stat(name); err == nil {
			fmt.Fprintf(&b, "%d %d;", info.ModTime().UnixNano(), info.Size())
		}
	}
	return b.String()
}

// certificate implements tls.Config.GetCertificate.
func (f *certFiles) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.checked) < lookAtFiles {
		return f.loaded, nil
	}
	f.checked = time.Now()
	stamp := f.now()
	if stamp == f.stamp {
		return f.loaded, nil
	}
	f.stamp = stamp
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		f.log.Error("the changed certificate cannot be loaded; the one before is used", "err", err)
		return f.loaded, nil
	}
	f.loaded = &pair
	f.log.Info("certificate loaded again", "file", f.cert)
	return f.loaded, nil
}

// redirected sends browsers to the same place over TLS. Nothing else is: who sends a token unencrypted must not get used
// to it.
func redirected(port string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead || r.Header.Get("Authorization") != "" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"error":{"reason":"BAD_REQUEST","details":"use https: what was sent was not encrypted, and a token in it should be revoked"}}`))
			return
		}
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if port != "443" {
			host = net.JoinHostPort(host, port)
		}
		http.Redirect(w, r, "https://"+host+r.URL.RequestURI(), http.StatusPermanentRedirect) //nolint:gosec // to the host that was asked
	})
}

// serveRedirects answers on ln until ctx ends.
func serveRedirects(ctx context.Context, ln net.Listener, handler http.Handler, log *slog.Logger) error {
	short := 10 * time.Second
	srv := &http.Server{
		Handler: handler, ReadHeaderTimeout: short / 2, ReadTimeout: short, WriteTimeout: short, IdleTimeout: short, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving redirects: %w", err)
	}
	return nil
}

// itself is how this machine reaches its own server: an origin and, with TLS, whom to expect there.
func (c *Config) itself(listening string) (origin string, expect *tls.Config, err error) {
	host, port, err := net.SplitHostPort(listening)
	if err != nil {
		return "", nil, fmt.Errorf("finding the server: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	at := net.JoinHostPort(host, port)
	if !c.secure() {
		return "http://" + at, nil, nil
	}
	expect = &tls.Config{MinVersion: tls.VersionTLS12}
	if len(c.TLSDomains) > 0 {
		expect.ServerName = c.TLSDomains[0]
		return "https://" + at, expect, nil
	}
	// The operator's own file says who the server is, whoever has signed it.
	content, err := os.ReadFile(c.TLSCert)
	if err != nil {
		return "", nil, fmt.Errorf("reading the certificate: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return "", nil, fmt.Errorf("loading the certificate: %w", err)
	}
	expect.RootCAs = x509.NewCertPool()
	expect.RootCAs.AppendCertsFromPEM(content)
	if names := pair.Leaf.DNSNames; len(names) > 0 && !slices.Contains(names, host) {
		expect.ServerName = strings.Replace(names[0], "*", "www", 1)
	}
	return "https://" + at, expect, nil
}
