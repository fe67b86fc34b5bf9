package server_test

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	car "github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/storage"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/ingest"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/server"
	"github.com/frostpin/frostpin/server/v1"
	"github.com/frostpin/frostpin/spec"
)

const (
	paymentKey = "0123456789abcdef0123456789abcdef"
	paidPlan   = "paid"
)

// payers are the plans of accounts.
type payers struct{ accounts *auth.Service }

func (payers) Past(context.Context, int64, time.Time) ([]ledger.Plan, error) { return nil, nil }

func (p payers) Plan(ctx context.Context, account int64) (ledger.Plan, error) {
	a, err := p.accounts.Account(ctx, account)
	if err != nil {
		return ledger.Plan{}, err
	}
	plan, err := p.accounts.Plan(ctx, a.Plan)
	if err != nil || !plan.Limits.Bills() {
		return ledger.Plan{}, err
	}
	prices, err := ledger.ParsePrices(plan.Limits.Prices)
	return ledger.Plan{Billed: true, Prices: prices}, err
}

func (h *house) accountID(ctx context.Context, name string) (int64, error) {
	a, err := h.accounts.AccountByName(ctx, name)
	if errors.Is(err, auth.ErrNotFound) {
		err = ledger.ErrNotFound
	}
	return a.ID, err
}

// A till is a house whose customers pay.
type till struct {
	*house
	admin string
}

func newTill(t *testing.T, prices map[string]string, change ...func(*server.Config)) *till {
	t.Helper()
	k := &till{house: newHouse(t, append([]func(*server.Config){func(c *server.Config) { c.Uploads = unread{t} }}, change...)...)}
	k.admin, _ = k.open("root", auth.AllScopes)
	if err := k.accounts.SetPlan(t.Context(), auth.Operator(), paidPlan, auth.Limits{Prices: prices}); err != nil {
		t.Fatal(err)
	}
	return k
}

// unread are uploads that must be refused before they are read.
type unread struct{ t *testing.T }

func (u unread) Upload(context.Context, ingest.Upload) ([]pins.Pin, bool, error) {
	u.t.Error("an upload was read")
	return nil, false, nil
}

func (k *till) customer(name string) (token string) {
	k.t.Helper()
	account, err := k.accounts.CreateAccount(k.t.Context(), auth.Operator(), name, paidPlan)
	if err != nil {
		k.t.Fatal(err)
	}
	token, _ = k.token(account.ID, auth.OwnScopes)
	return token
}

func TestPinsAreRefusedThatTheBalanceDoesNotCarry(t *testing.T) {
	k := newTill(t, map[string]string{"hot_gib_month": "1024"}) // a credit for a MiB
	ann := k.customer("ann")
	pin := `{"cid":"` + cidV0 + `"}`
	refused := func(method, target string) {
		t.Helper()
		w := k.do(ann, method, target, pin)
		wantFailure(t, w, http.StatusConflict, "INSUFFICIENT_FUNDS", "balance")
		if strings.HasPrefix(target, "/psa") {
			k.psa.check(t, method, "/pins"+map[bool]string{true: "/{requestid}"}[strings.Count(target, "/") > 2], w)
		}
	}
	refused("POST", "/psa/pins")
	refused("POST", "/api/v1/upload")
	ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", `{"amount":"1","key":"first"}`)
	id := k.mustAdd(t, ann, pin)
	again := ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", `{"amount":"1","key":"first"}`)
	if again.Balance != "1" {
		t.Errorf("the same key was booked twice: %+v", again)
	}
	wantFailure(t, k.do(k.admin, "POST", "/api/v1/admin/accounts/ann/credit", `{"amount":"2","key":"first"}`), 409, "CONFLICT", "key")
	paid := k.retries
	ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", `{"amount":"-1","key":"back","correction":true}`)
	wantFailure(t, k.do(k.admin, "POST", "/api/v1/admin/accounts/ann/credit", `{"amount":"-1","key":"more","correction":true}`), 409, "INSUFFICIENT_FUNDS", "floor")

	// At zero nothing is tried again, whatever is booked twice.
	ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", `{"amount":"1","key":"first"}`)
	if paid == 0 || k.retries != paid {
		t.Errorf("with money what was not paid for was tried again %d times, at zero %d times", paid, k.retries-paid)
	}

	// And nothing can be added, and everything can be seen and removed.
	refused("POST", "/psa/pins")
	wantFailure(t, k.do(ann, "POST", "/psa/pins/"+id, `{"cid":"`+cidRaw+`"}`), http.StatusConflict, "INSUFFICIENT_FUNDS", "balance")
	wantFailure(t, k.do(ann, "POST", "/psa/pins/nobodys", pin), http.StatusNotFound, "NOT_FOUND", "no such pin")
	// Renaming costs no more than before.
	w := k.do(ann, "POST", "/psa/pins/"+id, `{"cid":"`+cidV0+`","name":"new"}`)
	var renamed struct{ Requestid string }
	if err := json.Unmarshal(w.Body.Bytes(), &renamed); err != nil || w.Code != http.StatusAccepted {
		t.Fatalf("renaming: %d %s", w.Code, w.Body)
	}
	id = renamed.Requestid
	for _, path := range []string{"/psa/pins?status=queued,pinning", "/psa/pins/" + id, "/api/v1/usage", "/api/v1/ledger", "/api/v1/ledger/statement"} {
		if w := k.do(ann, "GET", path, ""); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := k.do(ann, "DELETE", "/psa/pins/"+id, ""); w.Code != http.StatusAccepted {
		t.Errorf("removing: %d", w.Code)
	}
	entries, err := k.accounts.Audit(t.Context(), "ann", 0, 10)
	if credits := strings.Count(actions(entries), "account.credit"); err != nil || credits != 2 {
		t.Errorf("%d credits are in the audit: %v", credits, err)
	}
}

func TestReplacementIsWeighedWithoutWhatTheOldPinOccupies(t *testing.T) {
	for _, c := range []struct {
		what     string
		old, new int64 // bytes that are held; 0: not here
		replaced bool
	}{
		{"a smaller one", 2 << 20, 1 << 20, true},
		{"a larger one", 2 << 20, 3 << 20, false},
		{"one that is not here", 2 << 20, 0, true},
		{"one that is not here for a small one", 1 << 19, 0, false},
		{"one that is here for one that is not", 0, 1 << 20, false},
	} {
		k := newTill(t, map[string]string{"hot_gib_month": "1024"}) // a credit for a MiB
		ann := k.customer("ann")
		ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", `{"amount":"1","key":"in"}`)
		id := k.mustAdd(t, ann, `{"cid":"`+cidV0+`"}`)
		ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", `{"amount":"-1","key":"out","correction":true}`)
		k.mustAdd(t, k.admin, `{"cid":"`+cidRaw+`"}`)
		for root, bytes := range map[string]int64{cidV1: c.old, cidRaw: c.new} {
			if bytes == 0 {
				continue
			}
			if err := k.db.Write(t.Context(), func(tx *gorm.DB) error {
				return tx.Exec(`UPDATE roots SET hot = ?, bytes = ? WHERE cid = ?`, pins.HotHeld, bytes, root).Error
			}); err != nil {
				t.Fatal(err)
			}
		}
		w := k.do(ann, "POST", "/psa/pins/"+id, `{"cid":"`+cidRaw+`"}`)
		if c.replaced && w.Code != http.StatusAccepted || !c.replaced && w.Code != http.StatusConflict {
			t.Errorf("%s: %d %s", c.what, w.Code, w.Body)
		}
		if w := k.do(ann, "GET", "/psa/pins/"+id, ""); (w.Code == http.StatusNotFound) != c.replaced {
			t.Errorf("%s: the old pin: %d", c.what, w.Code)
		}
	}
}

// replacedOf has an account's cidV1 kept, which was replaced by what nobody has, beside somebody's cidRaw: 6 MiB each.
func (k *till) replacedOf(t *testing.T, name string) {
	t.Helper()
	id, err := k.accountID(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	of := func(text string) spec.Request {
		root := cid.MustParse(text)
		return spec.Request{CID: text, Root: spec.Canonical(root)}
	}
	old, err := k.service.Add(t.Context(), pins.Account(id), of(cidV1), pins.Decision{})
	if err != nil {
		t.Fatal(err)
	}
	k.mustAdd(t, k.admin, `{"cid":"`+cidRaw+`"}`)
	err = k.db.Write(t.Context(), func(tx *gorm.DB) error {
		return errors.Join(tx.Exec(`UPDATE roots SET hot = ?, bytes = ? WHERE cid IN ?`, pins.HotHeld, 6<<20, []string{cidV1, cidRaw}).Error,
			tx.Exec(`INSERT INTO holdings (pin, root_id, account, bytes, hot, copies, since_s)
				SELECT p.id, r.id, p.account, r.bytes, 1, 0, 1 FROM pins p JOIN roots r ON r.id = p.root_id`).Error)
	})
	if err != nil {
		t.Fatal(err)
	}
	nobodys := pinstest.Leaf("nobody has it").Root.String()
	if _, err := k.service.Replace(t.Context(), pins.Account(id), old.ID, of(nobodys), pins.Decision{}); err != nil {
		t.Fatal(err)
	}
}

func (k *till) isHere(t *testing.T, root string) (here bool, err error) {
	t.Helper()
	err = k.db.Read(t.Context(), func(tx *gorm.DB) error {
		return tx.Raw(`SELECT EXISTS (SELECT 1 FROM roots WHERE cid = ? AND hot = ?)`, root, pins.HotHeld).Row().Scan(&here)
	})
	return here, err
}

// At zero, what the allowance covers can be had: also what was replaced, and what comes in its stead.
func TestReplacedDAGGivesWayInTheAllowance(t *testing.T) {
	for _, c := range []struct {
		what, asked string
		stays       bool
	}{
		{"another that is here", cidRaw, false},
		{"the same again", cidV1, true},
	} {
		k := newTill(t, map[string]string{"hot_gib_month": "1024", "free_hot_gib_month": "0.009765625"}) // 10 MiB
		ann := k.customer("ann")
		k.replacedOf(t, "ann")
		k.mustAdd(t, ann, `{"cid":"`+c.asked+`"}`)
		if here, err := k.isHere(t, cidV1); err != nil || here != c.stays {
			t.Errorf("%s: the replaced one is here: %t: %v", c.what, here, err)
		}
	}
}

// Neither what another pin of a batch asks for gives way, nor anything to what the plan has no room for.
func TestReplacedDAGDoesNotGiveWayWithinABatchThatAsksForIt(t *testing.T) {
	raw, old := `{"cid":"`+cidRaw+`"}`, `{"cid":"`+cidV1+`"}`
	for _, c := range []struct {
		what, list string
		limits     auth.Limits
		codes      string
	}{
		{"another asks for it", raw + "," + old, auth.Limits{}, "[409 202]"}, // both are more than the allowance
		{"the first asks for it", old + "," + raw, auth.Limits{}, "[202 409]"},
		{"there is no room for it", raw, auth.Limits{DAGBytes: 5 << 20}, "[403]"},
	} {
		k := newTill(t, nil)
		c.limits.Prices = map[string]string{"hot_gib_month": "1024", "free_hot_gib_month": "0.009765625"} // 10 MiB
		if err := k.accounts.SetPlan(t.Context(), auth.Operator(), paidPlan, c.limits); err != nil {
			t.Fatal(err)
		}
		ann := k.customer("ann")
		k.replacedOf(t, "ann")
		var codes []int32
		for _, r := range ask[v1.BatchResults](k.house, 200, ann, "POST", "/pins/batch", "["+c.list+"]").Results {
			codes = append(codes, r.Code)
		}
		if here, err := k.isHere(t, cidV1); !here || fmt.Sprint(codes) != c.codes || err != nil {
			t.Errorf("%s: %v, want %s; the replaced one is here: %t: %v", c.what, codes, c.codes, here, err)
		}
	}
}

func TestNothingThatWasReplacedIsLetGoForAnUploadThatBreaksOff(t *testing.T) {
	prices := map[string]string{"hot_gib_month": "1024", "free_hot_gib_month": "0.009765625"} // 10 MiB
	k := newTill(t, prices, func(cfg *server.Config) { cfg.Uploads = brokenOff{} })
	ann := k.customer("ann")
	k.replacedOf(t, "ann")
	w := k.do(ann, "POST", "/api/v1/upload", strings.Repeat("x", 6<<20))
	if here, err := k.isHere(t, cidV1); w.Code != 400 || !here || err != nil {
		t.Errorf("%d %s; the replaced one is here: %t: %v", w.Code, w.Body, here, err)
	}
}

type brokenOff struct{}

func (brokenOff) Upload(context.Context, ingest.Upload) ([]pins.Pin, bool, error) {
	return nil, false, server.ErrStalled
}

// What is not paid for takes no room from the rest of its batch, and nothing gives way to it.
func TestWhatABatchCannotPayForTakesNoRoom(t *testing.T) {
	prices := map[string]string{"hot_gib_month": "1024"} // a credit for a MiB
	limits := auth.Limits{Bytes: 10 << 20, Prices: prices}
	codes := func(k *till, token, list string) (codes []int32) {
		for _, r := range ask[v1.BatchResults](k.house, 200, token, "POST", "/pins/batch", list).Results {
			codes = append(codes, r.Code)
		}
		return codes
	}
	begin := func() (k *till, ann string) {
		k = newTill(t, prices)
		if err := k.accounts.SetPlan(t.Context(), auth.Operator(), paidPlan, limits); err != nil {
			t.Fatal(err)
		}
		return k, k.customer("ann")
	}

	k, ann := begin()
	k.mustAdd(t, k.admin, `{"cid":"`+cidV1+`"}`)
	k.mustAdd(t, k.admin, `{"cid":"`+cidRaw+`"}`)
	k.setRoots(pins.HotHeld, 3<<20)
	err := k.db.Write(t.Context(), func(tx *gorm.DB) error {
		return tx.Exec(`UPDATE roots SET bytes = ? WHERE cid = ?`, 8<<20, cidV1).Error
	})
	if err != nil {
		t.Fatal(err)
	}
	ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", `{"amount":"5","key":"in"}`)
	if got := fmt.Sprint(codes(k, ann, `[{"cid":"`+cidV1+`"},{"cid":"`+cidRaw+`"}]`)); got != "[409 202]" {
		t.Errorf("8 MiB and 3 for 5 credits, with 10 MiB of room: %s", got)
	}

	k, ann = begin()
	k.replacedOf(t, "ann")
	got := fmt.Sprint(codes(k, ann, `[{"cid":"`+cidRaw+`"}]`))
	if here, err := k.isHere(t, cidV1); got != "[409]" || !here || err != nil {
		t.Errorf("%s; the replaced one is here: %t: %v", got, here, err)
	}
}

// admitted are uploads of DAGs that are told, and end when it is known whether they may be had.
type admitted []pins.Sized

func (a admitted) Upload(_ context.Context, u ingest.Upload) ([]pins.Pin, bool, error) {
	return nil, false, u.Admit(a)
}

// Whether plan or balance refuses it, and the first or the last of what is asked for together.
func TestNothingThatWasReplacedIsLetGoForWhatIsRefused(t *testing.T) {
	const large = 6 << 20
	of := func(name string, bytes int64) pins.Sized {
		return pins.Sized{Root: pinstest.Leaf(name).Root, Extent: pins.Extent{Blocks: 1, Bytes: bytes}}
	}
	for _, c := range []struct {
		what, method, target, body, credit string
		uploaded                           admitted
		status                             int
		stays                              bool
	}{
		{"a pin that is not paid for", "POST", "/psa/pins", `{"cid":"` + cidRaw + `"}`, "", nil, 409, true},
		{"a pin that is", "POST", "/psa/pins", `{"cid":"` + cidRaw + `"}`, "100", nil, 202, false},
		{"a replacement that is not paid for", "POST", "/psa/pins/ID", `{"cid":"` + cidRaw + `"}`, "", nil, 409, true},
		{"a replacement that is", "POST", "/psa/pins/ID", `{"cid":"` + cidRaw + `"}`, "100", nil, 202, false},
		{"an upload of which one does not fit", "POST", "/api/v1/upload", "x", "100", admitted{of("a", large), of("b", 9<<20)}, 403, true},
		{"an upload that is not paid for", "POST", "/api/v1/upload", "x", "7", admitted{of("a", large), of("b", 2<<20)}, 409, true},
		{"an upload that is", "POST", "/api/v1/upload", "x", "100", admitted{of("a", large), of("b", 2<<20)}, 200, false},
	} {
		k := newTill(t, map[string]string{"hot_gib_month": "1024"}, func(cfg *server.Config) { cfg.Uploads = c.uploaded })
		limits := auth.Limits{Bytes: 10 << 20, Prices: map[string]string{"hot_gib_month": "1024"}} // a credit for a MiB
		if err := k.accounts.SetPlan(t.Context(), auth.Operator(), paidPlan, limits); err != nil {
			t.Fatal(err)
		}
		ann := k.customer("ann")
		id, err := k.accountID(t.Context(), "ann")
		if err != nil {
			t.Fatal(err)
		}
		add := func(text string) pins.Pin {
			t.Helper()
			p, err := k.service.Add(t.Context(), pins.Account(id), spec.Request{CID: text, Root: spec.Canonical(cid.MustParse(text))}, pins.Decision{})
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		old := add(cidV1)
		k.mustAdd(t, k.admin, `{"cid":"`+cidRaw+`"}`)
		k.setRoots(pins.HotHeld, large)
		nobodys := pinstest.Leaf("nobody has it").Root
		_, err = k.service.Replace(t.Context(), pins.Account(id), old.ID, spec.Request{CID: nobodys.String(), Root: nobodys}, pins.Decision{})
		if err != nil {
			t.Fatal(err)
		}
		other := add(pinstest.Leaf("nor this").Root.String())
		if c.credit != "" {
			ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", `{"amount":"`+c.credit+`","key":"in"}`)
		}
		if w := k.do(ann, c.method, strings.Replace(c.target, "ID", string(other.ID), 1), c.body); w.Code != c.status {
			t.Errorf("%s: %d %s", c.what, w.Code, w.Body)
		}
		var here bool
		err = k.db.Read(t.Context(), func(tx *gorm.DB) error {
			return tx.Raw(`SELECT EXISTS (SELECT 1 FROM roots WHERE cid = ? AND hot = ?)`, cidV1, pins.HotHeld).Row().Scan(&here)
		})
		if err != nil || here != c.stays {
			t.Errorf("%s: the replaced one is here: %t: %v", c.what, here, err)
		}
	}
}

func TestCreditThatCannotBeAuditedIsNotBooked(t *testing.T) {
	k := newTill(t, map[string]string{"hot_gib_month": "1"})
	k.customer("ann")
	rename := func(from, to string) {
		t.Helper()
		if err := k.db.Write(t.Context(), func(tx *gorm.DB) error { return tx.Exec(`ALTER TABLE ` + from + ` RENAME TO ` + to).Error }); err != nil {
			t.Fatal(err)
		}
	}
	for _, body := range []string{`{"amount":"2","key":"in"}`, `{"amount":"-1","key":"out","correction":true}`} {
		rename("audit", "away")
		if w := k.do(k.admin, "POST", "/api/v1/admin/accounts/ann/credit", body); w.Code != http.StatusInternalServerError {
			t.Errorf("%s without an audit: %d %s", body, w.Code, w.Body)
		}
		rename("away", "audit")
		for range 2 { // whoever was told that it failed repeats it, and whoever heard nothing too
			ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", body)
		}
	}
	entries, err := k.accounts.Audit(t.Context(), "ann", 0, 10)
	if credits := strings.Count(actions(entries), "account.credit"); err != nil || credits != 2 {
		t.Errorf("%d credits are in the audit: %v", credits, err)
	}
}

// bodies are uploads to the hot tier of a house.
type bodies struct{ *ingest.Service }

func newBodiesTill(t *testing.T) *till {
	t.Helper()
	b := &bodies{}
	k := newTill(t, map[string]string{"hot_gib_month": "1024"}, func(c *server.Config) { c.Uploads = b }) // a credit for a MiB
	b.Service = ingest.New(k.tier, k.service, pins.Limits{})
	return k
}

// setRoots is what the scheduler would record; nobody runs it here.
func (k *till) setRoots(hot pins.Hot, bytes int64) {
	k.t.Helper()
	err := k.db.Write(k.t.Context(), func(tx *gorm.DB) error {
		return tx.Exec(`UPDATE roots SET hot = ?, bytes = ?`, hot, bytes).Error
	})
	if err != nil {
		k.t.Fatal(err)
	}
}

func carOf(t *testing.T, d pinstest.DAG, blocks bool) string {
	t.Helper()
	var b strings.Builder
	out, err := storage.NewWritable(&b, []cid.Cid{d.Root}, car.WriteAsCarV1(true))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range d.Blocks {
		if !blocks {
			break
		}
		if err := out.Put(t.Context(), block.Cid().KeyString(), block.RawData()); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// A CAR of what is here already needs none of its blocks.
func TestUploadOfWhatIsHereCostsWhatItsDAGDoes(t *testing.T) {
	k := newBodiesTill(t)
	d := pinstest.Tree("large", 300)
	header := carOf(t, d, false)
	if d.Size() < 4<<10 || len(header) > 1<<10 {
		t.Fatalf("a DAG of %d bytes and a header of %d", d.Size(), len(header))
	}
	send := func(token, body string, headers ...string) *httptest.ResponseRecorder {
		return k.do(token, "POST", "/api/v1/upload", body, append(headers, "Content-Type", "application/vnd.ipld.car")...)
	}
	has := func(token string, want int64) {
		t.Helper()
		if got := ask[v1.Account](k.house, 200, token, "GET", "/account", "").Usage.Pins.Pinned; got != want {
			t.Errorf("%d pins, want %d", got, want)
		}
	}
	if w := send(k.admin, carOf(t, d, true)); w.Code != http.StatusAccepted {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	k.setRoots(pins.HotHeld, d.Size())

	ann := k.customer("ann")
	ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", `{"amount":"0.001","key":"first"}`) // a KiB
	w := send(ann, header)
	wantFailure(t, w, http.StatusConflict, "INSUFFICIENT_FUNDS", "balance")
	k.own.check(t, "POST", "/upload", w)
	has(ann, 0)
	ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", `{"amount":"1","key":"second"}`)
	first := send(ann, header, "Idempotency-Key", "once")
	if first.Code != http.StatusAccepted {
		t.Errorf("paid for: %d %s", first.Code, first.Body)
	}

	// What was acknowledged is told again, whatever is left by then.
	ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", `{"amount":"-1","key":"back","correction":true}`)
	wantFailure(t, send(ann, header), http.StatusConflict, "INSUFFICIENT_FUNDS", "balance")
	if w := send(ann, header, "Idempotency-Key", "once"); w.Code != http.StatusOK || w.Body.String() != first.Body.String() {
		t.Errorf("repeated: %d %s, want 200 %s", w.Code, w.Body, first.Body)
	}
	has(ann, 1)

	if err := k.accounts.SetPlan(t.Context(), auth.Operator(), "small", auth.Limits{Bytes: 4 << 10}); err != nil {
		t.Fatal(err)
	}
	bob, err := k.accounts.CreateAccount(t.Context(), auth.Operator(), "bob", "small")
	if err != nil {
		t.Fatal(err)
	}
	token, _ := k.token(bob.ID, auth.OwnScopes)
	w = send(token, header)
	wantFailure(t, w, http.StatusForbidden, "QUOTA_EXCEEDED", "its plan allows 4096")
	k.own.check(t, "POST", "/upload", w)
	has(token, 0)
}

func TestPinOfWhatWasLetGoCostsWhatItsDAGDoes(t *testing.T) {
	k := newTill(t, map[string]string{"hot_gib_month": "1024"})
	ann := k.customer("ann")
	pin := `{"cid":"` + cidV0 + `"}`
	ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", `{"amount":"2","key":"first"}`)
	k.mustAdd(t, k.admin, pin)
	k.setRoots(pins.HotOffloaded, 3<<20)
	wantFailure(t, k.do(ann, "POST", "/psa/pins", pin), http.StatusConflict, "INSUFFICIENT_FUNDS", "balance")
	ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", `{"amount":"1","key":"second"}`)
	k.mustAdd(t, ann, pin)
}

func TestUsageTellsWhenPinsAreLetGo(t *testing.T) {
	k := newTill(t, map[string]string{"hot_gib_month": "1024"})
	ann := k.customer("ann")
	a, err := k.accounts.AccountByName(t.Context(), "ann")
	if err != nil {
		t.Fatal(err)
	}
	limits := auth.Limits{GraceDays: 30, Prices: map[string]string{"hot_gib_month": "1024"}}
	if err := k.accounts.SetPlan(t.Context(), auth.Operator(), paidPlan, limits); err != nil {
		t.Fatal(err)
	}
	ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", `{"amount":"1","key":"in"}`)
	err = k.db.Write(t.Context(), func(tx *gorm.DB) error {
		return tx.Exec(`INSERT INTO holdings (pin, root_id, account, bytes, hot, copies, since_s) VALUES ('one', 1, ?, 1048576, 1, 0, 1)`, a.ID).Error
	})
	if err != nil {
		t.Fatal(err)
	}
	usage := func() *v1.Money { return ask[v1.UsageReport](k.house, 200, ann, "GET", "/usage", "").Money }
	if m := usage(); m.LetGoAfter != nil {
		t.Errorf("with money, pins are let go after %s", m.LetGoAfter)
	}
	ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", `{"amount":"-1","key":"out","correction":true}`)
	g, _, err := k.books.Noticed(t.Context(), a.ID, ledger.Standing{Mood: ledger.Empty, Unpaid: true, Length: limits.Grace()})
	if err != nil {
		t.Fatal(err)
	}
	if m := usage(); m.LetGoAfter == nil || m.LetGoAfter.Sub(g.Since).Round(time.Minute) != 30*24*time.Hour || m.EmptySince == nil {
		t.Errorf("it is told %+v", m)
	}
	account := ask[v1.Account](k.house, 200, ann, "GET", "/account", "")
	if account.Limits.GraceDays == nil || *account.Limits.GraceDays != 30 {
		t.Errorf("the limits are %+v", account.Limits)
	}
}

func actions(entries []auth.Entry) (all string) {
	for _, e := range entries {
		all += e.Action + " "
	}
	return all
}

func TestStoryTellsWhatAPinHasCost(t *testing.T) {
	k := newTill(t, map[string]string{"hot_gib_month": "1024", "free_hot_gib_month": "1"})
	ann := k.customer("ann")
	id := k.mustAdd(t, ann, `{"cid":"`+cidV0+`"}`)
	account, err := k.accounts.AccountByName(t.Context(), "ann")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := k.books.Credit(t.Context(), account.ID, 5000*ledger.Credit, "in", ""); err != nil {
		t.Fatal(err)
	}
	for day := range 2 {
		err := k.books.Charge(t.Context(), ledger.Charge{
			Account: account.ID, Kind: ledger.StorageHot, Qty: big.NewInt(30 * 86400 << 30), At: time.Now(), Ref: id, Key: fmt.Sprint(day),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	story := ask[v1.PinStory](k.house, 200, ann, "GET", "/pins/"+id, "")
	if story.Cost == nil || *story.Cost != "1024" { // the first GiB-month is free
		t.Errorf("it has cost %v", story.Cost)
	}
}

func TestWhatAnAllowanceCoversNeedsNoBalance(t *testing.T) {
	k := newTill(t, map[string]string{"hot_gib_month": "1024", "free_hot_gib_month": "1"})
	k.mustAdd(t, k.customer("ann"), `{"cid":"`+cidV0+`"}`)
}

// A DAG that is here and one that is being fetched are each within the allowance.
func TestAllowanceIsSharedWithWhatIsBeingFetched(t *testing.T) {
	k := newTill(t, map[string]string{"hot_gib_month": "1024", "free_hot_gib_month": "0.009765625"}) // 10 MiB
	ann := k.customer("ann")
	id, err := k.accountID(t.Context(), "ann")
	if err != nil {
		t.Fatal(err)
	}
	k.mustAdd(t, k.admin, `{"cid":"`+cidRaw+`"}`)
	if err := k.db.Write(t.Context(), func(tx *gorm.DB) error {
		return tx.Exec(`UPDATE roots SET hot = ?, bytes = ? WHERE cid = ?`, pins.HotHeld, 6<<20, cidRaw).Error
	}); err != nil {
		t.Fatal(err)
	}
	fetches := func(bytes int64) {
		t.Helper()
		if _, err := k.books.HoldStock(t.Context(), id, "fetched", ledger.Stock{}, ledger.Stock{Hot: bytes}); err != nil {
			t.Fatal(err)
		}
	}
	fetches(6 << 20)
	for _, body := range []string{`{"cid":"` + cidRaw + `"}`, `[{"cid":"` + cidRaw + `"}]`} {
		path := map[bool]string{true: "/psa/pins", false: "/api/v1/pins/batch"}[body[0] == '{']
		if w := k.do(ann, "POST", path, body); !strings.Contains(w.Body.String(), "INSUFFICIENT_FUNDS") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if err := k.books.ReleaseHold(t.Context(), "fetched"); err != nil {
		t.Fatal(err)
	}
	fetches(4 << 20)
	k.mustAdd(t, ann, `{"cid":"`+cidRaw+`"}`)
}

func TestAccountsWithoutPricesPayNothing(t *testing.T) {
	k := newTill(t, nil)
	ann := k.customer("ann")
	k.mustAdd(t, ann, `{"cid":"`+cidV0+`"}`)
	if usage := ask[v1.UsageReport](k.house, 200, ann, "GET", "/usage", ""); usage.Money != nil {
		t.Errorf("%+v", usage.Money)
	}
}

func TestSignedPaymentsAreCreditedOnce(t *testing.T) {
	k := newTill(t, map[string]string{"hot_gib_month": "1"})
	ann := k.customer("ann")
	report := func(key, body string) int {
		t.Helper()
		w := k.do("", "POST", "/api/v1/payments", body, "Frostpin-Signature", ledger.Sign([]byte(key), []byte(body), time.Now()))
		k.own.check(t, "POST", "/payments", w)
		return w.Code
	}
	const event = `{"id":"evt_1","account":"ann","amount":"12.50","currency":"EUR"}`
	for _, c := range []struct {
		key, body string
		want      int
	}{
		{paymentKey, event, 200},
		{paymentKey, event, 200},
		{"another key of enough bytes", event, 403},
		{paymentKey, strings.Replace(event, "12.50", "99", 1), 409},
		{paymentKey, strings.Replace(event, "EUR", "USD", 1), 400},
		{paymentKey, strings.Replace(event, "ann", "nobody", 1), 404},
		{paymentKey, "{", 400},
	} {
		if got := report(c.key, c.body); got != c.want {
			t.Errorf("%s: %d, want %d", c.body, got, c.want)
		}
	}
	wantFailure(t, k.do("", "POST", "/api/v1/payments", event), 403, "FORBIDDEN", "signature")
	if got := ask[v1.UsageReport](k.house, 200, ann, "GET", "/usage", "").Money; got == nil || got.Balance != "12.5" || got.Available != "12.5" {
		t.Errorf("%+v", got)
	}
}

func TestPaymentsThatTriedNoPinsAgainAreToBeRepeated(t *testing.T) {
	k := newTill(t, map[string]string{"hot_gib_month": "1"})
	ann := k.customer("ann")
	for name, pay := range map[string]func() int{
		"reported by a provider": func() int {
			const event = `{"id":"evt_1","account":"ann","amount":"12.50","currency":"EUR"}`
			w := k.do("", "POST", "/api/v1/payments", event, "Frostpin-Signature", ledger.Sign([]byte(paymentKey), []byte(event), time.Now()))
			k.own.check(t, "POST", "/payments", w)
			return w.Code
		},
		"booked by the operator": func() int {
			w := k.do(k.admin, "POST", "/api/v1/admin/accounts/ann/credit", `{"amount":"12.50","key":"in"}`)
			k.own.check(t, "POST", "/admin/accounts/{account}/credit", w)
			return w.Code
		},
	} {
		k.retries, k.refuses = 0, fmt.Errorf("trying again: %w", pins.ErrUnavailable)
		if got := pay(); got != 503 {
			t.Errorf("%s: %d", name, got)
		}
		k.refuses = nil
		if got := pay(); got != 200 || k.retries != 2 {
			t.Errorf("%s: %d for the repetition, and pins were tried again %d times", name, got, k.retries)
		}
	}
	if got := ask[v1.UsageReport](k.house, 200, ann, "GET", "/usage", "").Money; got == nil || got.Balance != "25" {
		t.Errorf("%+v", got)
	}
}

func TestLedgerIsShownInPagesAndAsCSV(t *testing.T) {
	k := newTill(t, map[string]string{"egress_hot_gib": "1"})
	ann, ben := k.customer("ann"), k.customer("ben")
	account, err := k.accounts.AccountByName(t.Context(), "ann")
	if err != nil {
		t.Fatal(err)
	}
	ask[v1.LedgerEntry](k.house, 200, k.admin, "POST", "/admin/accounts/ann/credit", `{"amount":"10","key":"in","note":"=cmd()"}`)
	for _, pin := range []string{"one", "two"} {
		err := k.books.Charge(t.Context(), ledger.Charge{
			Account: account.ID, Kind: ledger.EgressHot, Qty: big.NewInt(3 << 30), At: time.Now(), Ref: pin, Key: pin,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	first := ask[v1.Ledger](k.house, 200, ann, "GET", "/ledger?limit=2", "")
	if len(first.Entries) != 2 || first.Next == nil {
		t.Fatalf("%+v", first)
	}
	rest := ask[v1.Ledger](k.house, 200, ann, "GET", "/ledger?limit=2&after="+big.NewInt(*first.Next).String(), "")
	if len(rest.Entries) != 1 || rest.Next != nil || rest.Entries[0].Balance != "4" || rest.Entries[0].Amount != "-3" {
		t.Errorf("%+v", rest)
	}
	if of := ask[v1.Ledger](k.house, 200, ann, "GET", "/ledger?pin=two", ""); len(of.Entries) != 1 || of.Entries[0].Ref != "two" {
		t.Errorf("%+v", of)
	}
	if st := ask[v1.Statement](k.house, 200, ann, "GET", "/ledger/statement", ""); st.Opening != "0" || st.Closing != "4" || len(st.Lines) != 2 {
		t.Errorf("%+v", st)
	}
	w := k.do(ann, "GET", "/api/v1/ledger?format=csv", "")
	rows, err := csv.NewReader(w.Body).ReadAll()
	if err != nil || len(rows) != 4 || rows[1][10] != "'=cmd()" || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/csv") {
		t.Errorf("%v, %q, %s", err, rows, w.Header())
	}
	usage := ask[v1.UsageReport](k.house, 200, ann, "GET", "/usage", "")
	if len(usage.Days) != 1 || usage.Days[0].Qty != "6442450944" || usage.Money.Used != "6" {
		t.Errorf("%+v", usage)
	}
	if shown := ask[v1.UsageReport](k.house, 200, k.admin, "GET", "/admin/accounts/ann/usage", ""); shown.Money == nil || shown.Money.Balance != "4" {
		t.Errorf("%+v", shown)
	}
	wantFailure(t, k.do(ann, "GET", "/api/v1/ledger?format=xml", ""), 400, "BAD_REQUEST", "format")
	wantFailure(t, k.do(ann, "GET", "/api/v1/usage?from=2020-01-01&to=2026-01-01", ""), 400, "BAD_REQUEST", "400 days")
	wantFailure(t, k.do(ann, "GET", "/api/v1/ledger/statement?month=2026-13", ""), 400, "BAD_REQUEST", "month")
	if others := ask[v1.Ledger](k.house, 200, ben, "GET", "/ledger", ""); len(others.Entries) != 0 {
		t.Errorf("ben sees %+v", others)
	}
}
