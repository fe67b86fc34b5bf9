package sp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	commcid "github.com/filecoin-project/go-fil-commcid"
	commp "github.com/filecoin-project/go-fil-commp-hashhash"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/google/uuid"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/storage"
	dagpb "github.com/ipld/go-codec-dagpb"
	"github.com/ipld/go-ipld-prime/datamodel"
	"github.com/ipld/go-ipld-prime/fluent/qp"
	cidlink "github.com/ipld/go-ipld-prime/linking/cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/deals/devnet/sp"
	"github.com/frostpin/frostpin/deals/mk12/wire"
)

// patience is for how long a test waits for what must come.
const patience = 30 * time.Second

// A dag is content, its CAR and its piece.
type dag struct {
	root   cid.Cid
	blocks []blocks.Block // in the order of the CAR, the root first
	car    []byte
	piece  cid.Cid
	size   abi.PaddedPieceSize
}

func rawBlock(data []byte) blocks.Block {
	return must(blocks.NewBlockWithCid(data, must(cid.Prefix{Version: 1, Codec: cid.Raw, MhType: multihash.SHA2_256, MhLength: -1}.Sum(data))))
}

// newDAG makes a directory-like root with n leaves of random bytes.
func newDAG(n, leaf int) dag {
	var leaves []blocks.Block
	for range n {
		leaves = append(leaves, rawBlock(random(leaf)))
	}
	return dagOf(leaves...)
}

func dagOf(leaves ...blocks.Block) dag {
	node := must(qp.BuildMap(dagpb.Type.PBNode, 2, func(m datamodel.MapAssembler) {
		qp.MapEntry(m, "Links", qp.List(int64(len(leaves)), func(l datamodel.ListAssembler) {
			for _, leaf := range leaves {
				qp.ListEntry(l, qp.Map(1, func(m datamodel.MapAssembler) {
					qp.MapEntry(m, "Hash", qp.Link(cidlink.Link{Cid: leaf.Cid()}))
				}))
			}
		}))
		qp.MapEntry(m, "Data", qp.Bytes([]byte{8, 1}))
	}))
	var encoded bytes.Buffer
	if err := dagpb.Encode(node, &encoded); err != nil {
		panic(err)
	}
	root := must(cid.Prefix{Version: 1, Codec: cid.DagProtobuf, MhType: multihash.SHA2_256, MhLength: -1}.Sum(encoded.Bytes()))
	d := dag{root: root, blocks: append([]blocks.Block{must(blocks.NewBlockWithCid(encoded.Bytes(), root))}, leaves...)}

	var out bytes.Buffer
	w := must(storage.NewWritable(&out, []cid.Cid{root}, car.WriteAsCarV1(true)))
	for _, b := range d.blocks {
		if err := w.Put(context.Background(), b.Cid().KeyString(), b.RawData()); err != nil {
			panic(err)
		}
	}
	if err := w.Finalize(); err != nil {
		panic(err)
	}
	d.car = out.Bytes()
	return d.measure()
}

func (d dag) measure() dag {
	calc := &commp.Calc{}
	must(calc.Write(d.car))
	raw, size, err := calc.Digest()
	if err != nil {
		panic(err)
	}
	d.piece, d.size = must(commcid.DataCommitmentV1ToCID(raw)), abi.PaddedPieceSize(size)
	return d
}

// A source serves one piece to whoever has the token, and remembers how it was asked.
type source struct {
	*httptest.Server
	mu     sync.Mutex
	ranges []string
	spoil  func(w http.ResponseWriter, r *http.Request, n int) bool // n-th request, from 1; true: answered
}

const token = "Bearer good"

func newSource(t *testing.T, d dag) *source {
	t.Helper()
	s := &source{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.ranges = append(s.ranges, r.Header.Get("Range"))
		n, spoil := len(s.ranges), s.spoil
		s.mu.Unlock()
		if r.Header.Get("Authorization") != token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if spoil != nil && spoil(w, r, n) {
			return
		}
		w.Header().Set("ETag", `"`+d.piece.String()+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(d.car))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *source) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.ranges...)
}

// A world is one provider, its chain and a client.
type world struct {
	t      *testing.T
	node   *node
	cfg    sp.Config
	sp     *sp.Provider
	client host.Host
}

func newWorld(t *testing.T, style sp.Style, change ...func(*sp.Config)) *world {
	t.Helper()
	n := newNode(t)
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	cfg := sp.Config{
		Node: n, Miner: n.miner, Worker: n.worker.Address, Dir: t.TempDir(), Style: style, Region: "EU",
		Pull: sp.PullConfig{Backoff: time.Millisecond, MinRate: -1}, Log: log, Seed: 1,
	}
	for _, f := range change {
		f(&cfg)
	}
	w := &world{t: t, node: n, cfg: cfg}
	w.start()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	w.client = h
	return w
}

func (w *world) start() {
	w.t.Helper()
	p, err := sp.Start(w.t.Context(), w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.sp = p
	w.t.Cleanup(func() { p.Close() })
}

func (w *world) restart() {
	w.t.Helper()
	if err := w.sp.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.start()
}

func (w *world) faults(faults ...sp.Fault) {
	w.t.Helper()
	if err := w.sp.SetFaults(faults); err != nil {
		w.t.Fatal(err)
	}
}

// params proposes a DAG, served from a URL.
func (w *world) params(d dag, url string) *wire.DealParams {
	p := &wire.DealParams{
		DealUUID: uuid.New(), DealDataRoot: d.root,
		ClientDealProposal: market.ClientDealProposal{Proposal: market.DealProposal{
			PieceCID: d.piece, PieceSize: d.size, Client: w.node.client.Address, Provider: w.node.miner,
			Label: must(market.NewLabelFromString(d.root.String())), StartEpoch: 5000, EndEpoch: 5000 + 520_000,
			StoragePricePerEpoch: abi.NewTokenAmount(1), ProviderCollateral: abi.NewTokenAmount(1200), ClientCollateral: abi.NewTokenAmount(0),
		}},
		Transfer: must(wire.NewHTTPTransfer("", wire.HTTPRequest{URL: url, Headers: map[string]string{"Authorization": token}}, uint64(len(d.car)))),
	}
	w.sign(p)
	return p
}

func (w *world) sign(p *wire.DealParams) {
	data := must(wire.ProposalBytes(&p.ClientDealProposal.Proposal))
	p.ClientDealProposal.ClientSignature = *must(w.node.WalletSign(context.Background(), w.node.client.Address, data))
}

func (w *world) propose(p *wire.DealParams) *wire.DealResponse {
	w.t.Helper()
	resp, err := wire.Propose(w.t.Context(), w.client, w.sp.AddrInfo(), p)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

func (w *world) mustAccept(p *wire.DealParams) {
	w.t.Helper()
	if resp := w.propose(p); !resp.Accepted {
		w.t.Fatalf("refused: %s", resp.Message)
	}
}

func (w *world) status(p *wire.DealParams) *wire.DealStatusResponse {
	w.t.Helper()
	resp, err := w.askStatus(p)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

func (w *world) askStatus(p *wire.DealParams) (*wire.DealStatusResponse, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Second)
	defer cancel()
	return wire.Status(ctx, w.client, w.sp.AddrInfo(), &wire.DealStatusRequest{
		DealUUID:  p.DealUUID,
		Signature: *must(w.node.WalletSign(ctx, w.node.client.Address, wire.StatusBytes(p.DealUUID))),
	})
}

// stage waits until a deal has come to one of the stages, moving the chain on meanwhile unless told not to.
func (w *world) stage(p *wire.DealParams, want ...sp.Stage) *sp.Deal {
	w.t.Helper()
	return waitStage(w.t, w.sp, p.DealUUID, func() { w.node.advance(1) }, want...)
}

// waitStage waits for a stage, while tick moves the world on every few milliseconds.
func waitStage(t *testing.T, p *sp.Provider, id uuid.UUID, tick func(), want ...sp.Stage) *sp.Deal {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		changed := p.Changed()
		var stage sp.Stage
		for _, d := range p.Deals() {
			if d.UUID != id {
				continue
			}
			stage = d.Stage
			if slices.Contains(want, d.Stage) {
				return d
			}
		}
		select {
		case <-changed:
		case <-ticker.C:
			tick()
		case <-deadline.C:
			t.Fatalf("the deal is %q, not %q; state: %s", stage, want, must(json.Marshal(p.State())))
		}
	}
}

// holds reports whether something stays true for a moment, while the chain moves on.
func (w *world) holds(what string, cond func() bool) {
	w.t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for range 40 {
		if !cond() {
			w.t.Fatalf("it is no longer so: %s", what)
		}
		<-ticker.C
		w.node.advance(1)
	}
}

func (w *world) eventually(what string, cond func() bool) {
	w.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !cond() {
		select {
		case <-ticker.C:
			w.node.advance(1)
		case <-deadline.C:
			w.t.Fatalf("it never came: %s", what)
		}
	}
}

func (w *world) journal() string {
	w.t.Helper()
	return string(must(os.ReadFile(filepath.Join(w.cfg.Dir, "deals.jsonl"))))
}

func contains(t *testing.T, text, want string) {
	t.Helper()
	if !strings.Contains(text, want) {
		t.Errorf("%q does not contain %q", text, want)
	}
}

// now is far in the past, so that nobody can mistake it for the clock.
func now() time.Time { return time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC) }
