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
		go func() { late <- read.Step().Work(t.Context()) }()
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
		if err := read.Step().Work(t.Context()); err != nil {
			t.Fatal(err)
		}
		read.Giving(true)
		takeTurns(t, turns) // the one from before is given back
		ahead := make(chan error)
		go func() { ahead <- read.Step().Work(t.Context()) }()
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
		if err := read.Step().Work(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := turns.Do(withPatience(t), "another", func() error { return nil }); allTurns == 1 && err == nil {
			t.Error("afterwards a read takes no turn any more")
		}
	})
}

// boxo reads several blocks at once. When it waits for one from afar, those that were here have been read: what comes from
// afar is stored, which takes a turn.
func TestAReadKeepsNoTurnWhileABlockIsAfar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := pins.NewTurns()
		read := working(turns)
		afar, here := read.Step(), read.Step()
		step := func(s *pins.Step) {
			t.Helper()
			if err := s.Work(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		step(here)
		step(afar) // looks on the disk
		afar.Afar()
		takeTurns(t, turns)
		giveTurns(turns)
		step(here)
		here.Done()
		takeTurns(t, turns) // though nothing else is read
		giveTurns(turns)
		step(afar) // has come
		afar.Done()
		if err := turns.Do(withPatience(t), "another", func() error { return nil }); allTurns == 1 && err == nil {
			t.Error("what has come from afar is worked on out of turn")
		}
		step(afar) // a step that is done takes none: nobody would give it back
		read.End()
		takeTurns(t, turns)
		giveTurns(turns)
		step(afar)
		takeTurns(t, turns)
	})
}

// boxo makes a listing of what it has read long before the last of it is given.
func TestAReadThatGoesOnComposingTakesATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := pins.NewTurns()
		read := working(turns)
		goOn := func() error { return read.GoOn(t.Context()) }
		read.Giving(true)
		read.Giving(false)
		takeTurns(t, turns)
		going := make(chan error)
		go func() { going <- goOn() }()
		synctest.Wait()
		select {
		case err := <-going:
			t.Fatalf("it went on out of turn: %v", err)
		default:
		}
		giveTurns(turns)
		if err := <-going; err != nil {
			t.Fatal(err)
		}
		if err := turns.Do(withPatience(t), "another", func() error { return nil }); allTurns == 1 && err == nil {
			t.Error("the turn was not kept")
		}
		read.Giving(true)
		takeTurns(t, turns) // it was given back
		giveTurns(turns)
		read.Giving(false)

		afar := read.Step()
		afar.Afar()
		if err := goOn(); err != nil {
			t.Fatal(err)
		}
		takeTurns(t, turns) // none is kept while a block is afar
		if err := pins.NewEffort(turns, "small").GoOn(t.Context()); err != nil {
			t.Errorf("what is small takes a turn: %v", err)
		}
	})
}

// working is the effort of a read that has done so much that it takes turns.
func working(turns *pins.Turns) *pins.Effort {
	e := pins.NewEffort(turns, "reader")
	s := e.Step()
	s.Node(1 << 20)
	s.Done()
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
