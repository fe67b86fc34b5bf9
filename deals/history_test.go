package deals_test

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"gorm.io/gorm"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/dealstest"
)

// TestHistoriesKeepEveryPromise runs random histories of users, providers, the node and restarts at any step. At every
// moment nothing is doubled and nothing overspent; once the faults are over every copy that is wanted is active.
func TestHistoriesKeepEveryPromise(t *testing.T) {
	for _, dialect := range databasetest.Dialects(t) {
		t.Run(dialect, func(t *testing.T) {
			fewChecks(t, dialect)
			rapid.Check(t, func(rt *rapid.T) {
				inBubble(t, func(t *testing.T) {
					h := newHistory(t, rt, dialect)
					defer h.end()
					rt.Repeat(map[string]func(*rapid.T){
						"want": h.want, "unwant": h.unwant, "pass": h.pass, "provider": h.provider, "node": h.node,
						"slash": h.slash, "crash": h.crash, "restart": func(*rapid.T) { h.restart() }, "lose": h.lose,
						"": h.check,
					})
					h.settle(rt)
				})
			})
		})
	}
}

// fewChecks makes rapid do as many checks as there is time for: each is the life of a service over days, and a server
// takes ten times as long as a file for each of its many small transactions.
func fewChecks(t *testing.T, dialect string) {
	t.Helper()
	checks := flag.Lookup("rapid.checks")
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f == checks })
	before := checks.Value.String()
	n := 8
	if given {
		var err error
		if n, err = strconv.Atoi(before); err != nil {
			t.Fatal(err)
		}
	}
	if dialect == database.Postgres {
		n = max(1, n/10)
	}
	if testing.Short() && !given {
		n = 5 // rapid divides it by five
	}
	if err := checks.Value.Set(strconv.Itoa(n)); err != nil { // not flag.Set, after which it would seem given
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := checks.Value.Set(before); err != nil {
			t.Error(err)
		}
	})
}

// inBubble runs f in a time of its own. A panic, by which rapid ends a check, comes out again where it is caught.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	var panicked any
	synctest.Test(t, func(t *testing.T) {
		defer func() { panicked = recover() }()
		f(t)
	})
	if panicked != nil {
		panic(panicked)
	}
}

const historyProviders = 5

type history struct {
	*world
	roots    []deals.Wish // what may be wished
	wanted   map[deals.Wish]bool
	unwanted map[deals.Wish]time.Time
	taken    *till

	mu      sync.Mutex
	armed   string
	crashed chan struct{}
	gone    chan struct{} // closed when the present process is dead
}

func newHistory(t *testing.T, rt *rapid.T, dialect string) *history {
	t.Helper()
	h := &history{
		world: newWorld(t, dialect, historyProviders), wanted: map[deals.Wish]bool{}, unwanted: map[deals.Wish]time.Time{},
	}
	h.cfg.Global = rapid.SampledFrom([]int{2, 32}).Draw(rt, "global")
	h.cfg.PerProvider = rapid.SampledFrom([]int{1, 8}).Draw(rt, "per provider")
	if rapid.Bool().Draw(rt, "poor") {
		h.cfg.Caps.PerDay = big.NewInt(3e9) // some 20 deals
	}
	if rapid.Bool().Draw(rt, "escrow") {
		h.net = dealstest.New(dealstest.Config{
			EpochTime: epoch, Finality: 900, Wallet: dealstest.FIL(1000), Events: rapid.Bool().Draw(rt, "events"),
		})
		for i := range historyProviders {
			h.net.Add(deals.ProviderID(1000+i), honest())
		}
		h.cfg.Funding = deals.Funding{TopUp: big.NewInt(1e9), PerDay: dealstest.FIL(1)}
	}
	h.cfg.At = h.at
	h.taken = h.till(4)
	one, two, three := h.terms(1), h.terms(2), h.terms(3)
	for i := range 3 {
		root := h.blocks.add(fmt.Appendf(nil, "root %d", i))
		for _, terms := range []deals.TermsID{one, two, three} {
			h.roots = append(h.roots, deals.Wish{Root: root, Terms: terms})
		}
	}
	h.begin()
	return h
}

// at stops the process dead at the step that is armed: what it was about to do never happens.
func (h *history) at(step string) {
	if !slices.Contains(deals.Steps(), step) {
		h.t.Errorf("%q is not among the steps", step)
	}
	h.mu.Lock()
	gone := h.gone
	hit := h.armed == step
	if hit {
		h.armed = ""
		close(h.crashed)
	}
	h.mu.Unlock()
	if hit {
		<-gone
	}
}

func (h *history) begin() {
	h.mu.Lock()
	h.gone, h.armed = make(chan struct{}), ""
	h.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	service, gone := h.Service, h.gone
	go func() { done <- service.Run(ctx) }()
	h.stop = func() {
		cancel()
		select {
		case <-gone:
		default:
			close(gone)
		}
		<-done
	}
}

func (h *history) end() {
	h.stop()
	h.stop = func() {}
}

func (h *history) restart() {
	h.end()
	h.make()
	h.begin()
}

// crash kills the process when it reaches a step, if it does so soon.
func (h *history) crash(rt *rapid.T) {
	step := rapid.SampledFrom(deals.Steps()).Draw(rt, "step")
	crashed := make(chan struct{})
	h.mu.Lock()
	h.armed, h.crashed = step, crashed
	h.mu.Unlock()
	timer := time.NewTimer(time.Duration(rapid.IntRange(1, 600).Draw(rt, "seconds")) * time.Second)
	defer timer.Stop()
	select {
	case <-crashed:
	case <-timer.C:
	}
	h.restart()
}

func (h *history) want(rt *rapid.T) {
	w := rapid.SampledFrom(h.roots).Draw(rt, "wish")
	h.world.want(w)
	h.wanted[w] = true
	delete(h.unwanted, w)
}

func (h *history) unwant(rt *rapid.T) {
	w := rapid.SampledFrom(h.roots).Draw(rt, "wish")
	h.world.unwant(w)
	if h.wanted[w] {
		h.unwanted[w] = time.Now()
	}
	delete(h.wanted, w)
}

func (h *history) pass(rt *rapid.T) {
	pass(time.Duration(rapid.IntRange(1, 3600).Draw(rt, "seconds")) * time.Second)
}

func (h *history) provider(rt *rapid.T) {
	p := honest()
	p.Curio = rapid.Bool().Draw(rt, "curio")
	p.Seal = deals.Epoch(rapid.IntRange(2500, 6000).Draw(rt, "seal"))
	faults := []*bool{
		&p.Offline, &p.Hang, &p.LoseAnswer, &p.LoseProposal, &p.NeverPublish, &p.NeverSeal, &p.SealLate, &p.GiveUp,
		&p.Forget, &p.WrongID, &p.OtherProposal, &p.Silent,
	}
	for range rapid.IntRange(0, 2).Draw(rt, "faults") {
		*faults[rapid.IntRange(0, len(faults)-1).Draw(rt, "fault")] = true
	}
	if rapid.IntRange(0, 4).Draw(rt, "rejects") == 0 {
		p.Reject, p.Later = "no", rapid.Bool().Draw(rt, "later")
	}
	h.net.Add(deals.ProviderID(1000+rapid.IntRange(0, historyProviders-1).Draw(rt, "provider")), p)
}

func (h *history) node(rt *rapid.T) {
	h.net.Node(rapid.IntRange(0, 3).Draw(rt, "down") == 0, rapid.SampledFrom([]int64{0, 3, 7}).Draw(rt, "flaky"),
		deals.Epoch(rapid.SampledFrom([]int{0, 10, 500, 2000}).Draw(rt, "lag")))
}

func (h *history) slash(rt *rapid.T) {
	h.net.Slash(deals.ProviderID(1000 + rapid.IntRange(0, historyProviders-1).Draw(rt, "provider")))
}

// lose makes the hot tier lose the bytes of a root for a while.
func (h *history) lose(rt *rapid.T) {
	w := rapid.SampledFrom(h.roots).Draw(rt, "wish")
	ctx := context.Background()
	if err := h.Held(ctx, w.Root, false); err != nil {
		rt.Fatal(err)
	}
	pass(time.Duration(rapid.IntRange(1, 600).Draw(rt, "seconds")) * time.Second)
	if err := h.Held(ctx, w.Root, true); err != nil {
		rt.Fatal(err)
	}
}

// check holds what must be true at every moment.
func (h *history) check(rt *rapid.T) {
	synctest.Wait()
	for _, wrong := range h.net.Violations() {
		rt.Error(wrong)
	}
	h.checkProviders(rt)
	h.checkSpend(rt)
	for w, since := range h.unwanted {
		for _, a := range h.attempts(w) {
			if a.SentAt.After(since) {
				rt.Errorf("attempt %s was sent at %s, and nobody has wanted it since %s", a.UUID, a.SentAt, since)
			}
		}
	}
	for w := range h.wanted {
		if s := h.standing(w); s.Active > 0 && s.Piece == nil || s.Wanted == 0 {
			rt.Errorf("a wanted archive stands as %+v", s)
		}
	}
	if rt.Failed() {
		rt.Fatal(h.dump())
	}
}

func (h *history) checkProviders(rt *rapid.T) {
	all, err := h.List(context.Background(), deals.Filter{})
	if err != nil {
		rt.Fatal(err)
	}
	byID := map[deals.AttemptID]deals.Attempt{}
	holders := map[string][]deals.Attempt{}
	for _, a := range all {
		byID[a.ID] = a
		if !a.State.Final() {
			key := a.Root.String() + a.Provider.String()
			holders[key] = append(holders[key], a)
		}
	}
	for _, live := range holders {
		for _, a := range live {
			renews := slices.ContainsFunc(live, func(b deals.Attempt) bool { return a.Renews == b.ID || b.Renews == a.ID })
			if len(live) > 1 && !renews {
				rt.Errorf("%s has %d live attempts for %s", a.Provider, len(live), a.Root)
			}
		}
	}
	seen := map[string]bool{}
	height := h.net.Height()
	for _, d := range h.net.Deals() {
		until := min(height, d.End)
		if d.Gone >= 0 {
			until = d.Gone
		}
		cost := big.Div(big.Mul(d.Cost, big.NewInt(int64(max(0, until-d.Start)))), big.NewInt(int64(d.End-d.Start)))
		if got, _ := h.taken.of(d.UUID); got.GreaterThan(cost) {
			rt.Errorf("%s was charged for deal %s, which has cost %s", got, d.UUID, cost)
		}
		if seen[d.UUID.String()] {
			rt.Errorf("attempt %s has two deals", d.UUID)
		}
		seen[d.UUID.String()] = true
	}
}

// checkSpend compares the ledger with the attempts, and both with the cap.
func (h *history) checkSpend(rt *rapid.T) {
	all, err := h.List(context.Background(), deals.Filter{})
	if err != nil {
		rt.Fatal(err)
	}
	want := map[string]abi.TokenAmount{}
	for _, a := range all {
		var charged abi.TokenAmount
		switch {
		case a.State == deals.Planned:
			charged = a.Reserved
		case !a.State.Final() || !a.PublishedAt.IsZero() || a.Reserved.Sign() > 0:
			charged = a.Cost()
		default:
			continue
		}
		so, ok := want[a.Day]
		if !ok {
			so = big.Zero()
		}
		want[a.Day] = big.Add(so, charged)
	}
	err = h.db.Read(context.Background(), func(tx *gorm.DB) error {
		var days []struct{ Day, Deals string }
		if err := tx.Raw(`SELECT day, deals FROM spend`).Scan(&days).Error; err != nil {
			return err
		}
		for _, d := range days {
			expected := want[d.Day]
			if expected.Nil() {
				expected = big.Zero()
			}
			if d.Deals != expected.String() {
				rt.Errorf("%s was charged with %s, and its attempts cost %s", d.Day, d.Deals, expected)
			}
			if expected.GreaterThan(h.cfg.Caps.PerDay) {
				rt.Errorf("%s cost %s, and the cap is %s", d.Day, expected, h.cfg.Caps.PerDay)
			}
		}
		return nil
	})
	if err != nil {
		rt.Fatal(err)
	}
}

// settle ends all faults: then every copy that is wanted becomes active, or its slot says truly why not.
func (h *history) settle(rt *rapid.T) {
	h.net.Node(false, 0, 0)
	for i := range historyProviders {
		h.net.Add(deals.ProviderID(1000+i), honest())
	}
	h.restart()
	settled := func() string {
		for w := range h.wanted {
			s := h.standing(w)
			live := map[deals.ProviderID]bool{}
			for _, a := range h.all(w) {
				live[a.Provider] = live[a.Provider] || !a.State.Final()
			}
			full := len(live) == historyProviders && !slices.Contains(values(live), false)
			switch {
			case s.Active >= s.Wanted:
			case s.Reason == "":
				return fmt.Sprintf("%+v says nothing", s)
			case full: // every provider has a copy, under these terms or others
			default:
				return fmt.Sprintf("%d of %d active: %s", s.Active, s.Wanted, s.Reason)
			}
		}
		return ""
	}
	for end := time.Now().Add(10 * 24 * time.Hour); settled() != ""; pass(10 * time.Minute) {
		h.check(rt)
		if time.Now().After(end) {
			rt.Fatalf("it does not settle: %s\n%s", settled(), h.dump())
		}
	}
	h.check(rt)
}

func (h *history) all(w deals.Wish) []deals.Attempt {
	all, err := h.List(context.Background(), deals.Filter{Root: w.Root})
	if err != nil {
		panic(err)
	}
	return all
}

func values(m map[deals.ProviderID]bool) []bool {
	var out []bool
	for _, v := range m {
		out = append(out, v)
	}
	return out
}
