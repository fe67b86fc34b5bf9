package pins_test

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/frostpin/frostpin/pins"
)

// TestHoldingsTellEverySecondOnce takes a pin through all that changes what it occupies.
func TestHoldingsTellEverySecondOnce(t *testing.T) {
	eachCellar(t, 10_000, func(t *testing.T, c *cellar) {
		start := time.Unix(c.now.Unix(), 0).UTC()
		at := func(hours int) time.Time { return start.Add(time.Duration(hours) * time.Hour) }
		goOn := func(hours int) { c.now = at(hours) }
		p, d := c.holdAs("it", 9000, pins.Decision{Terms: 2}) // proven in the second in which it came
		goOn(1)
		c.prove(d, 1)
		goOn(2)
		c.prove(d, 2)
		goOn(30)
		c.pass()
		c.is(p, pins.HotOffloaded)
		goOn(40)
		c.refill(d)
		goOn(41)
		if got, want := holdings(t, c, false), 4; len(got) != want {
			t.Errorf("%d have ended, want %d: %+v", len(got), want, got)
		}
		second, err := c.Add(t.Context(), alice, request(d.Root), pins.Decision{})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Stock(t.Context(), alice); err != nil || got != (pins.Stock{Hot: 18_000, Cold: 18_000}) {
			t.Errorf("two pins of 9,000 bytes, one with two copies, occupy %+v: %v", got, err)
		}
		goOn(42)
		if err := c.Delete(t.Context(), alice, p.ID); err != nil {
			t.Fatal(err)
		}
		of := func(id pins.ID, hot bool, copies int64, from, to int) pins.Holding {
			h := pins.Holding{Pin: id, Account: alice, Bytes: 9000, Hot: hot, Copies: copies, Since: at(from)}
			if to > 0 {
				h.Until = at(to)
			}
			return h
		}
		want := []pins.Holding{
			of(p.ID, true, 2, 0, 1), of(p.ID, true, 1, 1, 2), of(p.ID, true, 2, 2, 30), of(p.ID, false, 2, 30, 40), of(p.ID, true, 2, 40, 42),
			of(second.ID, true, 0, 41, 0),
		}
		want[4].Removed = true
		got := holdings(t, c, true)
		if !slices.Equal(got, want) {
			t.Errorf("got\n%+v\nwant\n%+v", got, want)
		}
		if err := c.ForgetHoldings(t.Context(), got[:5]); err != nil {
			t.Fatal(err)
		}
		if got := holdings(t, c, true); !slices.Equal(got, want[5:]) {
			t.Errorf("after what has ended was forgotten there is %+v", got)
		}
	})
}

func TestHoldingsArePagedWithoutGaps(t *testing.T) {
	eachCellar(t, 1<<30, func(t *testing.T, c *cellar) {
		_, d := c.hold("it", 1000)
		const n = 1200
		added := make([]pins.ID, n)
		var adding errgroup.Group
		adding.SetLimit(200) // they share transactions
		for i := range added {
			adding.Go(func() error {
				p, err := c.Add(t.Context(), alice, request(d.Root), pins.Decision{})
				added[i] = p.ID
				return err
			})
		}
		if err := adding.Wait(); err != nil {
			t.Fatal(err)
		}
		c.now = c.now.Add(time.Hour)
		for i := 0; i < n; i += 30 {
			if err := c.Delete(t.Context(), alice, added[i]); err != nil {
				t.Fatal(err)
			}
		}
		seen := map[pins.ID]int{}
		for _, h := range holdings(t, c, true) {
			seen[h.Pin]++
		}
		for _, id := range added {
			if seen[id] != 1 {
				t.Fatalf("pin %s is told %d times", id, seen[id])
			}
		}
		if len(seen) != n+1 {
			t.Errorf("%d pins are told, want %d", len(seen), n+1)
		}
	})
}

func holdings(t *testing.T, c *cellar, current bool) (all []pins.Holding) {
	t.Helper()
	for h, err := range c.Holdings(t.Context(), current) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h)
	}
	return all
}
