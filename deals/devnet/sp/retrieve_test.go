package sp_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	commcid "github.com/filecoin-project/go-fil-commcid"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/deals/devnet/sp"
)

// An answer is a response that has been read, and how reading ended.
type reply struct {
	*http.Response
	body []byte
	err  error
}

func get(t *testing.T, url string, header ...string) reply {
	return fetch(t, long, http.MethodGet, url, header...)
}

func fetch(t *testing.T, limit time.Duration, method, url string, header ...string) reply {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	req := must(http.NewRequestWithContext(ctx, method, url, http.NoBody))
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	return reply{resp, body, err}
}

// stored makes a world in which a provider serves a DAG.
func stored(t *testing.T, style sp.Style, d dag) *world {
	t.Helper()
	w := newWorld(t, style)
	p := w.params(d, newSource(t, d).URL)
	w.mustAccept(p)
	w.stage(p, sp.Complete)
	return w
}

func TestAPieceIsServedUnderBothItsNames(t *testing.T) {
	d := newDAG(5, 10_000)
	w := stored(t, sp.Curio, d)
	v2 := must(commcid.PieceCidV2FromV1(d.piece, uint64(len(d.car))))
	for _, name := range []string{d.piece.String(), v2.String()} {
		url := w.sp.HTTPURL() + "/piece/" + name
		whole := get(t, url)
		if whole.StatusCode != 200 || !bytes.Equal(whole.body, d.car) || whole.Header.Get("ETag") != `"`+name+`"` {
			t.Errorf("%s: status %d, %d bytes, etag %s", name, whole.StatusCode, len(whole.body), whole.Header.Get("ETag"))
		}
		part := get(t, url, "Range", "bytes=100-199")
		if part.StatusCode != 206 || !bytes.Equal(part.body, d.car[100:200]) {
			t.Errorf("%s: a range has status %d, %d bytes", name, part.StatusCode, len(part.body))
		}
		beyond := get(t, url, "Range", "bytes="+strconv.Itoa(len(d.car))+"-")
		if beyond.StatusCode != 416 {
			t.Errorf("%s: beyond the end has status %d", name, beyond.StatusCode)
		}
		head := fetch(t, long, http.MethodHead, url)
		if head.StatusCode != 200 || head.ContentLength != int64(len(d.car)) || len(head.body) != 0 {
			t.Errorf("%s: HEAD has status %d, length %d", name, head.StatusCode, head.ContentLength)
		}
		if same := get(t, url, "If-None-Match", `"`+name+`"`); same.StatusCode != 304 {
			t.Errorf("%s: known already has status %d", name, same.StatusCode)
		}
	}
	longer := must(commcid.PieceCidV2FromV1(d.piece, uint64(len(d.car)-1)))
	for name, want := range map[string]int{
		longer.String(): 404, newDAG(1, 1000).piece.String(): 404, "nonsense": 400, d.root.String(): 400,
	} {
		if got := get(t, w.sp.HTTPURL()+"/piece/"+name); got.StatusCode != want {
			t.Errorf("%s has status %d, want %d", name, got.StatusCode, want)
		}
	}
}

func TestBlocksAndCARsAreServedWithoutTrust(t *testing.T) {
	d := newDAG(8, 5000)
	w := stored(t, sp.Boost, d)
	base := w.sp.HTTPURL() + "/ipfs/"
	for _, b := range d.blocks {
		for _, r := range []reply{get(t, base+b.Cid().String()+"?format=raw"), get(t, base+b.Cid().String(), "Accept", "text/html, application/vnd.ipld.raw;q=1")} {
			if r.StatusCode != 200 || !bytes.Equal(r.body, b.RawData()) || r.Header.Get("Content-Type") != "application/vnd.ipld.raw" {
				t.Errorf("block %s: status %d, %d bytes, %s", b.Cid(), r.StatusCode, len(r.body), r.Header.Get("Content-Type"))
			}
		}
	}
	whole := get(t, base+d.root.String()+"?format=car")
	if whole.err != nil || !bytes.Equal(whole.body, d.car) || !strings.HasPrefix(whole.Header.Get("Content-Type"), "application/vnd.ipld.car; version=1") {
		t.Errorf("the CAR has status %d, %d bytes of %d, %s, %v", whole.StatusCode, len(whole.body), len(d.car), whole.Header.Get("Content-Type"), whole.err)
	}
	one := get(t, base+d.root.String()+"?format=car&dag-scope=block")
	reader := must(car.NewBlockReader(bytes.NewReader(one.body)))
	if first := must(reader.Next()); !first.Cid().Equals(d.root) {
		t.Errorf("the first block is %s", first.Cid())
	}
	if _, err := reader.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the block: %v", err)
	}
	head := fetch(t, long, http.MethodHead, base+d.root.String()+"?format=car")
	if head.StatusCode != 200 || len(head.body) != 0 || head.Header.Get("ETag") == "" {
		t.Errorf("HEAD has status %d, etag %q", head.StatusCode, head.Header.Get("ETag"))
	}
	if same := get(t, base+d.root.String()+"?format=car", "If-None-Match", head.Header.Get("ETag")); same.StatusCode != 304 {
		t.Errorf("known already has status %d", same.StatusCode)
	}
	absent := newDAG(1, 1000).root.String()
	for path, want := range map[string]int{
		absent + "?format=car": 404, absent + "?format=raw": 404, "nonsense?format=raw": 400,
		d.root.String(): 406, d.root.String() + "?format=tar": 406,
		d.root.String() + "/file?format=raw": 400, d.root.String() + "?format=car&dag-scope=entity": 400,
		d.root.String() + "?format=car&entity-bytes=0:1": 400, "bafkqaaa?format=raw": 200,
	} {
		if got := get(t, base+path); got.StatusCode != want {
			t.Errorf("%s has status %d, want %d", path, got.StatusCode, want)
		}
	}
}

// A stored piece may lack a block that its root names (a partial CAR): the stream must not look whole.
func TestACARWithAMissingBlockIsCutOff(t *testing.T) {
	whole := newDAG(3, 1000)
	partial := whole
	end := bytes.Index(whole.car, whole.blocks[3].RawData())
	partial.car = whole.car[:end-len(whole.blocks[3].Cid().Bytes())-2] // its section begins with a length of two bytes
	w := stored(t, sp.Boost, partial.measure())
	got := get(t, w.sp.HTTPURL()+"/ipfs/"+whole.root.String()+"?format=car")
	if got.err == nil {
		t.Errorf("status %d and %d bytes look whole", got.StatusCode, len(got.body))
	}
}

// Frostpin fills small pieces with literal zeros; a provider finds the blocks before them.
func TestAPieceFilledWithZerosIsIndexed(t *testing.T) {
	d := newDAG(3, 1000)
	plain := d.car
	d.car = append(bytes.Clone(plain), make([]byte, 127<<10-len(plain))...)
	d = d.measure()
	w := stored(t, sp.Curio, d)
	if got := get(t, w.sp.HTTPURL()+"/ipfs/"+d.root.String()+"?format=car"); !bytes.Equal(got.body, plain) {
		t.Errorf("status %d, %d bytes, want %d", got.StatusCode, len(got.body), len(plain))
	}
}

func TestAPieceThatIsNoCARIsServedWhole(t *testing.T) {
	d := dag{root: newDAG(1, 10).root, car: random(3000)}.measure()
	w := stored(t, sp.Boost, d)
	if got := get(t, w.sp.HTTPURL()+"/piece/"+d.piece.String()); !bytes.Equal(got.body, d.car) {
		t.Errorf("status %d, %d bytes", got.StatusCode, len(got.body))
	}
}

func TestIdentityCIDsHaveNoSectionOfTheirOwn(t *testing.T) {
	inline := must(cid.Prefix{Version: 1, Codec: cid.Raw, MhType: multihash.IDENTITY, MhLength: -1}.Sum([]byte("inline")))
	leaf := rawBlock(random(1000))
	d := dagOf(leaf, must(blocks.NewBlockWithCid([]byte("inline"), inline)))
	w := stored(t, sp.Boost, d)
	got := get(t, w.sp.HTTPURL()+"/ipfs/"+d.root.String()+"?format=car")
	reader := must(car.NewBlockReader(bytes.NewReader(got.body)))
	var n int
	for {
		if _, err := reader.Next(); err != nil {
			break
		}
		n++
	}
	if n != 2 || got.err != nil {
		t.Errorf("the CAR has %d blocks, %v", n, got.err)
	}
}

func TestNothingIsServedBeforeItIsStored(t *testing.T) {
	w := newWorld(t, sp.Curio)
	w.faults(sp.Fault{Kind: sp.PublishNever})
	d := newDAG(2, 1000)
	p := w.params(d, newSource(t, d).URL)
	w.mustAccept(p)
	w.stage(p, sp.Transferred)
	for _, path := range []string{"/piece/" + d.piece.String(), "/ipfs/" + d.root.String() + "?format=raw"} {
		if got := get(t, w.sp.HTTPURL()+path); got.StatusCode != 404 {
			t.Errorf("%s has status %d", path, got.StatusCode)
		}
	}
}

func TestOnlySoManyRetrievalsRunAtOnce(t *testing.T) {
	d := newDAG(2, 1000)
	w := stored(t, sp.Curio, d)
	w.faults(sp.Fault{Kind: sp.RetrieveStall})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	url := w.sp.HTTPURL() + "/piece/" + d.piece.String()
	over := make(chan int)
	for range 256 + 20 {
		req := must(http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody))
		go func() {
			if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
				resp.Body.Close()
				over <- resp.StatusCode
			}
		}()
	}
	for range 20 {
		if status := <-over; status != 429 {
			t.Errorf("one of too many has status %d", status)
		}
	}
	refused := func() bool { r := get(t, url); return r.Response != nil && r.StatusCode == 429 }
	w.faults()
	if !refused() {
		t.Error("one more is served")
	}
	if head := fetch(t, long, http.MethodHead, url); head.StatusCode != 200 {
		t.Errorf("HEAD has status %d", head.StatusCode)
	}
	cancel()
	w.eventually("there is room again", func() bool { r := get(t, url); return r.Response != nil && r.StatusCode == 200 })
}
