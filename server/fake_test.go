package server_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/server"
	"github.com/frostpin/frostpin/spec"
)

const (
	alice = "fp_alice_token"
	bob   = "fp_bob_token"

	cidV0   = "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n"
	cidV1   = "bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku" // cidV0 in version 1
	cidRaw  = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
	inlined = "bafkqaaa"
	origin  = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
)

// tokens is Accounts with two of them, that nobody can change.
type tokens struct {
	server.Accounts // nil where no other method is called
	err             error
	asked           []string
	read            []string    // accounts that were read by administrators
	caller          auth.Caller // what alice has beside her account; all scopes when it says none
}

func (a *tokens) Authenticate(_ context.Context, token string) (auth.Caller, error) {
	if a.asked != nil {
		a.asked = append(a.asked, token)
	}
	switch {
	case a.err != nil:
		return auth.Caller{}, a.err
	case token == alice:
		caller := a.caller
		caller.Account, caller.State = 1, cmp.Or(caller.State, auth.Active)
		caller.Scopes = cmp.Or(caller.Scopes, auth.AllScopes)
		return caller, nil
	case token == bob:
		return auth.Caller{Account: 2, Scopes: auth.OwnScopes, State: auth.Active}, nil
	}
	return auth.Caller{}, auth.ErrUnauthorized
}

func (a *tokens) AccountState(context.Context, int64) (auth.State, error) {
	return cmp.Or(a.caller.State, auth.Active), a.err
}

// others are accounts by name, which administrators may read.
var others = map[string]int64{"alice": 1, "bob": 2}

func (a *tokens) ReadAccount(_ context.Context, _ auth.Actor, name string) (int64, error) {
	id, ok := others[name]
	if !ok {
		return 0, auth.ErrNotFound
	}
	a.read = append(a.read, name)
	return id, a.err
}

func (a *tokens) Plausible(token string) bool { return token == alice }

// asked is what Admit was asked.
type asked struct {
	account  pins.Account
	quota    pins.Quota
	more     int64
	dags     []pins.Sized
	replaced pins.ID
}

// memory is a Pins that keeps everything in a slice. It has the semantics of the real service, except that only
// inlined content is ever pinned.
type memory struct {
	mu        sync.Mutex
	rows      []pins.Pin // newest first
	made      int
	delegates []string
	err       error                 // answered by every method, when set
	choices   []pins.Choice         // that Decide was asked with
	quotas    []asked               // that Admit and Fits were asked with
	large     map[cid.Cid]bool      // DAGs that fit into no quota
	cold      *cold                 // tells how what has terms stands, when set
	before    func(context.Context) // called by every method, when set
}

func (m *memory) enter(ctx context.Context) (func(), error) {
	if m.before != nil {
		m.before(ctx)
	}
	m.mu.Lock()
	return m.mu.Unlock, m.err
}

// policies are those that there are.
var policies = []string{"archive", "hot-only"}

func (m *memory) HasPolicy(ctx context.Context, name string) (bool, error) {
	leave, err := m.enter(ctx)
	defer leave()
	return slices.Contains(policies, name), err
}

// Decide gives copies to those who say how many, and to those who name a policy.
func (m *memory) Decide(ctx context.Context, c pins.Choice, meta map[string]string) (pins.Decision, error) {
	leave, err := m.enter(ctx)
	defer leave()
	m.choices = append(m.choices, c)
	switch n := meta["frostpin.replicas"]; {
	case err != nil:
		return pins.Decision{}, err
	case n == "2":
		return pins.Decision{Terms: 2}, nil
	case n != "":
		return pins.Decision{}, &spec.InvalidError{Field: "meta", Problem: "frostpin.replicas cannot be had here: at most 2 copies"}
	case c.Path == "archive":
		return pins.Decision{Terms: 1}, nil
	}
	return pins.Decision{Terms: pins.Uncopied}, nil
}

func (m *memory) Add(ctx context.Context, account pins.Account, r spec.Request, decided pins.Decision) (pins.Pin, error) {
	leave, err := m.enter(ctx)
	defer leave()
	if err != nil {
		return pins.Pin{}, err
	}
	return m.add(account, r, decided), nil
}

func (m *memory) add(account pins.Account, r spec.Request, decided pins.Decision) pins.Pin {
	m.made++
	p := pins.Pin{
		ID:      pins.ID(fmt.Sprintf("0193548f-0000-7000-8000-%012d", m.made)),
		Account: account,
		Request: r,
		Created: time.Date(2026, 1, 31, 12, 0, 0, m.made*10_000_000, time.UTC),
		DAG:     pins.DAG{Hot: pins.HotQueued},
		Terms:   decided.Terms,
	}
	if w, ok := p.Wish(); ok && m.cold != nil {
		p.Cold = m.cold.standings[w.Terms]
	}
	if r.CID == inlined {
		p.DAG.Hot = pins.HotHeld
	}
	m.rows = slices.Insert(m.rows, 0, p)
	return p
}

func (m *memory) find(account pins.Account, id pins.ID) (int, error) {
	i := slices.IndexFunc(m.rows, func(p pins.Pin) bool { return p.ID == id && p.Account == account })
	if i < 0 {
		return 0, pins.ErrNotFound
	}
	return i, nil
}

func (m *memory) Get(ctx context.Context, account pins.Account, id pins.ID) (pins.Pin, error) {
	leave, err := m.enter(ctx)
	defer leave()
	if err != nil {
		return pins.Pin{}, err
	}
	i, err := m.find(account, id)
	if err != nil {
		return pins.Pin{}, err
	}
	return m.rows[i], nil
}

func (m *memory) Replace(ctx context.Context, account pins.Account, id pins.ID, r spec.Request, decided pins.Decision) (pins.Pin, error) {
	leave, err := m.enter(ctx)
	defer leave()
	if err != nil {
		return pins.Pin{}, err
	}
	i, err := m.find(account, id)
	if err != nil {
		return pins.Pin{}, err
	}
	m.rows = slices.Delete(m.rows, i, i+1)
	return m.add(account, r, decided), nil
}

func (m *memory) Delete(ctx context.Context, account pins.Account, id pins.ID) error {
	leave, err := m.enter(ctx)
	defer leave()
	if err != nil {
		return err
	}
	i, err := m.find(account, id)
	if err != nil {
		return err
	}
	m.rows = slices.Delete(m.rows, i, i+1)
	return nil
}

func (m *memory) List(ctx context.Context, account pins.Account, q spec.Query) (pins.Page, error) {
	leave, err := m.enter(ctx)
	defer leave()
	if err != nil {
		return pins.Page{}, err
	}
	var page pins.Page
	for _, p := range m.rows {
		if p.Account != account || !matches(p, q) {
			continue
		}
		page.Count++
		if len(page.Pins) < q.Limit {
			page.Pins = append(page.Pins, p)
		}
	}
	return page, nil
}

func matches(p pins.Pin, q spec.Query) bool {
	switch ms := p.Created.UnixMilli(); {
	case len(q.CIDs) > 0 && !slices.Contains(q.CIDs, p.Root),
		!slices.Contains(q.Statuses, p.Status()),
		q.BeforeMS != nil && ms >= *q.BeforeMS,
		q.AfterMS != nil && ms <= *q.AfterMS,
		q.Name != nil && !matchesName(p.Name, *q.Name, q.Match):
		return false
	}
	for k, v := range q.Meta {
		if got, ok := p.Meta[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func matchesName(name *string, want string, how spec.TextMatchingStrategy) bool {
	if name == nil {
		return false
	}
	switch how {
	case spec.Exact:
		return *name == want
	case spec.Iexact:
		return strings.EqualFold(*name, want)
	case spec.Partial:
		return strings.Contains(*name, want)
	case spec.Ipartial:
		return strings.Contains(strings.ToLower(*name), strings.ToLower(want))
	}
	return false
}

func (m *memory) Usage(ctx context.Context, account pins.Account) (pins.AccountUsage, error) {
	leave, err := m.enter(ctx)
	defer leave()
	u := pins.AccountUsage{Pins: map[spec.Status]int64{}}
	for _, p := range m.rows {
		if p.Account == account {
			u.Pins[p.Status()]++
		}
	}
	return u, err
}

func (m *memory) AddAll(ctx context.Context, account pins.Account, asked []pins.Asked) []pins.Result {
	results := make([]pins.Result, len(asked))
	for i, a := range asked {
		results[i].Pin, results[i].Err = m.Add(ctx, account, a.Request, a.Decision)
	}
	return results
}

func (m *memory) BeginBatch(context.Context, pins.Account, string, []byte) (*pins.Batch, error) {
	return &pins.Batch{}, nil
}

func (m *memory) EndBatch(context.Context, *pins.Batch) {}

func (m *memory) Stock(context.Context, pins.Account) (pins.Stock, error) { return pins.Stock{}, nil }

func (m *memory) ReplacedBy(context.Context, pins.Account, pins.ID) (int64, error) { return 0, nil }

func (m *memory) CanYield(context.Context, pins.Account, pins.ID, ...cid.Cid) (int64, error) {
	return 0, nil
}

func (m *memory) GiveWay(context.Context, pins.Account, pins.ID, int64, ...cid.Cid) (int64, error) {
	return 0, nil
}
func (m *memory) Size(context.Context, cid.Cid) (int64, error)      { return 0, nil }
func (m *memory) Retry(context.Context, pins.Account, string) error { return nil }

func (m *memory) Admit(ctx context.Context, account pins.Account, q pins.Quota, more int64) error {
	leave, err := m.enter(ctx)
	defer leave()
	m.quotas = append(m.quotas, asked{account: account, quota: q, more: more})
	return err
}

// Fits refuses what is large.
func (m *memory) Fits(ctx context.Context, account pins.Account, q pins.Quota, dags []pins.Sized, replaced pins.ID) ([]error, int64, error) {
	leave, err := m.enter(ctx)
	defer leave()
	m.quotas = append(m.quotas, asked{account: account, quota: q, dags: dags, replaced: replaced})
	refused := make([]error, len(dags))
	for i, dag := range dags {
		if m.large[dag.Root] {
			refused[i] = &pins.QuotaError{Problem: "it has more than the 3 bytes that this account's plan allows"}
		}
	}
	return refused, 0, err
}

func (m *memory) Delegates(ctx context.Context) ([]string, error) {
	leave, err := m.enter(ctx)
	defer leave()
	return m.delegates, err
}

// fixture is a server on fakes.
type fixture struct {
	*server.Server
	pins   *memory
	tokens *tokens
	log    *strings.Builder // JSON lines, debug included
}

func newFixture(tb testing.TB, change ...func(*server.Config)) *fixture {
	tb.Helper()
	f := &fixture{
		pins:   &memory{delegates: []string{"/ip4/203.0.113.7/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"}},
		tokens: &tokens{},
		log:    new(strings.Builder),
	}
	cfg := server.Config{Version: "1.2.3"}
	for _, fn := range change {
		fn(&cfg)
	}
	var mu sync.Mutex
	log := slog.New(slog.NewJSONHandler(locked{&mu, f.log}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if f.Server, err = server.New(cfg, f.pins, f.tokens, log); err != nil {
		tb.Fatal(err)
	}
	return f
}

type locked struct {
	mu *sync.Mutex
	w  *strings.Builder
}

func (l locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
