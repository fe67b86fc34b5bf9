package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/server"
	"github.com/frostpin/frostpin/server/v1"
)

// publicRates are those that the public plan is shipped with.
func publicRates(t *testing.T) map[auth.Kind]auth.Rate {
	t.Helper()
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), auth.Migrations()...); err != nil {
		t.Fatal(err)
	}
	plan, err := auth.New(db, time.Now).Plan(t.Context(), auth.Public)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Limits.Rates) != len(auth.Kinds()) {
		t.Errorf("the public plan bounds %v only", plan.Limits.Rates)
	}
	return plan.Limits.Rates
}

// A house is a server with real accounts and pins on one database.
type house struct {
	fixture
	t        *testing.T
	db       *database.DB
	accounts *auth.Service
	books    *ledger.Service
	tier     *pinstest.Tier
	service  *pins.Service
	own, psa contract
	retries  int   // of what was not paid for
	refuses  error // what these answer
}

// A retried counts the retries of a house.
type retried struct {
	*pins.Service
	h *house
}

func (r retried) Retry(ctx context.Context, account pins.Account, reason string) error {
	r.h.retries++
	if r.h.refuses != nil {
		return r.h.refuses
	}
	return r.Service.Retry(ctx, account, reason)
}

func newHouse(t *testing.T, change ...func(*server.Config)) *house {
	t.Helper()
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), slices.Concat(auth.Migrations(), ledger.Migrations(), pins.Migrations())...); err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, db: db, accounts: auth.New(db, time.Now), own: loadOwnContract(t), psa: loadContract(t)}
	h.log = new(strings.Builder)
	log := slog.New(slog.NewJSONHandler(locked{new(sync.Mutex), h.log}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h.tier = pinstest.NewTier()
	h.service = pins.New(pins.Config{FindSlice: time.Second, Slots: 1, FindRoots: 1}, db, h.tier, discard(), time.Now)
	h.books = ledger.New(db, payers{h.accounts}, time.Now, discard())
	cfg := server.Config{SignUp: true, Ledger: h.books, Payments: ledger.Webhook{
		Ledger: h.books, Keys: [][]byte{[]byte(paymentKey)}, Currency: "EUR", Account: h.accountID,
	}}
	for _, fn := range change {
		fn(&cfg)
	}
	var err error
	if h.Server, err = server.New(cfg, retried{h.service, h}, h.accounts, log); err != nil {
		t.Fatal(err)
	}
	return h
}

// open makes an account and a token for it.
func (h *house) open(name string, scopes auth.Scopes) (token, id string) {
	h.t.Helper()
	account, err := h.accounts.CreateAccount(h.t.Context(), auth.Operator(), name, auth.Trusted)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.token(account.ID, scopes)
}

func (h *house) token(account int64, scopes auth.Scopes) (text, id string) {
	h.t.Helper()
	secret, token, err := h.accounts.CreateToken(h.t.Context(), auth.Operator(), auth.NewToken{Account: account, Scopes: scopes, Label: "device"})
	if err != nil {
		h.t.Fatal(err)
	}
	return secret.Reveal(), token.ID
}

// ask sends a request to our own API, validates the answer and reads it.
func ask[T any](h *house, status int, token, method, path, body string) (answer T) {
	h.t.Helper()
	w := h.do(token, method, "/api/v1"+path, body)
	if w.Code != status {
		h.t.Fatalf("%s %s: %d, want %d: %s", method, path, w.Code, status, w.Body)
	}
	h.own.check(h.t, method, h.template(method, path), w)
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			h.t.Fatal(err)
		}
	}
	return answer
}

type nothing struct{}

// template finds the path of the document that a path is one of.
func (h *house) template(method, path string) string {
	path, _, _ = strings.Cut(path, "?")
	segments := strings.Split(path, "/")
	for template, item := range h.own.doc.Paths.Map() {
		of := strings.Split(template, "/")
		same := len(of) == len(segments) && item.GetOperation(method) != nil
		for i := range of {
			same = same && (strings.HasPrefix(of[i], "{") || of[i] == segments[i])
		}
		if same {
			return template
		}
	}
	h.t.Fatalf("the document has no %s %s", method, path)
	return ""
}

func TestTokensOfAnAccountManageThemselves(t *testing.T) {
	h := newHouse(t)
	token, id := h.open("alice", auth.OwnScopes)
	expires := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	made := ask[v1.NewToken](h, 201, token, "POST", "/tokens", `{"label":"phone","scopes":["pins:read","account"],"expires":"`+expires+`"}`)
	if w := h.do(made.Text, "GET", "/psa/pins", ""); w.Code != http.StatusOK {
		t.Errorf("the new token: %d %s", w.Code, w.Body)
	}
	wantFailure(t, h.do(made.Text, "POST", "/psa/pins", `{"cid":"`+cidV0+`"}`), 403, "INSUFFICIENT_SCOPE", "pins:write")
	list := ask[v1.TokenList](h, 200, token, "GET", "/tokens", "")
	if len(list.Tokens) != 2 || list.Tokens[1].Id != made.Token.Id || list.Tokens[1].Label != "phone" || list.Tokens[1].Expires == nil {
		t.Errorf("%+v", list)
	}
	// No token gives away more than it has.
	wantFailure(t, h.do(made.Text, "POST", "/api/v1/tokens", `{"scopes":["pins:read","upload"]}`), 403, "INSUFFICIENT_SCOPE", "scopes")
	wantFailure(t, h.do(made.Text, "POST", "/api/v1/tokens/"+id+"/rotate", ""), 403, "INSUFFICIENT_SCOPE", "scopes")

	next := ask[v1.NewToken](h, 201, made.Text, "POST", "/tokens/"+made.Token.Id+"/rotate?grace=60", "")
	for _, text := range []string{made.Text, next.Text} {
		if w := h.do(text, "GET", "/psa/pins", ""); w.Code != http.StatusOK {
			t.Errorf("a rotated token within its time: %d", w.Code)
		}
	}
	ask[nothing](h, 204, token, "DELETE", "/tokens/"+next.Token.Id, "")
	wantFailure(t, h.do(next.Text, "GET", "/psa/pins", ""), 401, "UNAUTHORIZED", "access denied")
	// A second time it is as revoked as before.
	ask[nothing](h, 204, token, "DELETE", "/tokens/"+next.Token.Id, "")

	for body, details := range map[string]string{
		``: "body", `{}`: "scope", `{"scopes":[]}`: "scope", `{"scopes":["all"]}`: `"all" is no scope`, `{"scopes":["upload"],"x":1}`: "body",
		`{"scopes":["upload"],"label":"a\nb"}`: "label", `{"scopes":["upload"],"expires":"2001-01-01T00:00:00Z"}`: "expired already",
		`{"scopes":["upload"]} {}`: "after its object",
	} {
		wantFailure(t, h.do(token, "POST", "/api/v1/tokens", body), 400, "BAD_REQUEST", details)
	}
	wantFailure(t, h.do(token, "POST", "/api/v1/tokens", `{"scopes":["upload"],"policy":"nothing"}`), 404, "NOT_FOUND", "policy")
	wantFailure(t, h.do(token, "POST", "/api/v1/tokens/"+id+"/rotate?grace=2592001", ""), 400, "BAD_REQUEST", "grace")
}

func TestAccountShowsItsPlanAndWhatItUses(t *testing.T) {
	h := newHouse(t)
	token, _ := h.open("alice", auth.OwnScopes)
	for range 3 {
		h.mustAdd(t, token, `{"cid":"`+cidV0+`"}`)
	}
	if err := h.accounts.SetPlan(t.Context(), auth.Operator(), "small", auth.Limits{
		Pins: 7, Rates: map[auth.Kind]auth.Rate{auth.KindList: {PerSecond: 1.5, Burst: 3}},
	}); err != nil {
		t.Fatal(err)
	}
	if err := h.accounts.SetAccountPlan(t.Context(), auth.Operator(), "alice", "small"); err != nil {
		t.Fatal(err)
	}
	got := ask[v1.Account](h, 200, token, "GET", "/account", "")
	if got.Name != "alice" || got.Plan != "small" || got.State != "active" || got.Usage.Pins.Queued != 3 || got.Usage.Pins.Pinned != 0 {
		t.Errorf("%+v", got)
	}
	if l := got.Limits; l.Pins == nil || *l.Pins != 7 || l.Bytes != nil || (*l.Rates)["list"].PerSecond != 1.5 {
		t.Errorf("%+v", l)
	}
}

func TestSignUpToFirstPinOverHTTPAlone(t *testing.T) {
	h := newHouse(t)
	code, _, err := h.accounts.CreateInvite(t.Context(), auth.Operator(), auth.Invite{Plan: auth.Public, Left: 1})
	if err != nil {
		t.Fatal(err)
	}
	sign := func(status int, name, code string) v1.Registration {
		return ask[v1.Registration](h, status, "", "POST", "/signup", fmt.Sprintf(`{"name":%q,"code":%q}`, name, code))
	}
	made := sign(201, "ann", code.Reveal())
	if made.Account.Plan != auth.Public || made.Account.Name != "ann" {
		t.Errorf("%+v", made.Account)
	}
	h.mustAdd(t, made.Text, `{"cid":"`+cidV0+`"}`)
	if got := ask[v1.Account](h, 200, made.Text, "GET", "/account", ""); got.Usage.Pins.Queued != 1 || got.Limits.Rates == nil {
		t.Errorf("%+v", got)
	}
	// The code is used up; a name that exists and one that does not are refused alike.
	for _, name := range []string{"ann", "bob"} {
		w := h.do("", "POST", "/api/v1/signup", fmt.Sprintf(`{"name":%q,"code":%q}`, name, code.Reveal()))
		wantFailure(t, w, 403, "FORBIDDEN", "the invite code is not valid")
	}
	// Nobody tries codes without end.
	refused := 0
	for range 12 {
		if w := h.do("", "POST", "/api/v1/signup", `{"name":"bob","code":"x"}`); w.Code == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused < 4 || refused > 6 {
		t.Errorf("%d of 15 tries were refused, of which ten are free", refused)
	}
}

func TestSignUpIsOffUnlessTheOperatorSwitchesItOn(t *testing.T) {
	h := newHouse(t, func(cfg *server.Config) { cfg.SignUp = false })
	code, _, err := h.accounts.CreateInvite(t.Context(), auth.Operator(), auth.Invite{Plan: auth.Public, Left: 1})
	if err != nil {
		t.Fatal(err)
	}
	wantFailure(t, h.do("", "POST", "/api/v1/signup", `{"name":"bob","code":"`+code.Reveal()+`"}`), 404, "NOT_FOUND", "takes no sign-ups")
}

func TestAdminSeesAndChangesAllAccounts(t *testing.T) {
	h := newHouse(t)
	admin, _ := h.open("root", auth.AllScopes)
	made := ask[v1.Registration](h, 201, admin, "POST", "/admin/accounts", `{"name":"Alice"}`)
	if made.Account.Plan != auth.Trusted {
		t.Errorf("%+v", made)
	}
	ask[v1.Registration](h, 201, admin, "POST", "/admin/accounts", `{"name":"alan_1","plan":"public"}`)
	h.mustAdd(t, made.Text, `{"cid":"`+cidV0+`"}`)

	names := func(query string) (names []string) {
		list := ask[v1.AccountList](h, 200, admin, "GET", "/admin/accounts"+query, "")
		for _, a := range list.Accounts {
			names = append(names, a.Name)
		}
		if list.Next != nil {
			names = append(names, fmt.Sprint(*list.Next))
		}
		return names
	}
	for query, want := range map[string]string{
		"": "root Alice alan_1", "?search=AL": "Alice alan_1", "?search=_": "alan_1", "?search=%25": "", "?limit=2": "root Alice 2",
		"?limit=2&after=2": "alan_1", "?limit=3": "root Alice alan_1",
	} {
		if got := strings.Join(names(query), " "); got != want {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
	if got := ask[v1.Account](h, 200, admin, "GET", "/admin/accounts/Alice", ""); got.Usage.Pins.Queued != 1 {
		t.Errorf("%+v", got)
	}
	ask[nothing](h, 204, admin, "POST", "/admin/accounts/Alice/plan", `{"plan":"public"}`)
	ask[nothing](h, 204, admin, "POST", "/admin/accounts/Alice/suspend", "")
	wantFailure(t, h.do(made.Text, "POST", "/psa/pins", `{"cid":"`+cidV0+`"}`), 403, "ACCOUNT_SUSPENDED", "suspended")
	if w := h.do(made.Text, "GET", "/psa/pins", ""); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	ask[nothing](h, 204, admin, "POST", "/admin/accounts/Alice/resume", "")
	h.mustAdd(t, made.Text, `{"cid":"`+cidV0+`"}`)
	ask[nothing](h, 204, admin, "POST", "/admin/accounts/Alice/close", "")
	wantFailure(t, h.do(made.Text, "GET", "/psa/pins", ""), 401, "UNAUTHORIZED", "access denied")
	got := ask[v1.Account](h, 200, admin, "GET", "/admin/accounts/Alice", "")
	if got.State != "closed" || got.Plan != auth.Public {
		t.Errorf("%+v", got)
	}

	wantFailure(t, h.do(admin, "POST", "/api/v1/admin/accounts/Alice/resume", ""), 409, "CONFLICT", "closed")
	wantFailure(t, h.do(admin, "POST", "/api/v1/admin/accounts", `{"name":"Alice"}`), 409, "CONFLICT", "taken")
	wantFailure(t, h.do(admin, "POST", "/api/v1/admin/accounts", `{"name":"a b"}`), 400, "BAD_REQUEST", "account name")
	wantFailure(t, h.do(admin, "POST", "/api/v1/admin/accounts", `{"name":"x","plan":"y"}`), 400, "BAD_REQUEST", "plan")
	wantFailure(t, h.do(admin, "GET", "/api/v1/admin/accounts?limit=1001", ""), 400, "BAD_REQUEST", "limit")
	for _, path := range []string{"", "/plan", "/suspend", "/resume", "/close"} {
		method := "POST"
		if path == "" {
			method = "GET"
		}
		wantFailure(t, h.do(admin, method, "/api/v1/admin/accounts/nobody"+path, `{"plan":"public"}`), 404, "NOT_FOUND", "no such account")
	}
	entries, err := h.accounts.Audit(t.Context(), "Alice", 0, 10)
	if err != nil || len(entries) != 5 || entries[0].Actor != "root" || entries[0].Token == "" {
		t.Errorf("%+v, %v", entries, err)
	}
}

// Two tenants, every operation, every id of the other: what is another's and what is nothing are one answer.
func TestNothingOfAnotherAccountExists(t *testing.T) {
	h := newHouse(t)
	alice, aliceToken := h.open("alice", auth.AllScopes)
	bob, _ := h.open("bob", auth.OwnScopes)
	pin := h.mustAdd(t, alice, `{"cid":"`+cidV0+`","name":"private","meta":{"a":"b"}}`)
	bodies := map[string]string{
		"addPin": `{"cid":"` + cidRaw + `"}`, "replacePinByRequestId": `{"cid":"` + cidRaw + `"}`, "createToken": `{"scopes":["pins:read"]}`,
		"createLink": `{"cid":"` + cidV0 + `"}`, "setAccountPlan": `{"plan":"public"}`, "createAccount": `{"name":"x"}`,
	}
	mine := map[string]string{"{requestid}": pin, "{tokenid}": aliceToken, "{account}": "alice"}
	unknown := map[string]string{"{requestid}": "0193548f-0000-7000-8000-999999999999", "{tokenid}": strings.Repeat("a", 16), "{account}": "nobody"}
	fill := func(path string, ids map[string]string) string {
		for name, id := range ids {
			path = strings.ReplaceAll(path, name, id)
		}
		return path
	}
	checked := 0
	for base, c := range map[string]contract{"/psa": h.psa, "/psa/policy/x": h.psa, "/api/v1": h.own} {
		for path, item := range c.doc.Paths.Map() {
			for method, op := range item.Operations() {
				if !strings.Contains(path, "{") {
					continue
				}
				checked++
				foreign := h.do(bob, method, base+fill(path, mine), bodies[op.OperationID])
				missing := h.do(bob, method, base+fill(path, unknown), bodies[op.OperationID])
				want := http.StatusNotFound
				if strings.HasPrefix(path, "/admin/") {
					want = http.StatusForbidden
				}
				if foreign.Code != want || missing.Code != want || foreign.Body.String() != missing.Body.String() {
					t.Errorf("%s %s: another's is %d %s, nothing is %d %s", method, base+path, foreign.Code, foreign.Body, missing.Code, missing.Body)
				}
			}
		}
	}
	if checked < 15 {
		t.Errorf("only %d operations with an id", checked)
	}
	// What lists, lists one's own; nothing of the other is in any answer or metric.
	for _, path := range []string{
		"/psa/pins?status=queued,pinning,pinned,failed", "/psa/pins?cid=" + cidV0 + "&status=queued", "/psa/pins?name=private&status=queued",
		"/api/v1/tokens", "/api/v1/account", "/metrics",
	} {
		w := h.from(local, path, "Authorization", "Bearer "+bob)
		if w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		for _, word := range []string{pin, aliceToken, "alice", "private"} {
			if strings.Contains(w.Body.String(), word) {
				t.Errorf("%s tells bob of %q: %s", path, word, w.Body)
			}
		}
	}
	if w := h.do(alice, "GET", "/psa/pins/"+pin, ""); w.Code != http.StatusOK {
		t.Errorf("alice's pin: %d", w.Code)
	}
	if w := h.do(alice, "GET", "/api/v1/tokens", ""); !strings.Contains(w.Body.String(), aliceToken) {
		t.Errorf("alice's token: %s", w.Body)
	}
}

func TestRevocationReachesOtherServersOfTheDatabase(t *testing.T) {
	h := newHouse(t)
	token, id := h.open("alice", auth.OwnScopes)
	keeper, _ := h.token(1, auth.OwnScopes)
	other, err := server.New(server.Config{}, &memory{}, auth.New(h.db, time.Now), discard())
	if err != nil {
		t.Fatal(err)
	}
	there := fixture{Server: other}
	if w := there.do(token, "GET", "/psa/pins", ""); w.Code != http.StatusOK {
		t.Fatal(w.Code)
	}
	ask[nothing](h, 204, keeper, "DELETE", "/tokens/"+id, "")
	wantFailure(t, there.do(token, "GET", "/psa/pins", ""), 401, "UNAUTHORIZED", "access denied")
}

func TestNoSecretIsEverLogged(t *testing.T) {
	h := newHouse(t)
	admin, adminID := h.open("root", auth.AllScopes)
	code, _, err := h.accounts.CreateInvite(t.Context(), auth.Operator(), auth.Invite{Plan: auth.Public, Left: 1})
	if err != nil {
		t.Fatal(err)
	}
	made := ask[v1.NewToken](h, 201, admin, "POST", "/tokens", `{"scopes":["pins:read"]}`)
	signed := ask[v1.Registration](h, 201, "", "POST", "/signup", `{"name":"ann","code":"`+code.Reveal()+`"}`)
	secrets := []string{admin, made.Text, signed.Text, code.Reveal(), admin[:len(admin)-2] + "aa"}
	for _, secret := range secrets { // wherever somebody may put one
		h.do(secret, "GET", "/psa/pins", "")
		h.do(secret, "GET", "/psa/pins/"+secret, "")
		h.do(admin, "DELETE", "/api/v1/tokens/"+secret, "")
		h.do(admin, "POST", "/api/v1/tokens/"+secret+"/rotate", "")
		h.do(admin, "GET", "/api/v1/admin/accounts/"+secret, "")
		h.do("", "GET", "/"+secret, "")
		h.do("", "POST", "/api/v1/signup?code="+secret, `{"name":"`+secret+`","code":"`+secret+`"}`)
		h.do("", "GET", "/psa/pins?access_token="+secret, "")
	}
	h.broken(secrets)
	metrics := h.from(local, "/metrics").Body.String()
	for _, text := range []string{h.log.String(), metrics} {
		for _, secret := range secrets {
			if _, hidden, _ := strings.Cut(secret[4:], "_"); strings.Contains(text, hidden) {
				t.Errorf("a secret was logged or counted:\n%s", text)
			}
		}
	}
	if !strings.Contains(h.log.String(), "/api/v1/tokens/fp_"+adminID+"_[redacted]") {
		t.Errorf("paths are not logged:\n%s", h.log)
	}
}

// broken makes requests whose context has ended, which the database refuses.
func (h *house) broken(tokens []string) {
	ctx, cancel := context.WithCancel(h.t.Context())
	cancel()
	for _, token := range tokens {
		r := httptest.NewRequestWithContext(ctx, "GET", "/psa/pins", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
}
