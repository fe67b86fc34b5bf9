package deals_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/deals"
)

// A till takes what deals cost into a table, in the transaction that records it as taken, and fails now and then.
type till struct {
	w      *world
	calls  atomic.Int64
	broken int64 // every so manieth call fails after it has taken everything; 0: none
}

func (w *world) till(broken int64) *till {
	w.t.Helper()
	err := w.db.Write(context.Background(), func(tx *gorm.DB) error {
		return tx.Exec(`CREATE TABLE till (deal TEXT, epoch BIGINT, amount TEXT, PRIMARY KEY (deal, epoch))`).Error
	})
	if err != nil {
		w.t.Fatal(err)
	}
	k := &till{w: w, broken: broken}
	w.bill = k.take
	w.make()
	return k
}

func (k *till) take(ctx context.Context, costs []deals.Cost) error {
	return k.w.db.Write(ctx, func(tx *gorm.DB) error {
		for _, c := range costs {
			if !c.From.Before(c.To) || c.Amount.Sign() <= 0 {
				k.w.t.Errorf("%+v", c)
			}
			err := tx.Exec(`INSERT INTO till VALUES (?, ?, ?)`, c.Deal.String(), int64(c.Epoch), c.Amount.String()).Error
			if err != nil {
				return err
			}
		}
		if n := k.calls.Add(1); k.broken > 0 && n%k.broken == 0 {
			return errors.New("the ledger is away")
		}
		return nil
	})
}

// of adds up what was taken for a deal, in how many parts.
func (k *till) of(id uuid.UUID) (sum abi.TokenAmount, parts int) {
	k.w.t.Helper()
	sum = big.Zero()
	err := k.w.db.Read(context.Background(), func(tx *gorm.DB) error {
		var amounts []string
		err := tx.Raw(`SELECT amount FROM till WHERE deal = ?`, id.String()).Scan(&amounts).Error
		for _, text := range amounts {
			sum = big.Add(sum, big.MustFromString(text))
		}
		parts = len(amounts)
		return err
	})
	if err != nil {
		k.w.t.Fatal(err)
	}
	return sum, parts
}

// TestDealsCostWhatTheChainTakesForThem follows deals over their whole lives and those that renew them, with a ledger that
// fails and a service that is restarted.
func TestDealsCostWhatTheChainTakesForThem(t *testing.T) {
	forLong(t, 3, func(t *testing.T, w *world) {
		k := w.till(3)
		wish := w.wish("x", 2)
		w.start()
		w.untilActive(wish, 2)
		first := w.attempts(wish)
		for range 5 { // 16 hours: more than the life of a deal
			pass(3 * time.Hour)
			w.stop()
			w.make()
			w.start()
		}
		w.until("the first deals are over", 4*time.Hour, func() bool {
			a := w.attempts(wish)
			return a[0].State == deals.Expired && a[1].State == deals.Expired
		})
		pass(10 * time.Minute)
		for _, a := range first {
			got, parts := k.of(a.UUID)
			if !got.Equals(a.Cost()) {
				t.Errorf("deal %s was charged with %s, and costs %s", a.UUID, got, a.Cost())
			}
			if parts < 180 || parts > 184 { // days that began or ended with a restart are no other days
				t.Errorf("the cost of 180 days came in %d parts", parts)
			}
		}
		renewed := false
		for _, a := range w.attempts(wish) {
			if a.Generation > 1 && a.State == deals.Active {
				renewed = true
				got, _ := k.of(a.UUID)
				if most := big.Mul(a.Price, big.NewInt(int64(max(0, w.net.Height()-a.Start)))); got.GreaterThan(most) {
					t.Errorf("the deal %s has cost %s and was charged with %s", a.UUID, most, got)
				}
			}
		}
		if !renewed {
			t.Error("no deal was renewed")
		}
		w.mustBeSound()
	})
}

// TestADroppedDealCostsNoMoreThanTheChainTook is about a deal that the chain drops: what it cost up to the last look that
// has shown it is charged.
func TestADroppedDealCostsNoMoreThanTheChainTook(t *testing.T) {
	for _, step := range []string{"", "compared", "doubts-stored", "snapshot-stored", "lost-seen"} {
		t.Run("dies at "+step, func(t *testing.T) {
			inWorld(t, 3, func(t *testing.T, w *world) {
				k := w.till(0)
				wish := w.wish("x", 2)
				w.start()
				w.untilActive(wish, 2)
				lost := w.attempts(wish)[0]
				w.until("it costs something", 2*time.Hour, func() bool { sum, _ := k.of(lost.UUID); return sum.Sign() > 0 })
				pass(7 * time.Minute)
				w.stop()
				if !w.net.Slash(lost.Provider) {
					t.Fatal("there is no deal to slash")
				}
				gone := w.net.Height()
				pass(10 * time.Minute)
				if step != "" {
					w.dieAt(step)
				}
				w.make()
				w.start()
				w.until("the loss is known", time.Hour, func() bool { return w.attempts(wish)[0].State == deals.Terminated })
				pass(10 * time.Minute)
				took := big.Mul(lost.Price, big.NewInt(int64(gone-lost.Start)))
				round := big.Mul(lost.Price, big.NewInt(int64((2*w.cfg.Policy.PollSlow+time.Minute)/epoch)))
				if got, _ := k.of(lost.UUID); got.GreaterThan(took) || got.LessThan(big.Sub(took, round)) {
					t.Errorf("charged %s; the chain took %s, and a round is %s", got, took, round)
				}
			})
		})
	}
}

// A node that does not show the state of the chain names deals one by one, and there is no snapshot to be in.
func TestDealsAreBilledByTheDayWhereTheStateCannotBeRead(t *testing.T) {
	forLong(t, 3, func(t *testing.T, w *world) {
		k := w.till(0)
		c := w.watched()
		c.become(0, true)
		wish := w.wish("x", 2)
		w.untilActive(wish, 2)
		pass(2 * time.Hour)
		for _, a := range w.attempts(wish) {
			got, parts := k.of(a.UUID)
			cost := big.Mul(a.Price, big.NewInt(int64(w.net.Height()-a.Start)))
			if a.State != deals.Active || parts < 5 || got.GreaterThan(cost) {
				t.Errorf("deal %s is %s: %s attoFIL in %d parts, and it has cost %s", a.UUID, a.State, got, parts, cost)
			}
		}
	})
}

func TestFreeDealsAreNotBilled(t *testing.T) {
	forLong(t, 2, func(t *testing.T, w *world) {
		k := w.till(0)
		for i := range 2 {
			p := honest()
			p.Price = big.Zero()
			w.net.Add(deals.ProviderID(1000+i), p)
		}
		wish := w.wish("x", 2)
		w.start()
		w.untilActive(wish, 2)
		pass(2 * time.Hour)
		if n := k.calls.Load(); n > 0 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestTheCostOfAPieceIsDividedByTheBytesOfItsRoots(t *testing.T) {
	for _, c := range []struct {
		total   int64
		lengths []int64
		want    []int64
	}{
		{100, []int64{7}, []int64{100}},
		{100, []int64{1, 1, 1}, []int64{34, 33, 33}},
		{100, []int64{1, 5, 3}, []int64{11, 56, 33}},
		{1, []int64{1, 2}, []int64{0, 1}},
		{9, []int64{0, 0}, []int64{9, 0}},
	} {
		sum := int64(0)
		for i, share := range deals.DivideCost(c.total, c.lengths) {
			if sum += share; share != c.want[i] {
				t.Errorf("%d by %v: share %d is %d, want %d", c.total, c.lengths, i, share, c.want[i])
			}
		}
		if sum != c.total {
			t.Errorf("%d by %v: %d", c.total, c.lengths, sum)
		}
	}
}
