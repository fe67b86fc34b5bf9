package devnet

import (
	"bytes"
	"fmt"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-bitfield"
	"github.com/filecoin-project/go-state-types/abi"
	stbatch "github.com/filecoin-project/go-state-types/batch"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	miner18 "github.com/filecoin-project/go-state-types/builtin/v18/miner"
	"github.com/filecoin-project/go-state-types/builtin/v18/util/adt"
	"github.com/filecoin-project/go-state-types/exitcode"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/multiformats/go-multicodec"
	cbg "github.com/whyrusleeping/cbor-gen"
)

// minerInfo adds the questions other actors ask to the actor's own record.
type minerInfo struct{ miner18.MinerInfo }

// controls tells whether an id address may act for the miner.
func (i *minerInfo) controls(a address.Address) bool {
	return a == i.Owner || a == i.Worker || containsAddress(i.ControlAddresses, a)
}

func (m *machine) isMiner(id address.Address) (bool, error) {
	act, err := m.tree.GetActor(id)
	if err != nil {
		return false, fmt.Errorf("loading actor %s: %w", id, err)
	}
	return act.Code == code.miner, nil
}

func (m *machine) openMiner(id address.Address) (*miner18.State, *minerInfo, error) {
	var st miner18.State
	if err := m.load(id, &st); err != nil {
		return nil, nil, err
	}
	var info minerInfo
	if err := m.store.Get(m.ctx, st.Info, &info.MinerInfo); err != nil {
		return nil, nil, fmt.Errorf("loading miner info of %s: %w", id, err)
	}
	return &st, &info, nil
}

// callMiner dispatches to the methods a provider's software sends.
func (m *machine) callMiner(c call) ([]byte, error) {
	st, info, err := m.openMiner(c.to)
	if err != nil {
		return nil, err
	}
	if !info.controls(c.from) {
		return nil, abort(exitcode.SysErrForbidden, "caller %s is not one of supported", c.from)
	}
	switch c.method {
	case builtin.MethodsMiner.ChangePeerID, builtin.MethodsMiner.ChangePeerIDExported:
		var p miner18.ChangePeerIDParams
		if err := c.decode(&p); err != nil {
			return nil, err
		}
		info.PeerId = p.NewID
		return nil, m.saveInfo(c.to, st, info)
	case builtin.MethodsMiner.ChangeMultiaddrs, builtin.MethodsMiner.ChangeMultiaddrsExported:
		var p miner18.ChangeMultiaddrsParams
		if err := c.decode(&p); err != nil {
			return nil, err
		}
		info.Multiaddrs = p.NewMultiaddrs
		return nil, m.saveInfo(c.to, st, info)
	case builtin.MethodsMiner.PreCommitSectorBatch2:
		return nil, m.preCommit(c, st, info)
	case builtin.MethodsMiner.ProveCommitSectors3:
		return m.proveCommit(c, st)
	case builtin.MethodsMiner.TerminateSectors:
		return m.terminateSectors(c, st, info)
	default:
		return nil, abort(exitcode.ErrUnhandledMessage, "invalid method %d", c.method)
	}
}

func (m *machine) saveInfo(miner address.Address, st *miner18.State, info *minerInfo) error {
	root, err := m.store.Put(m.ctx, &info.MinerInfo)
	if err != nil {
		return fmt.Errorf("storing miner info of %s: %w", miner, err)
	}
	st.Info = root
	return m.save(miner, st)
}

// preCommit takes the promise to prove sectors: fresh numbers, the commitment to their data, and how long they live.
func (m *machine) preCommit(c call, st *miner18.State, info *minerInfo) error {
	var params miner18.PreCommitSectorBatchParams2
	if err := c.decode(&params); err != nil {
		return err
	}
	if n := len(params.Sectors); n == 0 {
		return abort(exitcode.ErrIllegalArgument, "batch empty")
	} else if n > preCommitBatchMax {
		return abort(exitcode.ErrIllegalArgument, "batch of %d too large, max %d", n, preCommitBatchMax)
	}
	var allocated bitfield.BitField
	if err := m.store.Get(m.ctx, st.AllocatedSectors, &allocated); err != nil {
		return fmt.Errorf("loading allocated sectors: %w", err)
	}
	waiting, err := adt.AsMap(m.store, st.PreCommittedSectors, builtin.DefaultHamtBitwidth)
	if err != nil {
		return err
	}
	for i := range params.Sectors {
		s := &params.Sectors[i]
		if taken, err := allocated.IsSet(uint64(s.SectorNumber)); err != nil {
			return err
		} else if taken {
			return abort(exitcode.ErrIllegalArgument, "sector number %d has already been allocated", s.SectorNumber)
		}
		if err := m.checkPreCommit(s, info); err != nil {
			return err
		}
		allocated.Set(uint64(s.SectorNumber))
		if err := waiting.Put(miner18.SectorKey(s.SectorNumber), &miner18.SectorPreCommitOnChainInfo{
			Info: *s, PreCommitDeposit: big.Zero(), PreCommitEpoch: m.epoch,
		}); err != nil {
			return err
		}
	}
	if st.PreCommittedSectors, err = waiting.Root(); err != nil {
		return err
	}
	if st.AllocatedSectors, err = m.store.Put(m.ctx, &allocated); err != nil {
		return err
	}
	return m.save(c.to, st)
}

func (m *machine) checkPreCommit(s *miner18.SectorPreCommitInfo, info *minerInfo) error {
	size, err := s.SealProof.SectorSize()
	if err != nil {
		return abort(exitcode.ErrIllegalArgument, "unsupported seal proof type %d", s.SealProof)
	}
	switch {
	case size != info.SectorSize:
		return abort(exitcode.ErrIllegalArgument, "seal proof of %d bytes does not match the miner's sector size %d", size, info.SectorSize)
	case s.SectorNumber > abi.MaxSectorNumber:
		return abort(exitcode.ErrIllegalArgument, "sector number %d out of range 0..(2^63-1)", s.SectorNumber)
	case !s.SealedCID.Defined() || s.SealedCID.Prefix() != miner18.SealedCIDPrefix:
		return abort(exitcode.ErrIllegalArgument, "sealed CID had wrong prefix")
	case s.SealRandEpoch >= m.epoch:
		return abort(exitcode.ErrIllegalArgument, "seal challenge epoch %d must be before now %d", s.SealRandEpoch, m.epoch)
	case s.SealRandEpoch < m.epoch-preCommitRandomnessLookback:
		return abort(exitcode.ErrIllegalArgument, "seal challenge epoch %d too old, must be after %d", s.SealRandEpoch, m.epoch-preCommitRandomnessLookback)
	case len(s.DealIDs) > 0:
		return abort(exitcode.ErrIllegalArgument, "pre-committing deals is no longer supported, notify the market when proving")
	}
	active := m.epoch + proveCommitWindow + m.policy.preCommitDelay
	if s.Expiration <= active {
		return abort(exitcode.ErrIllegalArgument, "sector expiration %d must be after activation (%d)", s.Expiration, active)
	}
	if s.Expiration-active < sectorMinLifetime {
		return abort(exitcode.ErrIllegalArgument, "invalid expiration %d, total sector lifetime (%d) must exceed %d after activation %d",
			s.Expiration, s.Expiration-active, sectorMinLifetime, active)
	}
	if s.Expiration > m.epoch+sectorMaxLifetime {
		return abort(exitcode.ErrIllegalArgument, "invalid expiration %d, cannot be more than %d past current epoch %d", s.Expiration, sectorMaxLifetime, m.epoch)
	}
	return nil
}

// provenSector is one sector of a ProveCommitSectors3 message that passed every check of its own.
type provenSector struct {
	manifest *miner18.SectorActivationManifest
	pre      miner18.SectorPreCommitOnChainInfo
}

// proveCommit activates sectors. The proofs themselves are not verified: what is checked is all that a proof would be
// about, namely that the sector was pre-committed in time and that the pieces make up the committed data.
func (m *machine) proveCommit(c call, st *miner18.State) ([]byte, error) {
	var p miner18.ProveCommitSectors3Params
	if err := c.decode(&p); err != nil {
		return nil, err
	}
	if len(p.SectorActivations) == 0 {
		return nil, abort(exitcode.ErrIllegalArgument, "no sectors to prove")
	}
	if (len(p.SectorProofs) == 0) == (len(p.AggregateProof) == 0) {
		return nil, abort(exitcode.ErrIllegalArgument, "exactly one of sector proofs or aggregate proof must be non-empty")
	}
	if n := len(p.SectorProofs); n > 0 && n != len(p.SectorActivations) {
		return nil, abort(exitcode.ErrIllegalArgument, "mismatched lengths: %d sector activations, %d proofs", len(p.SectorActivations), n)
	}
	waiting, err := adt.AsMap(m.store, st.PreCommittedSectors, builtin.DefaultHamtBitwidth)
	if err != nil {
		return nil, err
	}
	var ret stbatch.BatchReturn
	var proven []provenSector
	for i := range p.SectorActivations {
		s := provenSector{manifest: &p.SectorActivations[i]}
		found, err := waiting.Get(miner18.SectorKey(s.manifest.SectorNumber), &s.pre)
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, abort(exitcode.ErrNotFound, "sector %d not found in precommits", s.manifest.SectorNumber)
		}
		refusal, err := m.checkProof(c.to, &s)
		if err != nil {
			return nil, err
		}
		if refusal != nil {
			if p.RequireActivationSuccess {
				return nil, refusal
			}
			ret.FailCodes = append(ret.FailCodes, stbatch.FailCode{Idx: uint64(i), Code: refusal.code})
			continue
		}
		ret.SuccessCount++
		proven = append(proven, s)
	}
	if len(proven) == 0 {
		return nil, abort(exitcode.ErrIllegalArgument, "all data activations failed")
	}
	for i := range proven {
		if err := waiting.Delete(miner18.SectorKey(proven[i].manifest.SectorNumber)); err != nil {
			return nil, err
		}
	}
	if st.PreCommittedSectors, err = waiting.Root(); err != nil {
		return nil, err
	}
	if err := m.addSectors(c.to, st, proven); err != nil {
		return nil, err
	}
	if err := m.notifyMarket(c.to, proven, p.RequireNotificationSuccess); err != nil {
		return nil, err
	}
	return encode(&ret)
}

// checkProof refuses a sector that is too early, too late, or whose pieces do not make up the data it committed to; it
// claims the allocations of verified pieces.
func (m *machine) checkProof(miner address.Address, s *provenSector) (*fault, error) {
	at := s.pre.PreCommitEpoch
	if m.epoch <= at+m.policy.preCommitDelay {
		return &fault{exitcode.ErrForbidden, fmt.Sprintf("too early to prove sector %d", s.manifest.SectorNumber)}, nil
	}
	if m.epoch > at+m.policy.preCommitDelay+proveCommitWindow {
		return &fault{exitcode.ErrIllegalArgument, fmt.Sprintf("commitment of sector %d too late at %d, pre-committed at %d", s.manifest.SectorNumber, m.epoch, at)}, nil
	}
	if refusal := checkPieces(s); refusal != nil {
		return refusal, nil
	}
	return m.claimPieces(miner, s)
}

// addSectors writes proven sectors into the miner's state and its power.
func (m *machine) addSectors(miner address.Address, st *miner18.State, proven []provenSector) error {
	sectors, err := adt.AsArray(m.store, st.Sectors, miner18.SectorsAmtBitwidth)
	if err != nil {
		return err
	}
	raw, quality := big.Zero(), big.Zero()
	for i := range proven {
		pre := &proven[i].pre
		info, power, qa := newSector(m.epoch, pre, proven[i].manifest)
		if err := sectors.Set(uint64(pre.Info.SectorNumber), info); err != nil {
			return err
		}
		if err := m.assign(st, pre.Info.SectorNumber, power, qa); err != nil {
			return err
		}
		raw, quality = big.Add(raw, power), big.Add(quality, qa)
	}
	if st.Sectors, err = sectors.Root(); err != nil {
		return err
	}
	if err := m.save(miner, st); err != nil {
		return err
	}
	return m.addPower(miner, raw, quality)
}

func newSector(now abi.ChainEpoch, pre *miner18.SectorPreCommitOnChainInfo, manifest *miner18.SectorActivationManifest) (info *miner18.SectorOnChainInfo, raw, quality abi.StoragePower) {
	size, _ := pre.Info.SealProof.SectorSize() // checked when pre-committed
	lifetime := big.NewInt(int64(pre.Info.Expiration - now))
	weight, verified := big.Zero(), big.Zero()
	for _, p := range manifest.Pieces {
		w := big.Mul(big.NewIntUnsigned(uint64(p.Size)), lifetime)
		if p.VerifiedAllocationKey != nil {
			verified = big.Add(verified, w)
		} else {
			weight = big.Add(weight, w)
		}
	}
	raw = big.NewIntUnsigned(uint64(size))
	quality = big.Add(raw, big.Mul(big.NewInt(9), big.Div(verified, lifetime)))
	return &miner18.SectorOnChainInfo{
		SectorNumber: pre.Info.SectorNumber, SealProof: pre.Info.SealProof, SealedCID: pre.Info.SealedCID,
		Activation: now, Expiration: pre.Info.Expiration, PowerBaseEpoch: now,
		DealWeight: weight, VerifiedDealWeight: verified, InitialPledge: big.Zero(),
		Flags: miner18.SIMPLE_QA_POWER, DailyFee: big.Zero(),
	}, raw, quality
}

// notifyMarket tells the market actor, the only consumer of data there is, which pieces were proven.
func (m *machine) notifyMarket(miner address.Address, proven []provenSector, required bool) error {
	var changes []miner18.SectorChanges
	for i := range proven {
		s := &proven[i]
		change := miner18.SectorChanges{Sector: s.manifest.SectorNumber, MinimumCommitmentEpoch: s.pre.Info.Expiration}
		for _, p := range s.manifest.Pieces {
			for _, n := range p.Notify {
				if n.Address != builtin.StorageMarketActorAddr {
					if required {
						return abort(exitcode.ErrIllegalArgument, "disallowed notification receiver %s", n.Address)
					}
					continue
				}
				change.Added = append(change.Added, miner18.PieceChange{Data: p.CID, Size: p.Size, Payload: n.Payload})
			}
		}
		if len(change.Added) > 0 {
			changes = append(changes, change)
		}
	}
	if len(changes) == 0 {
		return nil
	}
	answers, err := m.sectorContentChanged(miner, changes)
	if err != nil {
		return err
	}
	for i, sector := range answers {
		for j, accepted := range sector {
			if !accepted && required {
				return abort(exitcode.ErrIllegalArgument, "sector change rejected by %s for sector %d piece %s",
					builtin.StorageMarketActorAddr, changes[i].Sector, changes[i].Added[j].Data)
			}
		}
	}
	return nil
}

// terminateSectors ends sectors before their time, with their deals.
func (m *machine) terminateSectors(c call, st *miner18.State, info *minerInfo) ([]byte, error) {
	var params miner18.TerminateSectorsParams
	if err := c.decode(&params); err != nil {
		return nil, err
	}
	var gone []abi.SectorNumber
	for _, t := range params.Terminations {
		sectors, err := m.remove(st, t)
		if err != nil {
			return nil, err
		}
		gone = append(gone, sectors...)
	}
	if len(gone) == 0 {
		return nil, abort(exitcode.ErrIllegalArgument, "no sectors to terminate")
	}
	if err := m.save(c.to, st); err != nil {
		return nil, err
	}
	lost := big.Mul(big.NewInt(int64(len(gone))), big.NewIntUnsigned(uint64(info.SectorSize)))
	if err := m.addPower(c.to, lost.Neg(), lost.Neg()); err != nil {
		return nil, err
	}
	if err := m.sectorsTerminated(c.to, gone); err != nil {
		return nil, err
	}
	return encode(&miner18.TerminateSectorsReturn{Done: true})
}

// emit records a deal event of the market actor in the form of FIP-0083.
func (m *machine) emit(kind string, deal abi.DealID, client, provider address.Address) {
	number := func(n uint64) []byte {
		var buf bytes.Buffer
		_ = cbg.WriteMajorTypeHeader(&buf, cbg.MajUnsignedInt, n) // a buffer takes every write
		return buf.Bytes()
	}
	text := func(s string) []byte {
		var buf bytes.Buffer
		_ = cbg.WriteMajorTypeHeader(&buf, cbg.MajTextString, uint64(len(s)))
		return append(buf.Bytes(), s...)
	}
	party := func(a address.Address) uint64 {
		id, _ := address.IDFromAddress(a) // deals on chain name ids
		return id
	}
	const indexed = types.EventFlagIndexedKey | types.EventFlagIndexedValue
	emitter, _ := address.IDFromAddress(builtin.StorageMarketActorAddr)
	entry := func(key string, value []byte) types.EventEntry {
		return types.EventEntry{Flags: indexed, Key: key, Codec: uint64(multicodec.Cbor), Value: value} // plain CBOR, as the actors emit it
	}
	m.events = append(m.events, types.Event{Emitter: abi.ActorID(emitter), Entries: []types.EventEntry{
		entry("$type", text(kind)), entry("id", number(uint64(deal))),
		entry("client", number(party(client))), entry("provider", number(party(provider))),
	}})
}
