package sp_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/frostpin/frostpin/deals/devnet/sp"
	"github.com/frostpin/frostpin/deals/mk12/wire"
)

func TestBoostPullsRangesInParallelAndOneByteTooFar(t *testing.T) {
	w := newWorld(t, sp.Boost)
	d := newDAG(20, 100_000)
	src := newSource(t, d)
	p := w.params(d, src.URL)
	w.mustAccept(p)
	w.stage(p, sp.Transferred, sp.Published)
	asked := src.asked()
	if len(asked) != 5 {
		t.Fatalf("asked for %v", asked)
	}
	last := "-" + strconv.Itoa(len(d.car))
	beyond := 0
	for _, r := range asked {
		if strings.HasSuffix(r, last) {
			beyond++
		}
	}
	if beyond != 1 {
		t.Errorf("one past the end (%s) was asked for %d times: %v", last, beyond, asked)
	}
}

func TestCurioPullsOneExactRange(t *testing.T) {
	w := newWorld(t, sp.Curio)
	d := newDAG(20, 100_000)
	src := newSource(t, d)
	p := w.params(d, src.URL)
	w.mustAccept(p)
	w.stage(p, sp.Transferred, sp.Published)
	if asked := src.asked(); len(asked) != 1 || asked[0] != fmt.Sprintf("bytes=0-%d", len(d.car)-1) {
		t.Errorf("asked for %v", asked)
	}
}

// A server drops each connection after some bytes: the provider goes on where it was, and never asks for a byte twice.
func TestAPullIsResumedWhereItBroke(t *testing.T) {
	for _, style := range styles {
		w := newWorld(t, style)
		d := newDAG(5, 100_000)
		src := newSource(t, d)
		served := 0
		src.spoil = func(rw http.ResponseWriter, r *http.Request, n int) bool {
			if n > 3 {
				return false
			}
			from, _ := strconv.Atoi(strings.Split(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-")[0])
			rw.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(d.car)-1, len(d.car)))
			rw.Header().Set("Content-Length", strconv.Itoa(len(d.car)-from))
			rw.WriteHeader(http.StatusPartialContent)
			served += must(rw.Write(d.car[from : from+50_000]))
			http.NewResponseController(rw).Flush()
			panic(http.ErrAbortHandler)
		}
		p := w.params(d, src.URL)
		w.mustAccept(p)
		w.stage(p, sp.Complete)
		if asked := src.asked(); len(asked) < 4 || served != 150_000 {
			t.Errorf("%s: served %d, asked for %v", style, served, asked)
		}
	}
}

func TestAPullGoesOnAfterARestart(t *testing.T) {
	for _, style := range styles {
		w := newWorld(t, style)
		d := newDAG(2, 60_000)
		src := newSource(t, d)
		w.faults(sp.Fault{Kind: sp.PullStop, Bytes: 70_000})
		p := w.params(d, src.URL)
		w.mustAccept(p)
		w.eventually("70,000 bytes arrive", func() bool { return w.sp.State().Deals[0].Received == 70_000 })
		w.restart()
		w.stage(p, sp.Complete)
		asked := src.asked()
		if last := asked[len(asked)-1]; !strings.HasPrefix(last, "bytes=70000-") {
			t.Errorf("%s: asked for %v", style, asked)
		}
	}
}

func TestAPullIsGivenUpWithItsReason(t *testing.T) {
	t.Parallel()
	d := newDAG(2, 50_000)
	ranged := func(from, total int) func(http.ResponseWriter, *http.Request, int) bool {
		return func(rw http.ResponseWriter, _ *http.Request, _ int) bool {
			rw.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, total-1, total))
			rw.WriteHeader(http.StatusPartialContent)
			rw.Write(d.car[from:])
			return true
		}
	}
	cases := map[string]struct {
		spoil  func(rw http.ResponseWriter, r *http.Request, n int) bool
		change func(p *wire.DealParams, url string)
		only   sp.Style
		want   string
	}{
		"not there":    {spoil: status(404), want: "http request failed with status 404"},
		"error":        {spoil: status(500), want: "http request failed with status 500"},
		"wrong offset": {spoil: ranged(7, len(d.car)), want: `asked for bytes from 0: content range is "bytes 7-`},
		"wrong total":  {spoil: ranged(0, len(d.car)+1), want: "size mismatch: the server has"},
		"ignored": {spoil: func(rw http.ResponseWriter, _ *http.Request, n int) bool {
			if n == 1 {
				rw.Header().Set("Content-Length", strconv.Itoa(len(d.car)))
				rw.Write(d.car[:1000])
				http.NewResponseController(rw).Flush()
				panic(http.ErrAbortHandler)
			}
			rw.Write(d.car)
			return true
		}, want: "server ignored range header"},
		"other bytes": {spoil: func(rw http.ResponseWriter, _ *http.Request, _ int) bool {
			other := bytes.Clone(d.car)
			other[len(other)-1] ^= 1
			rw.Write(other)
			return true
		}, want: "commp mismatch: expected " + d.piece.String()},
		"redirect inside": {spoil: func(rw http.ResponseWriter, r *http.Request, _ int) bool {
			http.Redirect(rw, r, "http://10.1.2.3/", http.StatusFound)
			return true
		}, want: "source is not allowed: address 10.1.2.3"},
		"redirect loop": {spoil: func(rw http.ResponseWriter, r *http.Request, _ int) bool {
			http.Redirect(rw, r, "/", http.StatusFound)
			return true
		}, want: "more than 3 redirects"},
		"private address": {change: func(p *wire.DealParams, _ string) {
			p.Transfer = must(wire.NewHTTPTransfer("", wire.HTTPRequest{URL: "http://192.168.1.1/x"}, p.Transfer.Size))
		}, want: "source is not allowed: address 192.168.1.1"},
		"scheme": {change: func(p *wire.DealParams, _ string) {
			p.Transfer = must(wire.NewHTTPTransfer("", wire.HTTPRequest{URL: "file:///etc/passwd"}, p.Transfer.Size))
		}, want: `source is not allowed: scheme "file"`},
		"long url": {change: func(p *wire.DealParams, url string) {
			p.Transfer = must(wire.NewHTTPTransfer("", wire.HTTPRequest{URL: url + "/" + strings.Repeat("x", 4096)}, p.Transfer.Size))
		}, want: "source is not allowed: url of"},
		"header": {only: sp.Curio, change: func(p *wire.DealParams, url string) {
			p.Transfer = must(wire.NewHTTPTransfer("", wire.HTTPRequest{URL: url, Headers: map[string]string{"X-Forwarded-For": "1"}}, p.Transfer.Size))
		}, want: `source is not allowed: header "X-Forwarded-For"`},
		"many headers": {only: sp.Curio, change: func(p *wire.DealParams, url string) {
			p.Transfer = must(wire.NewHTTPTransfer("", wire.HTTPRequest{URL: url, Headers: map[string]string{"X": strings.Repeat("x", 16<<10)}}, p.Transfer.Size))
		}, want: "source is not allowed: headers of"},
	}
	for name, c := range cases {
		for _, style := range styles {
			if c.only != "" && c.only != style {
				continue
			}
			t.Run(name+"/"+string(style), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, style, func(cfg *sp.Config) { cfg.Pull.Attempts = 3 })
				src := newSource(t, d)
				src.spoil = c.spoil
				p := w.params(d, src.URL)
				if c.change != nil {
					c.change(p, src.URL)
				}
				w.mustAccept(p)
				deal := w.stage(p, sp.Failed)
				contains(t, deal.Error, "data transfer failed: ")
				contains(t, deal.Error, c.want)
				w.eventually("its bytes are removed", func() bool { return len(must(os.ReadDir(filepath.Join(w.cfg.Dir, "pieces")))) == 0 })
				resp := w.status(p)
				if style == sp.Curio && resp.Error != "failed to get sealed deal status" {
					t.Errorf("status is %+v", resp)
				}
				if style == sp.Boost && !strings.Contains(resp.DealStatus.Error, c.want) {
					t.Errorf("status is %+v", resp.DealStatus)
				}
			})
		}
	}
}

func status(code int) func(http.ResponseWriter, *http.Request, int) bool {
	return func(rw http.ResponseWriter, _ *http.Request, _ int) bool {
		rw.WriteHeader(code)
		return true
	}
}

func TestARealProviderRefusesLoopback(t *testing.T) {
	w := newWorld(t, sp.Curio, func(c *sp.Config) { c.RefuseLoopback = true; c.Pull.Attempts = 2 })
	d := newDAG(2, 1000)
	p := w.params(d, newSource(t, d).URL)
	w.mustAccept(p)
	contains(t, w.stage(p, sp.Failed).Error, "source is not allowed: address 127.0.0.1")
	named := newDAG(2, 1000)
	p = w.params(named, "http://localhost:1/")
	w.mustAccept(p)
	contains(t, w.stage(p, sp.Failed).Error, `source is not allowed: host "localhost"`)
}

// A server that sends nothing, and one that sends too little, are left and asked again.
func TestASlowServerIsLeftAndAskedAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		style sp.Style
		pull  sp.PullConfig
	}{
		"gap":  {sp.Boost, sp.PullConfig{Backoff: time.Millisecond, Gap: 2 * time.Second}},
		"rate": {sp.Curio, sp.PullConfig{Backoff: time.Millisecond, Gap: time.Minute / 2, MinRate: 1 << 20}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.style, func(cfg *sp.Config) { cfg.Pull = c.pull })
			d := newDAG(2, 50_000)
			src := newSource(t, d)
			release := make(chan struct{})
			t.Cleanup(func() { close(release) })
			src.spoil = func(rw http.ResponseWriter, r *http.Request, n int) bool {
				if n > 1 {
					return false
				}
				rw.Header().Set("Content-Length", strconv.Itoa(len(d.car)))
				rw.Write(d.car[:1000])
				http.NewResponseController(rw).Flush()
				select {
				case <-r.Context().Done():
				case <-release:
				}
				return true
			}
			p := w.params(d, src.URL)
			w.mustAccept(p)
			w.stage(p, sp.Complete)
			if asked := src.asked(); len(asked) != 2 || !strings.HasPrefix(asked[1], "bytes=1000-") {
				t.Errorf("asked for %v", asked)
			}
		})
	}
}

func TestOnlySoManyPullsRunAtOnce(t *testing.T) {
	w := newWorld(t, sp.Curio, func(c *sp.Config) { c.Pull.Concurrent = 2 })
	gate := make(chan struct{})
	var all []*wire.DealParams
	var sources []*source
	for range 4 {
		d := newDAG(1, 1000)
		src := newSource(t, d)
		src.spoil = func(_ http.ResponseWriter, _ *http.Request, _ int) bool {
			<-gate
			return false
		}
		p := w.params(d, src.URL)
		w.mustAccept(p)
		all, sources = append(all, p), append(sources, src)
	}
	running := func() (n int) {
		for _, src := range sources {
			n += len(src.asked())
		}
		return n
	}
	w.eventually("two pulls run", func() bool { return running() == 2 })
	w.holds("no third one runs", func() bool { return running() == 2 })
	close(gate)
	for _, p := range all {
		w.stage(p, sp.Complete)
	}
}
