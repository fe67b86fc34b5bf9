package ingest_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/ingest"
	"github.com/frostpin/frostpin/pins/pinstest"
)

// A peer is one of several servers on one database and one tier.
type peer struct {
	*ingest.Service
	pins *pins.Service
	stop func()
	away chan struct{} // closed when a key turned out to be claimed by another
}

// watched tells when a key is claimed by another.
type watched struct {
	*pins.Service
	away chan struct{}
	once atomic.Bool
}

func (w *watched) BeginUpload(ctx context.Context, account pins.Account, key string) (bool, error) {
	claimed, err := w.Service.BeginUpload(ctx, account, key)
	if err == nil && !claimed && w.once.CompareAndSwap(false, true) {
		close(w.away)
	}
	return claimed, err
}

func newPeer(t *testing.T, db *database.DB, tier *pinstest.Tier, instance string) *peer {
	t.Helper()
	service := pins.New(pins.Config{
		Limits: limits, Instance: instance, Slots: 4, FindRoots: 40, FindSlice: time.Second, Retain: time.Hour,
		Policy: pins.Policy{Deadline: time.Hour, RetryFirst: time.Second, RetryMax: time.Minute},
	}, db, tier, slog.New(slog.DiscardHandler), time.Now)
	w := &watched{Service: service, away: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	var stopped atomic.Bool
	p := &peer{Service: ingest.New(tier, w, limits), pins: service, away: w.away, stop: func() {
		cancel()
		if stopped.CompareAndSwap(false, true) {
			if err := <-ended; err != nil {
				t.Errorf("running: %v", err)
			}
		}
	}}
	t.Cleanup(p.stop)
	<-service.Ready()
	return p
}

func eachPair(t *testing.T, test func(t *testing.T, a, b *peer)) {
	t.Helper()
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		tier := pinstest.NewTier()
		a, b := newPeer(t, db, tier, "a"), newPeer(t, db, tier, "b")
		test(t, a, b)
		a.stop() // before the database is closed
		b.stop()
	})
}

// slow is a body that says when it is read and ends when it is told.
type slow struct {
	io.Reader
	begun, end chan struct{}
	once       atomic.Bool
}

func newSlow(text string) *slow {
	return &slow{Reader: strings.NewReader(text), begun: make(chan struct{}), end: make(chan struct{})}
}

func (s *slow) Read(b []byte) (int, error) {
	if s.once.CompareAndSwap(false, true) {
		close(s.begun)
		<-s.end
	}
	return s.Reader.Read(b)
}

type outcome struct {
	made  []pins.Pin
	fresh bool
	err   error
}

func (p *peer) send(body io.Reader) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		made, fresh, err := p.Upload(context.Background(), ingest.Upload{Account: 1, Key: "k", Body: body})
		done <- outcome{made, fresh, err}
	}()
	return done
}

func all(t *testing.T, p *peer) int64 {
	t.Helper()
	return (&world{pins: p.pins}).count(t)
}

func TestTwoServersMakeOnePinForOneKey(t *testing.T) {
	eachPair(t, func(t *testing.T, a, b *peer) {
		body := newSlow("of the first")
		first := a.send(body)
		<-body.begun
		second := b.send(strings.NewReader("of the second"))
		select {
		case <-b.away:
		case got := <-second:
			t.Errorf("the second did not wait for the first: %+v", got)
			close(body.end)
			<-first
			return
		}
		close(body.end)
		one, two := <-first, <-second
		if one.err != nil || two.err != nil || !one.fresh || two.fresh {
			t.Fatalf("the first %+v, the second %+v", one, two)
		}
		if one.made[0].ID != two.made[0].ID || all(t, a) != 1 {
			t.Errorf("pins %s and %s; there are %d", one.made[0].ID, two.made[0].ID, all(t, a))
		}
	})
}

func TestKeysAreFreeWhenTheirUploadFailed(t *testing.T) {
	eachPair(t, func(t *testing.T, a, b *peer) {
		gone := errors.New("the client went away")
		if got := <-a.send(failing{gone}); !errors.Is(got.err, gone) {
			t.Fatalf("%+v", got)
		}
		if got := <-b.send(strings.NewReader("again")); got.err != nil || !got.fresh || all(t, a) != 1 {
			t.Errorf("%+v; there are %d pins", got, all(t, a))
		}
	})
}

// A server that is gone, or was taken for gone, has lost its keys: what it still brings makes no pin.
func TestServerThatWasTakenForDeadMakesNoSecondPin(t *testing.T) {
	eachPair(t, func(t *testing.T, a, b *peer) {
		body := newSlow("of the dead")
		first := a.send(body)
		<-body.begun
		a.stop()
		two := <-b.send(strings.NewReader("of the living"))
		close(body.end)
		one := <-first
		if !errors.Is(one.err, pins.ErrOvertaken) || two.err != nil || !two.fresh || all(t, b) != 1 {
			t.Errorf("the dead %+v, the living %+v; there are %d pins", one, two, all(t, b))
		}
	})
}

func TestServersThatRaceForAKeyMakeOnePin(t *testing.T) {
	eachPair(t, func(t *testing.T, a, b *peer) {
		var results []<-chan outcome
		for range 4 {
			results = append(results, a.send(strings.NewReader("x")), b.send(strings.NewReader("y")))
		}
		ids, fresh := map[pins.ID]bool{}, 0
		for _, result := range results {
			got := <-result
			if got.err != nil || len(got.made) != 1 {
				t.Fatalf("%+v", got)
			}
			if ids[got.made[0].ID] = true; got.fresh {
				fresh++
			}
		}
		if len(ids) != 1 || fresh != 1 || all(t, a) != 1 {
			t.Errorf("the answers name %d pins, %d of them say new, and there are %d", len(ids), fresh, all(t, a))
		}
	})
}

// A server that was killed while it held what was uploaded is followed by another one that finds it.
func TestNothingIsHeldForUploadsOfAServerThatIsGone(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		tier := pinstest.NewTier()
		d, theirs := pinstest.Tree("d", 5), pinstest.Tree("theirs", 5)
		tier.AddLocal(d.Blocks...)
		tier.AddLocal(theirs.Blocks...)
		tier.AddPin(theirs.Root)
		a := newPeer(t, db, tier, "a")
		if _, err := a.pins.BeginHold(t.Context(), []cid.Cid{d.Root, theirs.Root}); err != nil {
			t.Fatal(err)
		}
		for _, d := range []pinstest.DAG{d, theirs} {
			if err := tier.Hold(t.Context(), d.Root, limits, nil); err != nil {
				t.Fatal(err)
			}
		}
		a.stop()
		b := newPeer(t, db, tier, "a")
		until(t, "it is let go", func() bool {
			held, err := tier.Held(t.Context(), d.Root)
			return err == nil && !held
		})
		if held, err := tier.Held(t.Context(), theirs.Root); err != nil || !held {
			t.Errorf("what others hold is gone, or %v", err)
		}
		b.stop() // before the database is closed
	})
}

// What two servers have held is let go when both uploads have been refused, whichever ends last.
func TestServersDoNotWaitForEachOthersHolds(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		tier := pinstest.NewTier()
		a, b := newPeer(t, db, tier, "a"), newPeer(t, db, tier, "b")
		d := pinstest.Tree("over the quota", 3)
		tier.AddLocal(d.Blocks...)
		var ids []string
		for _, p := range []*peer{a, b} {
			id, err := p.pins.BeginHold(t.Context(), []cid.Cid{d.Root})
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		if err := tier.Hold(t.Context(), d.Root, limits, nil); err != nil {
			t.Fatal(err)
		}
		a.pins.EndHold(ids[0])
		b.pins.EndHold(ids[1])
		until(t, "it is let go", func() bool {
			held, err := tier.Held(t.Context(), d.Root)
			return err == nil && !held
		})
		a.stop()
		b.stop() // before the database is closed
	})
}
