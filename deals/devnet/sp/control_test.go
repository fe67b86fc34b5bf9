package sp_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/frostpin/frostpin/deals/devnet/sp"
)

func itoa(n int) string { return strconv.Itoa(n) }

func contextWithTimeout(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), d)
}

func (w *world) control(method, path, body string) reply {
	w.t.Helper()
	rec := httptest.NewRecorder()
	w.sp.ControlHandler().ServeHTTP(rec, httptest.NewRequest(method, path, strings.NewReader(body)))
	return reply{Response: rec.Result(), body: rec.Body.Bytes()}
}

func TestControlShowsAndChangesAProvider(t *testing.T) {
	w := newWorld(t, sp.Curio)
	d := newDAG(2, 1000)
	p := w.params(d, newSource(t, d).URL)
	w.mustAccept(p)
	w.stage(p, sp.Complete)

	var state sp.State
	if got := w.control(http.MethodGet, "/", ""); got.StatusCode != 200 || json.Unmarshal(got.body, &state) != nil {
		t.Fatalf("status %d: %s", got.StatusCode, got.body)
	}
	if state.Miner != "f01000" || state.PeerID != w.sp.AddrInfo().ID.String() || state.HTTP != w.sp.HTTPURL() || state.Region != "EU" || state.Style != sp.Curio {
		t.Errorf("state is %+v", state)
	}
	deal := state.Deals[0]
	if deal.UUID != p.DealUUID || deal.Stage != sp.Complete || deal.DealID == nil || *deal.DealID != 1 || deal.PieceCID != d.piece.String() || deal.Received != int64(len(d.car)) {
		t.Errorf("deal is %+v", deal)
	}

	if got := w.control(http.MethodPut, "/faults", `[{"kind":"reject","text":"no","first":1}]`); got.StatusCode != 200 {
		t.Errorf("status %d: %s", got.StatusCode, got.body)
	}
	if diff := cmp.Diff(sp.Faults{{Kind: sp.Reject, Text: "no", First: 1}}, w.sp.Faults()); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
	if got := w.control(http.MethodGet, "/faults", ""); string(got.body) != `[{"kind":"reject","first":1,"text":"no"}]`+"\n" {
		t.Errorf("faults are %s", got.body)
	}
	if got := w.control(http.MethodPut, "/ask", `{"price":"77"}`); got.StatusCode != 200 {
		t.Errorf("status %d: %s", got.StatusCode, got.body)
	}
	if ask := must(w.tryAsk(long)).Ask; ask.Price.String() != "77" || ask.MinPieceSize != 128 {
		t.Errorf("ask is %+v", ask)
	}
	var kinds []sp.Kind
	if got := w.control(http.MethodGet, "/kinds", ""); json.Unmarshal(got.body, &kinds) != nil || len(kinds) != len(sp.Kinds()) {
		t.Errorf("kinds are %s", got.body)
	}
	if got := w.control(http.MethodPost, "/faults", ""); got.StatusCode != 405 {
		t.Errorf("status %d", got.StatusCode)
	}
}
