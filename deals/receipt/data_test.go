package receipt_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/filecoin-project/go-state-types/crypto"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/storage"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/receipt"
)

// carOf is a CAR with these blocks in this order, whatever their CIDs say.
func carOf(t testing.TB, root cid.Cid, list ...blocks.Block) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.car")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	out, err := storage.NewWritable(file, []cid.Cid{root}, car.WriteAsCarV1(true), car.AllowDuplicatePuts(true))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range list {
		if err := out.Put(context.Background(), b.Cid().KeyString(), b.RawData()); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(out.Finalize(), file.Close()); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func written(t testing.TB, content []byte) receipt.File {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "data.car")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return receipt.File{Path: path, Dir: dir}
}

func TestCommPIsComputedFromAnyCAROfTheDAG(t *testing.T) {
	b := newBundle(t, crypto.SigTypeSecp256k1)
	d := b.dag
	own := carOf(t, d.root(), d...)
	if int64(len(own)) != b.receipt.CARSize {
		t.Fatalf("the CAR has %d bytes, the receipt says %d", len(own), b.receipt.CARSize)
	}
	stranger := blocks.NewBlock([]byte("of another DAG"))
	for name, content := range map[string][]byte{
		"ours":                  own,
		"ours with zeros":       append(bytes.Clone(own), make([]byte, 10_000)...),
		"other order":           carOf(t, d.root(), d[3], d[0], d[2], d[1]),
		"with strangers, twice": carOf(t, d.root(), stranger, d[0], d[1], d[2], d[3], stranger, d[1]),
		"under another root":    carOf(t, stranger.Cid(), append(d, stranger)...),
	} {
		report := verify(t, b.content, receipt.Options{Data: written(t, content)})
		if !report.OK() || !has(report, receipt.Proved, "data: the CAR of "+d.root().String()) {
			t.Errorf("%s: %+v", name, report.Findings)
		}
	}
}

func TestDataThatIsNotTheDAGIsFound(t *testing.T) {
	b := newBundle(t, crypto.SigTypeSecp256k1)
	d := b.dag
	own := carOf(t, d.root(), d...)
	flipped := bytes.Clone(own)
	flipped[len(flipped)-5] ^= 1
	for name, content := range map[string][]byte{
		"empty":             {},
		"noise":             []byte(strings.Repeat("noise", 100)),
		"one byte changed":  flipped,
		"cut":               own[:len(own)-10],
		"a block is absent": carOf(t, d.root(), d[0], d[1], d[3]),
		"another DAG":       carOf(t, newDAG(5).root(), newDAG(5)[0]),
	} {
		report := verify(t, b.content, receipt.Options{Data: written(t, content)})
		if report.OK() || !has(report, receipt.Wrong, "data") {
			t.Errorf("%s: %+v", name, report.Findings)
		}
	}
	if _, err := receipt.Verify(t.Context(), b.content, receipt.Options{Data: receipt.File{Path: "no-such-file", Dir: t.TempDir()}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// A service that has stored other data under the client's signature is found by the data alone.
func TestAPieceOfOtherDataIsFound(t *testing.T) {
	d, other := newDAG(3), newDAG(4)
	client := newParty(t, crypto.SigTypeSecp256k1)
	a := attempt(t, other, client, 1000, 0)
	a.Root = d.root()
	signed, err := deals.ReceiptDeal{Proposal: a.Signed}.Signed()
	if err != nil {
		t.Fatal(err)
	}
	label := signed.Proposal
	if label.Label, err = labelOf(d.root()); err != nil {
		t.Fatal(err)
	}
	resigned := client.sign(t, label)
	var encoded bytes.Buffer
	if err := resigned.MarshalCBOR(&encoded); err != nil {
		t.Fatal(err)
	}
	a.Signed = encoded.Bytes()
	if a.ProposalCID, err = label.Cid(); err != nil {
		t.Fatal(err)
	}
	r, err := deals.NewReceipt(d.root(), other.piece(t), deals.Client{}, []deals.Attempt{a})
	if err != nil {
		t.Fatal(err)
	}
	if r, err = notary().Sign(r); err != nil {
		t.Fatal(err)
	}
	content, err := r.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if report := verify(t, content, receipt.Options{}); !report.OK() {
		t.Fatalf("the file alone cannot show it: %+v", report.Findings)
	}
	for name, car := range map[string][]byte{"the data": carOf(t, d.root(), d...), "what was stored": carOf(t, other.root(), other...)} {
		if report := verify(t, content, receipt.Options{Data: written(t, car)}); report.OK() || !has(report, receipt.Wrong, "data") {
			t.Errorf("%s: %+v", name, report.Findings)
		}
	}
}

// Bytes that are not what their CID says prove nothing, though their commitment was signed.
func TestAPieceOfForgedBlocksIsFound(t *testing.T) {
	forged := newDAG(3)
	var err error
	if forged[2], err = blocks.NewBlockWithCid([]byte("something else"), forged[2].Cid()); err != nil {
		t.Fatal(err)
	}
	r, err := deals.NewReceipt(forged.root(), forged.piece(t), deals.Client{}, []deals.Attempt{
		attempt(t, forged, newParty(t, crypto.SigTypeSecp256k1), 1000, 0),
	})
	if err != nil {
		t.Fatal(err)
	}
	if r, err = notary().Sign(r); err != nil {
		t.Fatal(err)
	}
	content, err := r.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if report := verify(t, content, receipt.Options{Data: written(t, carOf(t, forged.root(), forged...))}); report.OK() || !has(report, receipt.Wrong, "not as its CID says") {
		t.Errorf("%+v", report.Findings)
	}
}

// gateway answers every request with a function.
func gateway(t *testing.T, answer http.HandlerFunc) receipt.Gateway {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	return receipt.Gateway{URL: server.URL + "/", Dir: t.TempDir()}
}

func TestTheDataIsFetchedFromATrustlessGateway(t *testing.T) {
	b := newBundle(t, crypto.SigTypeSecp256k1)
	own := carOf(t, b.dag.root(), b.dag...)
	g := gateway(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ipfs/"+b.receipt.Root || r.URL.Query().Get("format") != "car" || !strings.Contains(r.Header.Get("Accept"), "version=1") {
			t.Errorf("asked for %s, %v", r.URL, r.Header)
		}
		w.Header().Set("Content-Type", "application/vnd.ipld.car; version=1")
		_, _ = w.Write(own)
	})
	if report := verify(t, b.content, receipt.Options{Data: g}); !report.OK() || !has(report, receipt.Proved, "data") {
		t.Errorf("%+v", report.Findings)
	}
	if left, err := os.ReadDir(g.Dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestAGatewayIsNotBelievedAndBounded(t *testing.T) {
	b := newBundle(t, crypto.SigTypeSecp256k1)
	own := carOf(t, b.dag.root(), b.dag...)
	sent := int64(0)
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   string // in the error; empty: a finding
	}{
		{"refuses", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }, "429"},
		{"a page", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, "instead of a CAR"},
		{"endless", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.ipld.car")
			for {
				n, err := w.Write(make([]byte, 1<<16))
				if sent += int64(n); err != nil || sent > 1<<28 {
					return
				}
			}
		}, "it sends more than"},
		{"cut", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.ipld.car")
			_, _ = w.Write(own[:len(own)/2])
		}, ""},
		{"wrong", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.ipld.car")
			_, _ = w.Write(carOf(t, newDAG(9).root(), newDAG(9)...))
		}, ""},
	} {
		report, err := receipt.Verify(t.Context(), b.content, receipt.Options{Data: gateway(t, c.answer)})
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) || c.want == "" && (err != nil || !has(report, receipt.Wrong, "data")) {
			t.Errorf("%s: %v, %+v", c.name, err, report.Findings)
		}
	}
	if sent > 1<<26 {
		t.Errorf("%d bytes were taken for a CAR of %d", sent, len(own))
	}
}

// A hung is a gateway that begins to answer and then says nothing.
type hung struct{ first io.Reader }

func (h hung) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/vnd.ipld.car"}},
		Body: io.NopCloser(io.MultiReader(h.first, silence{r.Context()})),
	}, nil
}

type silence struct{ ctx context.Context }

func (s silence) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

func TestAGatewayThatHangsIsGivenUp(t *testing.T) {
	b := newBundle(t, crypto.SigTypeSecp256k1)
	synctest.Test(t, func(t *testing.T) {
		g := receipt.Gateway{URL: "https://gateway.example", Dir: t.TempDir(), Client: &http.Client{Transport: hung{strings.NewReader("some")}}}
		began := time.Now()
		_, err := receipt.Verify(t.Context(), b.content, receipt.Options{Data: g})
		if err == nil || !strings.Contains(err.Error(), "nothing for a minute") || time.Since(began) > 2*time.Minute {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}
