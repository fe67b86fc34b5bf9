package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/gateway"
	"github.com/ipfs/boxo/path"
	"github.com/ipfs/go-cid"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins"
)

// Blocks is where the gateway reads: retrieval.
type Blocks interface {
	// Blocks reads the hot tier and then, below a root that WithRoot named, from afar.
	Blocks() blockservice.BlockService
	// HotBlocks reads the hot tier only. It never asks anybody else.
	HotBlocks() blockservice.BlockService
	// WithRoot lets reads below root go to the cold copies of root, which is canonical (CIDv1).
	WithRoot(ctx context.Context, root cid.Cid) context.Context
	// WithTrail begins to record who answers the reads of a request.
	WithTrail(ctx context.Context) (context.Context, Trail)
	// Prefetch says that all of the DAG below top is about to be read and that not all of it is hot. It returns at
	// once. ctx has the root and the trail.
	Prefetch(ctx context.Context, root, top cid.Cid)
	// Fault tells what the error of a read means. What is not known is FaultNone.
	Fault(err error) Fault
}

// A Trail tells who has answered so far. It is safe for concurrent use and cheap to ask.
type Trail interface {
	Tier() string        // TierHot as long as nothing came from elsewhere
	Providers() []string // who answered with what was not hot, each once
}

// Tiers, as headers and metrics have them.
const (
	TierHot  = "hot"
	TierCold = "cold"
	tierNone = "none" // in metrics: nothing was served
)

// Roots knows what is pinned.
type Roots interface {
	// Known reports whether any pin names this DAG.
	Known(ctx context.Context, root cid.Cid) (bool, error)
	// KnownTo reports whether a pin of this account does.
	KnownTo(ctx context.Context, account pins.Account, root cid.Cid) (bool, error)
	// Touched says that a reader began to read below root, and whether not all of it was hot. It returns at once.
	Touched(root cid.Cid, cold bool)
}

// A Denylist knows what must not be served or pinned. An error is about one CID or path, has a method Status() int that
// returns 410 or 451, and a text that can be shown.
type Denylist interface {
	Denied(c cid.Cid) error
	DeniedPath(p path.Path) error
}

// Access is who may read.
type Access string

// Who may read.
const (
	AccessOpen  Access = "open"  // everyone; the default
	AccessToken Access = "token" // who has a token of an account that pins the root, or a signed link from one
	AccessOff   Access = "off"   // nobody: there is no gateway
)

// Fetch is what may be read from elsewhere than the hot tier.
type Fetch string

// What may be read from elsewhere.
const (
	FetchHeld Fetch = "held" // below roots that are pinned; others are read from the hot tier or not at all. The default
	FetchOnly Fetch = "only" // below roots that are pinned; others are not read at all
	FetchAny  Fetch = "any"  // everything: an open proxy
)

// Gateway configures the reading of content at /ipfs. Zero is the default, where nothing else is said.
type Gateway struct {
	Blocks Blocks // required
	Roots  Roots  // required

	Access    Access
	Fetch     Fetch
	Trustless bool     // only raw blocks and CARs: readers verify what they get
	Hostnames []string // each also serves https://CID.ipfs.HOSTNAME, with an origin of its own for each root
	LinkKey   []byte   // signs links; at least 32 bytes. No links when empty
	URL       string   // where readers find this server, for links: https://gateway.example.org. The request's host when empty

	MaxRequests         int           // at once; 1024
	RetrievalTimeout    time.Duration // without any progress, until 504 or the cut; 60 s. Longer than retrieval itself tries
	Stall               time.Duration // a reader who takes nothing for so long is dropped; 30 s
	MaxDuration         time.Duration // of one answer; 24 h
	MaxDeserializedSize int64         // bytes of a file or directory that is shown as such; no bound when zero
	MaxDAGSize          int64         // bytes of a file or directory in any format; no bound when zero

	// Turns are taken by reads that need much of the processors. Nil: all at once.
	Turns *pins.Turns

	// Sent is told how many bytes readers were sent for whom an account answers, also when the transfer broke off; cold: not
	// all of them were here. Nobody answers for what is open to everyone.
	Sent func(account pins.Account, cold bool, bytes int64)

	// MayRead tells whether anything more may be sent to them: *pins.QuotaError if not. Nil: always.
	MayRead func(ctx context.Context, account pins.Account) error

	Now func() time.Time // time.Now when nil
}

func (g Gateway) withDefaults() (Gateway, error) {
	g.Access = cmp.Or(g.Access, AccessOpen)
	g.Fetch = cmp.Or(g.Fetch, FetchHeld)
	g.MaxRequests = cmp.Or(g.MaxRequests, 1024)
	g.RetrievalTimeout = cmp.Or(g.RetrievalTimeout, time.Minute)
	g.Stall = cmp.Or(g.Stall, 30*time.Second)
	g.MaxDuration = cmp.Or(g.MaxDuration, 24*time.Hour)
	g.MaxDAGSize = cmp.Or(g.MaxDAGSize, 1<<50) // never unset: without it a CAR of nothing is answered with 200
	if g.Now == nil {
		g.Now = time.Now
	}
	switch {
	case g.Blocks == nil || g.Roots == nil:
		return g, errors.New("a gateway needs blocks and roots")
	case g.Access != AccessOpen && g.Access != AccessToken && g.Access != AccessOff:
		return g, fmt.Errorf("access to the gateway cannot be %q", g.Access)
	case g.Fetch != FetchHeld && g.Fetch != FetchOnly && g.Fetch != FetchAny:
		return g, fmt.Errorf("what the gateway fetches cannot be %q", g.Fetch)
	case len(g.LinkKey) > 0 && len(g.LinkKey) < minLinkKey:
		return g, fmt.Errorf("the key of links has %d bytes; at least %d are needed", len(g.LinkKey), minLinkKey)
	}
	if g.URL != "" {
		if u, err := url.Parse(g.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
			return g, fmt.Errorf("the url of the gateway cannot be %q", g.URL)
		}
	}
	for _, name := range g.Hostnames {
		if name == "" || strings.ToLower(name) != name || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.:") != "" {
			return g, fmt.Errorf("the gateway cannot have the host name %q", name)
		}
	}
	return g, nil
}

// gatewayPath is where content is read.
const (
	gatewayPath   = "/ipfs/*"
	gatewayPrefix = "/ipfs/"
)

// gatewayHandler answers reads: who may, what may be fetched, and around boxo's handler what it leaves to be mended.
type gatewayHandler struct {
	cfg    Gateway
	log    *slog.Logger
	gate   *gate
	denied Denylist

	online, offline http.Handler              // boxo's, over all blocks and over hot ones
	hot             blockservice.BlockService // what offline reads
	hosts           http.Handler              // boxo's for subdomains, in front of the rest; nil for none
	headers         map[string][]string
	roots           knownRoots
	links           linkKey

	running  atomic.Int64
	requests *prometheus.CounterVec
	sent     *prometheus.CounterVec
	busy     prometheus.GaugeFunc
}

func newGateway(cfg Gateway, denied Denylist, gate *gate, log *slog.Logger, metrics *prometheus.Registry) (*gatewayHandler, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	g := &gatewayHandler{
		cfg: cfg, log: log, gate: gate, denied: denied,
		roots:   knownRoots{ask: cfg.Roots.Known, now: cfg.Now},
		links:   linkKey(cfg.LinkKey),
		headers: gatewayHeaders(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "frostpin_gateway_requests_total",
			Help: "Reads answered, by the tier they came from, the format and the class of their status.",
		}, []string{"tier", "format", "status"}),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "frostpin_gateway_sent_bytes_total",
			Help: "Bytes of content sent to readers, by the tier they came from.",
		}, []string{"tier"}),
	}
	g.busy = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "frostpin_gateway_requests_running",
		Help: "Reads being answered now.",
	}, func() float64 { return float64(g.running.Load()) })
	for _, c := range []prometheus.Collector{g.requests, g.sent, g.busy} {
		if err := metrics.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics of the gateway: %w", err)
		}
	}

	boxo := gateway.Config{
		DeserializedResponses:       !cfg.Trustless,
		NoDNSLink:                   true,
		MaxDeserializedResponseSize: cfg.MaxDeserializedSize,
		MaxUnixFSDAGResponseSize:    cfg.MaxDAGSize,
		MaxRequestDuration:          cfg.MaxDuration,
		MetricsRegistry:             metrics,
		PublicGateways:              make(map[string]*gateway.PublicGateway),
		// RetrievalTimeout and MaxConcurrentRequests stay unset. boxo's timeout hides from us what its handler does after
		// the header, a broken stream included, and leaves the handler running; its limit answers in its own words.
	}
	for _, name := range cfg.Hostnames {
		boxo.PublicGateways[name] = &gateway.PublicGateway{
			Paths: []string{"/ipfs"}, UseSubdomains: true, NoDNSLink: true, DeserializedResponses: !cfg.Trustless,
		}
	}
	handler := func(from blockservice.BlockService) (http.Handler, gateway.IPFSBackend, blockservice.BlockService, error) {
		blocks := readBlocks(from, denied, cfg.Blocks.Fault)
		backend, err := gateway.NewBlocksBackend(blocks)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("building the gateway: %w", err)
		}
		own := carBackend{backend, blocks}
		return gateway.NewHandler(boxo, own), own, blocks, nil
	}
	if g.online, _, _, err = handler(cfg.Blocks.Blocks()); err != nil {
		return nil, err
	}
	var backend gateway.IPFSBackend
	if g.offline, backend, g.hot, err = handler(cfg.Blocks.HotBlocks()); err != nil {
		return nil, err
	}
	if len(cfg.Hostnames) > 0 {
		g.hosts = gateway.NewHostnameHandler(boxo, backend, http.HandlerFunc(afterHosts))
	}
	return g, nil
}

// gatewayHeaders lets web pages of all origins read, and see what a read tells.
func gatewayHeaders() map[string][]string {
	h := http.Header{}
	gateway.NewHeaders(map[string][]string{
		"Access-Control-Allow-Headers": {"Authorization", "Cache-Control", "If-None-Match", otherHeader},
		"Access-Control-Expose-Headers": {
			"Accept-Ranges", "Etag", "Retry-After", "X-Frostpin-Provider", "X-Frostpin-Tier", "X-Request-Id",
		},
		"Access-Control-Max-Age": {"7200"},
	}).ApplyCors().Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(headersOnly{h}, nil)
	for name, values := range h {
		h[name] = []string{strings.Join(values, ", ")}
	}
	return h
}

// headersOnly collects headers.
type headersOnly struct{ h http.Header }

func (w headersOnly) Header() http.Header       { return w.h }
func (headersOnly) Write(b []byte) (int, error) { return len(b), nil }
func (headersOnly) WriteHeader(int)             {}

// serve answers one read.
func (g *gatewayHandler) serve(c echo.Context) error {
	maps.Copy(c.Response().Header(), g.headers)
	if n := g.running.Add(1); n > int64(g.cfg.MaxRequests) {
		g.running.Add(-1)
		return errBusy
	}
	defer g.running.Add(-1)

	r := c.Request()
	if !onSubdomain(g.cfg.Hostnames, r) {
		if asked, _, _ := strings.Cut(r.RequestURI, "?"); !strings.HasPrefix(asked, gatewayPrefix) {
			r.RequestURI = r.URL.RequestURI() // boxo redirects to what it finds here: //host/ must not be it
		}
	}
	if g.hosts == nil {
		return g.read(c, r, c.Response())
	}
	c.Response().Before(func() { // boxo's refusals of host names are the only answers without a word on caches
		if h := c.Response().Header(); c.Response().Status >= http.StatusBadRequest && h.Get("Cache-Control") == "" {
			h.Set("Cache-Control", "no-store")
		}
	})
	var err error
	next := func(w http.ResponseWriter, r *http.Request) { err = g.read(c, r, w) }
	g.hosts.ServeHTTP(c.Response(), r.WithContext(context.WithValue(r.Context(), afterHostsKey{}, next)))
	return err
}

// read answers a read whose path is below /ipfs.
func (g *gatewayHandler) read(c echo.Context, r *http.Request, w http.ResponseWriter) error {
	if r.Method == http.MethodOptions {
		g.offline.ServeHTTP(w, r)
		return nil
	}
	a, err := g.admit(r)
	if err != nil {
		return err
	}
	c.Set(callerKey, &auth.Caller{Account: int64(a.account)})

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	st := &reading{root: a.root, effort: pins.NewEffort(g.cfg.Turns, readerOf(c, a))}
	defer st.effort.End()
	ctx = context.WithValue(ctx, readingKey{}, st)
	ctx, st.trail = g.cfg.Blocks.WithTrail(ctx)
	handler := g.offline
	onlyCached := onlyIfCached(r.Header)
	if a.root.Defined() && !onlyCached {
		handler = g.online
		if a.fetch {
			ctx = g.cfg.Blocks.WithRoot(ctx, a.root)
		}
	}
	format := formatOf(r)
	r = g.mended(r, format, onlyCached).WithContext(ctx)
	out := newGuard(g, c, w, r, st, cancel)
	out.private, out.offline = a.private, onlyCached
	if a.fetch && !onlyCached && r.Method == http.MethodGet {
		g.expectAll(ctx, r, st, a, format)
	}
	if r.Header.Get("If-None-Match") != "" && a.root.Defined() && !a.fetch {
		// boxo compares tags before it looks for anything, and would call unmodified what is not there. What is pinned is
		// there, and tells so without a block being read.
		if _, err := g.hot.GetBlock(ctx, a.root); err != nil {
			out.refuse(http.StatusInternalServerError)
			return out.finish(a.root, format)
		}
	}
	handler.ServeHTTP(out, r)
	if a.fetch && out.status < http.StatusMultipleChoices && out.sent > 0 && begins(r) {
		g.cfg.Roots.Touched(a.root, st.trail.Tier() != TierHot)
	}
	if g.cfg.Sent != nil && a.account != 0 && out.sent > 0 && out.status < http.StatusMultipleChoices {
		g.cfg.Sent(a.account, st.trail.Tier() != TierHot, out.sent)
	}
	return out.finish(a.root, format)
}

// readerOf is whose turn it is when a read takes much: an account's, or that of an address.
func readerOf(c echo.Context, a admission) any {
	if a.account != 0 {
		return a.account
	}
	return c.RealIP()
}

// begins reports whether a request is the first of those with which content is read: a player of films reads on in ranges.
func begins(r *http.Request) bool {
	ranges := r.Header.Get("Range")
	return r.Method == http.MethodGet && (ranges == "" || strings.HasPrefix(ranges, "bytes=0-"))
}

// expectAll finds out whether all of a DAG is wanted. For a CAR or tar of the root's that is plain, and one look at the
// root tells whether it is hot. For a file it shows when its own root has been read, which may lie below that of the
// path. What a CAR or tar of a path is to hold is not known before the path has been walked, and blocks do not tell
// where that ends: those are read block by block.
func (g *gatewayHandler) expectAll(ctx context.Context, r *http.Request, st *reading, a admission, format string) {
	q := r.URL.Query()
	switch {
	case format == formatFile && r.Header.Get("Range") == "":
		st.prefetch = func(top cid.Cid) { g.cfg.Blocks.Prefetch(ctx, a.root, top) }
	case a.below != "":
	case format == formatTAR, format == formatCAR && (q.Get("dag-scope") == "" || q.Get("dag-scope") == "all"):
		st.prefetch = func(top cid.Cid) { g.cfg.Blocks.Prefetch(ctx, a.root, top) }
		st.whole(a.root)
		look, done := context.WithTimeout(ctx, hotLook)
		defer done()
		if _, err := g.cfg.Blocks.HotBlocks().GetBlock(look, a.root); err != nil {
			st.announce()
		}
	}
}

// hotLook is how long the hot tier may take to say whether it has a root, before it counts as one that has not.
const hotLook = time.Second

// mended is a request as boxo must see it.
func (g *gatewayHandler) mended(r *http.Request, format string, onlyCached bool) *http.Request {
	if q := r.URL.Query(); format == formatCAR && q.Has("entity-bytes") && !q.Has("dag-scope") {
		r = r.Clone(r.Context())
		r.URL.RawQuery += "&dag-scope=entity" // bytes of an entity imply it; boxo sends the whole DAG
	}
	if g.cfg.Fetch == FetchAny && strings.Contains(r.Header.Get("If-None-Match"), "*") {
		r = r.Clone(r.Context())
		r.Header.Del("If-None-Match") // boxo would call everything unmodified, whether it is anywhere or not
	}
	if onlyCached && r.Header.Get("Cache-Control") != "only-if-cached" {
		r = r.Clone(r.Context())
		r.Header.Set("Cache-Control", "only-if-cached") // boxo knows the directive when it is alone
	}
	return r
}

// onlyIfCached reports whether a reader wants nothing to be fetched.
func onlyIfCached(h http.Header) bool {
	for _, value := range h["Cache-Control"] {
		for directive := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(directive), "only-if-cached") {
				return true
			}
		}
	}
	return false
}

// Formats, as metrics have them.
const (
	formatFile  = "file" // as it is: a file, a page, a listing
	formatRaw   = "raw"
	formatCAR   = "car"
	formatTAR   = "tar"
	formatOther = "other"
)

// formatOf tells in which format content is asked for. The rule is boxo's: the query, when it names a format that is
// known, then the first Accept that is about IPLD.
func formatOf(r *http.Request) string {
	known := map[string]string{
		"raw": formatRaw, "car": formatCAR, "tar": formatTAR, "json": formatOther, "cbor": formatOther,
		"dag-json": formatOther, "dag-cbor": formatOther, "ipns-record": formatOther,
	}
	if f, ok := known[r.URL.Query().Get("format")]; ok {
		return f
	}
	for _, header := range r.Header["Accept"] {
		for value := range strings.SplitSeq(header, ",") {
			value = strings.TrimSpace(value)
			kind, _, _ := strings.Cut(value, ";")
			switch kind = strings.ToLower(strings.TrimSpace(kind)); {
			case kind == "application/vnd.ipld.raw":
				return formatRaw
			case kind == "application/vnd.ipld.car":
				return formatCAR
			case kind == "application/x-tar":
				return formatTAR
			case strings.HasPrefix(value, "application/vnd.ipld"), strings.HasPrefix(value, "application/vnd.ipfs"),
				strings.HasPrefix(value, "application/json"), strings.HasPrefix(value, "application/cbor"):
				return formatOther
			}
		}
	}
	return formatFile
}

// finished counts an answer.
func (g *gatewayHandler) finished(format, tier string, status int, sent int64) {
	if status >= http.StatusMultipleChoices {
		tier = tierNone
	}
	g.requests.WithLabelValues(tier, format, statusClass(status)).Inc()
	if tier != tierNone {
		g.sent.WithLabelValues(tier).Add(float64(sent))
	}
}

// knownRoots remembers for a moment which roots are pinned, so that a page with a hundred files asks once. It does not
// remember the others: what is pinned now must be read now.
type knownRoots struct {
	ask func(context.Context, cid.Cid) (bool, error)
	now func() time.Time

	mu    sync.Mutex
	until map[cid.Cid]time.Time
}

// Bounds of what knownRoots remembers.
const (
	knownFor  = 5 * time.Second
	knownMost = 4096
)

func (k *knownRoots) known(ctx context.Context, root cid.Cid) (bool, error) {
	now := k.now()
	k.mu.Lock()
	fresh := now.Before(k.until[root])
	k.mu.Unlock()
	if fresh {
		return true, nil
	}
	ok, err := k.ask(ctx, root)
	if err != nil || !ok {
		return false, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.until == nil || len(k.until) >= knownMost {
		k.until = make(map[cid.Cid]time.Time)
	}
	k.until[root] = now.Add(knownFor)
	return true, nil
}
