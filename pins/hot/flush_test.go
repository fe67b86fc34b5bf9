package hot_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/frostpin/frostpin/pins/hot"
)

func TestManyWhoWaitShareOneFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var flushes, begun atomic.Int64
		wait, _ := hot.NewFlusher(func(context.Context) error {
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

// A pin whose flush failed looks like any other pin, so the next one to hold it must flush before it believes that.
func TestFailedFlushIsOwed(t *testing.T) {
	full := errors.New("no space left")
	answer := full
	wait, owes := hot.NewFlusher(func(context.Context) error { return answer })
	if err := wait(t.Context()); !errors.Is(err, full) || !owes() {
		t.Fatalf("a failed flush: %v, owed %v", err, owes())
	}
	answer = nil
	if err := wait(t.Context()); err != nil || owes() {
		t.Fatalf("the flush after it: %v, owed %v", err, owes())
	}
}

func TestWaitingForAFlushEndsWithItsContext(t *testing.T) {
	stuck := make(chan struct{})
	wait, _ := hot.NewFlusher(func(context.Context) error { <-stuck; return nil })
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
