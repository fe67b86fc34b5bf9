package deals_test

import (
	gobig "math/big"
	"strings"
	"testing"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/deals"
)

func atto(n int64) abi.TokenAmount { return abi.NewTokenAmount(n) }

func TestEpochPriceIsThatOfThePieceRoundedUp(t *testing.T) {
	for _, c := range []struct {
		perGiB int64
		size   abi.PaddedPieceSize
		want   int64
	}{
		{50_000_000, 32 << 30, 1_600_000_000},
		{50_000_000, 1 << 30, 50_000_000},
		{50_000_000, 1 << 20, 48_829}, // 48,828.125
		{1, 128, 1},
		{0, 32 << 30, 0},
		{1 << 30, 128, 128},
	} {
		if got := deals.EpochPrice(atto(c.perGiB), c.size); !got.Equals(atto(c.want)) {
			t.Errorf("%d attoFIL per GiB for %d bytes: %s per epoch, want %d", c.perGiB, c.size, got, c.want)
		}
	}
}

// What a provider computes from our price must never be less than it asks: price x size >= ask x size / 2^30.
func TestEpochPriceNeverFallsShortAndNeverExceedsByOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perGiB := big.NewIntUnsigned(rapid.Uint64().Draw(t, "price"))
		size := abi.PaddedPieceSize(1) << rapid.IntRange(7, 40).Draw(t, "log")
		exact := big.Mul(perGiB, big.NewIntUnsigned(uint64(size)))
		got := big.Lsh(deals.EpochPrice(perGiB, size), 30)
		if got.LessThan(exact) || big.Sub(got, exact).GreaterThanEqual(big.NewInt(1<<30)) {
			t.Fatalf("%s x 2^-30 for %s", got, exact)
		}
	})
}

func TestDealCostCountsEveryEpoch(t *testing.T) {
	if got := deals.DealCost(atto(50_000_000), 32<<30, 518_400); !got.Equals(atto(1_600_000_000 * 518_400)) {
		t.Errorf("got %s", got)
	}
	if got := deals.DealCost(abi.TokenAmount{}, 1<<30, 518_400); !got.Equals(big.Zero()) {
		t.Errorf("without a price: got %s", got)
	}
}

func TestAmountsAreWrittenExactly(t *testing.T) {
	for v, want := range map[int64]string{
		0:                          "0 FIL",
		5_000_000:                  "5000000 attoFIL",
		999_999_999_999:            "999999999999 attoFIL",
		1_000_000_000_000:          "0.000001 FIL",
		1_500_000_000_000_000_000:  "1.5 FIL",
		-2_000_000_000_000_000_000: "-2 FIL",
	} {
		if got := deals.FIL(atto(v)); got != want {
			t.Errorf("%d: got %q, want %q", v, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		v := big.Mul(big.NewIntUnsigned(rapid.Uint64().Draw(t, "high")), big.NewIntUnsigned(rapid.Uint64().Draw(t, "low")))
		number, unit, _ := strings.Cut(deals.FIL(v), " ")
		got, ok := new(gobig.Rat).SetString(number)
		if unit == "FIL" {
			got.Mul(got, new(gobig.Rat).SetInt64(1_000_000_000_000_000_000))
		}
		if !ok || got.RatString() != v.String() {
			t.Fatalf("%s is written %q", v, deals.FIL(v))
		}
	})
}
