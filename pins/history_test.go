package pins_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// TestHistoriesKeepEveryPromise runs random histories of requests, faults and restarts. At every moment a pinned DAG
// is really held, or proven cold, and no deleted pin exists; once the faults are over, every pin is held, and nothing else
// is. An archive comes and goes with the restarts; once it is there it knows what is wanted cold, its copies come and go, and
// everything is let go that may be.
func TestHistoriesKeepEveryPromise(t *testing.T) {
	databasetest.Each(t, archiveMigrations(), func(t *testing.T, db *database.DB) {
		account := pins.Account(0)
		rapid.Check(t, func(t *rapid.T) {
			account++
			h := newHistory(t, db, account)
			defer func() { h.stop() }() // of the last restart
			t.Repeat(map[string]func(*rapid.T){
				"add":     h.add,
				"replace": h.replace,
				"delete":  h.delete,
				"fault":   h.fault,
				"restart": func(t *rapid.T) {
					h.cold = rapid.Bool().Draw(t, "archive")
					h.rule = rapid.SampledFrom([]string{"hot", "active(1)", "accepted(2)"}).Draw(t, "rule")
					h.restart()
				},
				"collect": func(t *rapid.T) {
					if err := pins.Collect(context.Background(), h.service); err != nil && !errors.Is(err, pins.ErrUnavailable) {
						t.Fatal(err)
					}
				},
				"copies": func(t *rapid.T) { h.copies(t, rapid.IntRange(0, 2).Draw(t, "active")) },
				"let go": func(t *rapid.T) {
					h.copies(t, 2)
					if _, err := pins.LetGoPass(context.Background(), h.service); h.cold && err != nil {
						t.Fatal(err)
					}
				},
				"read": h.read,
				"":     h.check,
			})
			h.settle(t)
		})
	})
}

type history struct {
	db      *database.DB
	account pins.Account
	tier    *pinstest.Tier
	dags    []pinstest.DAG
	live    map[pins.ID]pinstest.DAG
	gone    []pins.ID
	archive *archive
	source  *source // every copy can be read
	quota   int64
	cold    bool   // the archive is there
	rule    string // pinned_when
	service *pins.Service
	stop    func()
}

func newHistory(t *rapid.T, db *database.DB, account pins.Account) *history {
	h := &history{db: db, account: account, tier: pinstest.NewTier(), live: map[pins.ID]pinstest.DAG{}, stop: func() {}}
	h.archive, h.cold, h.rule, h.quota = &archive{db: db}, true, "hot", 1
	h.source = &source{tier: h.tier, dags: map[string]pinstest.DAG{}}
	for i := range 5 {
		// A DAG of its own per history, and blocks that all DAGs of a history share.
		h.dags = append(h.dags, pinstest.Tree(fmt.Sprint("history", account, "-", i/2), 2+i))
	}
	for _, d := range h.dags {
		h.source.dags[d.Root.KeyString()] = d
	}
	for _, d := range h.dags[:4] {
		h.tier.AddNetwork(d.Blocks...)
	}
	h.restart()
	return h
}

func (h *history) restart() {
	h.stop()
	cfg := config()
	cfg.FindSlice = 20 * time.Millisecond
	cfg.Limits.Idle, cfg.Limits.Stall = 20*time.Millisecond, 50*time.Millisecond
	var err error
	if cfg.PinnedWhen, err = pins.ParsePinnedWhen(h.rule); err != nil {
		panic(err)
	}
	cfg.Cold = pins.ColdPolicy{Terms: deals.Terms{Replicas: 2}}
	if h.cold {
		cfg.Archive, cfg.ColdSource, cfg.HotQuota = h.archive, h.source, h.quota
	}
	h.service = pins.New(cfg, h.db, h.tier, discard(), time.Now)
	h.archive.follower = nil
	if h.cold {
		h.archive.follower = h.service
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = h.service.Run(ctx)
	}()
	<-h.service.Ready()
	h.stop = func() {
		cancel()
		<-done
	}
}

func (h *history) terms(t *rapid.T) deals.TermsID {
	if !h.cold {
		return pins.Undecided
	}
	return rapid.SampledFrom([]deals.TermsID{1, 2, 1, 2, pins.Uncopied}).Draw(t, "terms")
}

func (h *history) dag(t *rapid.T) pinstest.DAG { return rapid.SampledFrom(h.dags).Draw(t, "dag") }

func (h *history) pin(t *rapid.T) (pins.ID, bool) {
	ids := make([]pins.ID, 0, len(h.live))
	for id := range h.live {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return "", false
	}
	return rapid.SampledFrom(ids).Draw(t, "pin"), true
}

func (h *history) add(t *rapid.T) {
	d := h.dag(t)
	p, err := h.service.Add(context.Background(), h.account, request(d.Root), pins.Decision{Terms: h.terms(t)})
	if err != nil {
		t.Fatal(err)
	}
	h.live[p.ID] = d
}

func (h *history) replace(t *rapid.T) {
	id, ok := h.pin(t)
	if !ok {
		return
	}
	d := h.dag(t)
	p, err := h.service.Replace(context.Background(), h.account, id, request(d.Root), pins.Decision{Terms: h.terms(t)})
	if err != nil {
		t.Fatal(err)
	}
	delete(h.live, id)
	h.gone, h.live[p.ID] = append(h.gone, id), d
}

func (h *history) delete(t *rapid.T) {
	id, ok := h.pin(t)
	if !ok {
		return
	}
	if err := h.service.Delete(context.Background(), h.account, id); err != nil {
		t.Fatal(err)
	}
	delete(h.live, id)
	h.gone = append(h.gone, id)
}

// copies makes so many copies of a DAG proven, or all that are wanted.
func (h *history) copies(t *rapid.T, most int) {
	d := h.dag(t)
	for id, live := range maps.Clone(h.live) {
		p, err := h.service.Get(context.Background(), h.account, id)
		if err != nil {
			t.Fatal(err)
		}
		w, wished := p.Wish()
		if !h.cold || !wished || !live.Root.Equals(d.Root) {
			continue
		}
		st := deals.Standing{Cold: deals.ColdPending, Wanted: int(w.Terms), Active: min(most, int(w.Terms))}
		if st.Ever = st.Active; st.Active == st.Wanted {
			st.Cold, st.Kept = deals.ColdStored, true
		}
		if err := h.archive.set(context.Background(), w, st); err != nil {
			t.Fatal(err)
		}
	}
}

func (h *history) read(t *rapid.T) {
	h.service.Touched(h.dag(t).Root, rapid.Bool().Draw(t, "cold"))
	if err := pins.RecordTouches(context.Background(), h.service); err != nil {
		t.Fatal(err)
	}
}

func (h *history) fault(t *rapid.T) {
	switch rapid.SampledFrom([]string{"silence", "noise", "down", "up", "lose", "sessions"}).Draw(t, "fault") {
	case "silence":
		h.tier.Silence(true)
	case "noise":
		h.tier.Silence(false)
	case "down":
		h.tier.SetDown(true)
	case "up":
		h.tier.SetDown(false)
	case "lose":
		h.tier.FailHold(h.dag(t).Root, errors.New("a fault"))
	case "sessions":
		h.tier.LimitSessions(rapid.IntRange(0, 3).Draw(t, "blocks"))
	}
}

// check holds what must be true at every moment.
func (h *history) check(t *rapid.T) {
	ctx := context.Background()
	for id, d := range h.live {
		p, err := h.service.Get(ctx, h.account, id)
		if err != nil {
			t.Fatalf("acknowledged pin %s: %v", id, err)
		}
		if p.Status() == spec.Pinned {
			held, err := h.tier.Held(ctx, d.Root)
			if !held && !h.coldHolds(t, id) {
				t.Fatalf("%s is pinned and neither held (%v) nor proven cold\n%s", d.Root, err, pins.Dump(h.service))
			}
		}
	}
	for _, id := range h.gone {
		if _, err := h.service.Get(ctx, h.account, id); !errors.Is(err, pins.ErrNotFound) {
			t.Fatalf("removed pin %s: %v", id, err)
		}
	}
}

// coldHolds tells whether a pin that is not held is kept by cold copies, or is not pinned any more.
func (h *history) coldHolds(t *rapid.T, id pins.ID) bool {
	p, err := h.service.Get(context.Background(), h.account, id)
	if err != nil {
		t.Fatal(err)
	}
	return p.Status() != spec.Pinned || (p.DAG.Hot == pins.HotOffloaded || p.DAG.Hot == pins.HotRestoring) && p.Cold.Active > 0
}

// settle ends all faults; then everything that is wanted must become held, and nothing else stay so.
func (h *history) settle(t *rapid.T) {
	h.cold, h.rule, h.quota = true, "hot", 0
	h.restart()
	h.tier.Silence(false)
	h.tier.SetDown(false)
	h.tier.LimitSessions(0)
	for _, d := range h.dags {
		h.tier.FailHold(d.Root, nil)
		h.tier.AddNetwork(d.Blocks...)
	}
	want := map[string]bool{}
	for id, d := range maps.Clone(h.live) {
		// A new request makes the scheduler look now instead of after its back-off.
		p, err := h.service.Replace(context.Background(), h.account, id, request(d.Root), pins.Decision{Terms: h.terms(t)})
		if err != nil {
			t.Fatal(err)
		}
		delete(h.live, id)
		h.live[p.ID] = d
		want[d.Root.String()] = true
	}
	const patience = 60 * time.Second
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		q := all()
		q.Statuses = []spec.Status{spec.Pinned}
		page, err := h.service.List(context.Background(), h.account, q)
		if err != nil {
			t.Fatal(err)
		}
		if held := h.tier.HeldRoots(); page.Count == int64(len(h.live)) && len(held) == len(want) {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d of %d pins are pinned, %d of %d dags held: %v\n%s", page.Count, len(h.live), len(h.tier.HeldRoots()), len(want), h.tier.HeldRoots(), pins.Dump(h.service))
		}
	}
	deadline = time.After(patience)
	for !h.agree(t) {
		select {
		case <-tick.C:
		case <-deadline:
			h.archive.mustAgree(t, h.service, h.account)
		}
	}
	deadline = time.After(patience)
	for wrong := h.wrongHolding(t); wrong != ""; wrong = h.wrongHolding(t) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(wrong)
		}
	}
	for id := range h.live {
		if err := h.service.Delete(context.Background(), h.account, id); err != nil {
			t.Fatal(err)
		}
	}
	deadline = time.After(patience)
	for len(h.tier.HeldRoots()) > 0 {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d dags are held for nobody: %v\n%s", len(h.tier.HeldRoots()), h.tier.HeldRoots(), pins.Dump(h.service))
		}
	}
	if wanted, err := h.archive.wanted(context.Background()); err != nil || len(wanted) > 0 {
		t.Fatalf("wanted cold for nobody: %v, %v", wanted, err)
	}
	for _, one := range h.holdings(t) {
		if one.Until.IsZero() {
			t.Fatalf("%+v goes on without its pin", one)
		}
	}
}

// wrongHolding is what of that which the ledger is told differs from what there is; empty for nothing. Copies may be counted
// between the two looks.
func (h *history) wrongHolding(t *rapid.T) string {
	now, last := map[pins.ID]pins.Holding{}, pins.Holding{}
	for _, one := range h.holdings(t) {
		if one.Pin == last.Pin && (last.Removed || one.Since.Before(last.Until)) {
			t.Fatalf("%+v comes after %+v", one, last)
		}
		if last = one; one.Until.IsZero() {
			now[one.Pin] = one
		}
	}
	for id, d := range h.live {
		p, err := h.service.Get(context.Background(), h.account, id)
		if err != nil {
			t.Fatal(err)
		}
		got := now[id]
		if delete(now, id); !got.Hot || got.Copies != int64(p.Cold.Active) || got.Bytes != d.Size() {
			return fmt.Sprintf("%+v is told of a pin of %d bytes with %d copies", got, d.Size(), p.Cold.Active)
		}
	}
	if len(now) > 0 {
		return fmt.Sprintf("holdings without pins: %+v", now)
	}
	return ""
}

// holdings are those of this history.
func (h *history) holdings(t *rapid.T) (all []pins.Holding) {
	for one, err := range h.service.Holdings(context.Background(), true) {
		if err != nil {
			t.Fatal(err)
		}
		if one.Account == h.account {
			all = append(all, one)
		}
	}
	return all
}

// agree tells whether the archive knows what the pins want cold.
func (h *history) agree(t *rapid.T) bool {
	want, err := wishesOf(context.Background(), h.service, h.account)
	if err != nil {
		t.Fatal(err)
	}
	got, err := h.archive.wanted(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return maps.Equal(want, got)
}
