package deals_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/deals"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestCanonicalJSONIsThatOfRFC8785(t *testing.T) {
	for in, want := range map[string]string{
		`{"b":1,"a":[true,false,null],"c":{}}`:                   `{"a":[true,false,null],"b":1,"c":{}}`,
		"{\"literals\":[null, true, false],  \"s\":\"\\u0041\"}": `{"literals":[null,true,false],"s":"A"}`,
		// Section 3.2.3: names are sorted by UTF-16 code units.
		`{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}`: "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}",
		// Section 3.2.2.2: the string of its example.
		`{"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/"}`: "{\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}",
		`["<&>\u2028\b\f\t"]`:                       "[\"<&>\u2028\\b\\f\\t\"]",
		`[9007199254740991,-9007199254740991,0,-0]`: `[9007199254740991,-9007199254740991,0,0]`,
	} {
		got, err := deals.CanonicalJSON(json.RawMessage(in))
		if err != nil || string(got) != want {
			t.Errorf("%s\n got %s, %v\nwant %s", in, got, err, want)
		}
	}
	for _, in := range []string{`9007199254740992`, `-9007199254740992`, `1.5`, `1e3`, `99999999999999999999`} {
		if got, err := deals.CanonicalJSON(json.RawMessage(in)); err == nil {
			t.Errorf("%s became %s", in, got)
		}
	}
}

func TestCanonicalJSONSaysTheSameAndIsStable(t *testing.T) {
	value := rapid.Custom(func(t *rapid.T) any {
		return rapid.OneOf(
			rapid.Map(rapid.String(), func(s string) any { return s }),
			rapid.Map(rapid.Int32(), func(n int32) any { return float64(n) }),
			rapid.Map(rapid.MapOf(rapid.String(), rapid.String()), func(m map[string]string) any {
				out := map[string]any{}
				for k, v := range m {
					out[k] = v
				}
				return out
			}),
		).Draw(t, "value")
	})
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(value, 1, 5).Draw(t, "list")
		once, err := deals.CanonicalJSON(list)
		if err != nil {
			t.Fatal(err)
		}
		var back []any
		if err := json.Unmarshal(once, &back); err != nil {
			t.Fatalf("%s: %v", once, err)
		}
		a, errA := json.Marshal(list)
		b, errB := json.Marshal(back)
		twice, err := deals.CanonicalJSON(back)
		if err := errors.Join(err, errA, errB); err != nil || !bytes.Equal(a, b) || !bytes.Equal(once, twice) {
			t.Fatalf("%s became %s, %v", a, b, err)
		}
	})
}

func TestTheKeyOfReceiptsIsMadeOnceAndKeptPrivate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "receipt.key")
	keys := make([]ed25519.PrivateKey, 8)
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() {
			var err error
			if keys[i], err = deals.OpenNotaryKey(path); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	again, err := deals.OpenNotaryKey(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if !k.Equal(again) {
			t.Fatal("two keys were made")
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if key := deals.NewNotary("x", again, time.Now).Key(); !strings.HasPrefix(key, "did:key:z6Mk") {
		t.Errorf("the public key is %s", key)
	}
	for _, content := range []string{"", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := deals.OpenNotaryKey(path); err == nil {
			t.Errorf("%q was read as a key", content)
		}
	}
	if _, err := deals.OpenNotaryKey(filepath.Join(dir, "no", "such", "directory")); err == nil {
		t.Error("a key was made in a directory that is not there")
	}
}

// receiptOf is a receipt for attempts with these states, one per provider.
func receiptOf(t *testing.T, states ...deals.State) (deals.Receipt, error) {
	t.Helper()
	d := draft(t)
	var attempts []deals.Attempt
	for i, state := range states {
		d.Provider = deals.ProviderID(1000 + i)
		proposal, err := deals.Draft(d)
		if err != nil {
			t.Fatal(err)
		}
		var signed bytes.Buffer
		err = (&market.ClientDealProposal{Proposal: proposal, ClientSignature: crypto.Signature{Type: crypto.SigTypeSecp256k1, Data: []byte{1}}}).MarshalCBOR(&signed)
		if err != nil {
			t.Fatal(err)
		}
		a := deals.Attempt{
			UUID: uuid.NewSHA1(uuid.Nil, []byte{byte(i)}), Provider: d.Provider, Protocol: "mk12", Piece: d.Piece, Signed: signed.Bytes(),
			ProposalCID: someRoot(t, "proposal"), State: state,
		}
		switch state {
		case deals.Planned:
			a.Signed = nil
		case deals.Active, deals.Expired, deals.Terminated:
			a.DealID, a.ActiveAt, a.Height, a.PublishCID = 7, noon, 99, someRoot(t, "publish")
		default:
		}
		attempts = append(attempts, a)
	}
	id, err := address.NewIDAddress(77)
	if err != nil {
		t.Fatal(err)
	}
	return deals.NewReceipt(d.Root, d.Piece, deals.Client{Key: d.Client, ID: id}, attempts)
}

func TestAReceiptIsOfWhatIsADealOrMayBecomeOne(t *testing.T) {
	r, err := receiptOf(t, deals.States()...)
	if err != nil {
		t.Fatal(err)
	}
	want := []deals.State{
		deals.Proposing, deals.Accepted, deals.Transferring, deals.Published, deals.Sealing, deals.Active, deals.Expired, deals.Terminated,
	}
	var got []deals.State
	for _, d := range r.Deals {
		got = append(got, d.State)
		chain := d.DealID == "7" && d.Sector == "0" && d.SeenAtHeight == 99 && d.PublishMessage != ""
		if !chain && (d.DealID != "" || d.Sector != "" || d.PublishMessage != "") || d.ClientID != "f077" && d.ClientID != "t077" {
			t.Errorf("%+v", d)
		}
	}
	if strings.Join(asText(got), " ") != strings.Join(asText(want), " ") {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, none := range [][]deals.State{nil, {deals.Planned, deals.Rejected}, {deals.Failed, deals.Missed, deals.Cancelled}} {
		if _, err := receiptOf(t, none...); !errors.Is(err, deals.ErrNoDeals) {
			t.Errorf("%v: got %v", none, err)
		}
	}
}

func asText(states []deals.State) []string {
	out := make([]string, len(states))
	for i, s := range states {
		out[i] = string(s)
	}
	return out
}

func TestASignedReceiptIsReadAsItWasIssued(t *testing.T) {
	r, err := receiptOf(t, deals.Active, deals.Sealing)
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	n := deals.NewNotary("https://pins.example/<&>", key, at(noon))
	if r, err = n.Sign(r); err != nil {
		t.Fatal(err)
	}
	content, err := r.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := deals.ReadReceipt(content)
	if err != nil || got.Key != n.Key() || got.IssuedAt != "2026-11-22T12:00:00Z" || got.Service != "https://pins.example/<&>" || got.Version != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
	golden := filepath.Join("testdata", "receipt.json")
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(golden, append(content, '\n'), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(append(content, '\n'), kept) {
		t.Errorf("receipts are no longer written as in %s: those who kept one could not have it checked\n%s", golden, content)
	}
	if _, err := deals.ReadReceipt(kept); err != nil {
		t.Error(err)
	}
	r.Version = 2
	if later, err := r.Bytes(); err != nil {
		t.Error(err)
	} else if _, err := deals.ReadReceipt(later); err == nil || !strings.Contains(err.Error(), "of version 2") {
		t.Errorf("got %v", err)
	}
}
