package sp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-bitfield"
	commputils "github.com/filecoin-project/go-commp-utils/v2"
	commcid "github.com/filecoin-project/go-fil-commcid"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v18/miner"
	"github.com/filecoin-project/go-state-types/builtin/v18/verifreg"
	minerActor "github.com/filecoin-project/lotus/chain/actors/builtin/miner"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	cbg "github.com/whyrusleeping/cbor-gen"
)

// sectorMargin is how many epochs a sector outlives its deal.
const sectorMargin = 14 * builtin.EpochsInDay

// leastExpiration is how many epochs ahead a sector must expire: the actor counts the least lifetime of 180 days from
// the last moment at which the sector could be proven, 30 days and a challenge delay from now. A day is for the message.
const leastExpiration = (180 + 30 + 1 + 1) * builtin.EpochsInDay

// preCommit puts a deal into a sector of its own.
func (c *chain) preCommit(ctx context.Context, d *Deal) error {
	if _, never := c.p.faults.hitDeal(SealNever, d.UUID); never {
		return nil
	}
	if d.PreCommit.pending() {
		sent := d.PreCommit
		found, err := c.landed(ctx, &sent)
		switch {
		case err != nil:
			return err
		case found == nil && sent.pending():
			return nil
		case found == nil || found.Receipt.ExitCode.IsError():
			return c.p.update(func(d *Deal) { d.PreCommit = Sent{} }, d.UUID)
		}
		return c.p.update(func(d *Deal) { d.Stage, d.PreCommitted = AddedPiece, found.Height }, d.UUID)
	}
	if d.PreCommit.ID == uuid.Nil {
		c.p.mu.Lock()
		sector := c.p.ledger.nextSector()
		c.p.mu.Unlock()
		if err := c.p.update(func(d *Deal) { d.Sector, d.PreCommit = sector, Sent{ID: uuid.New()} }, d.UUID); err != nil {
			return err
		}
		d = c.p.deal(d.UUID)
	}
	params, err := c.preCommitParams(ctx, d)
	if err != nil {
		return err
	}
	sent := d.PreCommit
	err = c.push(ctx, &sent, c.p.cfg.Miner, builtin.MethodsMiner.PreCommitSectorBatch2, big.Zero(), params)
	if err != nil {
		if refused(err) {
			// The number may be taken (a directory that was lost): try the next one.
			if err := c.p.update(func(d *Deal) { d.PreCommit = Sent{} }, d.UUID); err != nil {
				return err
			}
		}
		return fmt.Errorf("committing sector %d of deal %d: %w", d.Sector, d.DealID, err)
	}
	return c.p.update(func(d *Deal) { d.PreCommit = sent }, d.UUID)
}

func (c *chain) preCommitParams(ctx context.Context, d *Deal) (*miner.PreCommitSectorBatchParams2, error) {
	info, err := c.node.StateMinerInfo(ctx, c.p.cfg.Miner, types.EmptyTSK)
	if err != nil {
		return nil, fmt.Errorf("reading the miner: %w", err)
	}
	version, err := c.node.StateNetworkVersion(ctx, types.EmptyTSK)
	if err != nil {
		return nil, fmt.Errorf("asking for the network version: %w", err)
	}
	proof, err := minerActor.PreferredSealProofTypeFromWindowPoStType(version, info.WindowPoStProofType, false)
	if err != nil {
		return nil, fmt.Errorf("choosing a proof: %w", err)
	}
	proposal := d.proposal()
	unsealed, err := commputils.ZeroPadPieceCommitment(proposal.PieceCID, proposal.PieceSize.Unpadded(),
		abi.PaddedPieceSize(info.SectorSize).Unpadded())
	if err != nil {
		return nil, fmt.Errorf("computing the sector's commitment: %w", err)
	}
	sealed, err := replica(c.p.cfg.Miner.Bytes(), d.Sector)
	if err != nil {
		return nil, err
	}
	head := c.p.height()
	expiration := min(max(proposal.EndEpoch+sectorMargin, head+leastExpiration), head+miner.MaxSectorExpirationExtension)
	return &miner.PreCommitSectorBatchParams2{Sectors: []miner.SectorPreCommitInfo{{
		SealProof: proof, SectorNumber: d.Sector, SealedCID: sealed, SealRandEpoch: max(0, head-1),
		Expiration: max(expiration, proposal.EndEpoch), UnsealedCid: &unsealed,
	}}}, nil
}

// replica makes up the commitment of a sealed sector: nothing here seals, and nothing on the devnet proves.
func replica(who []byte, sector abi.SectorNumber) (cid.Cid, error) {
	digest := sha256.Sum256(binary.BigEndian.AppendUint64(bytes.Clone(who), uint64(sector)))
	digest[31] &= 0x3f // an element of the field
	c, err := commcid.ReplicaCommitmentV1ToCID(digest[:])
	if err != nil {
		return cid.Undef, fmt.Errorf("making a replica's commitment: %w", err)
	}
	return c, nil
}

// prove activates a deal once its sector may be proven and its time has come.
func (c *chain) prove(ctx context.Context, d *Deal) error {
	if _, never := c.p.faults.hitDeal(SealNever, d.UUID); never {
		return nil
	}
	if d.Prove.pending() {
		return c.proven(ctx, d)
	}
	_, afterStart := c.p.faults.hitDeal(SealAfterStart, d.UUID)
	if !c.mayProve(d, afterStart) {
		return nil
	}
	if c.p.height() > d.proposal().StartEpoch && !afterStart {
		return c.p.fail(d, "sealing failed: the deal's start epoch %d has passed", d.proposal().StartEpoch)
	}
	if d.Prove.ID == uuid.Nil {
		if err := c.p.update(func(d *Deal) { d.Prove = Sent{ID: uuid.New()} }, d.UUID); err != nil {
			return err
		}
		d = c.p.deal(d.UUID)
	}
	params, err := c.proveParams(ctx, d, !afterStart)
	if err != nil {
		return err
	}
	sent := d.Prove
	err = c.push(ctx, &sent, c.p.cfg.Miner, builtin.MethodsMiner.ProveCommitSectors3, big.Zero(), params)
	if err != nil {
		// Too early, or not yet confirmed after a reorganisation: the next epoch tells, at last the start epoch.
		return fmt.Errorf("proving sector %d of deal %d: %w", d.Sector, d.DealID, err)
	}
	return c.p.update(func(d *Deal) { d.Prove = sent }, d.UUID)
}

// mayProve tells whether all delays are over.
func (c *chain) mayProve(d *Deal, afterStart bool) bool {
	delay := c.p.cfg.SealDelay
	if f, ok := c.p.faults.hitDeal(SealLate, d.UUID); ok {
		delay += orDefault(f.Epochs, 100)
	}
	head := c.p.height()
	if afterStart && head <= d.proposal().StartEpoch {
		return false
	}
	return head >= d.PreCommitted+max(delay, c.p.cfg.PreCommitDelay)
}

func (c *chain) proveParams(ctx context.Context, d *Deal, notified bool) (*miner.ProveCommitSectors3Params, error) {
	var payload bytes.Buffer
	if err := cbg.WriteMajorTypeHeader(&payload, cbg.MajUnsignedInt, uint64(d.DealID)); err != nil {
		return nil, fmt.Errorf("encoding a deal id: %w", err)
	}
	piece := miner.PieceActivationManifest{
		CID: d.proposal().PieceCID, Size: d.proposal().PieceSize,
		Notify: []miner.DataActivationNotification{{Address: builtin.StorageMarketActorAddr, Payload: payload.Bytes()}},
	}
	if d.proposal().VerifiedDeal {
		allocation, err := c.node.StateGetAllocationIdForPendingDeal(ctx, d.DealID, types.EmptyTSK)
		if err != nil {
			return nil, fmt.Errorf("looking up the allocation of deal %d: %w", d.DealID, err)
		}
		client, err := c.node.StateLookupID(ctx, d.proposal().Client, types.EmptyTSK)
		if err != nil {
			return nil, fmt.Errorf("looking up the client: %w", err)
		}
		id, err := idOf(client)
		if err != nil {
			return nil, err
		}
		piece.VerifiedAllocationKey = &miner.VerifiedAllocationKey{Client: id, ID: verifreg.AllocationId(allocation)}
	}
	return &miner.ProveCommitSectors3Params{
		SectorActivations:        []miner.SectorActivationManifest{{SectorNumber: d.Sector, Pieces: []miner.PieceActivationManifest{piece}}},
		SectorProofs:             [][]byte{make([]byte, 192)}, // the length of a real one
		RequireActivationSuccess: true, RequireNotificationSuccess: notified,
	}, nil
}

// proven follows the message that activates a deal.
func (c *chain) proven(ctx context.Context, d *Deal) error {
	sent := d.Prove
	found, err := c.landed(ctx, &sent)
	switch {
	case err != nil:
		return err
	case found == nil && sent.pending():
		return nil
	case found == nil || found.Receipt.ExitCode.IsError():
		return c.p.update(func(d *Deal) { d.Prove = Sent{} }, d.UUID)
	}
	if _, late := c.p.faults.hitDeal(SealAfterStart, d.UUID); late {
		return c.p.fail(d, "sealing failed: the sector was proven after the deal's start epoch %d", d.proposal().StartEpoch)
	}
	return c.p.update(func(d *Deal) { d.Stage, d.Activated = Sealed, found.Height }, d.UUID)
}

// watch ends a deal: at its end, or when the provider gives its sector up.
func (c *chain) watch(ctx context.Context, d *Deal) error {
	if c.p.height() >= d.proposal().EndEpoch {
		return c.end(d)
	}
	if d.Terminate.pending() {
		sent := d.Terminate
		found, err := c.landed(ctx, &sent)
		switch {
		case err != nil:
			return err
		case found == nil && sent.pending():
			return nil
		case found == nil || found.Receipt.ExitCode.IsError():
			return c.p.update(func(d *Deal) { d.Terminate = Sent{} }, d.UUID)
		}
		return c.end(d)
	}
	f, ok := c.p.faults.hitDeal(Terminate, d.UUID)
	if !ok || c.p.height() < d.Activated+f.Epochs {
		return nil
	}
	return c.terminate(ctx, d)
}

func (c *chain) end(d *Deal) error {
	if err := c.p.update(func(d *Deal) { d.Stage = Ended }, d.UUID); err != nil {
		return err
	}
	c.p.release(d)
	return nil
}

func (c *chain) terminate(ctx context.Context, d *Deal) error {
	if d.Terminate.ID == uuid.Nil {
		if err := c.p.update(func(d *Deal) { d.Terminate = Sent{ID: uuid.New()} }, d.UUID); err != nil {
			return err
		}
		d = c.p.deal(d.UUID)
	}
	at, err := c.node.StateSectorPartition(ctx, c.p.cfg.Miner, d.Sector, types.EmptyTSK)
	if err != nil {
		return fmt.Errorf("finding sector %d: %w", d.Sector, err)
	}
	if at == nil {
		return fmt.Errorf("finding sector %d: it is in no partition", d.Sector)
	}
	params := &miner.TerminateSectorsParams{Terminations: []miner.TerminationDeclaration{{
		Deadline: at.Deadline, Partition: at.Partition, Sectors: bitfield.NewFromSet([]uint64{uint64(d.Sector)}),
	}}}
	sent := d.Terminate
	if err := c.push(ctx, &sent, c.p.cfg.Miner, builtin.MethodsMiner.TerminateSectors, big.Zero(), params); err != nil {
		return fmt.Errorf("terminating sector %d: %w", d.Sector, err)
	}
	return c.p.update(func(d *Deal) { d.Terminate = sent }, d.UUID)
}

func idOf(addr address.Address) (abi.ActorID, error) {
	id, err := address.IDFromAddress(addr)
	if err != nil {
		return 0, fmt.Errorf("reading the id of %s: %w", addr, err)
	}
	return abi.ActorID(id), nil
}
