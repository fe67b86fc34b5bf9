package pins_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/frostpin/frostpin/pins"
)

func TestAnAccountWithLittleToDoWaitsForOneStepOfTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := pins.NewTurns()
		done := make(chan pins.Account, 1000)
		do := func(ctx context.Context, a pins.Account) error {
			return turns.Do(ctx, a, func() error {
				<-time.After(time.Second) // the test's clock
				done <- a
				return nil
			})
		}
		for range 500 {
			go func() { _ = do(t.Context(), 1) }()
		}
		synctest.Wait()
		given, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- do(given, 2) }() // gives up, and takes no turn with it
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("one who gave up: %v", err)
		}
		before := time.Now()
		if err := do(t.Context(), 3); err != nil {
			t.Error(err)
		}
		if waited := time.Since(before); waited > 3*time.Second {
			t.Errorf("it came after %s of others' work", waited)
		}
		<-time.After(500 * time.Second)
		if n := len(done); n != 501 {
			t.Errorf("%d were done, want 501", n)
		}
	})
}
