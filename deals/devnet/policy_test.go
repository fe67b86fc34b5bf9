package devnet

import (
	"testing"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	market18 "github.com/filecoin-project/go-state-types/builtin/v18/market"
	miner18 "github.com/filecoin-project/go-state-types/builtin/v18/miner"
	"github.com/filecoin-project/go-state-types/builtin/v18/verifreg"
	lotuspolicy "github.com/filecoin-project/lotus/chain/actors/policy"
	"pgregory.net/rapid"
)

func TestConstantsAreThoseOfTheActors(t *testing.T) {
	shortest, longest := market18.DealDurationBounds(1 << 20)
	for name, pair := range map[string][2]abi.ChainEpoch{
		"shortest deal":         {dealMinDuration, shortest},
		"longest deal":          {dealMaxDuration, longest},
		"term buffer":           {allocationTermBuffer, market18.MarketDefaultAllocationTermBuffer},
		"longest term":          {allocationMaxTerm, verifreg.MaximumVerifiedAllocationTerm},
		"shortest term":         {allocationMinTerm, verifreg.MinimumVerifiedAllocationTerm},
		"allocation expiration": {allocationMaxExpiration, verifreg.MaximumVerifiedAllocationExpiration},
		"shortest sector":       {sectorMinLifetime, miner18.MinSectorExpiration},
		"longest extension":     {sectorMaxLifetime, miner18.MaxSectorExpirationExtension},
		"prove window":          {proveCommitWindow + miner18.PreCommitChallengeDelay, miner18.MaxProveCommitDuration[abi.RegisteredSealProof_StackedDrg32GiBV1_1]},
		"randomness lookback":   {preCommitRandomnessLookback, miner18.MaxPreCommitRandomnessLookback},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %d, the actors have %d", name, pair[0], pair[1])
		}
	}
	if int(allocationMinSize) != verifreg.MinimumVerifiedAllocationSize || preCommitBatchMax != miner18.PreCommitSectorBatchMaxSize {
		t.Error("sizes differ from the actors'")
	}
}

func TestCollateralBoundsAreThoseOfLotus(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPolicy(rapid.Int64Range(0, 1<<40).Draw(t, "supply"), rapid.Int64Range(1, 1<<62).Draw(t, "baseline"))
		size := abi.PaddedPieceSize(1) << rapid.IntRange(7, 36).Draw(t, "size")
		power := big.NewInt(rapid.Int64Range(0, 1<<62).Draw(t, "power"))
		least, most := p.collateralBounds(size, power)
		wantLeast, wantMost, err := lotuspolicy.DealProviderCollateralBounds(size, false, power, power, p.baselinePower, p.circulatingSupply, networkVersion)
		if err != nil {
			t.Fatal(err)
		}
		if !least.Equals(wantLeast) || !most.Equals(wantMost) {
			t.Fatalf("bounds %s to %s, lotus has %s to %s", least, most, wantLeast, wantMost)
		}
	})
}

func newPolicy(supply, baseline int64) *policy {
	return &policy{circulatingSupply: big.Mul(big.NewInt(supply), builtin.TokenPrecision), baselinePower: big.NewInt(baseline)}
}

func TestTurnIsTheFirstEpochCongruentToTheDealID(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := abi.DealID(rapid.Uint64Range(0, 1<<40).Draw(t, "id"))
		interval := abi.ChainEpoch(rapid.Int64Range(1, 100_000).Draw(t, "interval"))
		earliest := abi.ChainEpoch(rapid.Int64Range(0, 1<<40).Draw(t, "earliest"))
		turn := nextTurn(id, interval, earliest)
		if turn < earliest || turn >= earliest+interval || uint64(turn)%uint64(interval) != uint64(id)%uint64(interval) {
			t.Fatalf("turn of %d after %d is %d", id, earliest, turn)
		}
	})
}
