package hot_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot"
	"github.com/frostpin/frostpin/pins/pinstest"
)

func TestManyWhoWaitShareOneFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var flushes, begun atomic.Int64
		wait := hot.NewFlusher(func(context.Context) error {
			begun.Store(time.Now().UnixNano())
			<-time.After(10 * time.Millisecond) // a disk
			flushes.Add(1)
			return nil
		})
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() {
				called := time.Now().UnixNano()
				if err := wait(t.Context()); err != nil {
					t.Error(err)
				}
				if begun.Load() < called {
					t.Error("the flush that was waited for began before the call")
				}
			})
		}
		group.Wait()
		if n := flushes.Load(); n > 2 {
			t.Errorf("%d flushes for 100 who wait at once, want one or two", n)
		}
	})
}

// A pin whose flush failed looks like any other pin, and so does one below which blocks have come anew.
func TestWhatIsPinnedAlreadyIsFlushedToo(t *testing.T) {
	tier := openEmbedded(t, hot.Config{})
	d := pinstest.Tree("flushed", 3)
	in, err := tier.Import(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := in.Put(t.Context(), d.Blocks); err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left")
	hold := func() error { return tier.Hold(t.Context(), d.Root, pins.Limits{Offline: true}, nil) }
	tier.FailFlush(full)
	for range 2 {
		if err := hold(); !errors.Is(err, full) {
			t.Errorf("it was held though it is not durable: %v", err)
		}
	}
	tier.FailFlush(nil)
	if err := hold(); err != nil {
		t.Error(err)
	}
	tier.FailFlush(full)
	if err := hold(); !errors.Is(err, full) {
		t.Errorf("once it was durable it is not looked at any more: %v", err)
	}
	tier.FailFlush(nil)
}

func TestWaitingForAFlushEndsWithItsContext(t *testing.T) {
	stuck := make(chan struct{})
	wait := hot.NewFlusher(func(context.Context) error { <-stuck; return nil })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting with a cancelled context: %v", err)
	}
	close(stuck)
	if err := wait(t.Context()); err != nil {
		t.Error(err)
	}
}
