package wire_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/filecoin-project/go-address"
	cborutil "github.com/filecoin-project/go-cbor-util"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-shipyard/boostly"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"github.com/ipld/go-ipld-prime"
	"github.com/ipld/go-ipld-prime/codec/dagcbor"
	"github.com/multiformats/go-multiaddr"

	"github.com/frostpin/frostpin/deals/mk12/wire"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var equal = cmp.Options{
	cmp.Comparer(func(a, b address.Address) bool { return a == b }),
	cmp.Comparer(func(a, b cid.Cid) bool { return a.Equals(b) }),
	cmp.Comparer(func(a, b abi.TokenAmount) bool { return a.Equals(b) }),
	cmp.Comparer(func(a, b market.DealLabel) bool { return a.Equals(b) }),
	cmpopts.EquateEmpty(),
}

// must is for values that are written down in this file.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func sampleCID(s string) cid.Cid { return must(cid.Decode(s)) }

func sampleParams() *wire.DealParams {
	return &wire.DealParams{
		DealUUID: uuid.MustParse("7c0a2d0e-6f2b-4b62-8f0a-1d6f2f6c5a01"),
		ClientDealProposal: market.ClientDealProposal{
			Proposal: market.DealProposal{
				PieceCID:             sampleCID("baga6ea4seaqao7s73y24kcutaosvacpdjgfe5pw76ooefnyqw4ynr3d2y6x2mpq"),
				PieceSize:            1 << 20,
				Client:               must(address.NewSecp256k1Address([]byte("a client's public key"))),
				Provider:             must(address.NewIDAddress(1000)),
				Label:                must(market.NewLabelFromString("bafkqaaa")),
				StartEpoch:           10_000,
				EndEpoch:             1_565_200,
				StoragePricePerEpoch: abi.NewTokenAmount(48_829),
				ProviderCollateral:   abi.NewTokenAmount(1_200_000_000_000),
				ClientCollateral:     abi.NewTokenAmount(0),
			},
			ClientSignature: crypto.Signature{Type: crypto.SigTypeSecp256k1, Data: bytes.Repeat([]byte{7}, 65)},
		},
		DealDataRoot: sampleCID("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"),
		Transfer: must(wire.NewHTTPTransfer("1", wire.HTTPRequest{
			URL:     "https://pins.example/piece/baga6ea4seaqao7s73y24kcutaosvacpdjgfe5pw76ooefnyqw4ynr3d2y6x2mpq",
			Headers: map[string]string{"Authorization": "Bearer token"},
		}, 1_000_000)),
		SkipIPNIAnnounce: true,
	}
}

func sampleStatus() *wire.DealStatusResponse {
	publish := sampleCID("bafy2bzacea3wsdh6y3a36tb3skempjoxqpuyompjbmfeyf34fi3uy6uue42v4")
	return &wire.DealStatusResponse{
		DealUUID: uuid.MustParse("7c0a2d0e-6f2b-4b62-8f0a-1d6f2f6c5a01"),
		DealStatus: &wire.DealStatus{
			Status: "Published", SealingStatus: "Sealer: PreCommit1",
			Proposal: sampleParams().ClientDealProposal.Proposal, SignedProposalCid: sampleCID("bafkqaaa"),
			PublishCid: &publish, ChainDealID: 4711,
		},
		TransferSize: 1_000_000, NBytesReceived: 1_000_000,
	}
}

func sampleAsk() *wire.StorageAsk {
	return &wire.StorageAsk{
		Price: abi.NewTokenAmount(50_000_000), VerifiedPrice: abi.NewTokenAmount(5_000_000),
		MinPieceSize: 16 << 30, MaxPieceSize: 32 << 30,
		Miner: must(address.NewIDAddress(1000)), Timestamp: 120, Expiry: 1_000_120, SeqNo: 3,
	}
}

func sampleTransports() *wire.QueryResponse {
	return &wire.QueryResponse{Protocols: []wire.Protocol{
		{Name: "libp2p", Addresses: [][]byte{multiaddr.StringCast("/ip4/192.0.2.1/tcp/24001").Bytes()}},
		{Name: "http", Addresses: [][]byte{
			multiaddr.StringCast("/dns4/sp.example/tcp/443/https").Bytes(), {1, 2, 3},
		}},
	}}
}

// A sample is one message, what it decodes into, and the keys that its encoding must have.
type sample struct {
	name  string
	msg   any
	empty func() any
	keys  []string // in the order of the encoding: shorter first, then by bytes
}

func samples() []sample {
	status := sampleStatus()
	return []sample{
		{
			"deal_params", sampleParams(), func() any { return new(wire.DealParams) },
			[]string{"DealUUID", "Transfer", "IsOffline", "DealDataRoot", "SkipIPNIAnnounce", "ClientDealProposal", "RemoveUnsealedCopy"},
		},
		{
			"deal_response", &wire.DealResponse{Message: "deal rejected due to backpressure. Please retry in some time."},
			func() any { return new(wire.DealResponse) },
			[]string{"Message", "Accepted"},
		},
		{
			"status_request",
			&wire.DealStatusRequest{DealUUID: status.DealUUID, Signature: sampleParams().ClientDealProposal.ClientSignature},
			func() any { return new(wire.DealStatusRequest) },
			[]string{"DealUUID", "Signature"},
		},
		{
			"status_response", status, func() any { return new(wire.DealStatusResponse) },
			[]string{"Error", "DealUUID", "IsOffline", "DealStatus", "TransferSize", "NBytesReceived"},
		},
		{
			"status_response_unknown",
			&wire.DealStatusResponse{DealUUID: status.DealUUID, Error: "failed to get sealed deal status"},
			func() any { return new(wire.DealStatusResponse) },
			[]string{"Error", "DealUUID", "IsOffline", "DealStatus", "TransferSize", "NBytesReceived"},
		},
		{
			"ask_request", &wire.AskRequest{Miner: sampleAsk().Miner}, func() any { return new(wire.AskRequest) },
			[]string{"Miner"},
		},
		{
			"ask_response",
			&wire.AskResponse{Ask: &wire.SignedStorageAsk{
				Ask: sampleAsk(), Signature: &sampleParams().ClientDealProposal.ClientSignature,
			}},
			func() any { return new(wire.AskResponse) },
			[]string{"Ask"},
		},
		{"ask_response_none", &wire.AskResponse{}, func() any { return new(wire.AskResponse) }, []string{"Ask"}},
		{
			"storage_ask", sampleAsk(), func() any { return new(wire.StorageAsk) },
			[]string{"Miner", "Price", "SeqNo", "Expiry", "Timestamp", "MaxPieceSize", "MinPieceSize", "VerifiedPrice"},
		},
		{
			"transports", sampleTransports(), func() any { return new(wire.QueryResponse) },
			[]string{"Protocols"},
		},
	}
}

func golden(t *testing.T, name string, got []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *update {
		var text strings.Builder
		for line := range slices.Chunk(got, 60) {
			text.WriteString(hex.EncodeToString(line) + "\n")
		}
		if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return want
}

func TestEncodingsAreTheGoldenVectors(t *testing.T) {
	for _, s := range samples() {
		t.Run(s.name, func(t *testing.T) {
			got := must(wire.Encode(s.msg))
			want := golden(t, s.name, got)
			if !bytes.Equal(got, want) {
				t.Fatalf("encoded\n%x\nwant\n%x", got, want)
			}
			back := s.empty()
			if err := wire.Decode(bytes.NewReader(want), back); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(s.msg, back, equal); diff != "" {
				t.Errorf("decoded (-sent +got):\n%s", diff)
			}
		})
	}
}

// The vectors are read by a decoder that shares nothing with the generated code.
func TestMessagesAreMapsWithGoFieldNames(t *testing.T) {
	for _, s := range samples() {
		t.Run(s.name, func(t *testing.T) {
			node, err := ipld.Decode(golden(t, s.name, must(wire.Encode(s.msg))), dagcbor.Decode)
			if err != nil {
				t.Fatal(err)
			}
			var keys []string
			for it := node.MapIterator(); !it.Done(); {
				key, _, err := it.Next()
				if err != nil {
					t.Fatal(err)
				}
				keys = append(keys, must(key.AsString()))
			}
			if diff := cmp.Diff(s.keys, keys); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
		})
	}
}

// Boost's and Curio's proposals, and every Filecoin signature over them, are made with these encoders.
func TestSignedBytesAreThoseOfTheField(t *testing.T) {
	proposal := sampleParams().ClientDealProposal.Proposal
	want := must(cborutil.Dump(&proposal))
	if got := must(wire.ProposalBytes(&proposal)); !bytes.Equal(got, want) {
		t.Errorf("proposal: %x, want %x", got, want)
	}
	want = must(cborutil.Dump(sampleAsk()))
	if got := must(wire.AskBytes(sampleAsk())); !bytes.Equal(got, want) {
		t.Errorf("ask: %x, want %x", got, want)
	}
	id := sampleParams().DealUUID
	if got := wire.StatusBytes(id); !bytes.Equal(got, must(id.MarshalBinary())) {
		t.Errorf("status: %x", got)
	}
}

// boostly's ask is ours without the last three fields: each side ignores or misses what the other does not know.
func TestAskIsReadByBoostlyAndBack(t *testing.T) {
	ask := sampleAsk()
	var theirs boostly.StorageAsk
	if err := cborutil.ReadCborRPC(bytes.NewReader(must(wire.Encode(ask))), &theirs); err != nil {
		t.Fatal(err)
	}
	want := boostly.StorageAsk{
		Price: ask.Price, VerifiedPrice: ask.VerifiedPrice,
		MinPieceSize: ask.MinPieceSize, MaxPieceSize: ask.MaxPieceSize, Miner: ask.Miner,
	}
	if diff := cmp.Diff(want, theirs, equal); diff != "" {
		t.Errorf("boostly read (-want +got):\n%s", diff)
	}
	var ours wire.StorageAsk
	if err := wire.Decode(bytes.NewReader(must(cborutil.Dump(&theirs))), &ours); err != nil {
		t.Fatal(err)
	}
	ask.Timestamp, ask.Expiry, ask.SeqNo = 0, 0, 0
	if diff := cmp.Diff(*ask, ours, equal); diff != "" {
		t.Errorf("we read (-want +got):\n%s", diff)
	}
}

func TestMalformedAddressesAreLeftOut(t *testing.T) {
	got := sampleTransports().Addresses("http")
	if len(got) != 1 || got[0].String() != "/dns4/sp.example/tcp/443/https" {
		t.Errorf("addresses are %v", got)
	}
	if got := sampleTransports().Addresses("bitswap"); got != nil {
		t.Errorf("addresses are %v", got)
	}
}

func TestTransferKeepsItsRequest(t *testing.T) {
	transfer := sampleParams().Transfer
	if want := `{"URL":"https://pins.example/piece/baga6ea4seaqao7s73y24kcutaosvacpdjgfe5pw76ooefnyqw4ynr3d2y6x2mpq","Headers":{"Authorization":"Bearer token"}}`; string(transfer.Params) != want {
		t.Errorf("params are %s", transfer.Params)
	}
	req, err := wire.ParseHTTPTransfer(transfer)
	if err != nil {
		t.Fatal(err)
	}
	if req.Headers["Authorization"] != "Bearer token" || !strings.HasPrefix(req.URL, "https://pins.example/piece/") {
		t.Errorf("request is %+v", req)
	}
	transfer.Type = "libp2p"
	if _, err := wire.ParseHTTPTransfer(transfer); err == nil {
		t.Error("a libp2p transfer was read as HTTP")
	}
}

func FuzzDecode(f *testing.F) {
	for i, s := range samples() {
		f.Add(uint8(i), must(wire.Encode(s.msg)))
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		all := samples()
		s := all[int(kind)%len(all)]
		msg := s.empty()
		if err := wire.Decode(bytes.NewReader(data), msg); err != nil {
			if strings.Contains(err.Error(), "panic") {
				t.Fatalf("the decoder panicked: %v", err)
			}
			return
		}
		// What was accepted need not be encodable (a message may lack what the encoder wants), but must not panic.
		_, _ = wire.Encode(msg)
	})
}
