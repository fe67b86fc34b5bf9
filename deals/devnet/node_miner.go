package devnet

import (
	"context"
	"fmt"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	power18 "github.com/filecoin-project/go-state-types/builtin/v18/power"
	"github.com/filecoin-project/go-state-types/builtin/v18/util/adt"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/actors/builtin/miner"
	"github.com/filecoin-project/lotus/chain/actors/builtin/power"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/libp2p/go-libp2p/core/peer"
)

func (v *view) minerMethods(node *api.FullNodeStruct) {
	m := &node.Internal
	m.StateListMiners = func(context.Context, types.TipSetKey) ([]address.Address, error) {
		out := make([]address.Address, 0, len(v.n.miners))
		for _, miner := range v.n.miners {
			out = append(out, miner.ID)
		}
		return out, nil
	}
	m.StateMinerInfo = v.minerInfo
	m.StateMinerPower = v.minerPower
	m.StateMinerSectorCount = v.sectorCount
	m.StateSectorGetInfo = v.sector
	m.StateSectorPreCommitInfo = v.preCommitted
	m.StateSectorPartition = v.sectorPartition
	m.StateSectorExpiration = v.sectorExpiration
	m.StateMinerSectorAllocated = func(ctx context.Context, a address.Address, s abi.SectorNumber, key types.TipSetKey) (bool, error) {
		st, err := v.miner(ctx, a, key)
		if err != nil {
			return false, err
		}
		return st.IsAllocated(s)
	}
}

// miner reads a miner actor's state with lotus' own code.
func (v *view) miner(ctx context.Context, a address.Address, key types.TipSetKey) (miner.State, error) {
	m, err := v.state(ctx, key)
	if err != nil {
		return nil, err
	}
	act, err := m.tree.GetActor(a)
	if err != nil {
		return nil, fmt.Errorf("failed to load miner actor: %w", err)
	}
	st, err := miner.Load(m.store, act)
	if err != nil {
		return nil, fmt.Errorf("failed to load miner actor state: %w", err)
	}
	return st, nil
}

func (v *view) minerInfo(ctx context.Context, a address.Address, key types.TipSetKey) (api.MinerInfo, error) {
	st, err := v.miner(ctx, a, key)
	if err != nil {
		return api.MinerInfo{}, err
	}
	info, err := st.Info()
	if err != nil {
		return api.MinerInfo{}, err
	}
	out := api.MinerInfo{
		Owner: info.Owner, Worker: info.Worker, NewWorker: address.Undef, WorkerChangeEpoch: epochUndefined,
		ControlAddresses: info.ControlAddresses, Multiaddrs: info.Multiaddrs,
		WindowPoStProofType: info.WindowPoStProofType, SectorSize: info.SectorSize,
		WindowPoStPartitionSectors: info.WindowPoStPartitionSectors, ConsensusFaultElapsed: info.ConsensusFaultElapsed,
		PendingOwnerAddress: info.PendingOwnerAddress, Beneficiary: info.Beneficiary,
		BeneficiaryTerm: &info.BeneficiaryTerm, PendingBeneficiaryTerm: info.PendingBeneficiaryTerm,
	}
	if id, err := peer.IDFromBytes(info.PeerId); err == nil {
		out.PeerId = &id
	}
	return out, nil
}

func (v *view) minerPower(ctx context.Context, a address.Address, key types.TipSetKey) (*api.MinerPower, error) {
	m, err := v.state(ctx, key)
	if err != nil {
		return nil, err
	}
	var st power18.State
	if err := m.load(builtin.StoragePowerActorAddr, &st); err != nil {
		return nil, err
	}
	claims, err := adt.AsMap(m.store, st.Claims, builtin.DefaultHamtBitwidth)
	if err != nil {
		return nil, err
	}
	claim := power18.Claim{RawBytePower: big.Zero(), QualityAdjPower: big.Zero()}
	if _, err := claims.Get(abi.AddrKey(a), &claim); err != nil {
		return nil, err
	}
	return &api.MinerPower{
		MinerPower: power.Claim{RawBytePower: claim.RawBytePower, QualityAdjPower: claim.QualityAdjPower},
		TotalPower: power.Claim{RawBytePower: st.TotalRawBytePower, QualityAdjPower: st.TotalQualityAdjPower},
	}, nil
}

func (v *view) sectorCount(ctx context.Context, a address.Address, key types.TipSetKey) (api.MinerSectors, error) {
	st, err := v.miner(ctx, a, key)
	if err != nil {
		return api.MinerSectors{}, err
	}
	live, err := st.NumLiveSectors()
	return api.MinerSectors{Live: live, Active: live}, err
}

// sector is nil, without an error, for a number that was never proven.
func (v *view) sector(ctx context.Context, a address.Address, s abi.SectorNumber, key types.TipSetKey) (*miner.SectorOnChainInfo, error) {
	st, err := v.miner(ctx, a, key)
	if err != nil {
		return nil, err
	}
	return st.GetSector(s)
}

func (v *view) preCommitted(ctx context.Context, a address.Address, s abi.SectorNumber, key types.TipSetKey) (*miner.SectorPreCommitOnChainInfo, error) {
	st, err := v.miner(ctx, a, key)
	if err != nil {
		return nil, err
	}
	return st.GetPrecommittedSector(s)
}

func (v *view) sectorPartition(ctx context.Context, a address.Address, s abi.SectorNumber, key types.TipSetKey) (*miner.SectorLocation, error) {
	st, err := v.miner(ctx, a, key)
	if err != nil {
		return nil, err
	}
	return st.FindSector(s)
}

// sectorExpiration fails for a sector that is not live, as in Lotus. The devnet keeps no expiration queue: sectors are
// never faulty here, so the one on record is right.
func (v *view) sectorExpiration(ctx context.Context, a address.Address, s abi.SectorNumber, key types.TipSetKey) (*miner.SectorExpiration, error) {
	st, err := v.miner(ctx, a, key)
	if err != nil {
		return nil, err
	}
	info, err := st.GetSector(s)
	if err != nil {
		return nil, err
	}
	if info != nil {
		deadline, partition := place(s)
		dl, err := st.LoadDeadline(deadline)
		if err != nil {
			return nil, err
		}
		part, err := dl.LoadPartition(partition)
		if err != nil {
			return nil, err
		}
		live, err := part.LiveSectors()
		if err != nil {
			return nil, err
		}
		if ok, err := live.IsSet(uint64(s)); err != nil {
			return nil, err
		} else if ok {
			return &miner.SectorExpiration{OnTime: info.Expiration}, nil
		}
	}
	return nil, fmt.Errorf("failed to find sector %d", s)
}
