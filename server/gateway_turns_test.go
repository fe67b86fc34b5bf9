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
		takeTurns(t, turns)
		work, _, end := server.Working(turns)
		late := make(chan error)
		go func() { late <- work(t.Context()) }()
		synctest.Wait()
		end()
		giveTurns(turns)
		if err := <-late; err != nil {
			t.Error(err)
		}
		takeTurns(t, turns)
	})
}

// boxo reads ahead while the reader is given what was read before, which can take that reader as long as it likes.
func TestAReaderWhoTakesNothingKeepsNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := pins.NewTurns()
		work, giving, _ := server.Working(turns)
		if err := work(t.Context()); err != nil {
			t.Fatal(err)
		}
		giving(true)
		takeTurns(t, turns) // the one from before is given back
		ahead := make(chan error)
		go func() { ahead <- work(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-ahead:
			t.Errorf("a node was read out of turn: %v", err)
		default:
		}
		giveTurns(turns)
		if err := <-ahead; err != nil {
			t.Error(err)
		}
		takeTurns(t, turns)
		giveTurns(turns)
		giving(false)
		if err := work(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := turns.Do(withPatience(t), "another", func() error { return nil }); allTurns == 1 && err == nil {
			t.Error("afterwards a read takes no turn any more")
		}
	})
}

var allTurns = max(1, runtime.GOMAXPROCS(0)/2)

func withPatience(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // the test's clock
	t.Cleanup(cancel)
	return ctx
}

// takeTurns takes all turns there are.
func takeTurns(t *testing.T, turns *pins.Turns) {
	t.Helper()
	ctx := withPatience(t)
	for range allTurns {
		if err := turns.Take(ctx, "another"); err != nil {
			t.Fatalf("a turn was lost: %v", err)
		}
	}
}

func giveTurns(turns *pins.Turns) {
	for range allTurns {
		turns.Give()
	}
}
