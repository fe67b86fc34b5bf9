package retrieval

import (
	"context"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
)

// with returns a service over the wire with these settings, its hot blocks, and a reader that is about to read all below
// top, until the end of the test.
func (w *wire) with(t *testing.T, cfg Config) (s *Service, hot *rack, reader func(top cid.Cid) context.Context) {
	t.Helper()
	_, hot = w.service()
	s = New(cfg, Parts{Directory: w, Store: hot, Codec: rawCodec{}}, slog.New(slog.DiscardHandler), time.Now)
	s.client = &http.Client{Transport: w}
	return s, hot, func(top cid.Cid) context.Context {
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(func() { cancel(); synctest.Wait() })
		ctx, _ = WithTrail(WithRoot(ctx, w.dag.root))
		s.Prefetch(ctx, w.dag.root, top)
		return ctx
	}
}

// takes is how long it takes to read blocks of a DAG.
func (w *wire) takes(ctx context.Context, t *testing.T, s *Service, list ...cid.Cid) time.Duration {
	t.Helper()
	begun := time.Now()
	for _, c := range list {
		if b, err := s.Get(ctx, c); err != nil || string(b.RawData()) != w.dag.data[c] {
			t.Fatalf("block %s: %v", c, err)
		}
	}
	return time.Since(begun)
}

// A reader whose transfer waits for a place gets what it reads by itself.
func TestReaderDoesNotWaitForATransferWithoutAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{dag: plant(3, 4), senders: map[string]*sender{"f01000": {answer: 100 * time.Millisecond}}}
		s, _, reader := w.with(t, Config{Transfers: 1})
		s.slots <- struct{}{}
		ctx := reader(w.dag.root)
		if took := w.takes(ctx, t, s, w.dag.below(w.dag.root)[:3]...); took > time.Second {
			t.Errorf("three blocks took %s", took)
		}
	})
}

// A transfer that brings nothing any more is left, at once by who comes later.
func TestReaderDoesNotWaitForATransferThatStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{dag: plant(3, 4), senders: map[string]*sender{"f01000": {gap: func(n int) time.Duration {
			if n == 2 {
				return never
			}
			return 0
		}}}}
		s, _, reader := w.with(t, Config{Idle: time.Hour})
		ctx := reader(w.dag.root)
		if took := w.takes(ctx, t, s, w.dag.below(w.dag.root)...); took > 12*time.Second {
			t.Errorf("the DAG took %s", took)
		}
	})
}

// A reader of all waits for a transfer that is slow as long as it goes on.
func TestReaderWaitsForATransferThatGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &sender{gap: func(int) time.Duration { return 5 * time.Second }}
		w := &wire{dag: plant(3, 4), senders: map[string]*sender{"f01000": from}}
		s, _, reader := w.with(t, Config{})
		order := w.dag.below(w.dag.root)
		w.takes(reader(w.dag.root), t, s, order[len(order)-1])
		if len(from.asked) != 1 {
			t.Errorf("it was asked for %v", from.asked)
		}
	})
}

// What a transfer has brought, and is not here any more, it does not bring again.
func TestReaderDoesNotWaitForWhatHasPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{dag: plant(3, 90), senders: map[string]*sender{"f01000": {gap: func(int) time.Duration { return time.Second }}}}
		s, hot, reader := w.with(t, Config{})
		order := w.dag.below(w.dag.root)
		ctx := reader(w.dag.root)
		w.takes(ctx, t, s, order[100]) // the first batch is stored
		synctest.Wait()
		hot.mu.Lock()
		delete(hot.blocks, order[1].KeyString())
		hot.mu.Unlock()
		if took := w.takes(ctx, t, s, order[1]); took != 0 {
			t.Errorf("a block that has passed took %s", took)
		}
	})
}

// Who waits for a block that has become hot in another way has it when the transfer finds it.
func TestWaitingReaderHasWhatTheTransferFindsHot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := plant(2, 40)
		w := &wire{dag: d, senders: map[string]*sender{"f01000": {answer: 3 * time.Second, gap: func(int) time.Duration { return time.Second }}}}
		s, hot, reader := w.with(t, Config{})
		order := d.below(d.root)
		hot.blocks[d.root.KeyString()] = []byte(d.data[d.root])
		// The second node is missing when its reader looks, and here when the transfer comes to it.
		ctx := reader(d.root)
		begun, came := time.Now(), make(chan time.Duration)
		go func() {
			if _, err := s.Get(ctx, d.nodes[1]); err != nil {
				t.Error(err)
			}
			came <- time.Since(begun)
		}()
		synctest.Wait()
		hot.mu.Lock()
		hot.blocks[d.nodes[1].KeyString()] = []byte(d.data[d.nodes[1]])
		hot.mu.Unlock()
		w.takes(ctx, t, s, order[1:41]...)
		found := time.Since(begun)
		if took := <-came; took > found+time.Second {
			t.Errorf("the reader had it after %s; it was found after %s", took, found)
		}
	})
}

// Restores leave places to the transfers of readers.
func TestRestoresLeavePlacesToReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &sender{answer: time.Minute}
		w := &wire{dag: plant(12, 4), senders: map[string]*sender{"f01000": from}}
		s, _, reader := w.with(t, Config{Transfers: 8, Header: never, Idle: never})
		restoring, cancel := context.WithCancel(t.Context())
		for _, node := range w.dag.nodes {
			go func() { _ = s.Restore(restoring, node, Budget{}, nil) }()
		}
		synctest.Wait()
		if w.now != 6 {
			t.Errorf("%d restores are under way", w.now)
		}
		reader(w.dag.root)
		synctest.Wait()
		if w.now != 7 {
			t.Errorf("%d transfers are under way with that of a reader", w.now)
		}
		cancel()
		synctest.Wait()
	})
}

// A restore that waits for a place takes one of those of readers when a reader wants the same.
func TestRestoreThatAReaderWantsTakesAPlaceOfReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{dag: plant(12, 4), senders: map[string]*sender{"f01000": {answer: time.Minute}}}
		s, _, reader := w.with(t, Config{Transfers: 4, Header: never, Idle: never})
		restoring, cancel := context.WithCancel(t.Context())
		for _, c := range append(w.dag.nodes[:3:3], w.dag.root) {
			go func() { _ = s.Restore(restoring, c, Budget{}, nil) }()
			synctest.Wait()
		}
		reader(w.dag.root)
		synctest.Wait()
		if w.now != 4 {
			t.Errorf("%d transfers are under way", w.now)
		}
		cancel()
		synctest.Wait()
	})
}
