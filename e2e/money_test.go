package e2e_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A stranger signs up, is told to pay, pays, stores, reads back and sees what it cost: through the public surface alone,
// and the server killed in between.
func TestStrangerSignsUpPaysStoresAndReads(t *testing.T) {
	t.Parallel() // it waits for whole seconds
	const key = "the adapter has this key"
	s := startServer(t, "FROSTPIN_SIGNUP=invite", "FROSTPIN_GATEWAY_ACCESS=token", "FROSTPIN_PAYMENT_KEYS="+key, "FROSTPIN_CURRENCY=EUR")
	s.must("plan", "set", "public", "--price", "hot_gib_month=1024", "--price", "egress_hot_gib=1024", "--rate", "account=0") // a credit for a MiB
	code := strings.Fields(s.must("invite", "create"))[0]

	var account struct{ Text string }
	s.signUp("ann", code, &account)
	ann := newAPI(t, s.root+"/api/v1", account.Text)
	content := bytes.Repeat([]byte("paid "), 200_000) // 1,000,000 bytes: 0.954 credits for 30 days, and as much for each read
	if status, body := ann.raw(http.MethodPost, "/upload", content); status != http.StatusConflict || !strings.Contains(body, "INSUFFICIENT_FUNDS") {
		t.Fatalf("without money: %d %s", status, body)
	}
	event := `{"id":"evt_1","account":"ann","amount":"2.5","currency":"EUR"}`
	for range 2 {
		s.pay(key, event)
	}
	status, body := ann.raw(http.MethodPost, "/upload", content)
	var made struct{ Pins []pinStatus }
	if err := json.Unmarshal([]byte(body), &made); err != nil || status != http.StatusAccepted || made.Pins[0].Status != "pinned" {
		t.Fatalf("with money: %d %s", status, body)
	}
	reader := newAPI(t, s.root, account.Text)
	if status, got := reader.raw(http.MethodGet, "/ipfs/"+made.Pins[0].Pin.CID, nil); status != http.StatusOK || got != string(content) {
		t.Fatalf("reading: %d, %d bytes", status, len(got))
	}
	// What was sent is booked within ten seconds.
	within(t, patience, "the read is booked", func() (bool, any) {
		used := ann.usage()
		return used.qty("egress_bytes_hot") >= int64(len(content)), used
	})
	<-time.After(2100 * time.Millisecond) // whole seconds of storage go by
	s.as(account.Text).want(http.StatusAccepted, http.MethodDelete, "/pins/"+made.Pins[0].ID, nil, nil, nil)
	s.proc.kill()
	s.start() // and storage is booked
	var stored int64
	within(t, patience, "the storage is booked", func() (bool, any) {
		used := ann.usage()
		stored = used.qty("storage_byte_seconds")
		return stored > 0, used
	})
	if seconds := stored / int64(len(content)); seconds < 2 || seconds > 300 {
		t.Errorf("%d byte-seconds are booked", stored)
	}
	var ledger struct {
		Entries []struct{ Kind, Amount, Balance string }
	}
	ann.want(http.StatusOK, http.MethodGet, "/ledger", nil, nil, &ledger)
	kinds := map[string]int{}
	for _, e := range ledger.Entries {
		kinds[e.Kind]++
	}
	if kinds["credit"] != 1 || kinds["egress_bytes_hot"] == 0 || kinds["storage_byte_seconds"] != 1 {
		t.Errorf("the ledger has %+v", ledger.Entries)
	}
	if got := s.must("account", "statement", "ann"); !strings.Contains(got, "2.5") || !strings.Contains(got, "closing balance") {
		t.Errorf("the statement:\n%s", got)
	}
	if got := s.must("account", "credit", "ann", "1", "--key", "cash"); !strings.Contains(got, "1 booked") {
		t.Errorf("crediting: %s", got)
	}
}

func (s *server) signUp(name, code string, into any) {
	s.t.Helper()
	newAPI(s.t, s.root+"/api/v1", "").want(http.StatusCreated, http.MethodPost, "/signup", nil, map[string]string{"name": name, "code": code}, into)
}

// pay reports a payment as an adapter does.
func (s *server) pay(key, event string) {
	s.t.Helper()
	at := fmt.Sprint(time.Now().Unix())
	sum := hmac.New(sha256.New, []byte(key))
	fmt.Fprintf(sum, "%s.%s", at, event)
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.root+"/api/v1/payments", strings.NewReader(event))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Frostpin-Signature", "t="+at+",v1="+hex.EncodeToString(sum.Sum(nil)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(text), `"balance":"2.5"`) {
		s.t.Fatalf("reporting a payment: %d %s %v", resp.StatusCode, text, err)
	}
}

// raw sends bytes as they are, and returns them so.
func (a *api) raw(method, path string, content []byte) (code int, body string) {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), method, a.endpoint+path, bytes.NewReader(content))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	resp, err := a.http.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

type usage struct {
	Days []struct{ Kind, Qty string }
}

func (u usage) qty(kind string) (sum int64) {
	for _, d := range u.Days {
		var n int64
		if d.Kind == kind {
			_, _ = fmt.Sscan(d.Qty, &n)
			sum += n
		}
	}
	return sum
}

func (a *api) usage() (u usage) {
	a.t.Helper()
	a.want(http.StatusOK, http.MethodGet, "/usage", nil, nil, &u)
	return u
}
