package pins_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

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

		held := first.Size() + second.Size()
		for name, c := range map[string]struct {
			quota       pins.Quota
			pins, bytes int64
			ok          bool
		}{
			"no bounds":                {pins.Quota{}, 1e6, 1 << 60, true},
			"the last pin":             {pins.Quota{Pins: 5}, 1, 0, true},
			"one more":                 {pins.Quota{Pins: 4}, 1, 0, false},
			"two more":                 {pins.Quota{Pins: 5}, 2, 0, false},
			"replaced, above the plan": {pins.Quota{Pins: 2}, 0, 0, true},
			"one more that waits":      {pins.Quota{InFlight: 2}, 1, 0, true},
			"enough that wait":         {pins.Quota{InFlight: 1}, 1, 0, false},
			"a byte":                   {pins.Quota{Bytes: held + 1}, 1, 0, true},
			"no byte":                  {pins.Quota{Bytes: held}, 1, 0, false},
			"the bytes it brings":      {pins.Quota{Bytes: held + 10}, 1, 10, true},
			"more than fits":           {pins.Quota{Bytes: held + 10}, 1, 11, false},
		} {
			err := w.Admit(t.Context(), alice, c.quota, c.pins, c.bytes)
			var over *pins.QuotaError
			if c.ok && err != nil || !c.ok && !errors.As(err, &over) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestHeldBytesAreAddedUpAHundredthOfTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, takes, bytes := 0, time.Millisecond, int64(1)
		held := pins.HeldBytes(func(context.Context, pins.Account) (int64, error) {
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
