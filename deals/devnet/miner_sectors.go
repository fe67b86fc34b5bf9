package devnet

import (
	"fmt"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-bitfield"
	commp "github.com/filecoin-project/go-commp-utils/v2"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	miner18 "github.com/filecoin-project/go-state-types/builtin/v18/miner"
	power18 "github.com/filecoin-project/go-state-types/builtin/v18/power"
	"github.com/filecoin-project/go-state-types/builtin/v18/util/adt"
	"github.com/filecoin-project/go-state-types/exitcode"
	"github.com/ipfs/go-cid"
)

// checkPieces holds the pieces of a manifest against the data commitment of the pre-commit. This is what a seal proof
// would bind the sector to.
func checkPieces(s *provenSector) *fault {
	refuse := func(format string, args ...any) *fault {
		return &fault{exitcode.ErrIllegalArgument, fmt.Sprintf(format, args...)}
	}
	declared := s.pre.Info.UnsealedCid
	if len(s.manifest.Pieces) == 0 {
		if declared != nil {
			return refuse("unsealed CID %s of sector %d has no pieces", declared, s.manifest.SectorNumber)
		}
		return nil
	}
	size, err := s.pre.Info.SealProof.SectorSize()
	if err != nil {
		return refuse("unsupported seal proof type %d", s.pre.Info.SealProof)
	}
	var sum uint64
	pieces := make([]abi.PieceInfo, len(s.manifest.Pieces))
	for i, p := range s.manifest.Pieces {
		if err := p.Size.Validate(); err != nil {
			return refuse("invalid piece size: %s", err)
		}
		sum += uint64(p.Size)
		pieces[i] = abi.PieceInfo{PieceCID: p.CID, Size: p.Size}
	}
	if sum > uint64(size) {
		return refuse("pieces too large to fit in sector %d > %d", sum, size)
	}
	unsealed, err := DataCommitment(s.pre.Info.SealProof, pieces)
	if err != nil {
		return refuse("failed to compute unsealed sector CID: %s", err)
	}
	if declared == nil || *declared != unsealed {
		return refuse("unsealed CID %v of sector %d does not match its pieces (%s)", declared, s.manifest.SectorNumber, unsealed)
	}
	return nil
}

// place is where a sector is proven: sectors are dealt out over the deadlines of a proving period, one partition each.
func place(sector abi.SectorNumber) (deadline, partition uint64) {
	return uint64(sector) % miner18.WPoStPeriodDeadlines, 0
}

// onPartition changes the partition record that holds a sector.
func (m *machine) onPartition(st *miner18.State, deadline, partition uint64, change func(*miner18.Deadline, *miner18.Partition) error) error {
	deadlines, err := st.LoadDeadlines(m.store)
	if err != nil {
		return err
	}
	dl, err := deadlines.LoadDeadline(m.store, deadline)
	if err != nil {
		return abort(exitcode.ErrIllegalArgument, "%s", err)
	}
	all, err := dl.PartitionsArray(m.store)
	if err != nil {
		return err
	}
	var p miner18.Partition
	found, err := all.Get(partition, &p)
	if err != nil {
		return err
	}
	if !found {
		if p, err = m.emptyPartition(); err != nil {
			return err
		}
	}
	if err := change(dl, &p); err != nil {
		return err
	}
	if err := all.Set(partition, &p); err != nil {
		return err
	}
	if dl.Partitions, err = all.Root(); err != nil {
		return err
	}
	if err := deadlines.UpdateDeadline(m.store, deadline, dl); err != nil {
		return err
	}
	return st.SaveDeadlines(m.store, deadlines)
}

func (m *machine) emptyPartition() (miner18.Partition, error) {
	expirations, err := adt.StoreEmptyArray(m.store, miner18.PartitionExpirationAmtBitwidth)
	if err != nil {
		return miner18.Partition{}, err
	}
	early, err := adt.StoreEmptyArray(m.store, miner18.PartitionEarlyTerminationArrayAmtBitwidth)
	if err != nil {
		return miner18.Partition{}, err
	}
	zero := miner18.NewPowerPairZero()
	return miner18.Partition{
		Sectors: bitfield.New(), Unproven: bitfield.New(), Faults: bitfield.New(), Recoveries: bitfield.New(),
		Terminated: bitfield.New(), ExpirationsEpochs: expirations, EarlyTerminated: early,
		LivePower: zero, UnprovenPower: zero, FaultyPower: zero, RecoveringPower: zero,
	}, nil
}

// assign puts a new sector into its partition.
func (m *machine) assign(st *miner18.State, sector abi.SectorNumber, raw, quality abi.StoragePower) error {
	deadline, partition := place(sector)
	return m.onPartition(st, deadline, partition, func(dl *miner18.Deadline, p *miner18.Partition) error {
		p.Sectors.Set(uint64(sector))
		p.LivePower = p.LivePower.Add(miner18.NewPowerPair(raw, quality))
		dl.LiveSectors++
		dl.TotalSectors++
		return nil
	})
}

// remove marks the declared sectors as terminated. Each has to be live in the partition that was named.
func (m *machine) remove(st *miner18.State, t miner18.TerminationDeclaration) ([]abi.SectorNumber, error) {
	var gone []abi.SectorNumber
	err := m.onPartition(st, t.Deadline, t.Partition, func(dl *miner18.Deadline, p *miner18.Partition) error {
		live, err := p.LiveSectors()
		if err != nil {
			return err
		}
		return t.Sectors.ForEach(func(n uint64) error {
			ok, err := live.IsSet(n)
			if err != nil {
				return err
			}
			if !ok {
				return abort(exitcode.ErrIllegalArgument, "can only terminate live sectors, %d is not", n)
			}
			p.Terminated.Set(n)
			dl.LiveSectors--
			gone = append(gone, abi.SectorNumber(n))
			return nil
		})
	})
	return gone, err
}

// networkPower is the raw power of all miners in bytes.
func (m *machine) networkPower() (abi.StoragePower, error) {
	var st power18.State
	if err := m.load(builtin.StoragePowerActorAddr, &st); err != nil {
		return big.Zero(), err
	}
	return st.TotalRawBytePower, nil
}

// addPower changes a miner's claim and the totals.
func (m *machine) addPower(miner address.Address, raw, quality abi.StoragePower) error {
	var st power18.State
	if err := m.load(builtin.StoragePowerActorAddr, &st); err != nil {
		return err
	}
	claims, err := adt.AsMap(m.store, st.Claims, builtin.DefaultHamtBitwidth)
	if err != nil {
		return err
	}
	claim := power18.Claim{
		WindowPoStProofType: windowProofs[32<<30],
		RawBytePower:        big.Zero(), QualityAdjPower: big.Zero(),
	}
	found, err := claims.Get(abi.AddrKey(miner), &claim)
	if err != nil {
		return err
	}
	if !found {
		st.MinerCount++
	}
	claim.RawBytePower = big.Max(big.Zero(), big.Add(claim.RawBytePower, raw))
	claim.QualityAdjPower = big.Max(claim.RawBytePower, big.Add(claim.QualityAdjPower, quality))
	if err := claims.Put(abi.AddrKey(miner), &claim); err != nil {
		return err
	}
	if st.Claims, err = claims.Root(); err != nil {
		return err
	}
	for total, delta := range map[*abi.StoragePower]abi.StoragePower{
		&st.TotalRawBytePower: raw, &st.TotalBytesCommitted: raw, &st.ThisEpochRawBytePower: raw,
		&st.TotalQualityAdjPower: quality, &st.TotalQABytesCommitted: quality, &st.ThisEpochQualityAdjPower: quality,
	} {
		*total = big.Max(big.Zero(), big.Add(*total, delta))
	}
	return m.save(builtin.StoragePowerActorAddr, &st)
}

// DataCommitment is the commitment to a sector's data (CommD): the pieces in order, each aligned to its size, with zeros
// between them and up to the size of the sector.
func DataCommitment(proof abi.RegisteredSealProof, pieces []abi.PieceInfo) (cid.Cid, error) {
	sector, err := proof.SectorSize()
	if err != nil {
		return cid.Undef, err
	}
	sum, size, err := commp.PieceAggregateCommP(proof, pieces)
	if err != nil {
		return cid.Undef, err
	}
	if whole := abi.PaddedPieceSize(sector); size < whole {
		return commp.ZeroPadPieceCommitment(sum, size.Unpadded(), whole.Unpadded())
	}
	return sum, nil
}
