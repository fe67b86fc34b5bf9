package server_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/server"
)

// An operation is one of the two documents.
type operation struct{ id, method, target string }

// operations returns all of both, with ids of nothing in their paths.
func operations(t *testing.T) (all []operation) {
	t.Helper()
	for base, doc := range map[string]contract{"/psa": loadContract(t), "/api/v1": loadOwnContract(t)} {
		for path, item := range doc.doc.Paths.Map() {
			for method, op := range item.Operations() {
				target := strings.NewReplacer("{", "", "}", "").Replace(base + path)
				all = append(all, operation{op.OperationID, method, target})
			}
		}
	}
	return all
}

func TestEveryRouteHasADecisionWhoMayUseIt(t *testing.T) {
	var documented []string
	for _, op := range operations(t) {
		documented = append(documented, op.id)
	}
	slices.Sort(documented)
	decided := slices.Sorted(maps.Keys(server.Needs()))
	if diff := cmp.Diff(documented, decided); diff != "" {
		t.Errorf("operations without a decision, and decisions without an operation (-documents +decisions):\n%s", diff)
	}
	for id, scopes := range server.Needs() {
		if scopes == 0 && id != "signUp" && id != "receivePayment" {
			t.Errorf("%s asks for no scope", id)
		}
	}
	// What is in no document is open, and that is decided here.
	open := map[string]bool{"/": true, "/healthz": true, "/readyz": true, "/metrics": true, "/docs": true, "/docs/:file": true}
	for _, r := range newFixture(t).Routes() {
		inDocuments := strings.HasPrefix(r.Path, "/psa/pins") || strings.HasPrefix(r.Path, "/psa/policy/:policy/pins") || strings.HasPrefix(r.Path, "/api/v1/")
		if !inDocuments && !open[r.Path] {
			t.Errorf("nobody has decided who may use %s %s", r.Method, r.Path)
		}
	}
}

func TestTokenOpensWhatItsScopesName(t *testing.T) {
	for _, op := range operations(t) {
		need := server.Needs()[op.id]
		if need == 0 {
			continue // open to everyone
		}
		tried := []auth.Scopes{need}
		for _, name := range auth.AllScopes.Names() {
			scope, err := auth.ParseScopes([]string{name})
			if err != nil {
				t.Fatal(err)
			}
			tried = append(tried, scope, auth.AllScopes&^scope)
		}
		for _, scopes := range tried {
			f := newFixture(t)
			f.tokens.caller.Scopes = scopes
			for _, target := range []string{op.target, strings.Replace(op.target, "/psa/", "/psa/policy/archive/", 1)} {
				w := f.call(alice, op.method, target)
				if scopes.Has(need) {
					if w.Code == http.StatusUnauthorized || w.Code == http.StatusForbidden {
						t.Errorf("%s with the scopes %s: %d %s", op.id, scopes, w.Code, w.Body)
					}
					continue
				}
				for _, name := range need.Names() {
					wantFailure(t, w, http.StatusForbidden, "INSUFFICIENT_SCOPE", name)
				}
			}
		}
	}
}

func TestAPlanThatCannotBeReadIsSaidToItsAccounts(t *testing.T) {
	f := newFixture(t)
	f.tokens.err = fmt.Errorf("looking up a token: %w", auth.ErrUnreadable)
	for _, path := range []string{"/psa/pins", "/api/v1/account"} {
		wantFailure(t, f.do(alice, "GET", path, ""), http.StatusServiceUnavailable, "SERVICE_UNAVAILABLE", "the limits of this account's plan")
	}
}

// What a webhook is sent tells of the account's pins and of the account itself.
func TestWebhooksTellNothingThatTheirTokenMayNotRead(t *testing.T) {
	f := newFixture(t)
	for _, scopes := range []auth.Scopes{auth.AccountUse, auth.PinsRead, auth.OwnScopes &^ auth.PinsRead, auth.OwnScopes &^ auth.AccountUse} {
		f.tokens.caller.Scopes = scopes
		for _, path := range []string{"/api/v1/webhooks", "/api/v1/webhooks/x/replay"} {
			w := f.do(alice, "POST", path, `{"url":"https://example.org/"}`)
			wantFailure(t, w, http.StatusForbidden, "INSUFFICIENT_SCOPE", "pins:read and account")
		}
	}
}

// call sends a request that makes no sense but for its path.
func (f *fixture) call(token, method, target string) *httptest.ResponseRecorder {
	return f.do(token, method, target, "{")
}

func TestSuspendedAccountsReadAndRemoveOnly(t *testing.T) {
	f := newFixture(t)
	id := f.mustAdd(t, alice, `{"cid":"`+cidV0+`"}`)
	f.tokens.caller.State = auth.Suspended
	for _, op := range operations(t) {
		if server.Needs()[op.id] == 0 {
			continue
		}
		w := f.call(alice, op.method, strings.Replace(op.target, "requestid", id, 1))
		if op.method == http.MethodPost || op.id == "removeBlock" {
			wantFailure(t, w, http.StatusForbidden, "ACCOUNT_SUSPENDED", "suspended")
		} else if w.Code == http.StatusForbidden {
			t.Errorf("%s: %d %s", op.id, w.Code, w.Body)
		}
	}
	if len(f.pins.rows) != 0 {
		t.Errorf("the pin was not removed")
	}
}

func TestSuspendedAdministratorsReadNoOtherAccount(t *testing.T) {
	f := newFixture(t)
	id := f.mustAdd(t, bob, `{"cid":"`+cidV0+`"}`)
	f.tokens.caller.State, f.tokens.caller.Scopes = auth.Suspended, auth.Admin
	for _, op := range operations(t) {
		if server.Needs()[op.id] == 0 {
			continue
		}
		w := f.do(alice, op.method, strings.Replace(op.target, "requestid", id, 1), "{", "X-Frostpin-Account", "bob")
		wantFailure(t, w, http.StatusForbidden, "ACCOUNT_SUSPENDED", "suspended")
	}
	if len(f.tokens.read) != 0 || len(f.pins.rows) != 1 {
		t.Errorf("%v were read, and %d pins are left", f.tokens.read, len(f.pins.rows))
	}
}

func TestAdministratorsReadOtherAccountsAndChangeNothingThere(t *testing.T) {
	const header = "X-Frostpin-Account"
	f := newFixture(t)
	id := f.mustAdd(t, bob, `{"cid":"`+cidV0+`"}`)
	f.tokens.caller.Scopes = auth.Admin
	readable := []string{"getPinByRequestId", "getPinDeals", "getPinReceipt", "getPins"}
	for _, op := range operations(t) {
		if server.Needs()[op.id] == 0 {
			continue
		}
		target := strings.Replace(op.target, "requestid", id, 1)
		wantFailure(t, f.do(bob, op.method, target, "{", header, "alice"), http.StatusForbidden, "INSUFFICIENT_SCOPE", "admin")
		asked := len(f.tokens.read)
		w := f.do(alice, op.method, target, "{", header, "bob")
		if !slices.Contains(readable, op.id) {
			wantFailure(t, w, http.StatusBadRequest, "BAD_REQUEST", header)
			continue
		}
		if w.Code == http.StatusNotFound && !strings.Contains(w.Body.String(), "NO_DEAL_YET") || w.Code == http.StatusForbidden || w.Code == http.StatusBadRequest {
			t.Errorf("%s: %d %s", op.id, w.Code, w.Body)
		}
		if len(f.tokens.read) != asked+1 {
			t.Errorf("%s was not recorded", op.id)
		}
		wantFailure(t, f.do(alice, op.method, target, "", header, "nobody"), http.StatusNotFound, "NOT_FOUND", "account")
		wantFailure(t, f.do(alice, op.method, target, "", header, ""), http.StatusBadRequest, "BAD_REQUEST", header)
	}
	if len(f.pins.rows) != 1 {
		t.Errorf("%d pins, want the one of before", len(f.pins.rows))
	}
}
