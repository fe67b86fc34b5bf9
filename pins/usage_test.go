package pins_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

func TestUsageCountsEachDAGOnceAndEachPin(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		first, second := pinstest.Tree("first", 3), pinstest.Tree("second", 5)
		w.tier.AddLocal(first.Blocks...)
		w.tier.AddLocal(second.Blocks...)
		w.add(alice, request(first.Root))
		w.add(alice, named(first.Root, "again"))
		w.add(alice, request(second.Root))
		w.add(alice, request(pinstest.Leaf("nobody has it").Root))
		w.add(bob, request(first.Root))
		for account, want := range map[pins.Account]pins.AccountUsage{
			alice: {Pins: map[spec.Status]int64{spec.Queued: 1, spec.Pinning: 0, spec.Pinned: 3, spec.Failed: 0}, Bytes: first.Size() + second.Size()},
			bob:   {Pins: map[spec.Status]int64{spec.Queued: 0, spec.Pinning: 0, spec.Pinned: 1, spec.Failed: 0}, Bytes: first.Size()},
			3:     {Pins: map[spec.Status]int64{spec.Queued: 0, spec.Pinning: 0, spec.Pinned: 0, spec.Failed: 0}},
		} {
			got, err := w.Usage(t.Context(), account)
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("account %d: %v (-want +got):\n%s", account, err, diff)
			}
		}

		for name, c := range map[string]struct {
			quota pins.Quota
			pins  int64
			ok    bool
		}{
			"no bounds":                {pins.Quota{}, 1e6, true},
			"the last pin":             {pins.Quota{Pins: 5}, 1, true},
			"one more":                 {pins.Quota{Pins: 4}, 1, false},
			"two more":                 {pins.Quota{Pins: 5}, 2, false},
			"replaced, above the plan": {pins.Quota{Pins: 2}, 0, true},
			"one more that waits":      {pins.Quota{InFlight: 2}, 1, true},
			"enough that wait":         {pins.Quota{InFlight: 1}, 1, false},
		} {
			err := w.Admit(t.Context(), alice, c.quota, c.pins)
			var over *pins.QuotaError
			if c.ok && err != nil || !c.ok && !errors.As(err, &over) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestPlanHasRoomForWhatIsHereAsForWhatIsFetched(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		first, second, third := pinstest.Tree("first", 3), pinstest.Tree("second", 50), pinstest.Tree("third", 5)
		for _, dag := range []pinstest.DAG{first, second, third} {
			w.tier.AddLocal(dag.Blocks...)
		}
		mine := w.add(alice, request(first.Root))
		w.add(bob, request(first.Root))
		w.add(bob, request(second.Root))
		w.add(bob, request(third.Root))
		unknown := pinstest.Leaf("nobody has it").Root
		w.add(bob, request(unknown))

		held := first.Size()
		of := func(roots ...cid.Cid) (list []pins.Sized) {
			for _, root := range roots {
				list = append(list, pins.Sized{Root: root})
			}
			return list
		}
		brings := func(root cid.Cid, bytes int64) []pins.Sized {
			return []pins.Sized{{Root: root, Extent: pins.Extent{Blocks: 1, Bytes: bytes}}}
		}
		for name, c := range map[string]struct {
			quota    pins.Quota
			dags     []pins.Sized
			replaced pins.ID
			want     []string // why each is refused
		}{
			"no bounds":                     {pins.Quota{}, brings(unknown, 1<<60), "", []string{""}},
			"unknown, a byte is left":       {pins.Quota{Bytes: held + 1}, of(unknown), "", []string{""}},
			"unknown, none is left":         {pins.Quota{Bytes: held}, of(unknown), "", []string{"bytes are held"}},
			"the bytes it brings":           {pins.Quota{Bytes: held + 10}, brings(unknown, 10), "", []string{""}},
			"more than fits":                {pins.Quota{Bytes: held + 10}, brings(unknown, 11), "", []string{"bytes are held"}},
			"held for another":              {pins.Quota{Bytes: held + second.Size()}, of(second.Root), "", []string{""}},
			"held for another, too large":   {pins.Quota{Bytes: held + second.Size() - 1}, of(second.Root), "", []string{"bytes are held"}},
			"its own":                       {pins.Quota{Bytes: held}, of(first.Root), "", []string{""}},
			"its own, uploaded again":       {pins.Quota{Bytes: held}, brings(first.Root, held), "", []string{""}},
			"its own, above a smaller plan": {pins.Quota{Bytes: 1}, of(first.Root), "", []string{""}},
			"two, room for one":             {pins.Quota{Bytes: held + second.Size()}, of(second.Root, third.Root), "", []string{"", "bytes are held"}},
			"twice the same":                {pins.Quota{Bytes: held + second.Size()}, of(second.Root, second.Root), "", []string{"", ""}},
			"the second fits":               {pins.Quota{Bytes: held + third.Size()}, of(second.Root, third.Root), "", []string{"bytes are held", ""}},
			"in exchange":                   {pins.Quota{Bytes: second.Size()}, of(second.Root), mine.ID, []string{""}},
			"in exchange, too large":        {pins.Quota{Bytes: second.Size() - 1}, of(second.Root), mine.ID, []string{"bytes are held"}},
			"as large as a pin's may be":    {pins.Quota{DAGBytes: second.Size(), DAGBlocks: int64(len(second.Blocks))}, of(second.Root), "", []string{""}},
			"larger than a pin's may be":    {pins.Quota{DAGBytes: second.Size() - 1}, of(second.Root), "", []string{"more than the"}},
			"more blocks than a pin's":      {pins.Quota{DAGBlocks: int64(len(second.Blocks)) - 1}, of(second.Root), "", []string{"more than the"}},
			"larger than it was known":      {pins.Quota{DAGBytes: 9}, brings(unknown, 10), "", []string{"more than the"}},
		} {
			refused, _, err := w.Fits(t.Context(), alice, c.quota, c.dags, c.replaced)
			if err != nil || len(refused) != len(c.want) {
				t.Fatalf("%s: %v, %v", name, refused, err)
			}
			for i, want := range c.want {
				var over *pins.QuotaError
				if want == "" && refused[i] != nil || want != "" && (!errors.As(refused[i], &over) || !strings.Contains(over.Problem, want)) {
					t.Errorf("%s: %v, want %q", name, refused[i], want)
				}
			}
		}

		// What other pins of it keep is not freed by a replacement.
		w.add(alice, named(first.Root, "again"))
		refused, _, err := w.Fits(t.Context(), alice, pins.Quota{Bytes: second.Size()}, of(second.Root), mine.ID)
		if err != nil || refused[0] == nil {
			t.Errorf("what stays was taken for freed: %v, %v", refused, err)
		}
	})
}

func TestHeldBytesAreAddedUpAHundredthOfTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, takes, bytes := 0, time.Millisecond, int64(1)
		held, _, _ := pins.HeldBytes(func(context.Context, pins.Account) (int64, error) {
			asked++
			<-time.After(takes)
			return bytes, nil
		})
		check := func(after time.Duration, times int, want int64) {
			t.Helper()
			<-time.After(after)
			if got, err := held(t.Context(), alice); err != nil || got != want || asked != times {
				t.Errorf("got %d, %v after %d sums, want %d after %d", got, err, asked, want, times)
			}
		}
		check(0, 1, 1)
		bytes = 2
		check(99*time.Millisecond, 1, 1)
		check(time.Millisecond, 2, 2)
		takes, bytes = time.Second, 3
		check(time.Second, 3, 3)
		check(59*time.Second, 3, 3)
		check(time.Second, 4, 3)
	})
}

// What a sum may know of already must not be taken from it once more, and all else at once.
func TestWhatGivesWayIsTakenFromWhatWasAddedUpBeforeOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, bytes := 0, int64(10)
		held, change, _ := pins.HeldBytes(func(context.Context, pins.Account) (int64, error) {
			asked++
			<-time.After(time.Second)
			return bytes, nil
		})
		is := func(want int64, times int) {
			t.Helper()
			if got, err := held(t.Context(), alice); err != nil || got != want || asked != times {
				t.Errorf("got %d, %v after %d sums, want %d after %d", got, err, asked, want, times)
			}
		}
		change(alice, time.Now(), 4) // nothing is known yet
		is(10, 1)
		<-time.After(time.Second)
		change(alice, time.Now(), 4)
		is(6, 1)
		change(bob, time.Now(), 1)
		is(6, 1)

		<-time.After(time.Minute)
		began := time.Now()
		bytes = 5
		is(5, 2)
		change(alice, began, 1) // it ended while, or before, that was added up
		is(5, 3)
	})
}

// Each refusal wants a sum that is newer than its question.
func TestSumsThatMustBeNewAreAddedUpATenthOfTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, takes := 0, 100*time.Millisecond
		held, _, again := pins.HeldBytes(func(context.Context, pins.Account) (int64, error) {
			asked++
			<-time.After(takes)
			return int64(asked), nil
		})
		anew := func(since time.Time, waits time.Duration, times int64) {
			t.Helper()
			began := time.Now()
			err := again(t.Context(), alice, since)
			got, problem := held(t.Context(), alice)
			if err := errors.Join(err, problem); got != times || time.Since(began) != waits || err != nil {
				t.Errorf("sum %d after %v, want %d after %v: %v", got, time.Since(began), times, waits, err)
			}
		}
		early := time.Now().Add(-time.Second)
		anew(time.Now(), takes, 1)
		anew(early, 0, 1) // it is newer than that
		for n := range int64(5) {
			anew(time.Now(), 10*takes+takes, n+2)
		}
		takes = 5 * time.Second
		anew(time.Now(), time.Second+takes, 7)
		anew(time.Now(), 10*time.Second+takes, 8) // nobody waits longer than that for the next

		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("enough"))
		if err := again(ctx, alice, time.Now()); err == nil || err.Error() != "enough" {
			t.Errorf("waiting on: %v", err)
		}
	})
}

func TestSumsOfAnAccountAreAddedUpOneAfterTheOther(t *testing.T) {
	var running, most, asked atomic.Int64
	began := make(chan struct{}, 100)
	held, _, again := pins.HeldBytes(func(context.Context, pins.Account) (int64, error) {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		asked.Add(1)
		began <- struct{}{}
		<-time.After(50 * time.Millisecond) // in which others come
		return 1, nil
	})
	var callers sync.WaitGroup
	anew := func() {
		err := again(t.Context(), alice, time.Now())
		if _, problem := held(t.Context(), alice); err != nil || problem != nil {
			t.Error(err, problem)
		}
	}
	callers.Go(anew)
	<-began
	for range 20 {
		callers.Go(anew)
	}
	callers.Wait()
	if most.Load() != 1 || asked.Load() > 3 {
		t.Errorf("%d sums for 21 callers, up to %d at once", asked.Load(), most.Load())
	}
}
