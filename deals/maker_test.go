package deals_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/dealstest"
	"github.com/frostpin/frostpin/deals/piece"
)

// epoch is that of the model: a deal of 180 days takes 14 hours.
const epoch = 100 * time.Millisecond

func testPolicy() deals.Policy {
	p := deals.Defaults()
	p.EpochTime, p.StartDelay, p.RenewBefore = epoch, 3*deals.EpochsPerDay, 30*deals.EpochsPerDay
	p.Stuck, p.RetryFirst, p.RetryMax, p.CoolDown = 10*time.Minute, 5*time.Second, 2*time.Minute, 5*time.Minute
	p.Poll, p.PollSlow, p.UnknownFor = 15*time.Second, time.Minute, 2*time.Minute
	return p
}

func testConfig() deals.Config {
	return deals.Config{
		Policy: testPolicy(),
		Caps: deals.Caps{
			PerGiBEpoch: big.NewInt(1e12), PerDeal: dealstest.FIL(1), PerDay: dealstest.FIL(1000), PerMonth: dealstest.FIL(10000),
		},
		PublicURL: "https://pin.example/piece", Secret: []byte("0123456789abcdef0123456789abcdef"),
		Global: 32, PerProvider: 8, MaxPiece: 1 << 20, MaxReplicas: 5, Instance: "test",
		LeaseTTL: 24 * time.Hour, Tick: time.Minute,
	}
}

// A world is a service over a real database and the model of a network, in a bubble of its own time.
type world struct {
	*deals.Service
	t       testing.TB
	db      *database.DB
	net     *dealstest.Network
	chain   deals.Chain // what stands before net as the chain; nil: nothing
	blocks  *blocks
	layouts *piece.Store
	cfg     deals.Config
	log     *slog.Logger
	stop    func()
	follow  *follower
	bill    func(context.Context, []deals.Cost) error // takes what deals cost; nil: nobody
}

// blocks are what is held hot: raw blocks, each a DAG of its own.
type blocks struct {
	mu  sync.Mutex
	all map[cid.Cid][]byte
}

func (b *blocks) Block(_ context.Context, c cid.Cid) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	data, ok := b.all[c]
	if !ok {
		return nil, os.ErrNotExist
	}
	return data, nil
}

func (b *blocks) add(data []byte) cid.Cid {
	sum, err := multihash.Sum(data, multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	c := cid.NewCidV1(cid.Raw, sum)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all[c] = data
	return c
}

// forget lets a block go, and returns it.
func (b *blocks) forget(c cid.Cid) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	data := b.all[c]
	delete(b.all, c)
	return data
}

// A follower remembers what it was told.
type follower struct {
	mu   sync.Mutex
	last map[deals.Wish]deals.Standing
}

func (f *follower) Archived(_ context.Context, w deals.Wish, s deals.Standing) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last[w] = s
	return nil
}

func (f *follower) told(w deals.Wish) deals.Standing {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last[w]
}

// inWorld runs a test in a bubble, on every database, with n providers that behave.
func inWorld(t *testing.T, n int, test func(t *testing.T, w *world)) {
	t.Helper()
	inWorldOn(t, databasetest.Dialects(t), n, test)
}

// forLong runs a test that takes days of the model's time: what it is about is no matter of the database, so that one
// of them is enough, the fast one.
func forLong(t *testing.T, n int, test func(t *testing.T, w *world)) {
	t.Helper()
	inWorldOn(t, []string{database.SQLite}, n, test)
}

func inWorldOn(t *testing.T, dialects []string, n int, test func(t *testing.T, w *world)) {
	t.Helper()
	for _, dialect := range dialects {
		t.Run(dialect, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, dialect, n)
				test(t, w)
			})
		})
	}
}

func newWorld(t *testing.T, dialect string, n int) *world {
	t.Helper()
	db := databasetest.Open(t, dialect)
	if err := db.Migrate(t.Context(), deals.Migrations()...); err != nil {
		t.Fatal(err)
	}
	layouts, err := piece.OpenStore(filepath.Join(t.TempDir(), "layouts"), 0)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, db: db, cfg: testConfig(), layouts: layouts, blocks: &blocks{all: map[cid.Cid][]byte{}},
		log: slog.New(slog.DiscardHandler), follow: &follower{last: map[deals.Wish]deals.Standing{}},
		net: dealstest.New(dealstest.Config{
			EpochTime: epoch, Finality: 900, Wallet: dealstest.FIL(1000), Escrow: dealstest.FIL(100), Events: true,
		}),
	}
	if testing.Verbose() {
		w.log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	registry := deals.NewRegistry(db, time.Now)
	for i := range n {
		id := deals.ProviderID(1000 + i)
		w.net.Add(id, honest())
		if err := registry.Add(t.Context(), deals.Decision{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	w.stop = func() {}
	w.make()
	t.Cleanup(func() { w.stop() })
	return w
}

func honest() dealstest.Provider {
	return dealstest.Provider{Price: abi.NewTokenAmount(1e9), Publish: 600, Seal: 3000}
}

// make makes the service anew, as a new process does.
func (w *world) make() {
	w.t.Helper()
	parts := deals.Parts{Chain: w.net, Market: w.net, Blocks: w.blocks, Layouts: w.layouts}
	if w.chain != nil {
		parts.Chain = w.chain
	}
	s, err := deals.New(w.cfg, w.db, parts, w.log, time.Now)
	if err != nil {
		w.t.Fatal(err)
	}
	s.Follow(w.follow)
	if w.bill != nil {
		s.Bill(w.bill)
	}
	w.Service = s
}

func (w *world) start() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	service := w.Service
	go func() { done <- service.Run(ctx) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("running: %v", err)
		}
	}
}

func (w *world) terms(replicas int) deals.TermsID {
	w.t.Helper()
	id, err := w.Terms(context.Background(), deals.Terms{Replicas: replicas, Days: 180})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// wish wants a new DAG of its own.
func (w *world) wish(name string, replicas int) deals.Wish {
	w.t.Helper()
	return w.want(deals.Wish{Root: w.blocks.add([]byte("the content of " + name)), Terms: w.terms(replicas)})
}

func (w *world) want(wish deals.Wish) deals.Wish {
	w.t.Helper()
	if err := w.Want(context.Background(), true, wish); err != nil {
		w.t.Fatal(err)
	}
	return wish
}

func (w *world) unwant(wish deals.Wish) {
	w.t.Helper()
	if err := w.Unwant(context.Background(), wish); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) standing(wish deals.Wish) deals.Standing {
	w.t.Helper()
	all, err := w.Standings(context.Background(), []deals.Wish{wish})
	if err != nil {
		w.t.Fatal(err)
	}
	return all[wish]
}

func (w *world) attempts(wish deals.Wish) []deals.Attempt {
	w.t.Helper()
	all, err := w.Deals(context.Background(), wish)
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

func (w *world) states(wish deals.Wish) []deals.State {
	var out []deals.State
	for _, a := range w.attempts(wish) {
		out = append(out, a.State)
	}
	return out
}

// pass lets time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// until waits, in the model's time, for a condition.
func (w *world) until(what string, most time.Duration, holds func() bool) {
	w.t.Helper()
	for end := time.Now().Add(most); !holds(); pass(max(5*time.Second, most/500)) {
		if time.Now().After(end) {
			w.t.Fatalf("waited %s in vain until %s\n%s", most, what, w.dump())
		}
	}
}

func (w *world) untilActive(wish deals.Wish, n int) {
	w.t.Helper()
	w.until(fmt.Sprintf("%d copies are active", n), time.Hour, func() bool { return w.standing(wish).Active == n })
}

func (w *world) dump() string {
	all, err := w.List(context.Background(), deals.Filter{})
	out := fmt.Sprintln("height", w.net.Height(), err)
	for _, a := range slices.Backward(all) {
		out += fmt.Sprintf("%s slot %d generation %d %s %s start %d next %s: %s\n", a.Root, a.Slot, a.Generation, a.Provider, a.State, a.Start, a.NextAt, a.Reason)
	}
	return out
}

// mustBeSound checks what must hold at every moment.
func (w *world) mustBeSound() {
	w.t.Helper()
	for _, wrong := range w.net.Violations() {
		w.t.Error(wrong)
	}
	all, err := w.List(context.Background(), deals.Filter{})
	if err != nil {
		w.t.Fatal(err)
	}
	holders := map[string]deals.Attempt{}
	for _, a := range all {
		if a.State.Final() {
			continue
		}
		key := a.Root.String() + a.Provider.String()
		if other, ok := holders[key]; ok && a.Renews != other.ID && other.Renews != a.ID {
			w.t.Errorf("%s has two live attempts for %s", a.Provider, a.Root)
		}
		holders[key] = a
	}
	// An attempt has at most one deal on chain.
	deal := map[string]bool{}
	for _, d := range w.net.Deals() {
		if deal[d.UUID.String()] {
			w.t.Errorf("attempt %s has two deals on chain", d.UUID)
		}
		deal[d.UUID.String()] = true
	}
	if w.t.Failed() {
		w.t.Log(w.dump())
	}
}

func TestEveryCopyBecomesActiveWithAnotherProvider(t *testing.T) {
	inWorld(t, 4, func(_ *testing.T, w *world) {
		w.start()
		var wishes []deals.Wish
		for x := 1; x <= 3; x++ {
			wishes = append(wishes, w.wish(fmt.Sprint(x), x))
		}
		for i, wish := range wishes {
			x := i + 1
			w.untilActive(wish, x)
			s := w.standing(wish)
			if s.Cold != deals.ColdStored || !s.Kept || s.Piece == nil || s.Reason != "" {
				w.t.Errorf("got %+v with %d active copies", s, x)
			}
			if got := len(w.attempts(wish)); got != x {
				w.t.Errorf("got %d attempts for %d copies", got, x)
			}
			if told := w.follow.last[wish]; told.Active != x {
				w.t.Errorf("the follower was told of %d active copies, not of %d", told.Active, x)
			}
		}
		w.mustBeSound()
	})
}
