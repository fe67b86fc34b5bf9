package deals_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/piece"
)

// somePiece is that of n random bytes.
func somePiece(t testing.TB, n int64) piece.Piece {
	t.Helper()
	content := make([]byte, n)
	random := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = random.Read(content)
	p, err := piece.Sum(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func someRoot(t testing.TB, text string) cid.Cid {
	t.Helper()
	c, err := cid.V1Builder{Codec: cid.Raw, MhType: multihash.SHA2_256}.Sum([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func someClient(t testing.TB) address.Address {
	t.Helper()
	a, err := address.NewSecp256k1Address([]byte("a public key"))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func draft(t testing.TB) deals.DraftInput {
	t.Helper()
	return deals.DraftInput{
		Client: someClient(t), Provider: 1000, Piece: somePiece(t, 3000), Root: someRoot(t, "root"),
		Ask:   deals.Ask{Price: atto(1 << 30), MinPiece: 256, MaxPiece: 32 << 30},
		Price: atto(1 << 30), Head: 5_000_000, StartDelay: 8640, Days: 540, Least: atto(1001),
	}
}

func TestAProposalSaysWhatWasAgreed(t *testing.T) {
	d := draft(t)
	got, err := deals.Draft(d)
	if err != nil {
		t.Fatal(err)
	}
	label, _ := got.Label.ToString()
	want := market.DealProposal{
		PieceCID: d.Piece.CIDv1, PieceSize: 4096, Client: d.Client, Provider: deals.ProviderID(1000).Address(), Label: got.Label,
		StartEpoch: 5_008_640, EndEpoch: 5_008_640 + 540*2880, StoragePricePerEpoch: atto(4096),
		ProviderCollateral: atto(1202), ClientCollateral: atto(0), // 1.2 x 1001, rounded up
	}
	var a, b bytes.Buffer
	if err := errors.Join(got.MarshalCBOR(&a), want.MarshalCBOR(&b)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) || label != d.Root.String() {
		t.Errorf("got %+v with label %q", got, label)
	}
	d.Verified = true
	if got, err := deals.Draft(d); err != nil || !got.VerifiedDeal {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestAProposalIsNotMadeThatWouldBeRefused(t *testing.T) {
	id, _ := address.NewIDAddress(7)
	long, err := cid.V1Builder{Codec: cid.Raw, MhType: multihash.IDENTITY, MhLength: -1}.Sum(make([]byte, 300))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*deals.DraftInput)
		want   string
	}{
		{"client by number", func(d *deals.DraftInput) { d.Client = id }, "no address of a key"},
		{"no client", func(d *deals.DraftInput) { d.Client = address.Undef }, "no address of a key"},
		{"long label", func(d *deals.DraftInput) { d.Root = long }, "does not fit a deal's label"},
		{"piece size", func(d *deals.DraftInput) { d.Piece.Size = 4095 }, "a piece of 4095 bytes"},
		{"piece size of other bytes", func(d *deals.DraftInput) { d.Piece.Size = 8192 }, "make a piece of 4096 bytes, not of 8192"},
		{"no commitment", func(d *deals.DraftInput) { d.Piece.CIDv1 = someRoot(t, "x") }, "is no commitment"},
		{"version 2 commitment", func(d *deals.DraftInput) { d.Piece.CIDv1 = d.Piece.CIDv2 }, "is no commitment"},
		{"no delay", func(d *deals.DraftInput) { d.StartDelay = 0 }, "after the present epoch"},
		{"too short", func(d *deals.DraftInput) { d.Days = 179 }, "from 180 to 1278 days"},
		{"too long", func(d *deals.DraftInput) { d.Days = 1279 }, "from 180 to 1278 days"},
		{"too long with the delay", func(d *deals.DraftInput) { d.Days = 1276 }, "epochs from now"},
		{"negative price", func(d *deals.DraftInput) { d.Price, d.Ask.Price = atto(-1), atto(-2) }, "negative"},
		{"negative collateral", func(d *deals.DraftInput) { d.Least = atto(-1) }, "negative"},
		{"less than asked", func(d *deals.DraftInput) { d.Ask.Price = atto(1<<30 + 1) }, "the provider asks for"},
		{"less than asked with datacap", func(d *deals.DraftInput) { d.Verified, d.Ask.VerifiedPrice = true, atto(1<<30+1) }, "the provider asks for"},
		{"too small", func(d *deals.DraftInput) { d.Ask.MinPiece = 8192 }, "from 8192 bytes on"},
		{"too large", func(d *deals.DraftInput) { d.Ask.MaxPiece = 2048 }, "up to 2048 bytes"},
	} {
		d := draft(t)
		c.change(&d)
		_, err := deals.Draft(d)
		refused := new(deals.DraftError)
		if !errors.As(err, &refused) || !strings.Contains(refused.Reason, c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	for name, change := range map[string]func(*deals.DraftInput){
		"no root": func(d *deals.DraftInput) { d.Root = cid.Undef },
		"no head": func(d *deals.DraftInput) { d.Head = 0 },
	} {
		d := draft(t)
		change(&d)
		if _, err := deals.Draft(d); err == nil {
			t.Errorf("%s: it was made", name)
		}
	}
}

func TestTheLongestDealIsStillMade(t *testing.T) {
	d := draft(t)
	d.Days = 1275
	got, err := deals.Draft(d)
	if err != nil || got.EndEpoch-d.Head != 3_680_640 {
		t.Errorf("it ends %d epochs from now, %v", got.EndEpoch-d.Head, err)
	}
}

func TestCollateralIsAFifthAboveTheLeastAndNotTwiceAsMuch(t *testing.T) {
	for least, want := range map[int64]int64{0: 0, 1: 2, 5: 6, 1000: 1200, 1001: 1202} {
		d := draft(t)
		d.Least = atto(least)
		got, err := deals.Draft(d)
		if err != nil || !got.ProviderCollateral.Equals(atto(want)) || got.ProviderCollateral.GreaterThan(abi.NewTokenAmount(2*least)) {
			t.Errorf("%d: got %s, %v, want %d", least, got.ProviderCollateral, err, want)
		}
	}
}
