package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// Pieces is where storage providers get what their deals are about.
type Pieces interface {
	// OpenPiece returns the bytes of a piece to the bearer of a live deal for it. It returns deals.ErrUnauthorized
	// when the token is not live or not for this piece, and also when there is no such piece. ctx bounds the file, not
	// only its opening.
	OpenPiece(ctx context.Context, piece cid.Cid, bearer string) (PieceFile, error)
}

// A PieceFile is the bytes of one piece, always the same under one tag. One goroutine at a time uses it.
type PieceFile interface {
	io.ReadSeekCloser
	Size() int64
	ETag() string     // a strong one, without quotes
	Provider() string // whom it is for
}

// PieceLimits bound what providers may take. Zero means the default, except for rates, where it means no bound.
type PieceLimits struct {
	Transfers int           // at once; 64
	PerToken  int           // of them with one token; 16. One provider, whatever deals it has, gets half of all
	Rate      int64         // bytes a second, all transfers together
	EachRate  int64         // bytes a second, one transfer. Curio gives up below 10 Mbit/s
	Stall     time.Duration // a provider that takes nothing for so long is dropped; 30 s
}

// piecePath is where pieces live. Providers are told the whole URL.
const piecePath = "/piece/:piece"

// errBusy is the answer to one transfer too many.
var errBusy = errors.New("too many transfers")

// errRange is the answer to a range that cannot be served.
var errRange = errors.New("no such range")

// pieces serves piece files with bounds on all that providers can take from others.
type pieces struct {
	from   Pieces
	limits PieceLimits
	all    *rate.Limiter

	running   *shares[struct{}]
	tokens    *shares[[sha256.Size]byte]
	providers *shares[string]

	sent      prometheus.Counter
	transfers prometheus.Gauge
}

func newPieces(from Pieces, limits PieceLimits, r prometheus.Registerer) (*pieces, error) {
	limits.Transfers = cmp.Or(limits.Transfers, 64)
	limits.PerToken = cmp.Or(limits.PerToken, 16)
	limits.Stall = cmp.Or(limits.Stall, 30*time.Second)
	p := &pieces{
		from: from, limits: limits, all: limiter(limits.Rate),
		running: newShares[struct{}](limits.Transfers), tokens: newShares[[sha256.Size]byte](limits.PerToken),
		providers: newShares[string]((limits.Transfers + 1) / 2),
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "frostpin_piece_sent_bytes_total",
			Help: "Bytes of pieces sent to storage providers.",
		}),
		transfers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "frostpin_piece_transfers_running",
			Help: "Pieces being sent to storage providers now.",
		}),
	}
	for _, c := range []prometheus.Collector{p.sent, p.transfers} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics of pieces: %w", err)
		}
	}
	return p, nil
}

// pieceChunk is the most that is written at once.
const pieceChunk = 64 << 10

// limiter lets so many bytes pass in a second, and a little at once.
func limiter(bytes int64) *rate.Limiter {
	if bytes <= 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(bytes), int(max(pieceChunk, bytes/10)))
}

// serve answers GET and HEAD. A stranger learns nothing: whatever is wrong with the token or the CID, and whether the
// piece exists or not, the answer is the same 401.
func (p *pieces) serve(c echo.Context) error {
	r := c.Request()
	token, err := bearer(r.Header)
	if err != nil {
		return err
	}
	// Before anything is asked. Keys are hashes, so that no secrets are held and strangers' tokens take no more room than others.
	leave, ok := p.tokens.enter(sha256.Sum256([]byte(token)))
	if !ok {
		return errBusy
	}
	defer leave()
	id, err := cid.Decode(c.Param("piece"))
	if err != nil {
		return &denied{noDeal}
	}
	file, err := p.from.OpenPiece(r.Context(), id, token)
	if err != nil {
		return fmt.Errorf("opening piece %s: %w", id, err)
	}
	defer file.Close()
	etag := `"` + file.ETag() + `"`
	if err := checkRange(r.Header, file.Size(), etag); err != nil {
		h := c.Response().Header()
		h.Set("Content-Range", "bytes */"+strconv.FormatInt(file.Size(), 10))
		return err
	}
	// Only those with a live token come so far, so strangers keep nobody out; nor does a provider that takes its time with
	// many deals.
	if leave, ok = p.providers.enter(file.Provider()); !ok {
		return errBusy
	}
	defer leave()
	if leave, ok = p.running.enter(struct{}{}); !ok {
		return errBusy
	}
	defer leave()
	p.transfers.Inc()
	defer p.transfers.Dec()
	return p.send(c, file, etag)
}

func (p *pieces) send(c echo.Context, file PieceFile, etag string) error {
	h := c.Response().Header()
	h.Set("Content-Type", "application/vnd.ipld.car")
	h.Set("Cache-Control", "private, no-transform") // whoever compresses breaks Content-Length and ranges
	h.Set("ETag", etag)

	w := &pieceWriter{
		ResponseWriter: c.Response(), ctx: c.Request().Context(),
		conn: http.NewResponseController(c.Response()), stall: p.limits.Stall,
		limits: [2]*rate.Limiter{p.all, limiter(p.limits.EachRate)}, sent: p.sent,
	}
	source := &pieceSource{PieceFile: file}
	http.ServeContent(w, c.Request(), "", time.Time{}, source)
	if source.err != nil {
		// What was promised cannot be kept: net/http closes the connection, because Content-Length says more.
		return fmt.Errorf("sending a piece: %w", source.err)
	}
	return nil // when w failed, the provider has gone or takes nothing
}

// unlessUnsupported lets writers without a connection, as in tests, go without deadlines.
func unlessUnsupported(err error) error {
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// checkRange refuses ranges before ServeContent sees them: it would answer in plain text, and serve thousands of tiny
// ranges, each of which reads whole blocks. Providers ask for one.
func checkRange(h http.Header, size int64, etag string) error {
	spec := h.Get("Range")
	if since := h.Get("If-Range"); spec == "" || since != "" && since != etag {
		return nil // the whole piece
	}
	spec, ok := strings.CutPrefix(spec, "bytes=")
	first, last, dash := strings.Cut(strings.Trim(spec, " \t"), "-")
	if !ok || !dash || len(h["Range"]) > 1 {
		return fmt.Errorf("%w: one range like bytes=0-99 is served", errRange)
	}
	start, startErr := position(first)
	end, endErr := position(last)
	switch {
	case first == "" && endErr == nil && end > 0: // the last so many
		return nil
	case startErr == nil && start < size && (last == "" || endErr == nil && end >= start):
		return nil
	}
	return fmt.Errorf("%w: the piece has %d bytes", errRange, size)
}

// position reads digits, and nothing else that strconv takes.
func position(s string) (int64, error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, errRange
	}
	return strconv.ParseInt(s, 10, 64)
}

// A pieceWriter sends at the pace that is allowed, and gives up when nothing is taken.
type pieceWriter struct {
	http.ResponseWriter
	ctx    context.Context
	conn   *http.ResponseController
	stall  time.Duration
	limits [2]*rate.Limiter
	sent   prometheus.Counter
}

// Write implements io.Writer.
func (w *pieceWriter) Write(b []byte) (written int, err error) {
	for len(b) > 0 && err == nil {
		n := min(len(b), pieceChunk)
		for _, l := range w.limits {
			if err = l.WaitN(w.ctx, paced(l, n)); err != nil {
				break
			}
		}
		if err == nil {
			err = unlessUnsupported(w.conn.SetWriteDeadline(time.Now().Add(w.stall)))
		}
		if err == nil {
			n, err = w.ResponseWriter.Write(b[:n])
			written += n
			w.sent.Add(float64(n))
			b = b[n:]
		}
	}
	return written, err
}

// paced is what n bytes cost: nothing without a bound.
func paced(l *rate.Limiter, n int) int {
	if l.Limit() == rate.Inf {
		return 0
	}
	return n
}

// A pieceSource remembers why a piece could not be read: ServeContent tells nobody.
type pieceSource struct {
	PieceFile
	err error
}

// Read implements io.Reader.
func (s *pieceSource) Read(b []byte) (int, error) {
	n, err := s.PieceFile.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// Seek implements io.Seeker.
func (s *pieceSource) Seek(offset int64, whence int) (int64, error) {
	at, err := s.PieceFile.Seek(offset, whence)
	if err != nil {
		s.err = err
	}
	return at, err
}

const noDeal = "there is no live deal with this token for this piece"
