package mk12_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/filecoin-project/go-address"
	cborutil "github.com/filecoin-project/go-cbor-util"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/test"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/mk12"
	"github.com/frostpin/frostpin/deals/mk12/wire"
)

const provider = deals.ProviderID(1000)

var (
	root = cid.MustParse("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")
	from = deals.Transfer{URL: "https://pins.example/piece/baga", Bearer: "token", Size: 1_040_384}
)

// client is a market that may dial loopback addresses.
func client(t *testing.T) *mk12.Market {
	t.Helper()
	return mk12.New(clientHost(t, mk12.Config{AllowPrivate: true}), mk12.Config{AllowPrivate: true, Dial: 5 * time.Second})
}

func clientHost(t *testing.T, cfg mk12.Config) host.Host {
	t.Helper()
	h, err := mk12.NewHost(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// providerHost listens on loopback.
func providerHost(t *testing.T) (host.Host, deals.Contact) {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	c := deals.Contact{Provider: provider, PeerID: h.ID().String()}
	for _, a := range h.Addrs() {
		c.Addrs = append(c.Addrs, a.String())
	}
	return h, c
}

func serve(t *testing.T, handlers wire.Handlers) deals.Contact {
	t.Helper()
	h, c := providerHost(t)
	t.Cleanup(wire.Handle(h, slog.New(slog.DiscardHandler), handlers))
	return c
}

func signed(t testing.TB) market.ClientDealProposal {
	t.Helper()
	key, err := address.NewSecp256k1Address([]byte("client"))
	if err != nil {
		t.Fatal(err)
	}
	label, err := market.NewLabelFromString(root.String())
	if err != nil {
		t.Fatal(err)
	}
	return market.ClientDealProposal{
		Proposal: market.DealProposal{
			PieceCID:  cid.MustParse("baga6ea4seaqao7s73y24kcutaosvacpdjgfe5pw76ooefnyqw4ynr3d2y6x2mpq"),
			PieceSize: 1 << 20, Client: key, Provider: provider.Address(), Label: label,
			StartEpoch: 10_000, EndEpoch: 600_000,
			StoragePricePerEpoch: big.NewInt(7), ProviderCollateral: big.NewInt(100), ClientCollateral: big.Zero(),
		},
		ClientSignature: crypto.Signature{Type: crypto.SigTypeSecp256k1, Data: bytes.Repeat([]byte{7}, 65)},
	}
}

func composed(t testing.TB, m *mk12.Market, id uuid.UUID) []byte {
	t.Helper()
	message, err := m.Compose(id, signed(t), root, from)
	if err != nil {
		t.Fatal(err)
	}
	return message
}

func dump(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := cborutil.Dump(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestProviderReceivesWhatWasComposedAgainAndAgain(t *testing.T) {
	m, id := client(t), uuid.New()
	h, contact := providerHost(t)
	received := make(chan []byte, 1)
	h.SetStreamHandler(wire.ProposeProtocol, func(s network.Stream) {
		defer s.Close()
		params := &wire.DealParams{}
		if err := wire.Decode(s, params); err != nil {
			t.Error(err)
		}
		raw, err := wire.Encode(params)
		if err != nil {
			t.Error(err)
		}
		received <- raw
		answer, _ := wire.Encode(&wire.DealResponse{Accepted: true, Message: "thanks"})
		_, _ = s.Write(answer)
	})
	message := composed(t, m, id)
	for range 3 {
		answer, err := m.Propose(t.Context(), contact, message)
		if diff := cmp.Diff(deals.Answer{Accepted: true, Text: "thanks"}, answer); err != nil || diff != "" {
			t.Fatalf("%v %s", err, diff)
		}
		if raw := <-received; !bytes.Equal(raw, message) {
			t.Fatalf("received %x, composed %x", raw, message)
		}
	}
	var params wire.DealParams
	if err := wire.Decode(bytes.NewReader(message), &params); err != nil {
		t.Fatal(err)
	}
	pull, err := wire.ParseHTTPTransfer(params.Transfer)
	if err != nil {
		t.Fatal(err)
	}
	want := wire.HTTPRequest{URL: from.URL, Headers: map[string]string{"Authorization": "Bearer token"}}
	if diff := cmp.Diff(want, pull); diff != "" {
		t.Error(diff)
	}
	if params.DealUUID != id || params.IsOffline || params.DealDataRoot != root || params.Transfer.Size != from.Size ||
		params.RemoveUnsealedCopy || params.SkipIPNIAnnounce {
		t.Errorf("%+v", params)
	}
	p := signed(t)
	if !bytes.Equal(dump(t, &params.ClientDealProposal), dump(t, &p)) {
		t.Error("the signed proposal has changed on its way")
	}
}

func TestAnswersAreTakenAsTheyAreMeant(t *testing.T) {
	for text, want := range map[string]deals.Answer{
		"deal proposal is identical to deal 7f2c… (proposed at …)":                                    {Accepted: true},
		"deal has the same uuid as deal 7f2c…":                                                        {Accepted: true},
		"server error: store deal: market deal with the same proposalCID bafy2… already exists":       {Accepted: true},
		"store deal success: updated 0 rows instead of 1":                                             {Accepted: true},
		"deal rejected due to backpressure. Please retry in some time.":                               {Retryable: true},
		"client has reached its hourly limit, please retry in some time":                              {Retryable: true},
		"server error: filter failed":                                                                 {Retryable: true},
		"internal server error: database is locked":                                                   {Retryable: true},
		"failed validation: deal start epoch 5 has already elapsed (current epoch: 6)":                {Retryable: true},
		"failed validation: client available funds in escrow 1 not enough to meet storage cost for 2": {Retryable: true},
		"failed validation: storage price per epoch less than asking price: 1 < 2":                    {Retryable: true},
		"client not allowed by provider":                                                              {},
		"online deals are not allowed on this provider":                                               {},
		"failed validation: piece size less than minimum required size: 128 < 256":                    {},
		"failed validation: proposal PieceCID had wrong prefix":                                       {},
		"Libp2p is disabled for the provider":                                                         {},
		"":                                                                                            {},
	} {
		m := client(t)
		contact := serve(t, wire.Handlers{Propose: func(context.Context, peer.ID, *wire.DealParams) (*wire.DealResponse, error) {
			return &wire.DealResponse{Message: text}, nil
		}})
		want.Text = text
		got, err := m.Propose(t.Context(), contact, composed(t, m, uuid.New()))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v %s", text, err, diff)
		}
	}
}

func goodAsk(t *testing.T) *wire.SignedStorageAsk {
	t.Helper()
	return &wire.SignedStorageAsk{
		Ask: &wire.StorageAsk{
			Price: big.NewInt(50_000_000), VerifiedPrice: big.NewInt(5_000_000), MinPieceSize: 256, MaxPieceSize: 32 << 30,
			Miner: provider.Address(), Timestamp: 100, Expiry: 1_000_000, SeqNo: 3,
		},
		Signature: &crypto.Signature{Type: crypto.SigTypeBLS, Data: []byte("signature")},
	}
}

func TestAskIsPassedOnWithWhatWasSigned(t *testing.T) {
	ask := goodAsk(t)
	var asked address.Address
	contact := serve(t, wire.Handlers{Ask: func(_ context.Context, _ peer.ID, req *wire.AskRequest) (*wire.AskResponse, error) {
		asked = req.Miner
		return &wire.AskResponse{Ask: ask}, nil
	}})
	got, err := client(t).Ask(t.Context(), contact)
	if err != nil {
		t.Fatal(err)
	}
	want := deals.Ask{
		Price: ask.Ask.Price, VerifiedPrice: ask.Ask.VerifiedPrice, MinPiece: 256, MaxPiece: 32 << 30, Expiry: 1_000_000,
		Signed: dump(t, ask.Ask), Signature: ask.Signature,
	}
	same := cmp.Comparer(func(a, b abi.TokenAmount) bool { return a.Equals(b) })
	if diff := cmp.Diff(want, got, same); diff != "" || asked != provider.Address() {
		t.Errorf("asked for %s %s", asked, diff)
	}
}

func TestAskThatIsNoneIsAnError(t *testing.T) {
	for name, spoil := range map[string]func(*wire.SignedStorageAsk) *wire.SignedStorageAsk{
		"no answer for this miner": func(*wire.SignedStorageAsk) *wire.SignedStorageAsk { return nil },
		"no ask":                   func(a *wire.SignedStorageAsk) *wire.SignedStorageAsk { a.Ask = nil; return a },
		"of another miner": func(a *wire.SignedStorageAsk) *wire.SignedStorageAsk {
			a.Ask.Miner = deals.ProviderID(1001).Address()
			return a
		},
		"price below zero": func(a *wire.SignedStorageAsk) *wire.SignedStorageAsk { a.Ask.Price = big.NewInt(-1); return a },
		"verified price below zero": func(a *wire.SignedStorageAsk) *wire.SignedStorageAsk {
			a.Ask.VerifiedPrice = big.NewInt(-1)
			return a
		},
		"sizes the wrong way round": func(a *wire.SignedStorageAsk) *wire.SignedStorageAsk { a.Ask.MinPieceSize = 64 << 30; return a },
	} {
		contact := serve(t, wire.Handlers{Ask: func(context.Context, peer.ID, *wire.AskRequest) (*wire.AskResponse, error) {
			return &wire.AskResponse{Ask: spoil(goodAsk(t))}, nil
		}})
		if got, err := client(t).Ask(t.Context(), contact); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestStatusIsAHintInBothStyles(t *testing.T) {
	id := uuid.New()
	proposal := signed(t).Proposal
	publish := cid.MustParse("bafy2bzaceagt253rqep634dfzukujirekgvzruyoh5c3koyuimb3exakyffqq")
	of := func(d wire.DealStatus, size, received uint64) *wire.DealStatusResponse {
		d.Proposal, d.SignedProposalCid = proposal, root
		return &wire.DealStatusResponse{DealUUID: id, DealStatus: &d, TransferSize: size, NBytesReceived: received}
	}
	for name, c := range map[string]struct {
		resp *wire.DealStatusResponse
		want deals.ProviderStatus
		fail bool
	}{
		"boost, accepted":       {of(wire.DealStatus{Status: "Accepted"}, 1000, 0), deals.ProviderStatus{Status: "Accepted"}, false},
		"boost, pulling":        {of(wire.DealStatus{Status: "Accepted"}, 1000, 10), deals.ProviderStatus{Status: "Accepted", Transferring: true}, false},
		"boost, all pulled":     {of(wire.DealStatus{Status: "Accepted"}, 1000, 1000), deals.ProviderStatus{Status: "Accepted", Transferring: true, Transferred: true}, false},
		"boost, transferred":    {of(wire.DealStatus{Status: "Transferred"}, 1000, 0), deals.ProviderStatus{Status: "Transferred", Transferring: true, Transferred: true}, false},
		"boost, published":      {of(wire.DealStatus{Status: "PublishConfirmed", PublishCid: &publish, ChainDealID: 77}, 1000, 1000), deals.ProviderStatus{Status: "PublishConfirmed", Transferring: true, Transferred: true, PublishCID: publish, DealID: 77}, false},
		"boost, gave up":        {of(wire.DealStatus{Status: "Accepted", Error: "commp mismatch"}, 1000, 1000), deals.ProviderStatus{Status: "Accepted", Error: "commp mismatch", Transferring: true, Transferred: true}, false},
		"boost, unknown":        {&wire.DealStatusResponse{DealUUID: id, Error: "no storage deal found with deal UUID " + id.String()}, deals.ProviderStatus{Unknown: true}, false},
		"curio, processing":     {of(wire.DealStatus{Status: "Processing", SealingStatus: "Not assigned to sector"}, 1, 1), deals.ProviderStatus{Status: "Processing"}, false},
		"curio, sealed":         {of(wire.DealStatus{Status: "Sealed and Indexed", PublishCid: &publish, ChainDealID: 77}, 1, 1), deals.ProviderStatus{Status: "Sealed and Indexed", Transferring: true, Transferred: true, PublishCID: publish, DealID: 77}, false},
		"curio, unknown":        {&wire.DealStatusResponse{DealUUID: id, Error: "failed to get sealed deal status"}, deals.ProviderStatus{Unknown: true}, false},
		"words nobody knows":    {of(wire.DealStatus{Status: "Quantum"}, 0, 0), deals.ProviderStatus{Status: "Quantum"}, false},
		"control characters":    {of(wire.DealStatus{Status: "a\x1b[2J\x00b\xff"}, 0, 0), deals.ProviderStatus{Status: "a[2Jb�"}, false},
		"not now":               {&wire.DealStatusResponse{DealUUID: id, Error: "internal error"}, deals.ProviderStatus{}, true},
		"refused the signature": {&wire.DealStatusResponse{DealUUID: id, Error: "invalid signature"}, deals.ProviderStatus{}, true},
		"nothing":               {&wire.DealStatusResponse{DealUUID: id}, deals.ProviderStatus{}, true},
		"of another deal":       {&wire.DealStatusResponse{DealUUID: uuid.New(), DealStatus: of(wire.DealStatus{Status: "Sealed"}, 1, 1).DealStatus}, deals.ProviderStatus{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			var req *wire.DealStatusRequest
			contact := serve(t, wire.Handlers{Status: func(_ context.Context, _ peer.ID, r *wire.DealStatusRequest) (*wire.DealStatusResponse, error) {
				req = r
				return c.resp, nil
			}})
			signature := crypto.Signature{Type: crypto.SigTypeSecp256k1, Data: []byte("mine")}
			got, err := client(t).Status(t.Context(), contact, id, signature)
			if (err != nil) != c.fail || errors.Is(err, deals.ErrNotSent) {
				t.Fatal(err)
			}
			if got.Proposal != nil {
				if diff := cmp.Diff(proposal.PieceCID.String(), got.Proposal.PieceCID.String()); diff != "" {
					t.Error(diff)
				}
			} else if c.resp.DealStatus != nil && !c.fail {
				t.Error("the proposal is not passed on")
			}
			got.Proposal = nil
			if diff := cmp.Diff(c.want, got, cmp.Comparer(func(a, b cid.Cid) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
			if req.DealUUID != id || !req.Signature.Equals(&signature) {
				t.Errorf("asked with %+v", req)
			}
		})
	}
}

func TestWhatCannotHaveBeenSentSaysSo(t *testing.T) {
	accept := wire.Handlers{Propose: func(context.Context, peer.ID, *wire.DealParams) (*wire.DealResponse, error) {
		t.Error("a proposal arrived")
		return &wire.DealResponse{Accepted: true}, nil
	}}
	stranger, err := test.RandPeerID()
	if err != nil {
		t.Fatal(err)
	}
	gone, away := providerHost(t)
	gone.Close()
	m := client(t)
	message := composed(t, m, uuid.New())
	for name, c := range map[string]struct {
		contact func(deals.Contact) deals.Contact
		message []byte
		say     string
	}{
		"nobody there":     {func(deals.Contact) deals.Contact { return away }, message, ""},
		"another peer":     {func(c deals.Contact) deals.Contact { c.PeerID = stranger.String(); return c }, message, ""},
		"no peer id":       {func(c deals.Contact) deals.Contact { c.PeerID = ""; return c }, message, "no peer id"},
		"malformed id":     {func(c deals.Contact) deals.Contact { c.PeerID = "12D3nonsense"; return c }, message, "peer id"},
		"no address":       {func(c deals.Contact) deals.Contact { c.Addrs = nil; return c }, message, "no address"},
		"malformed":        {func(c deals.Contact) deals.Contact { c.Addrs = []string{"/ip4/nowhere"}; return c }, message, "nowhere"},
		"no message":       {func(c deals.Contact) deals.Contact { return c }, nil, "stored proposal"},
		"a broken message": {func(c deals.Contact) deals.Contact { return c }, message[:len(message)-1], "stored proposal"},
		"more than one":    {func(c deals.Contact) deals.Contact { return c }, append(bytes.Clone(message), 0), "composed here"},
	} {
		contact := serve(t, accept)
		_, err := m.Propose(t.Context(), c.contact(contact), c.message)
		if !errors.Is(err, deals.ErrNotSent) || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A peer that speaks none of the protocols.
	if _, err := m.Propose(t.Context(), serve(t, wire.Handlers{}), message); !errors.Is(err, deals.ErrNotSent) {
		t.Errorf("no protocol: %v", err)
	}
}

func TestLostAnswerIsNotCalledUnsent(t *testing.T) {
	m := client(t)
	message := composed(t, m, uuid.New())
	for name, answer := range map[string]func(network.Stream){
		"closed after reading": func(s network.Stream) { _ = wire.Decode(s, &wire.DealParams{}); s.Close() },
		"reset after reading":  func(s network.Stream) { _ = wire.Decode(s, &wire.DealParams{}); _ = s.Reset() },
		"reset unread":         func(s network.Stream) { _ = s.Reset() },
		"garbage":              func(s network.Stream) { _, _ = s.Write([]byte("HTTP/1.1 400 Bad Request\r\n")); s.Close() },
		"half an answer":       func(s network.Stream) { _, _ = s.Write([]byte{0xa2, 0x68}); s.Close() },
	} {
		h, contact := providerHost(t)
		h.SetStreamHandler(wire.ProposeProtocol, answer)
		answered, err := m.Propose(t.Context(), contact, message)
		if err == nil || errors.Is(err, deals.ErrNotSent) {
			t.Errorf("%s: %+v, %v", name, answered, err)
		}
	}
}

func TestCallEndsWithItsContext(t *testing.T) {
	m := client(t)
	asked := make(chan struct{})
	h, contact := providerHost(t)
	h.SetStreamHandler(wire.ProposeProtocol, func(network.Stream) { close(asked) })
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the caller's own reason")
	go func() { <-asked; cancel(why) }()
	if _, err := m.Propose(ctx, contact, composed(t, m, uuid.New())); !errors.Is(err, why) || errors.Is(err, deals.ErrNotSent) {
		t.Errorf("proposing: %v", err)
	}
	if _, err := m.Ask(ctx, contact); !errors.Is(err, why) {
		t.Errorf("asking: %v", err)
	}
}

func TestConnectionIsKeptDuringTheCallOnly(t *testing.T) {
	h := clientHost(t, mk12.Config{AllowPrivate: true})
	m := mk12.New(h, mk12.Config{AllowPrivate: true})
	var during bool
	var to peer.ID
	contact := serve(t, wire.Handlers{Ask: func(context.Context, peer.ID, *wire.AskRequest) (*wire.AskResponse, error) {
		during = h.ConnManager().IsProtected(to, "")
		return &wire.AskResponse{Ask: goodAsk(t)}, nil
	}})
	to, err := peer.Decode(contact.PeerID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Ask(t.Context(), contact); err != nil {
		t.Fatal(err)
	}
	if !during || h.ConnManager().IsProtected(to, "") {
		t.Errorf("protected during the call: %v, after it: %v", during, h.ConnManager().IsProtected(to, ""))
	}
	contact.Addrs = nil
	if _, err := m.Ask(t.Context(), contact); err == nil || h.ConnManager().IsProtected(to, "") {
		t.Errorf("%v; protected after a call that failed: %v", err, h.ConnManager().IsProtected(to, ""))
	}
}

func TestPrivateAddressesAreNotDialled(t *testing.T) {
	h, contact := providerHost(t)
	h.SetStreamHandler(wire.AskProtocol, func(s network.Stream) { t.Error("called"); s.Close() })
	_, port, _ := strings.Cut(contact.Addrs[0], "/tcp/")
	for name, addrs := range map[string][]string{
		"loopback":             contact.Addrs,
		"a name for loopback":  {"/dns4/localhost/tcp/" + port},
		"private and loopback": {"/ip4/10.1.2.3/tcp/4001", contact.Addrs[0], "/ip6/::1/tcp/" + port, "/ip4/0.0.0.0/tcp/" + port},
	} {
		m := mk12.New(clientHost(t, mk12.Config{}), mk12.Config{Dial: 5 * time.Second})
		contact.Addrs = addrs
		if _, err := m.Ask(t.Context(), contact); !errors.Is(err, deals.ErrNotSent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What another host would dial, the market refuses.
	strict := mk12.New(clientHost(t, mk12.Config{AllowPrivate: true}), mk12.Config{})
	contact.Addrs = []string{"/ip4/127.0.0.1/tcp/" + port}
	if _, err := strict.Ask(t.Context(), contact); !errors.Is(err, deals.ErrNotSent) || !strings.Contains(err.Error(), "not public") {
		t.Errorf("on another host: %v", err)
	}
	// What a market lets pass, the host refuses.
	m := mk12.New(clientHost(t, mk12.Config{}), mk12.Config{AllowPrivate: true, Dial: 5 * time.Second})
	contact.Addrs = []string{"/ip4/127.0.0.1/tcp/" + port}
	if _, err := m.Ask(t.Context(), contact); !errors.Is(err, deals.ErrNotSent) {
		t.Errorf("past the market: %v", err)
	}
}

func TestTransferWithoutBytesIsNotComposed(t *testing.T) {
	m := client(t)
	for _, bad := range []deals.Transfer{{}, {URL: from.URL}, {Size: 7}} {
		if _, err := m.Compose(uuid.New(), signed(t), root, bad); err == nil {
			t.Errorf("%+v is composed", bad)
		}
	}
	long := from
	long.URL += strings.Repeat("x", wire.MaxMessage)
	if _, err := m.Compose(uuid.New(), signed(t), root, long); err == nil {
		t.Error("a message too long to be sent is composed")
	}
}
