package server_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/spec"
)

func TestQuotasOfThePlanAreAskedBeforeAPinIsMade(t *testing.T) {
	f, u := newUploadFixture(t)
	id := f.mustAdd(t, alice, `{"cid":"`+cidV0+`"}`)
	if len(f.pins.quotas) != 0 {
		t.Errorf("asked about an account without quotas: %v", f.pins.quotas)
	}
	f.tokens.caller.Limits = &auth.Limits{Pins: 5, PinsInFlight: 4, Bytes: 9, UploadBytes: 10, DAGBytes: 8, DAGBlocks: 7}
	quota := pins.Quota{Pins: 5, InFlight: 4, Bytes: 9, DAGBytes: 8, DAGBlocks: 7}
	f.mustAdd(t, alice, `{"cid":"`+cidV0+`"}`)
	f.do(alice, "POST", "/psa/pins/"+id, `{"cid":"`+cidRaw+`"}`)
	f.do(alice, "POST", "/api/v1/upload", "8 bytes.")
	replacing := quota
	replacing.InFlight = 0 // one that waits for its data goes, and one comes
	root := []pins.Sized{{Root: spec.Canonical(cid.MustParse(cidV0))}}
	other := []pins.Sized{{Root: cid.MustParse(cidRaw)}}
	uploaded := []pins.Sized{{Root: cid.MustParse(cidRaw), Extent: pins.Extent{Blocks: 1, Bytes: 8}}}
	want := []asked{
		{account: 1, quota: quota, more: 1},
		{account: 1, quota: quota, dags: root},
		{account: 1, quota: replacing},
		{account: 1, quota: replacing, dags: other, replaced: pins.ID(id)},
		{account: 1, quota: quota, more: 1}, // before it is read
		{account: 1, quota: quota, more: 1},
		{account: 1, quota: quota, dags: uploaded},
	}
	if diff := cmp.Diff(want, f.pins.quotas, cmp.AllowUnexported(asked{}), cmp.Comparer(cid.Cid.Equals)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantFailure(t, f.do(alice, "POST", "/api/v1/upload", "10 bytes.."), http.StatusForbidden, "QUOTA_EXCEEDED", "plan allows 9")

	f.pins.err = &pins.QuotaError{Problem: "this account has 5 pins, and its plan allows 5"}
	rows := len(f.pins.rows)
	for target, body := range map[string]string{"/psa/pins": `{"cid":"` + cidV0 + `"}`, "/psa/pins/" + id: `{"cid":"` + cidV0 + `"}`} {
		wantFailure(t, f.do(alice, "POST", target, body), http.StatusForbidden, "QUOTA_EXCEEDED", "its plan allows 5")
	}
	wantFailure(t, f.do(alice, "POST", "/api/v1/upload", "x"), http.StatusForbidden, "QUOTA_EXCEEDED", "its plan allows 5")
	if len(f.pins.rows) != rows || len(u.bodies) != 1 {
		t.Errorf("%d pins, %d uploads", len(f.pins.rows), len(u.bodies))
	}
}

func TestDAGsThatDoNotFitThePlanAreRefusedWherePinsAreAskedFor(t *testing.T) {
	f, u := newUploadFixture(t)
	f.tokens.caller.Limits = &auth.Limits{DAGBytes: 3}
	f.pins.large = map[cid.Cid]bool{spec.Canonical(cid.MustParse(cidV0)): true}
	small := f.mustAdd(t, alice, `{"cid":"`+cidRaw+`"}`)
	for _, target := range []string{"/psa/pins", "/psa/pins/" + small} {
		wantFailure(t, f.do(alice, "POST", target, `{"cid":"`+cidV0+`"}`), http.StatusForbidden, "QUOTA_EXCEEDED", "the 3 bytes")
	}
	w := f.do(alice, "POST", "/api/v1/pins/batch", `[{"cid":"`+cidV0+`"},{"cid":"`+cidRaw+`"}]`)
	if body := w.Body.String(); w.Code != http.StatusOK || !strings.Contains(body, `"code":403`) || !strings.Contains(body, `"code":202`) {
		t.Errorf("%d %s", w.Code, body)
	}
	f.pins.large[cid.MustParse(cidRaw)] = true
	wantFailure(t, f.do(alice, "POST", "/api/v1/upload", "x"), http.StatusForbidden, "QUOTA_EXCEEDED", "the 3 bytes")
	if len(f.pins.rows) != 2 || len(u.bodies) != 0 {
		t.Errorf("%d pins, %d uploads", len(f.pins.rows), len(u.bodies))
	}
}

func TestReplacementAsksOnlyForWhatItBrings(t *testing.T) {
	for what, c := range map[string]struct {
		old, cid string
		hot      pins.Hot
		terms    string // of the new one
		asked    bool
		inFlight int64
	}{
		"a held pin renamed":            {cidV0, cidV0, pins.HotHeld, "", false, 0},
		"spelled otherwise":             {cidV0, cidV1, pins.HotHeld, "", false, 0},
		"one in flight renamed":         {cidV0, cidV0, pins.HotFetching, "", false, 0},
		"a failed one":                  {cidV0, cidV0, pins.HotGaveUp, "", true, 1},
		"more copies of it":             {cidV0, cidV0, pins.HotHeld, `,"meta":{"frostpin.replicas":"2"}`, true, 1},
		"another DAG":                   {cidV0, cidRaw, pins.HotHeld, "", true, 1},
		"another DAG for one in flight": {cidV0, cidRaw, pins.HotQueued, "", true, 0},
	} {
		f := newFixture(t)
		f.tokens.caller.Limits = &auth.Limits{PinsInFlight: 1, Bytes: 1}
		id := f.mustAdd(t, alice, `{"cid":"`+c.old+`"}`)
		f.pins.rows[0].DAG.Hot = c.hot
		f.pins.quotas = nil
		if w := f.do(alice, "POST", "/psa/pins/"+id, `{"cid":"`+c.cid+`","name":"new"`+c.terms+`}`); w.Code != http.StatusAccepted {
			t.Errorf("%s: %d %s", what, w.Code, w.Body)
		}
		if asked := len(f.pins.quotas) > 0; asked != c.asked || asked && f.pins.quotas[0].quota.InFlight != c.inFlight {
			t.Errorf("%s: asked %+v", what, f.pins.quotas)
		}
	}
}

// stream sends an upload whose length is not told.
func (f *fixture) stream(token, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/api/v1/upload", io.MultiReader(strings.NewReader(body)))
	r.ContentLength = -1
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	return w
}

func TestUploadsAreAsLongAsThePlanAllows(t *testing.T) {
	f, u := newUploadFixture(t)
	f.tokens.caller.Limits = &auth.Limits{UploadBytes: 10}
	for body, status := range map[string]int{strings.Repeat("x", 10): 202, strings.Repeat("x", 11): 413} {
		if w := f.do(alice, "POST", "/api/v1/upload", body); w.Code != status {
			t.Errorf("%d bytes: %d %s", len(body), w.Code, w.Body)
		}
		// The same without a length.
		w := f.stream(alice, body)
		if w.Code != status {
			t.Errorf("%d bytes of no known length: %d %s", len(body), w.Code, w.Body)
		}
		if status == 413 {
			wantFailure(t, w, status, "PAYLOAD_TOO_LARGE", "at most 10 bytes")
		}
	}
	if len(u.bodies) != 2 {
		t.Errorf("%d uploads", len(u.bodies))
	}
}
