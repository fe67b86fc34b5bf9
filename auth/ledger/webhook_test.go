package ledger_test

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database"
)

var (
	oldKey = []byte("the key of last year")
	newKey = []byte("the key of this year")
)

func TestSignatureIsOfThisBodyTheseKeysAndThisTime(t *testing.T) {
	body := []byte(`{"id":"1"}`)
	good := ledger.Sign(newKey, body, moment)
	_, sum, _ := strings.Cut(good, "v1=")
	both := [][]byte{oldKey, newKey}
	for name, test := range map[string]struct {
		header string
		body   string
		keys   [][]byte
		at     time.Time
		ok     bool
	}{
		"good":          {good, string(body), both, moment, true},
		"other name":    {"v0=abc, " + good, string(body), both, moment, true},
		"two sums":      {good + ",v1=" + strings.Repeat("00", 32), string(body), both, moment, true},
		"five minutes":  {good, string(body), both, moment.Add(5 * time.Minute).Truncate(time.Second), true},
		"older":         {good, string(body), both, moment.Add(5*time.Minute + time.Second), false},
		"from tomorrow": {good, string(body), both, moment.Add(-5*time.Minute - time.Second), false},
		"other key":     {good, string(body), [][]byte{oldKey}, moment, false},
		"no key":        {good, string(body), nil, moment, false},
		"other body":    {good, `{"id":"2"}`, both, moment, false},
		"other time":    {fmt.Sprintf("t=%d,v1=%s", moment.Unix()+1, sum), string(body), both, moment, false},
		"two times":     {good + ",t=" + fmt.Sprint(moment.Unix()), string(body), both, moment, false},
		"half a sum":    {good[:len(good)-2], string(body), both, moment, false},
		"empty":         {"", string(body), both, moment, false},
		"short key":     {ledger.Sign([]byte("short"), body, moment), string(body), [][]byte{[]byte("short")}, moment, false},
		"empty key":     {ledger.Sign(nil, body, moment), string(body), [][]byte{{}}, moment, false},
	} {
		err := ledger.VerifySignature(test.header, []byte(test.body), test.keys, test.at)
		if (err == nil) != test.ok || (err != nil && !errors.Is(err, ledger.ErrSignature)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPaymentIsCreditedOncePerEvent(t *testing.T) {
	each(t, perByte, func(t *testing.T, s *ledger.Service, c *clock, _ *database.DB) {
		hook := ledger.Webhook{Ledger: s, Keys: [][]byte{newKey}, Currency: "EUR", Account: func(_ context.Context, name string) (int64, error) {
			if name != "alice" {
				return 0, ledger.ErrNotFound
			}
			return 1, nil
		}}
		send := func(body string) (bool, error) {
			_, fresh, err := hook.Receive(t.Context(), ledger.Sign(newKey, []byte(body), c.now()), []byte(body))
			return fresh, err
		}
		const paid = `{"id":"evt_1","account":"alice","amount":"12.50","currency":"EUR","more":[1]}`
		for i := range 3 {
			if fresh, err := send(paid); err != nil || fresh != (i == 0) {
				t.Errorf("time %d: %t, %v", i, fresh, err)
			}
			c.set(c.now().Add(time.Hour))
		}
		for body, want := range map[string]error{
			`{"id":"evt_1","account":"alice","amount":"13","currency":"EUR"}`: ledger.ErrKeyReused,
			`{"id":"e","account":"bob","amount":"1","currency":"EUR"}`:        ledger.ErrNotFound,
			`{"id":"e","account":"alice","amount":"1","currency":"USD"}`:      ledger.ErrInvalid,
			`{"id":"e","account":"alice","amount":"-1","currency":"EUR"}`:     ledger.ErrInvalid,
			`{"id":"e","account":"alice","amount":1,"currency":"EUR"}`:        ledger.ErrInvalid,
			`{"id":"e","account":"alice","amount":"1e3","currency":"EUR"}`:    ledger.ErrInvalid,
			`{"id":"","account":"alice","amount":"1","currency":"EUR"}`:       ledger.ErrInvalid,
			`[]`: ledger.ErrInvalid,
		} {
			if _, err := send(body); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", body, err, want)
			}
		}
		_, _, err := hook.Receive(t.Context(), ledger.Sign(oldKey, []byte(paid), c.now()), []byte(paid))
		if !errors.Is(err, ledger.ErrSignature) {
			t.Errorf("a stranger's event: %v", err)
		}
		if got := balance(t, s, 1).Balance; got != 12*ledger.Credit+ledger.Credit/2 {
			t.Errorf("balance %s", got)
		}
	})
}

func FuzzVerifySignature(f *testing.F) {
	body := []byte("body")
	f.Add(ledger.Sign(newKey, body, moment), body)
	f.Add("t=1,v1=", body)
	f.Add("t=-9223372036854775808,v1=00", body)
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		if ledger.VerifySignature(header, body, [][]byte{oldKey}, moment) == nil {
			t.Errorf("%q is a signature of a key that signed nothing", header)
		}
		signed := ledger.Sign(oldKey, body, moment)
		if err := ledger.VerifySignature(signed, body, [][]byte{newKey, oldKey}, moment); err != nil {
			t.Error(err)
		}
		if err := ledger.VerifySignature(signed, append(slices.Clone(body), '.'), [][]byte{oldKey}, moment); err == nil {
			t.Error("a longer body has the same signature")
		}
	})
}

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte(`{"id":"1","account":"a","amount":"1.5","currency":"EUR"}`))
	f.Add([]byte(`{"amount":"99999999999999999999"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, amount, err := ledger.ParseEvent(body)
		switch {
		case err != nil && !errors.Is(err, ledger.ErrInvalid):
			t.Errorf("%q: %v", body, err)
		case err == nil && (amount <= 0 || amount > ledger.MaxAmount || e.ID == ""):
			t.Errorf("%q: %+v is accepted", body, e)
		}
	})
}

func TestCSVHoldsNoFormulas(t *testing.T) {
	var out strings.Builder
	texts := []string{"=1+1", "+1", "-1", "@x", "\t=x", "\r=x", " =x", "＝x", "|x", "%x", "plain", "a=b", `say "x", y`, "two\nlines", ""}
	var list []ledger.Entry
	for i, text := range texts {
		list = append(list, ledger.Entry{ID: int64(i), Kind: ledger.Adjustment, Amount: -1, Balance: 5, Ref: text, Key: "k", At: moment})
	}
	if err := ledger.WriteEntries(&out, list, true); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(out.String())).ReadAll()
	if err != nil || len(rows) != len(texts)+1 || rows[0][10] != "ref" {
		t.Fatalf("%v, %v", rows, err)
	}
	for i, text := range texts {
		got, want := rows[i+1][10], text
		if i < 10 {
			want = "'" + text
		}
		if got != want {
			t.Errorf("%q is written %q", text, got)
		}
		if rows[i+1][7] != "-0.000000001" {
			t.Errorf("an amount of -1 is written %s", rows[i+1][7])
		}
	}
}

// The page's example is what an adapter is written from.
func TestDocumentedSignatureIsRight(t *testing.T) {
	page, err := os.ReadFile("../../docs/ledger.md")
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"id":"evt_1","account":"alice","amount":"12.50","currency":"EUR"}`)
	for _, text := range []string{string(body), ledger.Sign([]byte("0123456789abcdef0123456789abcdef"), body, time.Unix(1_795_867_200, 0))} {
		if !strings.Contains(string(page), text) {
			t.Errorf("the page lacks %s", text)
		}
	}
}
