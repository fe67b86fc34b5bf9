package sp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/frostpin/frostpin/deals/mk12/wire"
)

// PullConfig is how a provider downloads.
type PullConfig struct {
	Concurrent int           // deals at once [4]
	Attempts   int           // connections per range of a deal [Boost 10, Curio 15]
	Backoff    time.Duration // before the second attempt, doubled up to 16 times it [500 ms]
	Header     time.Duration // until the first header [30 s]
	Gap        time.Duration // without a byte [8 s]
	MinRate    int64         // bytes per second over each 4 s, else reconnect; Curio only [1,250,000; negative: none]
	Ranges     int           // in parallel; Boost only [5]
}

func (c PullConfig) withDefaults(style Style) PullConfig {
	attempts := 10
	if style == Curio {
		attempts, c.Ranges = 15, 1
		c.MinRate = cmp.Or(c.MinRate, 1_250_000)
	} else {
		c.MinRate = -1
	}
	return PullConfig{
		Concurrent: cmp.Or(c.Concurrent, 4), Attempts: cmp.Or(c.Attempts, attempts),
		Backoff: cmp.Or(c.Backoff, 500*time.Millisecond), Header: cmp.Or(c.Header, 30*time.Second),
		Gap: cmp.Or(c.Gap, 8*time.Second), MinRate: c.MinRate, Ranges: cmp.Or(c.Ranges, 5),
	}
}

// rateWindow is what MinRate is averaged over.
const rateWindow = 4 * time.Second

// smallestRange keeps small pieces from being cut up.
const smallestRange = 256 << 10

var (
	errStopped   = errors.New("the pull stopped")
	errCut       = errors.New("the connection was cut on our side")
	errTooSlow   = errors.New("download is too slow")
	errGap       = errors.New("no data arrived for too long")
	errIgnored   = errors.New("server ignored range header")
	errWrongSize = errors.New("size mismatch")
)

// A pull is the download of one deal's bytes.
type pull struct {
	p        *Provider
	d        *Deal
	req      wire.HTTPRequest
	client   *http.Client
	received atomic.Int64
}

// A span is a range of the bytes [from, to) and the file that collects it.
type span struct {
	n        int
	from, to int64
}

func (p *Provider) newPull(d *Deal) (*pull, error) {
	req, err := wire.ParseHTTPTransfer(d.params.Transfer)
	if err != nil {
		return nil, err
	}
	if err := checkURL(req.URL, p.cfg); err != nil {
		return nil, err
	}
	if p.cfg.Style == Curio {
		if err := checkHeaders(req.Headers); err != nil {
			return nil, err
		}
	}
	return &pull{p: p, d: d, req: req, client: newClient(p.cfg)}, nil
}

// spans cuts the bytes up in the same way each time, so that a pull goes on after a restart.
func (t *pull) spans() []span {
	size := t.d.transferSize()
	n := min(int64(t.p.cfg.Pull.Ranges), max(1, size/smallestRange))
	each := (size + n - 1) / n
	var all []span
	for i := range n {
		if from := i * each; from < size || i == 0 {
			all = append(all, span{int(i), from, min(from+each, size)})
		}
	}
	return all
}

// run downloads what is missing, and returns when every byte is on disk.
func (t *pull) run(ctx context.Context) error {
	defer t.client.CloseIdleConnections()
	for _, s := range t.spans() {
		t.received.Add(t.p.pieces.partSize(t.d.UUID, s.n))
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range t.spans() {
		g.Go(func() error { return t.span(ctx, s) })
	}
	return g.Wait()
}

// span tries until the span is complete or the attempts are used up.
func (t *pull) span(ctx context.Context, s span) error {
	backoff := t.p.cfg.Pull.Backoff
	var last error
	for attempt := range t.p.cfg.Pull.Attempts {
		if attempt > 0 {
			t.p.log.Debug("resuming a pull", "deal", t.d.UUID.String(), "attempt", attempt+1, "err", last)
			if err := wait(ctx, backoff); err != nil {
				return err
			}
			backoff = min(2*backoff, 16*t.p.cfg.Pull.Backoff)
		}
		done, err := t.attempt(ctx, s)
		if done {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errStopped) || errors.Is(err, errWrongSize) || errors.Is(err, errForbidden) {
			return err
		}
		last = err
	}
	return fmt.Errorf("after %d attempts: %w", t.p.cfg.Pull.Attempts, last)
}

// attempt is one connection; it tells whether the span is complete now.
func (t *pull) attempt(ctx context.Context, s span) (bool, error) {
	have := t.p.pieces.partSize(t.d.UUID, s.n)
	if have > s.to-s.from {
		return false, fmt.Errorf("%w: %d bytes of %d", errWrongSize, have, s.to-s.from)
	}
	if have == s.to-s.from {
		return true, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if _, ok := t.p.faults.hit(PullRange); ok {
		t.tryWrongRange(ctx)
	}
	body, err := t.get(ctx, s, s.from+have)
	if err != nil {
		return false, err
	}
	defer body.Close()
	out, err := t.p.pieces.appendPart(t.d.UUID, s.n)
	if err != nil {
		return false, err
	}
	defer out.Close()
	watched := newWatch(ctx, body, cancel, t.p.cfg.Pull)
	defer watched.stop()
	_, err = io.Copy(io.MultiWriter(out, counter{&t.received}), io.LimitReader(t.throttled(ctx, watched, have), s.to-s.from-have))
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	if synced := out.Sync(); err == nil {
		err = synced
	}
	have = t.p.pieces.partSize(t.d.UUID, s.n)
	if err == nil && have < s.to-s.from {
		err = io.ErrUnexpectedEOF
	}
	return err == nil, err
}

// get opens the rest of a span and checks what the server says about it.
func (t *pull) get(ctx context.Context, s span, from int64) (io.ReadCloser, error) {
	end := s.to - 1
	if _, ok := t.p.faults.hit(PullBeyond); ok || t.p.cfg.Style == Boost {
		end++ // Boost takes the end for exclusive
	}
	resp, err := t.do(ctx, "bytes="+strconv.FormatInt(from, 10)+"-"+strconv.FormatInt(end, 10))
	if err != nil {
		return nil, err
	}
	if err := t.checkResponse(resp, from); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp.Body, nil
}

func (t *pull) checkResponse(resp *http.Response, from int64) error {
	size := t.d.transferSize()
	switch resp.StatusCode {
	case http.StatusOK:
		if from > 0 {
			return errIgnored
		}
		if resp.ContentLength >= 0 && resp.ContentLength != size {
			return fmt.Errorf("%w: the server has %d bytes, the deal %d", errWrongSize, resp.ContentLength, size)
		}
		return nil
	case http.StatusPartialContent:
		first, total, ok := parseContentRange(resp.Header.Get("Content-Range"))
		if !ok || first != from {
			return fmt.Errorf("asked for bytes from %d: content range is %q", from, resp.Header.Get("Content-Range"))
		}
		if total >= 0 && total != size {
			return fmt.Errorf("%w: the server has %d bytes, the deal %d", errWrongSize, total, size)
		}
		return nil
	default:
		return fmt.Errorf("http request failed with status %d", resp.StatusCode)
	}
}

// parseContentRange reads "bytes first-last/total"; total is −1 for "*".
func parseContentRange(text string) (first, total int64, ok bool) {
	rest, ok := strings.CutPrefix(text, "bytes ")
	if !ok {
		return 0, 0, false
	}
	span, totalText, ok := strings.Cut(rest, "/")
	if !ok {
		return 0, 0, false
	}
	firstText, _, ok := strings.Cut(span, "-")
	if !ok {
		return 0, 0, false
	}
	first, err := strconv.ParseInt(firstText, 10, 64)
	if err != nil {
		return 0, 0, false
	}
	if totalText == "*" {
		return first, -1, true
	}
	total, err = strconv.ParseInt(totalText, 10, 64)
	return first, total, err == nil
}

func (t *pull) do(ctx context.Context, byteRange string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.req.URL, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("making a request: %w", err)
	}
	for k, v := range t.req.Headers {
		req.Header.Set(k, v)
	}
	if _, ok := t.p.faults.hit(PullToken); ok {
		req.Header.Set("Authorization", req.Header.Get("Authorization")+"x")
	}
	req.Header.Set("Range", byteRange)
	resp, err := t.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("requesting: %w", err)
	}
	return resp, nil
}

// tryWrongRange asks for bytes that do not exist, and forgets the answer.
func (t *pull) tryWrongRange(ctx context.Context) {
	size := t.d.transferSize()
	resp, err := t.do(ctx, fmt.Sprintf("bytes=%d-%d", size+1000, size+2000))
	if err != nil {
		return
	}
	t.p.log.Info("asked for a range that does not exist", "deal", t.d.UUID.String(), "status", resp.StatusCode)
	resp.Body.Close()
}

// throttled applies the faults of the stream.
func (t *pull) throttled(ctx context.Context, r io.Reader, have int64) io.Reader {
	if f, ok := t.p.faults.hitDeal(PullStop, t.d.UUID); ok {
		r = &cutReader{r: r, left: max(0, orDefault(f.Bytes, 1000)-have), err: errStopped}
	}
	if f, ok := t.p.faults.hit(PullCut); ok {
		r = &cutReader{r: r, left: orDefault(f.Bytes, 1000), err: errCut}
	}
	if f, ok := t.p.faults.hit(PullSlow); ok {
		perSecond := orDefault(f.Bytes, 64<<10)
		r = &slowReader{ctx: ctx, r: r, limit: rate.NewLimiter(rate.Limit(perSecond), int(min(perSecond, 16<<10)))}
	}
	return r
}

// A cutReader fails after so many bytes.
type cutReader struct {
	r    io.Reader
	left int64
	err  error
}

func (c *cutReader) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, c.err
	}
	n, err := c.r.Read(b[:min(int64(len(b)), c.left)])
	c.left -= int64(n)
	return n, err
}

// A slowReader takes its time.
type slowReader struct {
	ctx   context.Context // of the one request that it reads
	r     io.Reader
	limit *rate.Limiter
}

func (s *slowReader) Read(b []byte) (int, error) {
	n, err := s.r.Read(b[:min(len(b), s.limit.Burst())])
	if waited := s.limit.WaitN(s.ctx, n); err == nil {
		err = waited
	}
	return n, err
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

// A watch ends a request that delivers nothing, or too little.
type watch struct {
	r      io.Reader
	n      atomic.Int64
	ticker *time.Ticker
}

func newWatch(ctx context.Context, r io.Reader, cancel context.CancelCauseFunc, cfg PullConfig) *watch {
	w := &watch{r: r, ticker: time.NewTicker(cfg.Gap / 8)}
	go func() {
		var seen, window int64
		lastByte, windowStart := time.Now(), time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-w.ticker.C:
				n := w.n.Load()
				if n > seen {
					seen, lastByte = n, now
				}
				if now.Sub(lastByte) > cfg.Gap {
					cancel(errGap)
					return
				}
				if elapsed := now.Sub(windowStart); cfg.MinRate > 0 && elapsed >= rateWindow {
					if float64(n-window)/elapsed.Seconds() < float64(cfg.MinRate) {
						cancel(errTooSlow)
						return
					}
					window, windowStart = n, now
				}
			}
		}
	}()
	return w
}

func (w *watch) Read(b []byte) (int, error) {
	n, err := w.r.Read(b)
	w.n.Add(int64(n))
	return n, err
}

func (w *watch) stop() { w.ticker.Stop() }

// newClient refuses what a provider would refuse, after names are resolved.
func newClient(cfg Config) *http.Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: guard(cfg)}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: dialer.DialContext, ResponseHeaderTimeout: cfg.Pull.Header, TLSHandshakeTimeout: 10 * time.Second,
			DisableCompression: true, MaxIdleConnsPerHost: 1,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > 3 {
				return fmt.Errorf("%w: more than 3 redirects", errForbidden)
			}
			return checkURL(req.URL.String(), cfg)
		},
	}
}
