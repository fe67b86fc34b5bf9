package deals_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

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

// Whoever tells of the payment is a second behind it; without that it may take half an hour.
func TestWhatIsPaidForAgainIsBegunAtOnce(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		var pays atomic.Bool
		w.Charge(func(context.Context, deals.Wish) (bool, error) { return pays.Load(), nil })
		hers, his := w.wish("hers", 2), w.wish("his", 1)
		w.start()
		pass(3 * time.Hour)
		pays.Store(true)
		err := w.Paid(t.Context(), func(_ context.Context, roots []cid.Cid) ([]cid.Cid, error) {
			return slices.DeleteFunc(roots, func(root cid.Cid) bool { return root == his.Root }), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if n := len(w.attempts(hers)); n != 2 {
			t.Errorf("%d deals are begun, want 2", n)
		}
		if n := len(w.attempts(his)); n != 0 {
			t.Errorf("%d deals are begun for whom nobody has paid", n)
		}
		w.untilActive(hers, 2)
		w.mustBeSound()
	})
}
