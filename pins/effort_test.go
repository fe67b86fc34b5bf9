package pins_test

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/frostpin/frostpin/pins"
)

// boxo may still wait for a turn when the reader has gone: nobody would ever give it back.
func TestAReadThatHasEndedKeepsNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := pins.NewTurns()
		takeTurns(t, turns)
		read := working(turns)
		late := make(chan error)
		go func() { late <- read.Work(t.Context()) }()
		synctest.Wait()
		read.End()
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
		read := working(turns)
		if err := read.Work(t.Context()); err != nil {
			t.Fatal(err)
		}
		read.Giving(true)
		takeTurns(t, turns) // the one from before is given back
		ahead := make(chan error)
		go func() { ahead <- read.Work(t.Context()) }()
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
		read.Giving(false)
		if err := read.Work(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := turns.Do(withPatience(t), "another", func() error { return nil }); allTurns == 1 && err == nil {
			t.Error("afterwards a read takes no turn any more")
		}
	})
}

// working is the effort of a read that has done so much that it takes turns.
func working(turns *pins.Turns) *pins.Effort {
	e := pins.NewEffort(turns, "reader")
	e.Node(1 << 20)
	return e
}

var allTurns = max(1, min(runtime.NumCPU(), runtime.GOMAXPROCS(0))/2)

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
