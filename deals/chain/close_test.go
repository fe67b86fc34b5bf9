package chain_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/frostpin/frostpin/deals/chain"
)

func TestCloseLeavesNothingBehind(t *testing.T) {
	f := grown(t, "a")
	p := newPlug(t)
	p.into(f.serve(t))
	l := open(t, p.url(), nil)
	if _, err := l.Heads(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := goleak.IgnoreCurrent()
	for range 3 {
		own, err := chain.Open(context.Background(), chain.Config{URL: p.url(), Network: "test", Wallet: wallet}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := own.Heads(t.Context()); err != nil {
			t.Fatal(err)
		}
		own.Close()
	}
	// What serves the connections ends when it notices that they are closed. go-jsonrpc's reader stays when a frame
	// comes in the moment in which the connection is closed; nothing but its buffer is lost by that.
	noneLeft(t, before, goleak.IgnoreAnyFunction("github.com/filecoin-project/go-jsonrpc.(*wsConn).nextMessage"))
}

// noneLeft waits until the goroutines that were started are gone, for longer than goleak does.
func noneLeft(t *testing.T, ignore ...goleak.Option) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); ; {
		left := goleak.Find(ignore...)
		if left == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Error(left)
			return
		}
	}
}
