package server_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/server"
)

const (
	pieceCID = "baga6ea4seaqao7s73y24kcutaosvacpdjgfe5pw76ooefnyqw4ynr3d2y6x2mpq"
	dealTok  = "deal-token-one"
)

// shelf is a Pieces with one piece.
type shelf struct {
	data   []byte
	tokens []string
	err    error
	read   func(ctx context.Context, off int64) error // before each read of a file, when set

	open  atomic.Int64
	reads atomic.Int64
}

func (s *shelf) OpenPiece(ctx context.Context, piece cid.Cid, bearer string) (server.PieceFile, error) {
	if s.err != nil {
		return nil, s.err
	}
	for _, token := range s.tokens {
		if piece.String() == pieceCID && token == bearer {
			s.open.Add(1)
			provider, _, _ := strings.Cut(token, "-of-another-deal")
			return &shelved{Reader: bytes.NewReader(s.data), shelf: s, ctx: ctx, provider: provider}, nil
		}
	}
	return nil, fmt.Errorf("looking for a deal: %w", deals.ErrUnauthorized)
}

type shelved struct {
	*bytes.Reader
	shelf    *shelf
	provider string
	ctx      context.Context
	once     sync.Once
}

// The reader's other ways out would go around Read.
func (f *shelved) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{f})
}

func (f *shelved) Read(p []byte) (int, error) {
	f.shelf.reads.Add(1)
	if f.shelf.read != nil {
		at, _ := f.Seek(0, io.SeekCurrent)
		if err := f.shelf.read(f.ctx, at); err != nil {
			return 0, err
		}
	}
	return f.Reader.Read(p)
}

func (f *shelved) ETag() string     { return pieceCID }
func (f *shelved) Provider() string { return f.provider }
func (f *shelved) Close() error     { f.once.Do(func() { f.shelf.open.Add(-1) }); return nil }

// content is n bytes that show where they stand.
func content(n int) []byte {
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "%07d ", b.Len())
	}
	return b.Bytes()[:n]
}

func withPieces(t testing.TB, s *shelf, limits server.PieceLimits) *fixture {
	t.Helper()
	return newFixture(t, func(c *server.Config) {
		c.Pieces, c.PieceLimits = s, limits
		c.Metrics = prometheus.NewRegistry()
	})
}

func TestPieceRanges(t *testing.T) {
	s := &shelf{data: content(1000), tokens: []string{dealTok}}
	f := withPieces(t, s, server.PieceLimits{})
	quoted := `"` + pieceCID + `"`
	for _, c := range []struct {
		headers     []string
		status      int
		first, past int // bytes of the body
	}{
		{nil, 200, 0, 1000},
		{[]string{"Range", "bytes=0-"}, 206, 0, 1000},
		{[]string{"Range", "bytes=0-999"}, 206, 0, 1000},
		{[]string{"Range", "bytes=0-1000"}, 206, 0, 1000}, // one past the end, as Boost asks
		{[]string{"Range", "bytes=500-5000000000000"}, 206, 500, 1000},
		{[]string{"Range", "bytes=0-0"}, 206, 0, 1},
		{[]string{"Range", "bytes=999-"}, 206, 999, 1000},
		{[]string{"Range", "bytes=100-199"}, 206, 100, 200},
		{[]string{"Range", "bytes=-1"}, 206, 999, 1000},
		{[]string{"Range", "bytes=-2000"}, 206, 0, 1000},
		{[]string{"Range", "bytes=100-199", "If-Range", quoted}, 206, 100, 200},
		{[]string{"Range", "bytes=100-199", "If-Range", `"another"`}, 200, 0, 1000},
		{[]string{"Range", "bytes=1000-"}, 416, 0, 0},
		{[]string{"Range", "bytes=1000-1000"}, 416, 0, 0},
		{[]string{"Range", "bytes=-0"}, 416, 0, 0},
		{[]string{"Range", "bytes=9-8"}, 416, 0, 0},
		{[]string{"Range", "bytes=-"}, 416, 0, 0},
		{[]string{"Range", "bytes="}, 416, 0, 0},
		{[]string{"Range", "bytes=+1-2"}, 416, 0, 0},
		{[]string{"Range", "bytes=1-99999999999999999999"}, 416, 0, 0},
		{[]string{"Range", "bytes=0-1,3-4"}, 416, 0, 0},
		{[]string{"Range", "items=0-1"}, 416, 0, 0},
		{[]string{"Range", "bytes=0-1", "Range", "bytes=2-3"}, 416, 0, 0},
		{[]string{"If-None-Match", quoted}, 304, 0, 0},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			w := f.do(dealTok, method, "/piece/"+pieceCID, "", append(c.headers, "Accept-Encoding", "gzip")...)
			name := fmt.Sprint(method, " ", c.headers)
			if w.Code != c.status {
				t.Errorf("%s: status %d, want %d", name, w.Code, c.status)
				continue
			}
			want := map[string]string{"Access-Control-Allow-Origin": "", "Content-Encoding": "", "X-Content-Type-Options": "nosniff"}
			body := s.data[c.first:c.past]
			switch c.status {
			case 206:
				want["Content-Range"] = fmt.Sprintf("bytes %d-%d/1000", c.first, c.past-1)
				fallthrough
			case 200:
				want["Content-Length"] = strconv.Itoa(len(body))
				want["Content-Type"] = "application/vnd.ipld.car"
				want["Accept-Ranges"] = "bytes"
				fallthrough
			case 304:
				want["ETag"] = quoted
				want["Cache-Control"] = "private, no-transform"
			case 416:
				want["Content-Range"] = "bytes */1000"
				want["Content-Type"] = "application/json"
			}
			got := make(map[string]string)
			for k := range want {
				got[k] = w.Header().Get(k)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: headers (-want +got):\n%s", name, diff)
			}
			if method == "HEAD" {
				body = nil
			}
			if c.status != 416 && !bytes.Equal(w.Body.Bytes(), body) {
				t.Errorf("%s: %d bytes, not %d to %d", name, w.Body.Len(), c.first, c.past)
			}
		}
	}
	if n := s.open.Load(); n != 0 {
		t.Errorf("%d files were left open", n)
	}
	if log := f.log.String(); strings.Contains(log, dealTok) {
		t.Error("the token is in the log")
	}
}

// Whoever has no live deal for a piece must not learn whether it is here.
func TestStrangersLearnNothingAboutPieces(t *testing.T) {
	f := withPieces(t, &shelf{data: content(10), tokens: []string{dealTok}}, server.PieceLimits{})
	seen := make(map[string]bool)
	for _, c := range [][2]string{
		{"another-token", pieceCID},
		{dealTok, cidRaw},
		{"another-token", cidRaw},
		{dealTok, "nonsense"},
		{dealTok, "%00"},
		{alice, pieceCID},
		{dealTok, pieceCID[:20]},
	} {
		for _, header := range [][]string{nil, {"Range", "bytes=99999-"}, {"If-None-Match", `"` + pieceCID + `"`}} {
			w := f.do(c[0], "GET", "/piece/"+c[1], "", header...)
			w.Header().Del("X-Request-Id")
			seen[fmt.Sprint(w.Code, w.Header(), w.Body)] = true
			if w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("%s: %d %s", c, w.Code, w.Body)
			}
		}
	}
	if len(seen) != 1 {
		t.Errorf("strangers get %d different answers:\n%v", len(seen), seen)
	}
	for _, headers := range [][]string{nil, {"Authorization", "Basic x"}, {"Authorization", "Bearer a", "Authorization", "Bearer " + dealTok}} {
		if w := f.do("", "GET", "/piece/"+pieceCID, "", headers...); w.Code != http.StatusUnauthorized {
			t.Errorf("%q: %d", headers, w.Code)
		}
	}
	for _, path := range []string{"/piece", "/piece/"} {
		if w := f.do(dealTok, "GET", path, ""); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d: there is no listing", path, w.Code)
		}
	}
	if w := f.do(dealTok, "POST", "/piece/"+pieceCID, ""); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}

func TestNoPiecesNoRoute(t *testing.T) {
	f := newFixture(t)
	w := f.do(dealTok, "GET", "/piece/"+pieceCID, "")
	wantFailure(t, w, http.StatusNotFound, "NOT_FOUND", "nothing at this path")
	if _, err := server.New(server.Config{BasePath: "/piece/x"}, f.pins, f.tokens, nil); err == nil {
		t.Error("a base path that hides the pieces was taken")
	}
}

func TestTroubleOpeningAPieceIsNoVerdictAboutIt(t *testing.T) {
	s := &shelf{tokens: []string{dealTok}}
	f := withPieces(t, s, server.PieceLimits{})
	s.err = errors.New("the secret of the database")
	w := f.do(dealTok, "GET", "/piece/"+pieceCID, "")
	if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	s.err = fmt.Errorf("asking: %w", context.DeadlineExceeded)
	if w := f.do(dealTok, "GET", "/piece/"+pieceCID, ""); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func FuzzPieceRange(f *testing.F) {
	s := &shelf{data: content(100), tokens: []string{dealTok}}
	fix := withPieces(f, s, server.PieceLimits{})
	for _, seed := range []string{"bytes=0-", "bytes=-5", "bytes=3-9", "bytes=100-", "bytes= 1-2 ", "bytes=1 - 2", "bytes=1-2,", "bytes=\t7-\t"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		w := fix.do(dealTok, "GET", "/piece/"+pieceCID, "", "Range", header)
		switch w.Code {
		case http.StatusOK:
			if header != "" || !bytes.Equal(w.Body.Bytes(), s.data) {
				t.Errorf("%q was ignored", header)
			}
		case http.StatusPartialContent:
			var first, last, size int
			if _, err := fmt.Sscanf(w.Header().Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &size); err != nil {
				t.Fatalf("%q: Content-Range %q: %v", header, w.Header().Get("Content-Range"), err)
			}
			if size != 100 || first > last || !bytes.Equal(w.Body.Bytes(), s.data[first:last+1]) {
				t.Errorf("%q: %d-%d/%d, %d bytes", header, first, last, size, w.Body.Len())
			}
		case http.StatusRequestedRangeNotSatisfiable:
			if w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("%q: an error of type %s", header, w.Header().Get("Content-Type"))
			}
		default:
			t.Errorf("%q: status %d", header, w.Code)
		}
	})
}

func TestTransfersAreBounded(t *testing.T) {
	gate := make(chan struct{})
	s := &shelf{data: content(1000), tokens: []string{"a", "a-of-another-deal", "b", "c"}}
	s.read = func(ctx context.Context, _ int64) error {
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	f := withPieces(t, s, server.PieceLimits{Transfers: 3, PerToken: 2})
	var running sync.WaitGroup
	run := func(token string) {
		before := s.reads.Load()
		running.Go(func() {
			if w := f.do(token, "GET", "/piece/"+pieceCID, ""); w.Code != http.StatusOK || w.Body.Len() != 1000 {
				t.Errorf("token %s: %d, %d bytes", token, w.Code, w.Body.Len())
			}
		})
		for deadline := time.After(10 * time.Second); s.reads.Load() == before; {
			select {
			case <-deadline:
				t.Fatal("the transfer did not begin")
			case <-time.After(time.Millisecond):
			}
		}
	}
	refused := func(token, why string) {
		w := f.do(token, "GET", "/piece/"+pieceCID, "")
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" || readFailure(t, w).Error.Reason != "RATE_LIMITED" {
			t.Errorf("%s: %d %s", why, w.Code, w.Body)
		}
	}
	run("a")
	run("a")
	refused("a", "a third with one token")
	refused("a-of-another-deal", "more than half of all by one provider")
	run("b")
	refused("c", "a fourth in all")
	if w := f.do("stranger", "GET", "/piece/"+pieceCID, ""); w.Code != http.StatusUnauthorized {
		t.Errorf("a stranger learns that it is busy here: %d", w.Code)
	}
	close(gate)
	running.Wait()
	for _, token := range []string{"a", "b", "c", "a"} {
		run(token)
		running.Wait()
	}
	if n := s.open.Load(); n != 0 {
		t.Errorf("%d files were left open", n)
	}
}

func pieceRequest(extra string) string {
	return "GET /piece/" + pieceCID + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + dealTok + "\r\n" + extra + "\r\n"
}

// A transfer takes as long as it takes: hours on a slow line, whatever limits other requests have. The connection is
// as good as new afterwards.
func TestSlowTransferIsNotCutAndKeepsItsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{data: content(3 << 20), tokens: []string{dealTok}}
		f := withPieces(t, s, server.PieceLimits{EachRate: 10_000})
		p, stop := serve(t, f)
		c := p.dial(t)
		in := bufio.NewReader(c)
		for range 2 {
			began := time.Now()
			send(t, c, pieceRequest(""))
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(got, s.data) {
				t.Fatalf("%d bytes after %s: %v", len(got), time.Since(began), err)
			}
			if took := time.Since(began).Seconds(); took < 290 || took > 320 {
				t.Errorf("3 MiB at 10 kB/s took %.0f s", took)
			}
			<-time.After(time.Minute) // simulated: longer than a stall, shorter than idle
			send(t, c, request)
			if resp, err = http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("another request on the connection: %v", err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Fatal(err)
			}
		}
		c.Close()
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestAllTransfersShareOnePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{data: content(1 << 20), tokens: []string{dealTok}}
		f := withPieces(t, s, server.PieceLimits{Rate: 100_000})
		began := time.Now()
		var running sync.WaitGroup
		for range 5 {
			running.Go(func() { f.do(dealTok, "GET", "/piece/"+pieceCID, "") })
		}
		running.Wait()
		if took := time.Since(began).Seconds(); took < 50 || took > 54 {
			t.Errorf("5 MiB at 100 kB/s took %.0f s", took)
		}
	})
}

func TestProviderThatTakesNothingIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{data: content(1 << 20), tokens: []string{dealTok}}
		f := withPieces(t, s, server.PieceLimits{})
		p, stop := serve(t, f)
		c := p.dial(t)
		began := time.Now()
		send(t, c, pieceRequest(""))
		for time.Since(began) < time.Hour && (s.reads.Load() == 0 || s.open.Load() != 0) {
			<-time.After(time.Second) // simulated
		}
		if took := time.Since(began); took < 29*time.Second || took > 35*time.Second {
			t.Errorf("dropped after %s, want 30 s", took)
		}
		c.Close()
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestNobodyReadsForAProviderThatHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{data: content(1 << 20), tokens: []string{dealTok}}
		s.read = func(ctx context.Context, at int64) error {
			if at < 1<<18 {
				return nil
			}
			<-ctx.Done() // as a slow block would
			return context.Cause(ctx)
		}
		f := withPieces(t, s, server.PieceLimits{})
		p, stop := serve(t, f)
		c := p.dial(t)
		send(t, c, pieceRequest(""))
		if _, err := io.CopyN(io.Discard, c, 1<<17); err != nil {
			t.Fatal(err)
		}
		c.Close()
		synctest.Wait()
		if n := s.open.Load(); n != 0 {
			t.Errorf("%d files are still open", n)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if log := f.log.String(); strings.Contains(log, `"level":"ERROR"`) {
			t.Errorf("a provider that goes is no error of ours:\n%s", log)
		}
	})
}

// A piece that cannot be read to its end must not look complete.
func TestTransferThatBreaksHereIsCut(t *testing.T) {
	s := &shelf{data: content(1 << 20), tokens: []string{dealTok}}
	s.read = func(_ context.Context, at int64) error {
		if at >= 1<<19 {
			return errors.New("a block is missing")
		}
		return nil
	}
	f := withPieces(t, s, server.PieceLimits{})
	srv := httptest.NewServer(f)
	defer srv.Close()
	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/piece/"+pieceCID, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+dealTok)
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) || len(got) != 1<<19 {
		t.Errorf("%d bytes, %v; want half of them and io.ErrUnexpectedEOF", len(got), err)
	}
	srv.Close()
	if log := f.log.String(); strings.Count(log, "a block is missing") != 1 {
		t.Errorf("the cause is not logged once:\n%s", log)
	}
}
