package receipt_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-project/lotus/lib/sigs"
	"github.com/google/uuid"
	"github.com/ipfs/boxo/ipld/merkledag"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/piece"
	"github.com/frostpin/frostpin/deals/receipt"
)

// A dag is a root over leaves.
type dag []blocks.Block // the root first

func newDAG(leaves int) dag {
	root := merkledag.NodeWithData([]byte("root"))
	out := dag{nil}
	for i := range leaves {
		content := make([]byte, 1000+i)
		random := rand.NewChaCha8([32]byte{byte(i)})
		_, _ = random.Read(content)
		leaf := merkledag.NewRawNode(content)
		if err := root.AddNodeLink(fmt.Sprint(i), leaf); err != nil {
			panic(err)
		}
		out = append(out, leaf)
	}
	if err := root.SetCidBuilder(merkledag.V1CidPrefix()); err != nil {
		panic(err)
	}
	out[0] = root
	return out
}

func (d dag) root() cid.Cid { return d[0].Cid() }

// Block implements piece.Blocks.
func (d dag) Block(_ context.Context, c cid.Cid) ([]byte, error) {
	i := slices.IndexFunc(d, func(b blocks.Block) bool { return b.Cid() == c })
	if i < 0 {
		return nil, errors.New("no such block")
	}
	return d[i].RawData(), nil
}

func (d dag) piece(t testing.TB) piece.Piece {
	t.Helper()
	layouts, err := piece.OpenStore(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	p, err := layouts.Build(context.Background(), d, d.root(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A party signs proposals.
type party struct {
	kind    crypto.SigType
	private []byte
	address address.Address
}

func newParty(t testing.TB, kind crypto.SigType) party {
	t.Helper()
	p := party{kind: kind}
	var err error
	if kind == crypto.SigTypeBLS { // cannot be made here: the bytes need not be a key
		p.address, err = address.NewBLSAddress(bytes.Repeat([]byte{7}, 48))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p.private, err = sigs.Generate(kind); err != nil {
		t.Fatal(err)
	}
	public, err := sigs.ToPublic(kind, p.private)
	if err != nil {
		t.Fatal(err)
	}
	if kind == crypto.SigTypeDelegated {
		p.address, err = delegatedAddress(public)
	} else {
		p.address, err = address.NewSecp256k1Address(public)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p party) sign(t testing.TB, proposal market.DealProposal) market.ClientDealProposal {
	t.Helper()
	var message bytes.Buffer
	if err := proposal.MarshalCBOR(&message); err != nil {
		t.Fatal(err)
	}
	if p.kind == crypto.SigTypeBLS {
		return market.ClientDealProposal{Proposal: proposal, ClientSignature: crypto.Signature{Type: p.kind, Data: blsLike(message.Bytes())}}
	}
	s, err := sigs.Sign(p.kind, p.private, message.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return market.ClientDealProposal{Proposal: proposal, ClientSignature: *s}
}

// blsLike stands for a BLS signature, which nothing here can make: the node of the tests takes it for one.
func blsLike(message []byte) []byte { return append([]byte("bls"), message[:20]...) }

const head = 6_000_000

// attempt is an active deal with a provider.
func attempt(t testing.TB, d dag, by party, provider deals.ProviderID, size abi.PaddedPieceSize) deals.Attempt {
	t.Helper()
	padded, err := d.piece(t).PadTo(max(size, d.piece(t).Size))
	if err != nil {
		t.Fatal(err)
	}
	proposal, err := deals.Draft(deals.DraftInput{
		Client: by.address, Provider: provider, Ask: deals.Ask{Price: abi.NewTokenAmount(5_000_000)}, Price: abi.NewTokenAmount(5_000_000),
		Piece: padded, Root: d.root(), Head: head - 10_000, StartDelay: 8640, Days: 540, Least: abi.NewTokenAmount(100),
	})
	if err != nil {
		t.Fatal(err)
	}
	signed := by.sign(t, proposal)
	var encoded bytes.Buffer
	if err := signed.MarshalCBOR(&encoded); err != nil {
		t.Fatal(err)
	}
	id, err := proposal.Cid()
	if err != nil {
		t.Fatal(err)
	}
	return deals.Attempt{
		UUID: uuid.NewSHA1(uuid.Nil, []byte(provider.String())), Root: d.root(), Piece: padded, Provider: provider, Protocol: "mk12",
		ProposalCID: id, Signed: encoded.Bytes(), Start: proposal.StartEpoch, End: proposal.EndEpoch, State: deals.Active,
		DealID: abi.DealID(provider) + 7, PublishCID: newDAG(1).root(), Sector: 0, Height: head - 5, ActiveAt: issued,
	}
}

var issued = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func notary() *deals.Notary {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	return deals.NewNotary("https://pins.example", key, func() time.Time { return issued })
}

// A bundle is a receipt and what it is about.
type bundle struct {
	dag      dag
	client   party
	attempts []deals.Attempt
	receipt  deals.Receipt
	content  []byte
}

// newBundle is a receipt for two deals, one of them padded. change makes it a lie before the service signs it.
func newBundle(t testing.TB, kind crypto.SigType, change ...func(*deals.Receipt)) bundle {
	t.Helper()
	b := bundle{dag: newDAG(3), client: newParty(t, kind)}
	b.attempts = []deals.Attempt{attempt(t, b.dag, b.client, 1000, 0), attempt(t, b.dag, b.client, 1001, 1<<20)}
	id, err := address.NewIDAddress(77)
	if err != nil {
		t.Fatal(err)
	}
	r, err := deals.NewReceipt(b.dag.root(), b.dag.piece(t), deals.Client{Key: b.client.address, ID: id}, b.attempts)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(&r)
	}
	if b.receipt, err = notary().Sign(r); err != nil {
		t.Fatal(err)
	}
	if b.content, err = b.receipt.Bytes(); err != nil {
		t.Fatal(err)
	}
	return b
}

// verify returns the report.
func verify(t testing.TB, content []byte, o receipt.Options) receipt.Report {
	t.Helper()
	report, err := receipt.Verify(context.Background(), content, o)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// has tells whether a report has a finding.
func has(r receipt.Report, v receipt.Verdict, text string) bool {
	return slices.ContainsFunc(r.Findings, func(f receipt.Finding) bool {
		return f.Verdict == v && strings.Contains(f.What+": "+f.Detail, text)
	})
}

func TestAReceiptIsProvedFromTheFileAlone(t *testing.T) {
	for name, kind := range map[string]crypto.SigType{"secp256k1": crypto.SigTypeSecp256k1, "delegated": crypto.SigTypeDelegated} {
		b := newBundle(t, kind)
		report := verify(t, append(b.content, '\n'), receipt.Options{Key: notary().Key()})
		for _, want := range []string{
			"receipt: signed by the service \"https://pins.example\" at 2026-11-22T12:00:00Z", "service key: did:key:z6Mk",
			"deal with f01000", "deal with f01001", "signed by the client " + b.client.address.String(),
		} {
			if !has(report, receipt.Proved, want) {
				t.Errorf("%s: not proved: %q in %+v", name, want, report.Findings)
			}
		}
		// What was not looked at is never called proved.
		if !report.OK() || !has(report, receipt.Open, "ask a node") || !has(report, receipt.Open, "CommP was not computed") {
			t.Errorf("%s: %+v", name, report.Findings)
		}
	}
}

func TestOneChangedByteFails(t *testing.T) {
	b := newBundle(t, crypto.SigTypeSecp256k1)
	if !verify(t, b.content, receipt.Options{}).OK() {
		t.Fatal("the receipt itself fails")
	}
	content := append(slices.Clone(b.content), '\n')
	for i := range content {
		for bit := range 8 {
			content[i] ^= 1 << bit
			if _, err := deals.ReadReceipt(content); err == nil {
				t.Fatalf("byte %d may be %q", i, content[i])
			}
			content[i] ^= 1 << bit
		}
	}
	for name, c := range map[string][]byte{
		"nothing": nil, "shorter": b.content[:len(b.content)-1], "longer": append(slices.Clone(b.content), ' '),
		"two line feeds": append(slices.Clone(b.content), "\n\n"...), "two receipts": append(slices.Clone(b.content), b.content...),
		"spaced": bytes.Replace(b.content, []byte(":"), []byte(": "), 1), "another key beside": bytes.Replace(b.content, []byte("{"), []byte(`{"a":1,`), 1),
	} {
		if report := verify(t, c, receipt.Options{}); report.OK() {
			t.Errorf("%s: %+v", name, report.Findings)
		}
	}
}

func TestAReceiptOfAnotherServiceIsNotTheExpectedOne(t *testing.T) {
	b := newBundle(t, crypto.SigTypeSecp256k1)
	if report := verify(t, b.content, receipt.Options{Key: "did:key:z6MkOther"}); report.OK() || !has(report, receipt.Wrong, "service key") {
		t.Errorf("%+v", report.Findings)
	}
}

// A receipt of the future could name any height of the chain.
func TestAReceiptIsNotIssuedInTheFuture(t *testing.T) {
	b := newBundle(t, crypto.SigTypeSecp256k1)
	if report := verify(t, b.content, receipt.Options{Now: issued.Add(-time.Minute)}); !report.OK() {
		t.Errorf("clocks differ a little: %+v", report.Findings)
	}
	if report := verify(t, b.content, receipt.Options{Now: issued.Add(-48 * time.Hour)}); report.OK() || !has(report, receipt.Wrong, "in the future") {
		t.Errorf("%+v", report.Findings)
	}
}

// A service can sign anything. What the client has signed it cannot change.
func TestALieOfTheServiceIsFound(t *testing.T) {
	other := newDAG(5)
	for _, c := range []struct {
		name   string
		change func(*deals.Receipt)
		want   string
	}{
		{"root", func(r *deals.Receipt) { r.Root = other.root().String() }, "another root was signed"},
		{"CAR size", func(r *deals.Receipt) { r.CARSize++ }, "is no piece"},
		{"piece", func(r *deals.Receipt) { r.Piece.CID = r.Deals[1].Piece.CID }, "not the CAR with zeros"},
		{"piece of a deal", func(r *deals.Receipt) { r.Deals[1].Piece.CID = r.Piece.CID }, "not the CAR with zeros"},
		{"version 2 piece of a deal", func(r *deals.Receipt) { r.Deals[1].Piece.CIDv2 = r.Piece.CIDv2 }, "not the CAR with zeros"},
		{"size of a deal", func(r *deals.Receipt) { r.Deals[0].Piece = r.Deals[1].Piece }, "another piece was signed"},
		{"no size", func(r *deals.Receipt) { r.Deals[0].Piece.Size, r.Deals[0].Piece.RawSize = 0, 0 }, "is no piece"},
		{"provider", func(r *deals.Receipt) { r.Deals[0].Provider = "f01002" }, "another provider was signed"},
		{"no provider", func(r *deals.Receipt) { r.Deals[0].Provider = "me" }, "not a provider"},
		{"client", func(r *deals.Receipt) { r.Deals[0].Client = newParty(t, crypto.SigTypeSecp256k1).address.String() }, "another client signed"},
		{"no client", func(r *deals.Receipt) { r.Deals[0].Client = "me" }, "reading the client"},
		{"proposal CID", func(r *deals.Receipt) { r.Deals[0].ProposalCID = r.Deals[1].ProposalCID }, "the proposal has another CID"},
		{"start", func(r *deals.Receipt) { r.Deals[0].StartEpoch-- }, "other epochs"},
		{"end", func(r *deals.Receipt) { r.Deals[0].EndEpoch++ }, "other epochs"},
		{"price", func(r *deals.Receipt) { r.Deals[0].PricePerEpoch = "1" }, "another price"},
		{"datacap", func(r *deals.Receipt) { r.Deals[0].Verified = true }, "datacap"},
		{"no proposal", func(r *deals.Receipt) { r.Deals[0].Proposal = nil }, "reading the proposal"},
		{"two proposals", func(r *deals.Receipt) { r.Deals[0].Proposal = append(slices.Clone(r.Deals[0].Proposal), 0) }, "something follows"},
		{"signature", func(r *deals.Receipt) {
			changed := slices.Clone(r.Deals[0].Proposal)
			changed[len(changed)-9] ^= 1
			r.Deals[0].Proposal = changed
		}, "does not fit the proposal"},
		{"signature of another kind", func(r *deals.Receipt) { r.Deals[0].Proposal = resigned(t, r.Deals[0], crypto.SigTypeDelegated) }, "does not fit the proposal"},
	} {
		b := newBundle(t, crypto.SigTypeSecp256k1, c.change)
		if report := verify(t, b.content, receipt.Options{}); report.OK() || !has(report, receipt.Wrong, c.want) {
			t.Errorf("%s: want %q in %+v", c.name, c.want, report.Findings)
		}
	}
}

// resigned says that a signature is of another kind.
func resigned(t testing.TB, d deals.ReceiptDeal, kind crypto.SigType) []byte {
	t.Helper()
	signed, err := d.Signed()
	if err != nil {
		t.Fatal(err)
	}
	signed.ClientSignature.Type = kind
	var out bytes.Buffer
	if err := signed.MarshalCBOR(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestABLSSignatureNeedsANode(t *testing.T) {
	other := newBundle(t, crypto.SigTypeBLS, func(r *deals.Receipt) { r.Deals[0].Proposal = resigned(t, r.Deals[0], crypto.SigTypeSecp256k1) })
	if report := verify(t, other.content, receipt.Options{}); !has(report, receipt.Wrong, "does not fit the proposal") {
		t.Errorf("a signature of another kind: %+v", report.Findings)
	}
	b := newBundle(t, crypto.SigTypeBLS)
	if report := verify(t, b.content, receipt.Options{}); report.OK() || !has(report, receipt.Wrong, "which only a node can check: give one (--lotus)") {
		t.Errorf("%+v", report.Findings)
	}
	n := newNode(t, b)
	if report := verify(t, b.content, receipt.Options{Node: n}); !report.OK() || !has(report, receipt.Proved, "signed by the client") {
		t.Errorf("%+v", report.Findings)
	}
	n.forged = true
	if report := verify(t, b.content, receipt.Options{Node: n}); report.OK() || !has(report, receipt.Wrong, "does not fit") {
		t.Errorf("%+v", report.Findings)
	}
}
