package pins_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"go.uber.org/goleak"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

func TestMain(m *testing.M) {
	flag.Parse()
	checks := "20" // each is a whole life of a service
	if testing.Short() {
		checks = "5"
	}
	for name, value := range map[string]string{"rapid.checks": checks, "test.parallel": "3"} {
		given := false
		flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
		if given {
			continue
		}
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

const alice, bob = pins.Account(1), pins.Account(2)

// A world is a service over a real database and the model of a hot tier.
type world struct {
	*pins.Service
	t    *testing.T
	db   *database.DB
	tier *pinstest.Tier
	stop func()
}

func config() pins.Config {
	return pins.Config{
		Limits:    pins.Limits{Bytes: 1 << 30, Blocks: 1e6, Depth: 1024, BlockSize: 2 << 20, Idle: time.Second, Stall: 2 * time.Second},
		Slots:     16,
		FindRoots: 400,
		FindSlice: 200 * time.Millisecond,
		Policy:    pins.Policy{Deadline: time.Hour, RetryFirst: 100 * time.Millisecond, RetryMax: time.Second},
		Retain:    time.Hour,
		Instance:  "test",
		Exclusive: true,
	}
}

// each runs a test on every database, with a service that works.
func each(t *testing.T, test func(t *testing.T, w *world)) {
	t.Parallel() // tests here wait more than they work
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		w := newWorld(t, db, pinstest.NewTier(), config())
		w.start()
		test(t, w)
	})
}

func newWorld(t *testing.T, db *database.DB, tier *pinstest.Tier, cfg pins.Config) *world {
	t.Helper()
	w := &world{t: t, db: db, tier: tier, stop: func() {}}
	w.Service = pins.New(cfg, db, tier, discard(), time.Now)
	return w
}

func (w *world) start() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
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
	w.t.Cleanup(func() { w.stop() })
	<-w.Ready()
}

func request(c cid.Cid) spec.Request {
	return spec.Request{CID: c.String(), Root: spec.Canonical(c)}
}

func named(c cid.Cid, name string) spec.Request {
	r := request(c)
	r.Name = &name
	return r
}

func (w *world) add(account pins.Account, r spec.Request) pins.Pin {
	w.t.Helper()
	p, err := w.Add(context.Background(), account, r, pins.Decision{Terms: pins.Undecided})
	if err != nil {
		w.t.Fatalf("adding %s: %v", r.CID, err)
	}
	return p
}

func (w *world) get(p pins.Pin) pins.Pin {
	w.t.Helper()
	p, err := w.Get(context.Background(), p.Account, p.ID)
	if err != nil {
		w.t.Fatalf("getting %s: %v", p.ID, err)
	}
	return p
}

func (w *world) delete(p pins.Pin) {
	w.t.Helper()
	if err := w.Delete(context.Background(), p.Account, p.ID); err != nil {
		w.t.Fatalf("deleting %s: %v", p.ID, err)
	}
}

func (w *world) list(account pins.Account, q spec.Query) pins.Page {
	w.t.Helper()
	page, err := w.List(context.Background(), account, q)
	if err != nil {
		w.t.Fatalf("listing %+v: %v", q, err)
	}
	return page
}

// waits for a condition that the scheduler brings about.
func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("waited in vain until %s", what)
		}
	}
}

func (w *world) untilStatus(p pins.Pin, status spec.Status) pins.Pin {
	w.t.Helper()
	w.until(fmt.Sprintf("%s is %s", p.CID, status), func() bool { return w.get(p).Status() == status })
	return w.get(p)
}

func (w *world) held(c cid.Cid) bool {
	held, err := w.tier.Held(context.Background(), c)
	return held && err == nil
}

func (w *world) mustBeGone(p pins.Pin) {
	w.t.Helper()
	if _, err := w.Get(context.Background(), p.Account, p.ID); !errors.Is(err, pins.ErrNotFound) {
		w.t.Fatalf("got %v for pin %s, want ErrNotFound", err, p.ID)
	}
}

func all() spec.Query {
	return spec.Query{
		Match:    spec.Exact,
		Statuses: []spec.Status{spec.Queued, spec.Pinning, spec.Pinned, spec.Failed},
		Limit:    1000,
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
