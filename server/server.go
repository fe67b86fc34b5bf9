package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/spec"
)

// Pins is the service behind the API. Errors: pins.ErrNotFound, pins.ErrUnavailable
// and those of Config.Unavailable (try again later); others are our fault.
type Pins interface {
	// Decide finds out which copies a request wants; *spec.InvalidError when they cannot be had.
	Decide(ctx context.Context, c pins.Choice, meta map[string]string) (pins.Decision, error)
	// HasPolicy tells whether there is a policy of this name.
	HasPolicy(ctx context.Context, name string) (bool, error)
	Add(ctx context.Context, account pins.Account, r spec.Request, decided pins.Decision) (pins.Pin, error)
	// AddAll is Add for many, with results in the same order.
	AddAll(ctx context.Context, account pins.Account, asked []pins.Asked) []pins.Result
	// BeginBatch tells what a list with this key has made before: pins.ErrOtherBatch when that was another list. Without a
	// key it is nothing. What comes of it is given to EndBatch.
	BeginBatch(ctx context.Context, account pins.Account, key string, body []byte) (*pins.Batch, error)
	EndBatch(ctx context.Context, b *pins.Batch)
	Get(ctx context.Context, account pins.Account, id pins.ID) (pins.Pin, error)
	List(ctx context.Context, account pins.Account, q spec.Query) (pins.Page, error)
	Replace(ctx context.Context, account pins.Account, id pins.ID, r spec.Request, decided pins.Decision) (pins.Pin, error)
	Delete(ctx context.Context, account pins.Account, id pins.ID) error
	// Admit tells whether an account may have so many pins more: *pins.QuotaError if not.
	Admit(ctx context.Context, account pins.Account, q pins.Quota, more int64) error
	// Fits tells of each DAG that an account asks for whether it may have it: nil, or a *pins.QuotaError, and how many bytes
	// have to give way to them.
	Fits(ctx context.Context, account pins.Account, q pins.Quota, dags []pins.Sized, replaced pins.ID) (refused []error, needed int64, err error)
	// Usage returns what an account has here now.
	Usage(ctx context.Context, account pins.Account) (pins.AccountUsage, error)
	// Stock returns what the pins of an account occupy.
	Stock(ctx context.Context, account pins.Account) (pins.Stock, error)
	ReplacedBy(ctx context.Context, account pins.Account, by pins.ID) (int64, error)
	CanYield(ctx context.Context, account pins.Account, by pins.ID, but ...cid.Cid) (int64, error)
	GiveWay(ctx context.Context, account pins.Account, by pins.ID, bytes int64, asked ...cid.Cid) (freed int64, err error)
	// Size returns the bytes of a DAG that is held, or was until it was let go or lost; 0 where nobody knows.
	Size(ctx context.Context, root cid.Cid) (int64, error)
	// Retry tries pins of an account again that have failed for a reason.
	Retry(ctx context.Context, account pins.Account, reason string) error
	// Delegates returns 1 to 20 addresses of our node.
	Delegates(ctx context.Context) ([]string, error)
}

// An Authenticator knows whom a token belongs to.
type Authenticator interface {
	// Authenticate returns auth.ErrUnauthorized when it belongs to nobody; any other error means that it could not tell.
	Authenticate(ctx context.Context, token string) (auth.Caller, error)
	// AccountState returns the state of an account, or auth.ErrNotFound.
	AccountState(ctx context.Context, account int64) (auth.State, error)
	// ReadAccount returns the id of another account, whose data the actor is about to read, or auth.ErrNotFound.
	ReadAccount(ctx context.Context, by auth.Actor, name string) (int64, error)
	// Plausible tells, without asking anybody, whether this text was right when it was looked up last.
	Plausible(token string) bool
}

// Config is what can be set.
type Config struct {
	BasePath      string               // where the API lives; "/psa" when empty, "/" for the root
	Version       string               // of the program, shown at /
	Cold          Cold                 // tells about cold copies; nil when there are none
	Checks        []Check              // what /readyz asks
	Metrics       *prometheus.Registry // served at /metrics, our own metrics are added to it; a new one when nil
	Unavailable   []error              // what the database says when it cannot answer now: 503 instead of 500
	Full          []error              // what it says when it has no room to write: the same, with a reason of its own
	Unstorable    []error              // what it says about a text that it cannot store: 400
	NoSpace       func() bool          // tells whether what would store more is refused; never when nil
	PublicMetrics bool                 // show /metrics and details of /readyz to everyone
	StopTimeout   time.Duration        // for running requests when Serve is told to stop; 8 s when zero
	Pieces        Pieces               // served to storage providers at /piece; nil for none
	PieceLimits   PieceLimits          // of what they may take
	Gateway       *Gateway             // reads content at /ipfs; nil for none
	Denylist      Denylist             // of what is neither served nor pinned; nil for none
	Blocklist     Blocklist            // what the operator has blocked, for administrators; nil for none
	Uploads       Uploads              // takes what comes with a request; nil for none
	UploadSlots   int                  // uploads at once, of one account at most a quarter of them; 16 when zero
	Proxies       []netip.Prefix       // whose word on the client's address, host and scheme counts
	Webhooks      Webhooks             // calls addresses that accounts name; nil: nobody is called
	Ledger        Ledger               // what accounts have used and paid; nil for none
	Payments      Payments             // takes what payment providers report; nil for none
	Events        Events               // tells accounts what happens; nil: nothing is told
	SignUp        bool                 // strangers with an invite code may make accounts
}

// Limits on one connection. What an answer may take is not limited, only how long nothing of it is taken: see
// steadyWriter. The time for reading is that of a body of the API; uploads have their own. The idle timeout must be
// above the 90 s for which Go clients keep a connection, else they lose requests.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 30 * time.Second
	idleTimeout       = 120 * time.Second
	maxHeader         = 16 << 10
	maxBody           = 1 << 20
	maxStreams        = 128         // of one HTTP/2 connection
	pingAfter         = time.Minute // without a frame: is the client there?
	stopTimeout       = 8 * time.Second
)

// A Server answers HTTP requests. It is an http.Handler; Serve adds connections and their limits.
type Server struct {
	cfg      Config
	base     string // Config.BasePath as a prefix: "" for the root
	pins     Pins
	accounts Accounts
	gate     *gate
	signUps  tries
	log      *slog.Logger
	echo     *echo.Echo
	health   *health
	metrics  *metrics
	ids      *requestIDs
	buffers  sync.Pool // of *[]byte
	gateway  *gatewayHandler

	uploading chan struct{}  // one for each upload that runs
	uploads   *shares[int64] // of them, those of each account

	tails    *shares[int64] // streams of events
	lists    *shares[int64]
	stopping chan struct{} // closed when Serve is told to stop: streams do not end by themselves
	stop     func()
}

// New builds a server. It fails when the base path cannot work or the metrics are already registered.
func New(cfg Config, p Pins, accounts Accounts, log *slog.Logger) (*Server, error) {
	base, err := basePrefix(cfg.BasePath)
	if err != nil {
		return nil, err
	}
	if cfg.StopTimeout <= 0 {
		cfg.StopTimeout = stopTimeout
	}
	if cfg.UploadSlots <= 0 {
		cfg.UploadSlots = uploadSlots
	}
	if cfg.Metrics == nil {
		cfg.Metrics = prometheus.NewRegistry()
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, base: base, pins: p, accounts: accounts, gate: newGate(accounts, extractor(cfg.Proxies)), signUps: newTries("tries to sign up", extractor(cfg.Proxies)), log: log,
		echo:    echo.New(),
		health:  newHealth(cfg.Checks),
		metrics: m,
		ids:     newRequestIDs(),
		buffers: sync.Pool{New: func() any { return new([]byte) }},

		uploading: make(chan struct{}, cfg.UploadSlots),
		uploads:   newShares[int64](max(1, cfg.UploadSlots/uploadShare)),
		tails:     newShares[int64](accountTails),
		lists:     newShares[int64](accountLists),
		stopping:  make(chan struct{}),
	}
	s.stop = sync.OnceFunc(func() { close(s.stopping) })
	return s, s.route()
}

// ServeHTTP answers one request. Once it is known who the proxies are, nobody else may say which host and scheme a
// client has asked for.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if len(s.cfg.Proxies) > 0 && !within(s.cfg.Proxies, addressOf(r.RemoteAddr)) {
		r.Header.Del("X-Forwarded-Host")
		r.Header.Del("X-Forwarded-Proto")
	}
	s.echo.ServeHTTP(w, r)
}

func (s *Server) route() error {
	e := s.echo
	e.HideBanner, e.HidePort = true, true
	e.HTTPErrorHandler = s.fail
	e.IPExtractor = extractor(s.cfg.Proxies)
	if err := s.routeGateway(); err != nil {
		return err
	}
	e.Pre(normalise)
	e.Use(s.observe, recovered)

	s.routePins(s.base)
	s.routePins(s.base+policyPath, s.named)
	s.routeOwn()

	pages, err := s.docs()
	if err != nil {
		return err
	}
	metrics := promhttp.HandlerFor(s.cfg.Metrics, promhttp.HandlerOpts{})
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		e.Add(method, "/", s.index)
		e.Add(method, "/healthz", s.healthz)
		e.Add(method, "/readyz", s.readyz)
		e.Add(method, "/metrics", s.operatorOnly(echo.WrapHandler(metrics)))
		e.Add(method, "/docs", pages.index)
		e.Add(method, "/docs/:file", pages.file)
	}
	if s.cfg.Pieces == nil {
		return nil
	}
	served, err := newPieces(s.cfg.Pieces, s.cfg.PieceLimits, s.cfg.Metrics)
	if err != nil {
		return err
	}
	e.GET(piecePath, served.serve)
	e.HEAD(piecePath, served.serve)
	return nil
}

// routeGateway adds the reading of content. It comes before what else is done with paths: on hosts of content there is
// nothing else.
func (s *Server) routeGateway() error {
	if s.cfg.Gateway == nil || s.cfg.Gateway.Access == AccessOff {
		return nil
	}
	g, err := newGateway(*s.cfg.Gateway, s.cfg.Denylist, s.gate, s.log, s.cfg.Metrics)
	if err != nil {
		return err
	}
	s.gateway = g
	if len(g.cfg.Hostnames) > 0 {
		s.echo.Pre(s.subdomains(g))
	}
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
		s.echo.Add(method, gatewayPath, g.serve)
	}
	return nil
}

// routePins adds the routes of the Pinning Service API below a base.
func (s *Server) routePins(base string, others ...echo.MiddlewareFunc) {
	middlewares := s.guarded(others...)
	middlewares["getPins"] = append(middlewares["getPins"], canonicalQuery)
	RegisterHandlersWithOptions(s.echo, api{s}, RegisterHandlersOptions{BaseURL: base, OperationMiddlewares: middlewares})
	s.echo.OPTIONS(base+"/pins", preflight)
	s.echo.OPTIONS(base+"/pins/:requestid", preflight)
}

// index tells a person who opens the server in a browser where to go.
func (s *Server) index(c echo.Context) error {
	return s.respond(c, http.StatusOK, map[string]string{
		"service": "frostpin", "version": s.cfg.Version, "api": cmp.Or(s.base, "/"), "docs": "/docs",
	})
}

// Serve answers on ln until ctx ends, then lets running requests finish for Config.StopTimeout. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	srv := &http.Server{
		Handler:                      s,
		ReadHeaderTimeout:            readHeaderTimeout,
		ReadTimeout:                  readTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		BaseContext:                  func(net.Listener) context.Context { return requests },
		ConnState:                    renewDeadline,
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: maxStreams, WriteByteTimeout: stallTime, SendPingTimeout: pingAfter},
	}
	srv.RegisterOnShutdown(s.stop)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serving http: %w", err)
	case <-ctx.Done():
	}

	grace, done := context.WithTimeout(requests, s.cfg.StopTimeout)
	defer done()
	if err := srv.Shutdown(grace); err != nil {
		s.log.Warn("requests cut off at shutdown", "err", err)
		cut()
		if err := srv.Close(); err != nil {
			s.log.Warn("closing connections", "err", err)
		}
	}
	<-ended //nolint:errcheck // it is http.ErrServerClosed: we have just shut it down
	return nil
}

// renewDeadline lets a connection that is used again start without the write deadline of an answer before. net/http does
// that only for servers with a write timeout. What it answers itself, before any handler, has a deadline too; over
// HTTP/2 it sees to that, and a deadline of the connection would be one for all that runs on it.
func renewDeadline(conn net.Conn, state http.ConnState) {
	if state != http.StateActive {
		return
	}
	deadline := time.Now().Add(stallTime)
	if secure, ok := conn.(*tls.Conn); ok && secure.ConnectionState().NegotiatedProtocol == "h2" {
		deadline = time.Time{}
	}
	_ = conn.SetWriteDeadline(deadline) // when the connection is broken, its next write says so
}

// basePrefix checks a base path. Kubo refuses an endpoint that ends in /pins, and what stands beside the API must stay
// reachable.
func basePrefix(path string) (string, error) {
	switch {
	case path == "":
		return "/psa", nil
	case path == "/":
		return "", nil
	case path[0] != '/':
		return "", fmt.Errorf("base path %q must start with a slash", path)
	}
	base := strings.TrimSuffix(path, "/")
	for segment := range strings.SplitSeq(base[1:], "/") {
		if segment == "" || segment == "." || segment == ".." || strings.Trim(segment, unreserved) != "" {
			return "", fmt.Errorf("base path %q must be made of letters, digits, and .-_~ between single slashes", path)
		}
	}
	if strings.HasSuffix(base, "/pins") {
		return "", fmt.Errorf("base path %q must not end in /pins: clients add that themselves", path)
	}
	first, _, _ := strings.Cut(base[1:], "/")
	switch first {
	case "healthz", "readyz", "metrics", "docs", "api", "piece", "ipfs":
		return "", fmt.Errorf("base path %q would hide /%s", path, first)
	}
	return base, nil
}

const unreserved = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"
