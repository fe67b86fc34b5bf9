package deals_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/google/go-cmp/cmp"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
)

var quiet = slog.New(slog.DiscardHandler)

// A miners is as much of a chain and a market as a prober sees. An ask is signed when its signature is that of its bytes.
type miners struct {
	deals.Chain
	deals.Market

	mu    sync.Mutex
	known map[deals.ProviderID]deals.Miner
	asks  map[deals.ProviderID]deals.Ask
	fault map[deals.ProviderID]error // what Ask answers instead
	hang  map[deals.ProviderID]bool
	trap  map[deals.ProviderID]string // what reading the answer panics with
	down  error                       // of the node
	asked map[deals.ProviderID]int
	last  deals.Contact
}

func newMiners(ids ...deals.ProviderID) *miners {
	m := &miners{
		known: map[deals.ProviderID]deals.Miner{}, asks: map[deals.ProviderID]deals.Ask{}, fault: map[deals.ProviderID]error{},
		hang: map[deals.ProviderID]bool{}, asked: map[deals.ProviderID]int{},
	}
	for _, id := range ids {
		m.known[id] = deals.Miner{PeerID: somePeer, Addrs: []string{"/ip4/192.0.2.9/tcp/9"}, SectorSize: 32 << 30}
		m.asks[id] = deals.Ask{
			Price: atto(5), VerifiedPrice: atto(1), MinPiece: 256, MaxPiece: 1 << 35, Expiry: 1000, Signed: []byte("ask"),
			Signature: &crypto.Signature{Type: crypto.SigTypeBLS, Data: []byte("ask")},
		}
	}
	return m
}

func (m *miners) Heads(context.Context) (deals.Heads, error) {
	return deals.Heads{Head: 999, Final: 99}, nil
}

func (m *miners) Miner(_ context.Context, id deals.ProviderID) (deals.Miner, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known, ok := m.known[id]
	return known, ok, m.down
}

func (m *miners) VerifyAsk(_ context.Context, _ deals.ProviderID, message []byte, s crypto.Signature) (bool, error) {
	return string(message) == string(s.Data), nil
}

func (m *miners) Ask(ctx context.Context, c deals.Contact) (deals.Ask, error) {
	m.mu.Lock()
	m.asked[c.Provider]++
	m.last = c
	hang, ask, err := m.hang[c.Provider], m.asks[c.Provider], m.fault[c.Provider]
	m.mu.Unlock()
	if id, trapped := m.trap[c.Provider]; trapped {
		panic(id)
	}
	if hang {
		<-ctx.Done()
		return deals.Ask{}, context.Cause(ctx)
	}
	return ask, err
}

func TestAProbeFindsWhereAProviderIsAndWhatItDemands(t *testing.T) {
	eachRegistry(t, func(t *testing.T, r *deals.Registry, m *deals.Money, _ *database.DB) {
		ctx := t.Context()
		if err := errors.Join(r.Add(ctx, deals.Decision{ID: 1000}), r.Add(ctx, deals.Decision{ID: 1001, Addrs: []string{"/ip4/192.0.2.1/tcp/1"}})); err != nil {
			t.Fatal(err)
		}
		model := newMiners(1000, 1001)
		prober := m.Prober(model, model, quiet)
		got, err := prober.Probe(ctx, 1000)
		if err != nil || got.ProbeError != "" || !got.ProbedAt.Equal(noon) || got.SectorSize != 32<<30 || got.Contact.PeerID != somePeer {
			t.Fatalf("got %+v, %v", got, err)
		}
		want := model.asks[1000]
		if diff := cmp.Diff(&want, got.Ask, amounts); diff != "" {
			t.Error(diff)
		}
		stored, err := r.Provider(ctx, 1000)
		if diff := cmp.Diff(got, stored, amounts); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
		if _, err := prober.Probe(ctx, 1001); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(deals.Contact{Provider: 1001, PeerID: somePeer, Addrs: []string{"/ip4/192.0.2.1/tcp/1"}}, model.last); diff != "" {
			t.Errorf("the operator's addresses must win:\n%s", diff)
		}
		if _, err := prober.Probe(ctx, 1000); err != nil || model.asked[1000] != 1 {
			t.Errorf("it was asked %d times within a moment, %v", model.asked[1000], err)
		}
		if _, err := prober.Probe(ctx, 4711); !errors.Is(err, deals.ErrNoProvider) {
			t.Errorf("got %v", err)
		}
	})
}

func TestAProbeSaysWhyThereIsNoAsk(t *testing.T) {
	type change func(*miners, *deals.Ask)
	for want, c := range map[string]change{
		"the chain knows no such": func(m *miners, _ *deals.Ask) { delete(m.known, 1000) },
		"protocols not supported": func(m *miners, _ *deals.Ask) { m.fault[1000] = errors.New("protocols not supported") },
		"is not signed":           func(_ *miners, a *deals.Ask) { a.Signature = nil },
		"by its worker key":       func(_ *miners, a *deals.Ask) { a.Signed = []byte("other") },
		"expired at epoch 999":    func(_ *miners, a *deals.Ask) { a.Expiry = 999 },
		"negative price":          func(_ *miners, a *deals.Ask) { a.VerifiedPrice = atto(-1) },
		"bytes: none":             func(_ *miners, a *deals.Ask) { a.MaxPiece = 128 },
	} {
		t.Run(want, func(t *testing.T) {
			now := noon
			clock := func() time.Time { return now }
			db := databasetest.Open(t)
			if err := db.Migrate(t.Context(), deals.Migrations()...); err != nil {
				t.Fatal(err)
			}
			m, err := deals.NewMoney(t.Context(), db, clock)
			if err != nil {
				t.Fatal(err)
			}
			if err := deals.NewRegistry(db, clock).Add(t.Context(), deals.Decision{ID: 1000}); err != nil {
				t.Fatal(err)
			}
			model := newMiners(1000)
			prober := m.Prober(model, model, quiet)
			before, err := prober.Probe(t.Context(), 1000)
			if err != nil || before.ProbeError != "" {
				t.Fatalf("%+v, %v", before, err)
			}
			now = now.Add(time.Hour)
			ask := model.asks[1000]
			c(model, &ask)
			model.asks[1000] = ask
			got, err := prober.Probe(t.Context(), 1000)
			if err != nil || !strings.Contains(got.ProbeError, want) || !got.ProbedAt.Equal(now) {
				t.Fatalf("got %q, %v", got.ProbeError, err)
			}
			if got.Ask == nil || !got.Ask.Price.Equals(before.Ask.Price) {
				t.Errorf("the last ask was forgotten: %+v", got.Ask)
			}
		})
	}
}

func TestAPanicWhileReadingAnAnswerIsTheErrorOfThatProbe(t *testing.T) {
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), deals.Migrations()...); err != nil {
		t.Fatal(err)
	}
	clock := func() time.Time { return noon }
	m, err := deals.NewMoney(t.Context(), db, clock)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []deals.ProviderID{1000, 1001} {
		if err := deals.NewRegistry(db, clock).Add(t.Context(), deals.Decision{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	model := newMiners(1000, 1001)
	model.trap = map[deals.ProviderID]string{1000: "a decoder"}
	prober := m.Prober(model, model, quiet)
	if _, err := prober.Probe(t.Context(), 1000); err == nil || !strings.Contains(err.Error(), "panic: a decoder") {
		t.Errorf("the probe ended with %v", err)
	}
	if _, err := prober.Probe(t.Context(), 1001); err != nil {
		t.Error(err)
	}
}

func TestANodeThatIsDownSaysNothingOfAProvider(t *testing.T) {
	eachRegistry(t, func(t *testing.T, r *deals.Registry, m *deals.Money, _ *database.DB) {
		if err := r.Add(t.Context(), deals.Decision{ID: 1000}); err != nil {
			t.Fatal(err)
		}
		model := newMiners(1000)
		model.down = deals.ErrChain
		if _, err := m.Prober(model, model, quiet).Probe(t.Context(), 1000); !errors.Is(err, deals.ErrChain) {
			t.Errorf("got %v", err)
		}
		if got, err := r.Provider(t.Context(), 1000); err != nil || got.ProbeError != "" || !got.ProbedAt.IsZero() {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

func TestOneProviderThatHangsDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := databasetest.Open(t)
		if err := db.Migrate(t.Context(), deals.Migrations()...); err != nil {
			t.Fatal(err)
		}
		registry := deals.NewRegistry(db, time.Now)
		var ids []deals.ProviderID
		for i := range 30 {
			ids = append(ids, deals.ProviderID(1000+i))
			if err := registry.Add(t.Context(), deals.Decision{ID: ids[i]}); err != nil {
				t.Fatal(err)
			}
		}
		if err := registry.Add(t.Context(), deals.Decision{ID: 9000, Trust: deals.Denied}); err != nil {
			t.Fatal(err)
		}
		model := newMiners(append(ids, 9000)...)
		for _, id := range ids[1:] {
			model.hang[id] = true
		}
		m, err := deals.NewMoney(t.Context(), db, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Prober(model, model, quiet).Run(ctx) }()
		synctest.Wait()
		got, err := registry.Provider(t.Context(), 1000)
		if err != nil || got.Ask == nil {
			t.Errorf("it has not been asked while the others hang: %+v, %v", got, err)
		}
		<-time.After(time.Hour)
		synctest.Wait()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		// About every quarter of an hour those that answer, every three minutes those that do not.
		if model.asked[1000] < 4 || model.asked[1000] > 6 || model.asked[1001] < 15 || model.asked[1001] > 26 || model.asked[9000] != 0 {
			t.Errorf("asked in an hour: answering %d, hanging %d, denied %d", model.asked[1000], model.asked[1001], model.asked[9000])
		}
		hanging, err := registry.Provider(t.Context(), 1001)
		if err != nil || hanging.ProbeError != "it did not answer in time" {
			t.Errorf("got %q, %v", hanging.ProbeError, err)
		}
	})
}

func TestAProviderIsAskedSoonWhenItIsAddedAndWhenTheOperatorWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := databasetest.Open(t)
		if err := db.Migrate(t.Context(), deals.Migrations()...); err != nil {
			t.Fatal(err)
		}
		m, err := deals.NewMoney(t.Context(), db, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		registry := deals.NewRegistry(db, time.Now)
		busyWith(t, db, 1000, "failed") // and its slot waits
		model := newMiners(1000)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Prober(model, model, quiet).Run(ctx) }()
		synctest.Wait()
		if err := registry.Add(ctx, deals.Decision{ID: 1000}); err != nil {
			t.Fatal(err)
		}
		added := time.Now()
		postpone(t, db)
		<-time.After(6 * time.Second)
		synctest.Wait()
		got, err := registry.Provider(ctx, 1000)
		if err != nil || got.Ask == nil || got.ProbedAt.Before(added.Truncate(time.Millisecond)) {
			t.Errorf("got %+v, %v", got, err)
		}
		if next := slotNext(t, db); next.After(time.Now()) {
			t.Errorf("the slot that waits for a provider sleeps until %s", next)
		}
		wanted := time.Now()
		if err := registry.Probe(ctx, 1000); err != nil {
			t.Fatal(err)
		}
		if got, err = registry.Provider(ctx, 1000); err != nil || time.Since(got.ProbedAt) > 30*time.Minute {
			t.Errorf("meanwhile its answer no longer counts: %+v, %v", got, err)
		}
		<-time.After(6 * time.Second)
		synctest.Wait()
		if got, err = registry.Provider(ctx, 1000); err != nil || got.ProbedAt.Before(wanted.Truncate(time.Millisecond)) || model.asked[1000] != 2 {
			t.Errorf("asked %d times, %+v, %v", model.asked[1000], got, err)
		}
		if err := registry.Probe(ctx, 4711); !errors.Is(err, deals.ErrNoProvider) {
			t.Errorf("got %v", err)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestAProcessThatLeadsAgainProbesAgain: it has lost the lease of the deal maker and got it back.
func TestAProcessThatLeadsAgainProbesAgain(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		w.start()
		w.untilActive(w.wish("before", 1), 1)
		registry := deals.NewRegistry(w.db, time.Now)
		probed := func() time.Time {
			p, err := registry.Provider(t.Context(), 1000)
			if err != nil {
				t.Fatal(err)
			}
			return p.ProbedAt
		}
		if err := deals.HandLease(t.Context(), w.Service, "other/1"); err != nil {
			t.Fatal(err)
		}
		pass(w.cfg.LeaseTTL / 3) // it has noticed
		last := probed()
		pass(time.Hour)
		if now := probed(); !now.Equal(last) {
			t.Errorf("it has probed without the lease, at %s", now)
		}
		if err := deals.HandLease(t.Context(), w.Service, ""); err != nil {
			t.Fatal(err)
		}
		w.until("it leads again", w.cfg.LeaseTTL, func() bool { return deals.Leads(t.Context(), w.Service) })
		w.until("it probes by itself", time.Hour, func() bool { return probed().After(last) })
		w.untilActive(w.wish("after", 1), 1) // a proposal asks the provider first
		w.mustBeSound()
	})
}
