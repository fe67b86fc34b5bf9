package ledger_test

import (
	"errors"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/auth/ledger"
)

func TestAmountsAreExactDecimals(t *testing.T) {
	for text, want := range map[string]ledger.Amount{
		"0": 0, "1": ledger.Credit, "-0.000000001": -1, "12.5": 12_500_000_000, "0012.50": 12_500_000_000, "1000000000": ledger.MaxAmount,
	} {
		if got, err := ledger.ParseAmount(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", ".5", "1.", "1e3", "+1", " 1", "1,5", "0x1", "NaN", "0.0000000001", "1000000000.000000001", "99999999999999999999", "١"} {
		if got, err := ledger.ParseAmount(text); !errors.Is(err, ledger.ErrInvalid) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a := ledger.Amount(rapid.Int64Range(-int64(ledger.MaxAmount), int64(ledger.MaxAmount)).Draw(t, "amount"))
		if got, err := ledger.ParseAmount(a.String()); err != nil || got != a {
			t.Fatalf("%d is written %s, which is read as %d, %v", a, a, got, err)
		}
	})
}

func TestPricesAreReadExactly(t *testing.T) {
	p, err := ledger.ParsePrices(map[string]string{"hot_gib_month": "0.005", "free_hot_gib_month": "0.5", "free_egress_hot_gib": "0.1", "fil": "4.2"})
	if err != nil {
		t.Fatal(err)
	}
	if p[ledger.StorageHot].Price != 5_000_000 || p[ledger.StorageHot].Free.Int64() != 1<<29*30*86400 || p[ledger.DealCost].Price != 4_200_000_000 {
		t.Errorf("%+v", p)
	}
	if got := p[ledger.EgressHot].Free.Int64(); got != 107374183 { // of 107374182.4: the byte is the customer's
		t.Errorf("a tenth of a GiB is %d bytes", got)
	}
	if got := p.Month(3<<29, 0); got != 5_000_000 {
		t.Errorf("a month of 1.5 GiB, 0.5 of them free, costs %s", got)
	}
	for name, text := range map[string]string{"hot": "1", "free_": "1", "fil": "-1", "free_fil": "x"} {
		if _, err := ledger.ParsePrices(map[string]string{name: text}); !errors.Is(err, ledger.ErrInvalid) {
			t.Errorf("%s=%s: %v", name, text, err)
		}
	}
}

// drawRate draws a rate and a list of quantities whose sum is near its allowance and its unit, where mistakes would show.
func drawRate(t *rapid.T) (k ledger.Kind, r ledger.Rate, parts []*big.Int) {
	k = rapid.SampledFrom(ledger.Metered()).Draw(t, "kind")
	share := func(name string) *big.Int {
		v := new(big.Int).Mul(ledger.Denominator(k), big.NewInt(rapid.Int64Range(0, 1000).Draw(t, name)))
		v.Quo(v, big.NewInt(rapid.Int64Range(1, 1_000_000).Draw(t, name+" divisor")))
		return v.Add(v, big.NewInt(rapid.Int64Range(0, 3).Draw(t, name+" rest")))
	}
	r = ledger.Rate{Price: ledger.Amount(rapid.Int64Range(0, 1_000_000_000_000).Draw(t, "price")), Free: share("free")}
	for range rapid.IntRange(1, 20).Draw(t, "parts") {
		parts = append(parts, share("part"))
	}
	return k, r, parts
}

func TestSplittingUsageAnywhereCostsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k, r, parts := drawRate(t)
		total, free := new(big.Int), new(big.Int)
		var due ledger.Amount
		var tally ledger.Tally
		for _, part := range parts {
			cost, freed, after := r.Add(k, tally, part)
			if cost < 0 || freed.Cmp(part) > 0 {
				t.Fatalf("%s cost %d, of which %s is free", part, cost, freed)
			}
			due, tally = due+cost, after
			total.Add(total, part)
			free.Add(free, freed)
		}
		once, freeOnce, _ := r.Add(k, ledger.Tally{}, total)
		if due != once {
			t.Errorf("in %d parts %s costs %d, at once %d", len(parts), total, due, once)
		}
		want := total
		if total.Cmp(r.Free) > 0 {
			want = r.Free
		}
		if free.Cmp(want) != 0 || freeOnce.Cmp(want) != 0 {
			t.Errorf("of %s with %s free, %s was free in parts and %s at once", total, r.Free, free, freeOnce)
		}
		// due <= exact < due + 1: rounded once, down.
		exact := new(big.Int).Mul(new(big.Int).Sub(total, want), big.NewInt(int64(r.Price)))
		if floor := exact.Quo(exact, ledger.Denominator(k)); floor.Int64() != int64(due) {
			t.Errorf("due %d, exactly %s", due, floor)
		}
	})
}

// Neither a price nor an allowance that changes in the middle of a month gives an allowance twice or takes more than the
// parts cost exactly.
func TestChangingPlansNeverCostsMoreThanTheParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k, r, parts := drawRate(t)
		_, other, _ := drawRate(t)
		var tally ledger.Tally
		var due ledger.Amount
		exact, free, most := new(big.Int), new(big.Int), new(big.Int).Set(r.Free)
		if other.Free.Cmp(most) > 0 {
			most.Set(other.Free)
		}
		for i, part := range parts {
			rate := r
			if i%2 == 1 {
				rate = other
			}
			cost, freed, after := rate.Add(k, tally, part)
			due, tally = due+cost, after
			free.Add(free, freed)
			paid := new(big.Int).Sub(part, freed)
			exact.Add(exact, paid.Mul(paid, big.NewInt(int64(rate.Price))))
		}
		if floor := exact.Quo(exact, ledger.Denominator(k)); floor.Int64() != int64(due) {
			t.Errorf("due %d, exactly %s", due, floor)
		}
		if free.Cmp(most) > 0 {
			t.Errorf("%s was free, the larger allowance is %s", free, most)
		}
	})
}
