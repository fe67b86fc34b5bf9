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
	left := goleak.Find(before, goleak.IgnoreAnyFunction("github.com/filecoin-project/go-jsonrpc.(*wsConn).nextMessage"))
	for deadline := time.Now().Add(20 * time.Second); left != nil && time.Now().Before(deadline); {
		left = goleak.Find(before, goleak.IgnoreAnyFunction("github.com/filecoin-project/go-jsonrpc.(*wsConn).nextMessage")) // it waits itself
	}
	if left != nil {
		t.Error(left)
	}
}
