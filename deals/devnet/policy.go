package devnet

import (
	"github.com/filecoin-project/go-state-types/abi"
	actorstypes "github.com/filecoin-project/go-state-types/actors"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/network"
)

// The chain runs the newest actors that lotus can read. Everything a Lotus client loads from it, by code CID or by
// network version, has to agree on these two.
const (
	actorsVersion  = actorstypes.Version18
	networkVersion = network.Version28
)

// policy is what differs between networks, and what a test may make quicker. The zero value is not usable; see
// Config.policy for the defaults.
type policy struct {
	cronInterval      abi.ChainEpoch // a deal id is looked at by cron once per so many epochs; 86,400 on mainnet
	preCommitDelay    abi.ChainEpoch // epochs between a pre-commit and its proof; 150 on mainnet
	circulatingSupply abi.TokenAmount
	baselinePower     abi.StoragePower
}

// Fixed rules of the market and miner actors, in epochs. A test holds them against go-state-types.
const (
	dealMinDuration             = abi.ChainEpoch(180 * builtin.EpochsInDay)
	dealMaxDuration             = abi.ChainEpoch(1278 * builtin.EpochsInDay)
	allocationTermBuffer        = abi.ChainEpoch(90 * builtin.EpochsInDay)
	allocationMaxTerm           = abi.ChainEpoch(5 * builtin.EpochsInYear)
	allocationMaxExpiration     = abi.ChainEpoch(60 * builtin.EpochsInDay)
	allocationMinTerm           = abi.ChainEpoch(180 * builtin.EpochsInDay)
	allocationMinSize           = abi.PaddedPieceSize(1 << 20)
	sectorMinLifetime           = abi.ChainEpoch(180 * builtin.EpochsInDay)
	sectorMaxLifetime           = abi.ChainEpoch(1278 * builtin.EpochsInDay)
	proveCommitWindow           = abi.ChainEpoch(30 * builtin.EpochsInDay)
	preCommitRandomnessLookback = abi.ChainEpoch(builtin.EpochsInDay + 900)
	preCommitBatchMax           = 256
	providerCollateralPercent   = 1 // of the circulating supply, shared by power
	epochUndefined              = abi.ChainEpoch(-1)
)

// collateralBounds is the market actor's least and greatest provider collateral for a piece, without the 110 % that
// Lotus adds for clients.
func (p *policy) collateralBounds(size abi.PaddedPieceSize, networkRawPower abi.StoragePower) (least, most abi.TokenAmount) {
	share := big.NewIntUnsigned(uint64(size))
	power := big.Max(big.Max(networkRawPower, p.baselinePower), share)
	num := big.Product(big.NewInt(providerCollateralPercent), p.circulatingSupply, share)
	return big.Div(num, big.Mul(big.NewInt(100), power)), builtin.TotalFilecoin
}
