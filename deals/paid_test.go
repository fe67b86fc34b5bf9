package deals_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/frostpin/frostpin/deals"
)

func TestNoDealIsBegunWhileNobodyPays(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		var answer atomic.Value
		answer.Store("no")
		var poor deals.Wish
		w.Charge(func(_ context.Context, wish deals.Wish) (bool, error) {
			if wish == poor && answer.Load() == "broken" {
				return false, errors.New("the ledger is away")
			}
			return wish != poor || answer.Load() == "yes", nil
		})
		poor = w.wish("poor", 2)
		rich := w.wish("rich", 1)
		w.start()
		w.untilActive(rich, 1)
		if s := w.standing(poor); len(w.attempts(poor)) > 0 || !strings.Contains(s.Reason, "the balance is empty") {
			t.Errorf("%d attempts; it stands as %+v", len(w.attempts(poor)), s)
		}
		answer.Store("broken")
		pass(time.Hour)
		if n := len(w.attempts(poor)); n > 0 {
			t.Errorf("%d attempts when nobody could say who pays", n)
		}
		answer.Store("yes")
		w.untilActive(poor, 2)
		w.mustBeSound()
	})
}
