package retrieval

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/retrieval/guard"
)

// A failure is why a provider gave no right answer.
type failure struct {
	class Class
	lie   bool // it gave a wrong one
	left  bool // it was not asked at all, as it wished
	after time.Duration
	err   error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

const (
	typeRaw = "application/vnd.ipld.raw"
	typeCAR = "application/vnd.ipld.car"
)

// asked makes a request of a provider, at each of its URLs until one can be reached. The body is the caller's to close.
func (s *Service) asked(ctx context.Context, from Source, path, accept, ranged string) (*http.Response, error) {
	if len(from.URLs) == 0 {
		return nil, &failure{class: Refused, err: fmt.Errorf("%s tells no address", from.Provider)}
	}
	if wait := s.ranks.busy(from.Provider); wait > 0 {
		return nil, &failure{class: Busy, after: wait, left: true, err: errors.New("it has asked to be left alone for now")}
	}
	var last error
	for _, base := range from.URLs {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(base, "/")+path, nil)
		if err != nil {
			last = &failure{class: Refused, err: err}
			continue
		}
		req.Header.Set("Accept", accept)
		req.Header.Set("User-Agent", "frostpin")
		if ranged != "" {
			req.Header.Set("Range", ranged)
		}
		res, err := s.client.Do(req)
		if err == nil {
			return res, nil
		}
		last = broken(ctx, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

// broken is the failure of a request or a body that did not come to its end.
func broken(ctx context.Context, err error) error {
	var timeout net.Error
	slow := errors.Is(err, guard.ErrIdle) || errors.Is(err, context.DeadlineExceeded) ||
		errors.As(err, &timeout) && timeout.Timeout() || errors.Is(context.Cause(ctx), errNoProgress)
	if slow {
		return &failure{class: Slow, err: err}
	}
	return &failure{class: Refused, err: err}
}

// judge turns a status that is not wanted into a failure.
func judge(res *http.Response, want int) error {
	if res.StatusCode == want {
		return nil
	}
	err := fmt.Errorf("the answer is %s", res.Status)
	switch res.StatusCode {
	case http.StatusNotFound, http.StatusGone:
		return &failure{class: Absent, err: err}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return &failure{class: Busy, after: retryAfter(res), err: err}
	case http.StatusGatewayTimeout, http.StatusRequestTimeout:
		return &failure{class: Slow, err: err}
	}
	return &failure{class: Refused, err: err}
}

// maxRetryAfter is the longest that is passed on, whatever a provider says.
const maxRetryAfter = time.Hour

// retryAfter reads when to come back, said in seconds or as a date; 0 when nothing sensible is said.
func retryAfter(res *http.Response) time.Duration {
	said := res.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(said); err == nil {
		return time.Duration(min(max(seconds, 0), int(maxRetryAfter/time.Second))) * time.Second
	}
	at, err := http.ParseTime(said)
	if err != nil {
		return 0
	}
	// The provider's own clock, where it tells it, is the one that it reckons with.
	now, err := http.ParseTime(res.Header.Get("Date"))
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// block asks one provider for one block and verifies it.
func (s *Service) block(ctx context.Context, from Source, c cid.Cid) (blocks.Block, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.BlockTime)
	defer cancel()
	begun := s.now()
	res, err := s.asked(ctx, from, "/ipfs/"+c.String()+"?format=raw", typeRaw, "")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	first := s.now().Sub(begun)
	if err := judge(res, http.StatusOK); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, int64(s.cfg.BlockSize)+1))
	if err != nil {
		return nil, broken(ctx, err)
	}
	if len(data) > s.cfg.BlockSize || !verified(c, data) {
		return nil, &failure{class: Refused, lie: true, err: fmt.Errorf("%d bytes of type %q are not block %s", len(data), res.Header.Get("Content-Type"), c)}
	}
	s.ranks.served(from.Provider, first)
	s.meter.bytes.WithLabelValues("provider").Add(float64(len(data)))
	s.meter.firstByte.WithLabelValues("cold").Observe(first.Seconds())
	return blocks.NewBlockWithCid(data, c)
}

// openCAR asks one provider for the CAR of everything below c. The order of its blocks must be that of a walk.
func (s *Service) openCAR(ctx context.Context, from Source, c cid.Cid) (io.ReadCloser, error) {
	begun := s.now()
	res, err := s.asked(ctx, from, "/ipfs/"+c.String()+"?format=car&dag-scope=all&car-order=dfs&car-dups=n",
		typeCAR+";version=1;order=dfs;dups=n", "")
	if err != nil {
		return nil, err
	}
	if err := judge(res, http.StatusOK); err != nil {
		res.Body.Close()
		return nil, err
	}
	media, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil || media != typeCAR || params["order"] != "dfs" {
		res.Body.Close()
		return nil, &failure{class: Refused, err: fmt.Errorf("a CAR in the order of a walk was asked for; the answer is of type %q", res.Header.Get("Content-Type"))}
	}
	s.meter.firstByte.WithLabelValues("cold").Observe(s.now().Sub(begun).Seconds())
	return buffered(res.Body), nil
}

// openPiece asks one provider for the root's own bytes of the piece: its CAR.
func (s *Service) openPiece(ctx context.Context, from Source) (io.ReadCloser, error) {
	ranged := fmt.Sprintf("bytes=%d-%d", from.Offset, from.Offset+from.Length-1)
	res, err := s.asked(ctx, from, "/piece/"+from.Piece.String(), "application/octet-stream", ranged)
	if err != nil {
		return nil, err
	}
	want := http.StatusPartialContent
	if from.Offset == 0 && res.StatusCode == http.StatusOK {
		want = http.StatusOK // the whole piece, whose first bytes are enough
	}
	if err := judge(res, want); err != nil {
		res.Body.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(bufio.NewReaderSize(res.Body, streamBuffer), from.Length), res.Body}, nil
}

// streamBuffer is much less than a usual block: what is larger is read past the buffer, straight to where it stays.
const streamBuffer = 16 << 10

func buffered(body io.ReadCloser) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{bufio.NewReaderSize(body, streamBuffer), body}
}
