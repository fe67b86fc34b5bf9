package server

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/gateway"
	"github.com/ipfs/go-cid"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins"
)

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
	places   *shares[pins.Account]
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
		places:  newShares[pins.Account](max(1, cfg.MaxRequests/4)),
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
	if a.account != 0 { // what one address may take is bounded by its connections
		leave, ok := g.places.enter(a.account)
		if !ok {
			return errBusy
		}
		defer leave()
	}

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
	out.private, out.offline, out.account = a.private, onlyCached, a.account
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
	err = out.finish(a.root, format)
	if a.fetch && out.status < http.StatusMultipleChoices && out.sent > 0 && begins(r) {
		g.cfg.Roots.Touched(a.root, st.trail.Tier() != TierHot)
	}
	out.count()
	return err
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
