package server_test

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/server"
)

// boxo may still wait for a turn when the reader has gone: nobody would ever give it back.
func TestAReadThatHasEndedKeepsNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := pins.NewTurns()
		all := max(1, runtime.GOMAXPROCS(0)/2)
		takeAll := func() {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // the test's clock
			defer cancel()
			for range all {
				if err := turns.Take(ctx, "another"); err != nil {
					t.Fatalf("a turn was lost: %v", err)
				}
			}
		}
		takeAll()
		work, end := server.Working(turns)
		late := make(chan error)
		go func() { late <- work(t.Context()) }()
		synctest.Wait()
		end()
		for range all {
			turns.Give()
		}
		if err := <-late; err != nil {
			t.Error(err)
		}
		takeAll()
	})
}
