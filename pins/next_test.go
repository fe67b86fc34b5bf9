package pins_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/spec"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

var policy = pins.Policy{Deadline: time.Hour, RetryFirst: 10 * time.Second, RetryMax: time.Hour}

func TestStatusIsDerivedFromTheRootAlone(t *testing.T) {
	for hot, want := range map[pins.Hot]spec.Status{
		pins.HotQueued:    spec.Queued,
		pins.HotFetching:  spec.Pinning,
		pins.HotHeld:      spec.Pinned,
		pins.HotGaveUp:    spec.Failed,
		pins.HotReleasing: spec.Queued,
		pins.HotOffloaded: spec.Pinning,
		pins.HotRestoring: spec.Pinning,
	} {
		if got := pins.StatusOf(hot, deals.Standing{}, pins.PinnedWhen{}); got != want {
			t.Errorf("%s is %s, want %s", hot, got, want)
		}
	}
}

func genRoot() *rapid.Generator[pins.Root] {
	return rapid.Custom(func(t *rapid.T) pins.Root {
		r := pins.Root{}
		r.DAG = pins.DAG{
			Hot:      rapid.SampledFrom(pins.Hots()).Draw(t, "hot"),
			Attempts: rapid.IntRange(0, 200).Draw(t, "attempts"),
			NextAt:   noon.Add(time.Duration(rapid.IntRange(-3600, 3600).Draw(t, "next")) * time.Second),
			Blocks:   rapid.Int64Range(0, 100).Draw(t, "blocks"),
		}
		r.WantedAt = noon.Add(-time.Duration(rapid.IntRange(0, 7200).Draw(t, "age")) * time.Second)
		return r
	})
}

func TestEveryRequestIsOwedAFreshTry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := pins.Wanted(genRoot().Draw(t, "root"), alice, noon)
		if r.Hot != pins.HotHeld && (r.NextAt.After(noon) || r.Attempts > 0 || noon.Sub(r.WantedAt) > 0) {
			t.Fatalf("%+v is not looked at now, with its whole deadline", r)
		}
		if r.Hot == pins.HotGaveUp || r.Hot == pins.HotReleasing {
			t.Fatalf("a wanted root is %s", r.Hot)
		}
	})
}

func TestRequestsInOneMillisecondAreToldApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := pins.Wanted(genRoot().Draw(t, "root"), alice, noon)
		second := pins.Wanted(first, bob, noon.Add(time.Microsecond))
		if first.Hot != pins.HotHeld && first.WantedAt.UnixMilli() == second.WantedAt.UnixMilli() {
			t.Fatalf("%+v and %+v were wanted at one time", first, second)
		}
	})
}

func TestOnlySuccessIsHeldAndEveryFailureEndsOrIsTriedAgain(t *testing.T) {
	failures := []error{
		pins.ErrAbsent, pins.ErrStalled, pins.ErrUnavailable, context.DeadlineExceeded, context.Canceled,
		&pins.Refused{Reason: "no"}, fmt.Errorf("wrapped: %w", pins.ErrStalled), errors.New("anything"),
	}
	rapid.Check(t, func(t *rapid.T) {
		r := genRoot().Draw(t, "root")
		r.Hot = rapid.SampledFrom([]pins.Hot{pins.HotQueued, pins.HotFetching}).Draw(t, "hot")
		if pins.After(r, nil, 1, 1, policy, noon).Hot != pins.HotHeld {
			t.Fatal("success is not held")
		}
		err := rapid.SampledFrom(failures).Draw(t, "err")
		after := pins.After(r, err, 1, 1, policy, noon)
		switch {
		case after.Hot == pins.HotHeld:
			t.Fatalf("%v made it held", err)
		case after.Hot == pins.HotGaveUp:
			if after.Reason == "" {
				t.Fatalf("%v gave up without a reason", err)
			}
			var refused *pins.Refused
			if !errors.As(err, &refused) && noon.Sub(r.WantedAt) < time.Hour {
				t.Fatalf("%v gave up before the deadline", err)
			}
		case after.NextAt.Before(noon):
			t.Fatalf("%v would be tried again at once for ever", err)
		case after.NextAt.After(noon.Add(time.Hour)):
			t.Fatalf("%v waits longer than an hour", err)
		}
	})
}

func TestBackoffGrowsToAnHourAndStays(t *testing.T) {
	last := time.Duration(0)
	for n := 1; n < 100; n++ {
		d := pins.Backoff(n, 10*time.Second, time.Hour)
		if d < last/2 || d > time.Hour || n > 20 && d < 40*time.Minute {
			t.Fatalf("try %d waits %s after %s", n, d, last)
		}
		last = d
	}
}

func TestOneAccountNeverTakesTheLastPlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(4, 1000).Draw(t, "size")
		s := pins.NewShares(size)
		taken := s.Room(alice)
		if taken < 1 || taken > size/2+1 {
			t.Fatalf("one account may take %d of %d", taken, size)
		}
		s.Take(alice, taken)
		if again := s.Room(alice); again > 0 {
			t.Fatalf("%d more after taking all it may", again)
		}
		if s.Room(bob) < 1 {
			t.Fatalf("no place for another account after one took %d of %d", taken, size)
		}
		s.Give(alice)
		if s.Room(alice) < 1 {
			t.Fatal("a place given back is lost")
		}
	})
}
