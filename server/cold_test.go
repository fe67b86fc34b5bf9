package server_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/piece"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/server"
	"github.com/frostpin/frostpin/server/v1"
)

// cold is a Cold that knows the deals of each terms, whatever the DAG.
type cold struct {
	err       error
	notary    *deals.Notary
	standings map[deals.TermsID]deals.Standing
	attempts  map[deals.TermsID][]deals.Attempt
}

func (c *cold) Deals(_ context.Context, w deals.Wish) ([]deals.Attempt, error) {
	return c.attempts[w.Terms], c.err
}

func (c *cold) TermsOf(_ context.Context, id deals.TermsID) (deals.Terms, error) {
	return deals.Terms{Replicas: int(id), Regions: []string{"EU"}, Providers: []deals.ProviderID{1000, 1001}, Days: 540}, c.err
}

func (c *cold) ReadBack(context.Context, cid.Cid) (time.Time, error) { return day, nil }

func (c *cold) Receipt(_ context.Context, w deals.Wish) ([]byte, error) {
	natural := c.standings[w.Terms].Piece
	switch {
	case c.err != nil:
		return nil, c.err
	case natural == nil:
		return nil, deals.ErrNotFound
	}
	r, err := deals.NewReceipt(w.Root, *natural, deals.Client{}, c.attempts[w.Terms])
	if err == nil {
		r, err = c.notary.Sign(r)
	}
	if err != nil {
		return nil, err
	}
	return r.Bytes()
}

func (c *cold) ReceiptKey() string { return c.notary.Key() }

// day is when everything in these tests happens; golden files show it as TIME.
var day = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// newColdFixture is a server that makes cold copies: two deals under way for pins with terms 2, nothing yet for terms 1.
func newColdFixture(t testing.TB, change ...func(*server.Config)) *fixture {
	t.Helper()
	dag, err := piece.Sum(strings.NewReader(strings.Repeat("a block ", 40)))
	if err != nil {
		t.Fatal(err)
	}
	failed := deals.Attempt{
		UUID: uuid.MustParse("1ad3a3f2-0b4c-4d0e-9a53-3d7a4e5a0001"), Generation: 1, Provider: 1000, Protocol: "mk12", Piece: dag,
		State: deals.Rejected, Reason: "the provider has said no", Verbatim: "deal rejected: too small",
		PlannedAt: day, SentAt: day, EndedAt: day, ChangedAt: day,
	}
	active := signed(t, deals.Attempt{
		UUID: uuid.MustParse("1ad3a3f2-0b4c-4d0e-9a53-3d7a4e5a0002"), Generation: 2, Provider: 1001, Protocol: "mk12", Piece: dag,
		Start: 10_000, End: 1_565_200, Price: abi.NewTokenAmount(7), Collateral: abi.NewTokenAmount(5),
		State: deals.Active, DealID: 123456, Sector: 9, PublishCID: cid.MustParse(cidRaw), Height: 9_000,
		PlannedAt: day, SentAt: day, AcceptedAt: day, PulledAt: day, PublishedAt: day, ActiveAt: day, ChangedAt: day,
	})
	planned := deals.Attempt{
		UUID: uuid.MustParse("1ad3a3f2-0b4c-4d0e-9a53-3d7a4e5a0003"), Generation: 1, Provider: 1002, Protocol: "mk12", Piece: dag,
		State: deals.Planned, PlannedAt: day, ChangedAt: day,
	}
	c := &cold{
		attempts: map[deals.TermsID][]deals.Attempt{2: {failed, active, planned}},
		standings: map[deals.TermsID]deals.Standing{
			1: {Cold: deals.ColdPending, Wanted: 1},
			2: {
				Cold: deals.ColdDegraded, Wanted: 2, Accepted: 1, Active: 1, Working: 1, Ever: 1, Piece: &dag,
				Deals: []deals.Deal{deals.DealOf(planned), deals.DealOf(active), deals.DealOf(failed)},
			},
		},
	}
	c.notary = deals.NewNotary("https://pins.example.com", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize)), func() time.Time { return day })
	f := newFixture(t, append([]func(*server.Config){func(cfg *server.Config) { cfg.Cold = c }}, change...)...)
	f.pins.cold = c
	return f
}

// signed gives an attempt a signed proposal.
func signed(t testing.TB, a deals.Attempt) deals.Attempt {
	t.Helper()
	client, err := address.NewSecp256k1Address([]byte("a public key"))
	if err != nil {
		t.Fatal(err)
	}
	label, err := market.NewLabelFromString(cidV1)
	if err != nil {
		t.Fatal(err)
	}
	p := market.ClientDealProposal{
		Proposal: market.DealProposal{
			PieceCID: a.Piece.CIDv1, PieceSize: a.Piece.Size, Client: client, Provider: a.Provider.Address(), Label: label,
			StartEpoch: a.Start, EndEpoch: a.End, StoragePricePerEpoch: a.Price, ProviderCollateral: a.Collateral, ClientCollateral: big.Zero(),
		},
		ClientSignature: crypto.Signature{Type: crypto.SigTypeSecp256k1, Data: bytes.Repeat([]byte{1}, 65)},
	}
	if a.ProposalCID, err = p.Proposal.Cid(); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := p.MarshalCBOR(&b); err != nil {
		t.Fatal(err)
	}
	a.Signed = b.Bytes()
	return a
}

const coldBody = `{"cid":"` + cidRaw + `","meta":{"frostpin.replicas":"2"}}`

// Every operation of our own API with every kind of answer.
func TestGoldenExchangesOfOurOwnAPI(t *testing.T) {
	c := loadOwnContract(t)
	for _, e := range []struct {
		name, token, path, query string
		status                   int
	}{
		{"own-deals", alice, "/pins/COLD/deals", "", 200},
		{"own-deals-one", alice, "/pins/COLD/deals", "limit=1", 200},
		{"own-deals-none", alice, "/pins/HOT/deals", "", 200},
		{"own-deals-bad-limit", alice, "/pins/COLD/deals", "limit=0", 400},
		{"own-deals-worse-limit", alice, "/pins/COLD/deals", "limit=x", 400},
		{"own-deals-foreign", bob, "/pins/COLD/deals", "", 404},
		{"own-deals-no-token", "", "/pins/COLD/deals", "", 401},
		{"own-story", alice, "/pins/COLD", "", 200},
		{"own-story-uncopied", alice, "/pins/HOT", "", 200},
		{"own-story-foreign", bob, "/pins/COLD", "", 404},
		{"own-story-no-token", "", "/pins/COLD", "", 401},
		{"own-receipt", alice, "/pins/COLD/receipt", "", 200},
		{"own-receipt-too-early", alice, "/pins/EARLY/receipt", "", 404},
		{"own-receipt-uncopied", alice, "/pins/HOT/receipt", "", 404},
		{"own-receipt-foreign", bob, "/pins/COLD/receipt", "", 404},
		{"own-receipt-key", alice, "/receipt-key", "", 200},
		{"own-receipt-key-no-token", "", "/receipt-key", "", 401},
	} {
		t.Run(e.name, func(t *testing.T) {
			f := newColdFixture(t)
			hot := f.mustAdd(t, alice, `{"cid":"`+cidRaw+`"}`)
			frozen := f.mustAdd(t, alice, coldBody)
			w := f.do(alice, "POST", "/psa/policy/archive/pins", `{"cid":"`+cidRaw+`"}`)
			var early struct{ Requestid string }
			if err := json.Unmarshal(w.Body.Bytes(), &early); err != nil {
				t.Fatal(err)
			}
			target := "/api/v1" + strings.NewReplacer("COLD", frozen, "HOT", hot, "EARLY", early.Requestid).Replace(e.path)
			if e.query != "" {
				target += "?" + e.query
			}
			w = f.do(e.token, "GET", target, "")
			if w.Code != e.status {
				t.Errorf("status %d, want %d", w.Code, e.status)
			}
			path := strings.NewReplacer("COLD", "{requestid}", "HOT", "{requestid}", "EARLY", "{requestid}").Replace(e.path)
			c.check(t, "GET", path, w)
			compare(t, e.name, record(t, "GET "+target, w))
		})
	}
}

func TestReceiptIsSentAsItWasSigned(t *testing.T) {
	f := newColdFixture(t)
	id := f.mustAdd(t, alice, coldBody)
	w := f.do(alice, "GET", "/api/v1/pins/"+id+"/receipt", "")
	r, err := deals.ReadReceipt(w.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if r.Root != cidRaw || len(r.Deals) != 1 || r.Deals[0].DealID != "123456" {
		t.Errorf("%+v", r)
	}
	var key v1.ReceiptKey
	w = f.do(alice, "GET", "/api/v1/receipt-key", "")
	if err := json.Unmarshal(w.Body.Bytes(), &key); err != nil || key.Key != r.Key {
		t.Errorf("key %q, signed with %q: %v", key.Key, r.Key, err)
	}
}

func TestOwnAPIWithoutColdCopiesSaysSo(t *testing.T) {
	f := newFixture(t)
	id := f.mustAdd(t, alice, coldBody)
	if w := f.do(alice, "GET", "/api/v1/pins/"+id+"/deals", ""); w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"count":0,"deals":[]}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantFailure(t, f.do(alice, "GET", "/api/v1/pins/"+id+"/receipt", ""), 404, "NO_DEAL_YET", "no deal was proposed")
	wantFailure(t, f.do(alice, "GET", "/api/v1/receipt-key", ""), 404, "NOT_FOUND", "no cold copies")
}

func TestOwnAPIFailsLikeTheOther(t *testing.T) {
	f := newColdFixture(t)
	id := f.mustAdd(t, alice, coldBody)
	f.pins.cold.err = errSecret
	for _, path := range []string{"", "/deals", "/receipt"} {
		w := f.do(alice, "GET", "/api/v1/pins/"+id+path, "")
		wantFailure(t, w, 500, "INTERNAL_SERVER_ERROR", "in the log under request ")
		if strings.Contains(w.Body.String(), "secret") {
			t.Errorf("shown to the caller: %s", w.Body)
		}
	}
}

func TestRequestComesWithItsPolicies(t *testing.T) {
	f := newColdFixture(t)
	f.tokens.caller = auth.Caller{AccountPolicy: "of the account", TokenPolicy: "of the token"}
	for _, path := range []string{"/psa/pins", "/psa/policy/archive/pins", "/psa//policy/hot-only//pins/"} {
		if w := f.do(alice, "POST", path, `{"cid":"`+cidRaw+`"}`); w.Code != http.StatusAccepted {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := f.do(bob, "POST", "/psa/pins", `{"cid":"`+cidRaw+`"}`); w.Code != http.StatusAccepted {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	want := []pins.Choice{
		{Account: "of the account", Token: "of the token"},
		{Account: "of the account", Token: "of the token", Path: "archive"},
		{Account: "of the account", Token: "of the token", Path: "hot-only"},
		{},
	}
	if diff := cmp.Diff(want, f.pins.choices); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Reads through a policy show everything.
	for _, path := range []string{"/psa/pins", "/psa/policy/archive/pins"} {
		w := f.do(alice, "GET", path+"?status=queued", "")
		if !strings.HasPrefix(w.Body.String(), `{"count":3,`) {
			t.Errorf("%s: %d %.60s", path, w.Code, w.Body)
		}
	}
}

func TestRefusedCopiesLeaveNoPinBehind(t *testing.T) {
	f := newColdFixture(t)
	id := f.mustAdd(t, alice, `{"cid":"`+cidRaw+`"}`)
	bad := `{"cid":"` + cidRaw + `","meta":{"frostpin.replicas":"9"}}`
	wantFailure(t, f.do(alice, "POST", "/psa/pins", bad), 400, "BAD_REQUEST", "frostpin.replicas")
	wantFailure(t, f.do(alice, "POST", "/psa/pins/"+id, bad), 400, "BAD_REQUEST", "frostpin.replicas")
	if len(f.pins.rows) != 1 || string(f.pins.rows[0].ID) != id {
		t.Errorf("%d pins", len(f.pins.rows))
	}
	f.pins.err = errors.New("away")
	wantFailure(t, f.do(alice, "GET", "/psa/policy/archive/pins", ""), 500, "INTERNAL_SERVER_ERROR", "request")
}

func TestDocsShowOurOwnContractWithThisServer(t *testing.T) {
	f := newFixture(t)
	w := f.do("", "GET", "/docs/api-v1.json", "")
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"url":"../api/v1"`) || !strings.Contains(w.Body.String(), "getPinReceipt") {
		t.Errorf("%d %.200s", w.Code, w.Body)
	}
}
