package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/boxo/gateway/assets"
	"github.com/ipfs/go-cid"
	"github.com/labstack/echo/v4"

	"github.com/frostpin/frostpin/pins"
)

// errCut ends an answer whose header promised more than could be sent. observe cuts the connection, because that is the
// only thing left that every reader and proxy understands.
var errCut = errors.New("the answer was cut short")

// errHeadersOnly stops boxo's handler when it begins a body that nobody asked for.
var errHeadersOnly = errors.New("only the headers were asked for")

// A guard stands between boxo's gateway and the connection. boxo marks errors as immutable and tags them, so that
// caches keep them for a year; loses the reasons of errors; shows internal texts; makes whole bodies for HEAD; and ends
// streams that broke off as if they were complete.
type guard struct {
	g       *gatewayHandler
	c       echo.Context
	w       http.ResponseWriter
	conn    *http.ResponseController
	r       *http.Request
	st      *reading
	cancel  context.CancelFunc
	private bool // no shared cache may keep the answer
	offline bool // nothing may be fetched: what is missing is not cached, rather than not there

	patience *time.Timer  // fires when nothing has reached the reader for too long
	status   int          // that went out; 0 before
	sent     int64        // bytes of the body
	counted  int64        // of them, that are counted for who answers for them
	account  pins.Account // who that is; 0: nobody
	length   int64        // that the header promised, -1 for no promise
	tier     string       // that the header told
	mute     bool         // the body is ours already, boxo's is dropped
	broken   bool         // the body cannot be completed
	giving   atomic.Bool  // waiting for the reader, not for blocks
	parts    []byte       // of the body, too small to be sent alone
}

func newGuard(g *gatewayHandler, c echo.Context, w http.ResponseWriter, r *http.Request, st *reading, cancel context.CancelFunc) *guard {
	o := &guard{g: g, c: c, w: w, conn: http.NewResponseController(w), r: r, st: st, cancel: cancel, length: -1}
	o.patience = time.AfterFunc(g.cfg.RetrievalTimeout, func() {
		if o.giving.Load() {
			return
		}
		st.stall()
		cancel()
	})
	return o
}

// Header implements http.ResponseWriter.
func (o *guard) Header() http.Header { return o.w.Header() }

// WriteHeader implements http.ResponseWriter.
func (o *guard) WriteHeader(code int) {
	switch {
	case o.status != 0:
		// Only boxo's recovery from a panic says a second status.
		o.broken = o.broken || code >= http.StatusInternalServerError
		return
	case code < http.StatusOK:
		o.w.WriteHeader(code)
		return
	case code >= http.StatusBadRequest:
		o.refuse(code)
		return
	}
	h := o.Header()
	tag := h.Get("Etag")
	isListing := strings.HasPrefix(tag, `"DirIndex-`)
	if isListing {
		h.Set("Etag", "W/"+tag) // the order of a sharded directory is that in which its shards arrive
	}
	if code == http.StatusOK && isListing {
		// boxo lists a directory when its index.html cannot be found, also when there is one whose blocks are missing.
		if f := o.st.fault(); f != nil {
			o.refuse(f.status)
			return
		}
	}
	o.keep(h)
	if code == http.StatusOK || code == http.StatusPartialContent {
		o.tell(h)
		if n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64); err == nil {
			o.length = n
		}
		if isolated(h.Get("Content-Type")) && !onSubdomain(o.g.cfg.Hostnames, o.c.Request()) {
			h.Set("Content-Security-Policy", sandbox)
		}
	}
	o.commit(code)
}

// sandbox gives a page that strangers made an origin of its own: on this host there are other pages, such as /docs,
// into which people put tokens.
const sandbox = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-popups-to-escape-sandbox allow-scripts"

// isolated reports whether browsers run what is in content of a type.
func isolated(kind string) bool {
	kind, _, _ = strings.Cut(strings.ToLower(kind), ";")
	switch kind = strings.TrimSpace(kind); kind {
	case "text/html", "text/xml", "application/xml":
		return true
	}
	return strings.HasSuffix(kind, "+xml")
}

// keep says which caches may keep an answer.
func (o *guard) keep(h http.Header) {
	if !o.private {
		return
	}
	if cc := h.Get("Cache-Control"); cc != "" {
		h.Set("Cache-Control", strings.Replace(cc, "public", "private", 1))
	} else {
		h.Set("Cache-Control", "private")
	}
	h.Add("Vary", "Authorization, "+otherHeader) // an administrator reads several accounts with one token
}

// tell names the tier and the providers, as far as they are known now.
func (o *guard) tell(h http.Header) {
	o.tier = o.st.trail.Tier()
	h.Set("X-Frostpin-Tier", o.tier)
	if providers := o.st.trail.Providers(); len(providers) > 0 {
		h.Set("X-Frostpin-Provider", strings.Join(providers, ", "))
	}
}

func (o *guard) commit(code int) {
	o.status = code
	o.deadline()
	o.w.WriteHeader(code)
	o.lift()
}

// deadline drops a reader that takes nothing. The server lifts it when the connection is used again.
func (o *guard) deadline() {
	if err := unlessUnsupported(o.conn.SetWriteDeadline(time.Now().Add(o.g.cfg.Stall))); err != nil {
		o.broken = true
	}
}

// lift lets a stream of HTTP/2 wait for blocks: there a deadline that passes ends it whether anything is written or not.
func (o *guard) lift() {
	if o.r.ProtoMajor < 2 {
		return
	}
	if err := unlessUnsupported(o.conn.SetWriteDeadline(time.Time{})); err != nil {
		o.broken = true
	}
}

// Write implements http.ResponseWriter.
func (o *guard) Write(b []byte) (int, error) {
	if o.status == 0 {
		o.WriteHeader(http.StatusOK)
	}
	if o.mute {
		return len(b), nil
	}
	if o.r.Method == http.MethodHead {
		o.cancel() // else all of the DAG would be walked
		return 0, errHeadersOnly
	}
	return o.write(b)
}

// ReadFrom implements io.ReaderFrom: io.Copy's own buffer, made anew for each answer, would cost twice the calls.
func (o *guard) ReadFrom(r io.Reader) (int64, error) {
	buffer, _ := guardBuffers.Get().(*[]byte)
	defer guardBuffers.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{o}, r, *buffer)
}

// guardBuffers are of a size that even a slow reader takes before it counts as one who takes nothing.
var guardBuffers = sync.Pool{New: func() any {
	b := make([]byte, 64<<10)
	return &b
}}

// countEvery is how many bytes may have been sent that are not counted yet: a read can take hours, and a server can die.
const countEvery = 1 << 20

// count counts what was sent since the last time.
func (o *guard) count() {
	bytes := o.sent - o.counted
	o.counted = o.sent
	if o.g.cfg.Sent != nil && o.account != 0 && bytes > 0 && o.status < http.StatusMultipleChoices {
		o.g.cfg.Sent(o.account, o.st.trail.Tier() != TierHot, bytes)
	}
}

// partsSize is how much of an answer is gathered before it is sent: a page or a tar is composed of a great many parts.
const partsSize = 4 << 10

// write sends what is worth it and gathers what is small, which flush sends. What is composed after that takes turns like
// what is read.
func (o *guard) write(b []byte) (int, error) {
	full := len(o.parts)+len(b) > partsSize
	if full {
		if err := o.flush(); err != nil {
			return 0, err
		}
	}
	if len(b) >= partsSize {
		return o.send(b)
	}
	o.parts = append(o.parts, b...)
	o.progress()
	if full {
		if err := o.st.effort.GoOn(o.r.Context()); err != nil {
			o.broken = true // boxo would end a page with its words for it, as if it were complete
			return 0, err
		}
	}
	return len(b), nil
}

// flush sends what was gathered.
func (o *guard) flush() error {
	if len(o.parts) == 0 {
		return nil
	}
	_, err := o.send(o.parts)
	o.parts = o.parts[:0]
	o.broken = o.broken || err != nil
	return err
}

func (o *guard) send(b []byte) (int, error) {
	o.giving.Store(true)
	o.st.effort.Giving(true)
	o.deadline()
	n, err := o.w.Write(b)
	o.lift()
	o.st.effort.Giving(false)
	o.sent += int64(n)
	if o.sent-o.counted >= countEvery {
		o.count()
	}
	o.progress()
	o.giving.Store(false)
	return n, err
}

// progress is what the patience with a read is renewed by.
func (o *guard) progress() {
	o.st.blocks.Store(0)
	o.patience.Reset(o.g.cfg.RetrievalTimeout)
}

// refuse answers an error, whatever the headers were to be.
func (o *guard) refuse(code int) {
	f := o.verdict(code)
	h := o.Header()
	for _, name := range []string{"Etag", "Content-Disposition", "Content-Location", "Last-Modified", "Content-Length", "X-Ipfs-Roots"} {
		h.Del(name)
	}
	if cc := h.Get("Cache-Control"); f.status != http.StatusGone || f.text != "" || cc == "" || strings.Contains(cc, "immutable") {
		h.Set("Cache-Control", "no-store")
	} else {
		o.keep(h) // boxo's own short life of what is too large
	}
	switch f.status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		h.Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	default:
		h.Del("Retry-After")
	}
	o.report(f)
	if f.text == "" { // boxo has said it well
		o.commit(f.status)
		o.mute = o.r.Method == http.MethodHead
		return
	}
	o.mute = true
	h.Set("X-Content-Type-Options", "nosniff")
	if !strings.Contains(o.r.Header.Get("Accept"), "text/html") {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		o.commit(f.status)
		o.page([]byte(f.text + "\n"))
		return
	}
	var page strings.Builder
	err := assets.ErrorTemplate.Execute(&page, assets.ErrorTemplateData{
		StatusCode: f.status, StatusText: http.StatusText(f.status), Error: f.text,
	})
	if err != nil {
		o.g.log.Error("rendering an error page", "err", err)
	}
	h.Set("Content-Type", "text/html")
	o.commit(f.status)
	o.page([]byte(page.String()))
}

// page sends a body of ours.
func (o *guard) page(b []byte) {
	if o.r.Method == http.MethodHead {
		return
	}
	if _, err := o.send(b); err != nil {
		o.g.log.Debug("client went away", "request", requestID(o.c), "err", err)
	}
}

// verdict decides what an error of boxo's means, knowing what boxo has lost: which block could not be read and why. No
// text means that boxo's status and words are right.
func (o *guard) verdict(code int) fault {
	f := o.st.fault()
	ours := code >= http.StatusInternalServerError && code != http.StatusNotImplemented
	switch {
	case o.c.Request().Context().Err() != nil:
		return fault{status: statusClientGone, text: "the reader has gone", cid: o.st.root, cause: context.Canceled}
	case f != nil && (f.status == http.StatusGone || f.status == http.StatusUnavailableForLegalReasons):
	case f != nil && errors.Is(f.cause, errNoProgress):
	case f != nil && o.offline && f.status == http.StatusNotFound && (ours || code == http.StatusNotFound):
		f = &fault{status: http.StatusPreconditionFailed, text: textNotCached, cid: f.cid, cause: f.cause}
	case f != nil && ours:
	case f != nil && code == http.StatusNotFound && f.status == http.StatusNotFound && f.cid.Equals(o.st.root):
		// boxo calls it a link that is not there.
	case !ours:
		return fault{status: code}
	case o.r.Context().Err() != nil:
		f = &fault{status: http.StatusGatewayTimeout, text: textSlow, cid: o.st.root, cause: context.Cause(o.r.Context())}
	case code == http.StatusGatewayTimeout:
		f = &fault{status: code, text: textSlow, cid: o.st.root, cause: context.DeadlineExceeded}
	case code == http.StatusInternalServerError && strings.HasPrefix(o.Header().Get("Content-Type"), "text/"):
		// All blocks could be read and boxo has composed an answer: the content itself makes no sense.
		f = &fault{status: http.StatusBadRequest, text: textMalformed, cid: o.st.root}
	default:
		f = &fault{status: http.StatusInternalServerError, text: textOurs, cid: o.st.root, cause: errPanic}
	}
	told := *f
	if told.text == textOurs {
		told.text += requestID(o.c)
	}
	return told
}

var errPanic = errors.New("the gateway's handler panicked; its stack is on standard error")

// report logs what the operator has to know of a failed read.
func (o *guard) report(f fault) {
	level := slog.LevelDebug
	switch {
	case f.status == statusClientGone:
	case f.status == http.StatusInternalServerError:
		level = slog.LevelError
	case f.status > http.StatusInternalServerError && f.status != http.StatusNotImplemented,
		f.status == http.StatusGone && f.cause != nil, f.status == http.StatusUnavailableForLegalReasons:
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{
		slog.String("request", requestID(o.c)), slog.String("method", o.r.Method), slog.Int("status", f.status), slog.Any("err", f.cause),
	}
	if f.cid.Defined() {
		attrs = append(attrs, slog.String("cid", f.cid.String()))
	}
	o.g.log.LogAttrs(o.r.Context(), level, "read failed", attrs...)
}

// finish ends the answer when boxo's handler has returned. It returns errCut when less was sent than promised.
func (o *guard) finish(root cid.Cid, format string) error {
	_ = o.flush() // what becomes of it is in broken
	o.patience.Stop()
	if o.status == 0 { // an empty body
		o.WriteHeader(http.StatusOK)
	}
	if o.r.ProtoMajor >= 2 {
		o.deadline() // the server sends what it has kept when the handler returns
	}
	tier := o.st.trail.Tier()
	o.g.finished(format, tier, o.status, o.sent)
	if o.r.Method == http.MethodHead || o.status >= http.StatusMultipleChoices {
		return nil
	}
	h := o.Header()
	incomplete := h.Get("X-Stream-Error") != "" || o.length >= 0 && o.sent < o.length || o.length < 0 && o.broken
	if incomplete {
		f := o.st.fault()
		if f == nil {
			f = &fault{status: o.status, cid: root, cause: errCut}
		}
		o.report(*f)
		return errCut
	}
	if o.length < 0 && tier != o.tier { // chunked: a trailer is possible, and later news are in it
		h.Set(http.TrailerPrefix+"X-Frostpin-Tier", tier)
		if providers := o.st.trail.Providers(); len(providers) > 0 {
			h.Set(http.TrailerPrefix+"X-Frostpin-Provider", strings.Join(providers, ", "))
		}
	}
	return nil
}
