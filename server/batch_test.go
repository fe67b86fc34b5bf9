package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/server/v1"
	"github.com/frostpin/frostpin/spec"
)

func TestEachPinOfABatchIsRecordedOrRefusedForItself(t *testing.T) {
	h := newHouse(t)
	token, _ := h.open("ann", auth.OwnScopes)
	list := `[{"cid":"` + cidV0 + `","name":"first"},{"cid":"nonsense"},{"cid":"` + cidV1 + `","meta":{"frostpin.hot":"lukewarm"}},
		7,{"cid":"` + cidV0 + `","name":"last"},{"name":"none"}]`
	got := ask[v1.BatchResults](h, 200, token, "POST", "/pins/batch", list).Results
	var codes []int32
	for _, r := range got {
		codes = append(codes, r.Code)
	}
	if fmt.Sprint(codes) != "[202 400 400 400 202 400]" {
		t.Fatalf("codes %v: %+v", codes, got)
	}
	if got[1].Pin != nil || *got[1].Reason != "BAD_REQUEST" || !strings.Contains(*got[1].Details, "cid") || !strings.Contains(*got[2].Details, "frostpin.hot") {
		t.Errorf("%+v %+v", got[1], got[2])
	}
	var statuses []spec.PinStatus
	for _, i := range []int{0, 4} {
		var p spec.PinStatus
		if err := json.Unmarshal(*got[i].Pin, &p); err != nil {
			t.Fatal(err)
		}
		statuses = append(statuses, p)
		if w := h.do(token, "GET", "/psa/pins/"+p.Requestid, ""); w.Code != http.StatusOK {
			t.Errorf("%s is not there: %d", p.Requestid, w.Code)
		}
	}
	if !statuses[0].Created.Before(statuses[1].Created.Time) || *statuses[0].Pin.Name != "first" || statuses[0].Requestid == statuses[1].Requestid {
		t.Errorf("%+v", statuses)
	}
	for _, bad := range []string{"", "{}", "[]", "null", `[{"cid":"` + cidV0 + `"}] x`, "[" + strings.Repeat(`1,`, 1000) + "1]", `"x"`} {
		wantFailure(t, h.do(token, "POST", "/api/v1/pins/batch", bad), 400, "BAD_REQUEST", "body")
	}
	wantFailure(t, h.do(token, "POST", "/api/v1/pins/batch", `["`+strings.Repeat("x", 4<<20)+`"]`), 413, "PAYLOAD_TOO_LARGE", "4 MiB")
}

func TestBatchCountsAsItsPins(t *testing.T) {
	h := newHouse(t)
	pins := func(n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(`{"cid":"`+cidV0+`"},`, n), ",") + "]"
	}
	err := h.accounts.SetPlan(t.Context(), auth.Operator(), "small", auth.Limits{
		Pins: 12, Rates: map[auth.Kind]auth.Rate{auth.KindWrite: {PerSecond: 1e-9, Burst: 10}},
	})
	if err != nil {
		t.Fatal(err)
	}
	account, err := h.accounts.CreateAccount(t.Context(), auth.Operator(), "ann", "small")
	if err != nil {
		t.Fatal(err)
	}
	token, _ := h.token(account.ID, auth.OwnScopes)
	wantFailure(t, h.do(token, "POST", "/api/v1/pins/batch", pins(11)), 403, "QUOTA_EXCEEDED", "10 at once")
	ask[v1.BatchResults](h, 200, token, "POST", "/pins/batch", pins(7)) // the refused one has taken one
	wantFailure(t, h.do(token, "POST", "/api/v1/pins/batch", pins(3)), 429, "RATE_LIMITED", "too many requests")

	if err := h.accounts.SetPlan(t.Context(), auth.Operator(), "small", auth.Limits{Pins: 12}); err != nil {
		t.Fatal(err)
	}
	<-time.After(600 * time.Millisecond) // tokens are believed for half a second
	wantFailure(t, h.do(token, "POST", "/api/v1/pins/batch", pins(6)), 403, "QUOTA_EXCEEDED", "allows 12")
	ask[v1.BatchResults](h, 200, token, "POST", "/pins/batch", pins(5))
}

func TestBatchIsPaidForTogether(t *testing.T) {
	k := newTill(t, map[string]string{"hot_gib_month": "1024"}) // a credit for the MiB that an unknown one is taken for
	ann := k.customer("ann")
	ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", `{"amount":"2","key":"first"}`)
	one := `{"cid":"` + cidV0 + `"}`
	got := ask[v1.BatchResults](k.house, 200, ann, "POST", "/pins/batch", "["+one+","+one+","+one+"]").Results
	if got[0].Code != 202 || got[1].Code != 202 || got[2].Code != 409 || *got[2].Reason != "INSUFFICIENT_FUNDS" {
		t.Errorf("%+v", got)
	}
}

func TestRepeatedBatchMakesNoSecondPin(t *testing.T) {
	h := newHouse(t)
	token, _ := h.open("ann", auth.OwnScopes)
	other, _ := h.open("bob", auth.OwnScopes)
	send := func(token, key, list string) *httptest.ResponseRecorder {
		return h.do(token, "POST", "/api/v1/pins/batch", list, "Idempotency-Key", key)
	}
	list := `[{"cid":"` + cidV0 + `","name":"first"},{"cid":"nonsense"},{"cid":"` + cidV0 + `","name":"last"}]`
	ids := func(w *httptest.ResponseRecorder) string {
		t.Helper()
		var got v1.BatchResults
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		var text []string
		for _, r := range got.Results {
			id := ""
			if r.Pin != nil {
				var p spec.PinStatus
				if err := json.Unmarshal(*r.Pin, &p); err != nil {
					t.Fatal(err)
				}
				id = p.Requestid
			}
			text = append(text, fmt.Sprint(r.Code, id))
		}
		return strings.Join(text, " ")
	}
	first := ids(send(token, "k", list))
	if again := ids(send(token, "k", list)); again != first {
		t.Errorf("%s, and repeated %s", first, again)
	}
	if theirs := ids(send(other, "k", list)); theirs == first {
		t.Error("another account gets the same pins")
	}
	wantFailure(t, send(token, "k", list+" "), 409, "CONFLICT", "another list")
	for _, bad := range []string{"", "\x01", strings.Repeat("k", 256)} {
		wantFailure(t, send(token, bad, list), 400, "BAD_REQUEST", "Idempotency-Key")
	}
	id, _, _ := strings.Cut(strings.TrimPrefix(first, "202"), " ")
	if w := h.do(token, "DELETE", "/psa/pins/"+id, ""); w.Code != http.StatusAccepted {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if again := ids(send(token, "k", list)); again != strings.Replace(first, "202"+id, "404", 1) {
		t.Errorf("with one removed: %s, was %s", again, first)
	}
}

func TestBatchThatFillsAnAccountCanBeRepeated(t *testing.T) {
	h := newHouse(t)
	if err := h.accounts.SetPlan(t.Context(), auth.Operator(), "small", auth.Limits{Pins: 2}); err != nil {
		t.Fatal(err)
	}
	account, err := h.accounts.CreateAccount(t.Context(), auth.Operator(), "ann", "small")
	if err != nil {
		t.Fatal(err)
	}
	token, _ := h.token(account.ID, auth.OwnScopes)
	list := `[{"cid":"` + cidV0 + `"},{"cid":"` + cidV0 + `"}]`
	for range 2 {
		if w := h.do(token, "POST", "/api/v1/pins/batch", list, "Idempotency-Key", "k"); w.Code != http.StatusOK {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	wantFailure(t, h.do(token, "POST", "/api/v1/pins/batch", list), 403, "QUOTA_EXCEEDED", "allows 2")
}
