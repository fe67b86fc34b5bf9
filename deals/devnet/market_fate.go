package devnet

import (
	"fmt"
	"slices"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-bitfield"
	"github.com/filecoin-project/go-state-types/abi"
	stbatch "github.com/filecoin-project/go-state-types/batch"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	market18 "github.com/filecoin-project/go-state-types/builtin/v18/market"
	miner18 "github.com/filecoin-project/go-state-types/builtin/v18/miner"
	"github.com/filecoin-project/go-state-types/builtin/v18/util/adt"
	"github.com/filecoin-project/go-state-types/exitcode"
	"github.com/ipfs/go-cid"
	cbg "github.com/whyrusleeping/cbor-gen"
)

// What becomes of a published deal: activated by its provider's proof, missed, paid, ended, terminated.

// sectorContentChanged is the notice of a miner that sectors hold pieces for deals. Each deal is accepted or not on its
// own; the answer has one entry per piece.
func (m *machine) sectorContentChanged(miner address.Address, sectors []miner18.SectorChanges) ([]miner18.SectorReturn, error) {
	k, err := m.openMarket()
	if err != nil {
		return nil, err
	}
	answers := make([]miner18.SectorReturn, len(sectors))
	done := map[abi.DealID]struct{}{}
	for i, sector := range sectors {
		answers[i] = make(miner18.SectorReturn, len(sector.Added))
		for j, piece := range sector.Added {
			id, ok := dealIDOf(piece.Payload)
			if _, twice := done[id]; !ok || twice {
				continue
			}
			p, reason, err := k.activatable(id, miner, sector.MinimumCommitmentEpoch)
			if err != nil {
				return nil, err
			}
			if reason != "" || piece.Data != p.PieceCID || piece.Size != p.PieceSize {
				continue
			}
			if err := k.activate(id, p, sector.Sector); err != nil {
				return nil, fmt.Errorf("activating deal %d: %w", id, err)
			}
			done[id] = struct{}{}
			answers[i][j] = true
		}
	}
	return answers, k.commit()
}

func dealIDOf(payload []byte) (abi.DealID, bool) {
	c := call{params: payload}
	var id cbg.CborInt
	if err := c.decode(&id); err != nil || id < 0 {
		return 0, false
	}
	return abi.DealID(id), true
}

// activatable is the proposal of a deal that the miner may activate now, or the reason why it may not.
func (k *market) activatable(id abi.DealID, miner address.Address, sectorEnd abi.ChainEpoch) (*market18.DealProposal, string, error) {
	p, ok, err := k.proposal(id)
	if err != nil {
		return nil, "", err
	}
	if !ok {
		return nil, fmt.Sprintf("no such deal %d", id), nil
	}
	switch {
	case p.Provider != miner:
		return nil, fmt.Sprintf("proposal has provider %s, must be %s", p.Provider, miner), nil
	case k.m.epoch > p.StartEpoch:
		return nil, fmt.Sprintf("proposal start epoch %d has already elapsed at %d", p.StartEpoch, k.m.epoch), nil
	case p.EndEpoch > sectorEnd:
		return nil, fmt.Sprintf("proposal expiration %d exceeds sector expiration %d", p.EndEpoch, sectorEnd), nil
	}
	if _, active, err := k.state(id); err != nil {
		return nil, "", err
	} else if active {
		return nil, fmt.Sprintf("deal %d already activated", id), nil
	}
	return p, "", nil
}

func (k *market) activate(id abi.DealID, p *market18.DealProposal, sector abi.SectorNumber) error {
	if err := k.dropAllocation(id); err != nil {
		return err
	}
	if err := k.putState(id, &market18.DealState{
		SectorNumber: sector, SectorStartEpoch: k.m.epoch, LastUpdatedEpoch: epochUndefined, SlashEpoch: epochUndefined,
	}); err != nil {
		return err
	}
	k.m.emit("deal-activated", id, p.Client, p.Provider)
	k.m.record(change{Kind: activated, ID: id, Epoch: k.m.epoch, Sector: sector})
	return k.sectorDeals(p.Provider, sector, func(l abi.DealIDList) abi.DealIDList { return append(l, id) })
}

// sectorsTerminated ends the deals of sectors that a miner has lost: paid up to now, the rest refunded, the provider's
// collateral burnt. Deals past their end are left for settlement.
func (m *machine) sectorsTerminated(miner address.Address, sectors []abi.SectorNumber) error {
	k, err := m.openMarket()
	if err != nil {
		return err
	}
	burnt := big.Zero()
	for _, sector := range sectors {
		var ids abi.DealIDList
		if err := k.sectorDeals(miner, sector, func(l abi.DealIDList) abi.DealIDList { ids = l; return nil }); err != nil {
			return err
		}
		for _, id := range ids {
			slashed, err := k.terminate(id, miner)
			if err != nil {
				return fmt.Errorf("terminating deal %d: %w", id, err)
			}
			burnt = big.Add(burnt, slashed)
		}
	}
	if err := k.commit(); err != nil {
		return err
	}
	return m.burn(burnt)
}

func (k *market) terminate(id abi.DealID, miner address.Address) (slashed abi.TokenAmount, err error) {
	now := k.m.epoch
	p, ok, err := k.proposal(id)
	if err != nil || !ok || p.EndEpoch <= now {
		return big.Zero(), err // settled already, or expired: not slashed
	}
	if p.Provider != miner {
		return big.Zero(), abort(exitcode.ErrIllegalState, "caller %s is not the provider %s of deal %d", miner, p.Provider, id)
	}
	st, ok, err := k.state(id)
	if err != nil {
		return big.Zero(), err
	}
	if !ok {
		return big.Zero(), abort(exitcode.ErrIllegalArgument, "no state for deal %d", id)
	}
	if st.LastUpdatedEpoch == epochUndefined {
		if err := k.unpend(p); err != nil {
			return big.Zero(), err
		}
	}
	paid := max(0, min(p.EndEpoch, now)-max(p.StartEpoch, st.LastUpdatedEpoch))
	if err := k.pay(p, big.Mul(p.StoragePricePerEpoch, big.NewInt(int64(paid)))); err != nil {
		return big.Zero(), err
	}
	left := p.EndEpoch - max(now, p.StartEpoch)
	if err := k.unlock(p.Client, big.Mul(p.StoragePricePerEpoch, big.NewInt(int64(left))), forStorageFee); err != nil {
		return big.Zero(), err
	}
	if err := k.unlock(p.Client, p.ClientCollateral, forClientCollateral); err != nil {
		return big.Zero(), err
	}
	if slashed, err = k.slash(p); err != nil {
		return big.Zero(), err
	}
	if err := k.removeDeal(id); err != nil {
		return big.Zero(), err
	}
	k.m.emit("deal-terminated", id, p.Client, p.Provider)
	k.m.record(change{Kind: terminated, ID: id, Epoch: now})
	return slashed, nil
}

// timeOut removes a deal whose start has come without a proof: funds back to the client, collateral burnt.
func (k *market) timeOut(id abi.DealID, p *market18.DealProposal) (slashed abi.TokenAmount, err error) {
	if err := k.unlock(p.Client, p.TotalStorageFee(), forStorageFee); err != nil {
		return big.Zero(), err
	}
	if err := k.unlock(p.Client, p.ClientCollateral, forClientCollateral); err != nil {
		return big.Zero(), err
	}
	if slashed, err = k.slash(p); err != nil {
		return big.Zero(), err
	}
	if err := k.removeProposal(id); err != nil {
		return big.Zero(), err
	}
	if err := k.unpend(p); err != nil {
		return big.Zero(), err
	}
	k.m.record(change{Kind: missed, ID: id, Epoch: k.m.epoch})
	return slashed, k.dropAllocation(id)
}

// cron is the market's tick for the epochs since the last one. A deal comes up once, at its turn after the start epoch:
// a proof has to be there by then, and the proposal need not be remembered as pending any longer.
func (m *machine) cron(upTo abi.ChainEpoch) error {
	k, err := m.openMarket()
	if err != nil {
		return err
	}
	queue, err := k.hamt(&k.st.DealOpsByEpoch, builtin.DefaultHamtBitwidth)
	if err != nil {
		return err
	}
	burnt := big.Zero()
	for epoch := k.st.LastCron + 1; epoch <= upTo; epoch++ {
		m.epoch = epoch
		var root cbg.CborCid
		found, err := queue.Get(abi.UIntKey(uint64(epoch)), &root)
		if err != nil {
			return fmt.Errorf("loading the deals of epoch %d: %w", epoch, err)
		}
		if !found {
			continue
		}
		ids, err := dealIDs(m.store, cid.Cid(root))
		if err != nil {
			return err
		}
		for _, id := range ids {
			slashed, err := k.turn(id)
			if err != nil {
				return fmt.Errorf("taking the turn of deal %d: %w", id, err)
			}
			burnt = big.Add(burnt, slashed)
		}
		if err := queue.Delete(abi.UIntKey(uint64(epoch))); err != nil {
			return err
		}
	}
	k.st.LastCron = upTo
	if err := k.commit(); err != nil {
		return err
	}
	return m.burn(burnt)
}

func dealIDs(store adt.Store, root cid.Cid) ([]abi.DealID, error) {
	set, err := adt.AsSet(store, root, builtin.DefaultHamtBitwidth)
	if err != nil {
		return nil, err
	}
	var ids []abi.DealID
	err = set.ForEach(func(key string) error {
		id, err := abi.ParseUIntKey(key)
		ids = append(ids, abi.DealID(id))
		return err
	})
	slices.Sort(ids)
	return ids, err
}

func (k *market) turn(id abi.DealID) (slashed abi.TokenAmount, err error) {
	p, ok, err := k.proposal(id)
	if err != nil || !ok {
		return big.Zero(), err // settled or terminated before its turn
	}
	st, active, err := k.state(id)
	if err != nil {
		return big.Zero(), err
	}
	if !active {
		return k.timeOut(id, p)
	}
	if st.LastUpdatedEpoch == epochUndefined {
		err = k.unpend(p)
	}
	return big.Zero(), err
}

// settleDealPayments pays what is due for the named deals. Anyone may ask; it is also how a missed deal is removed
// before its turn, and the only way an expired one leaves the state.
func (m *machine) settleDealPayments(c call) ([]byte, error) {
	var wanted bitfield.BitField
	if err := c.decode(&wanted); err != nil {
		return nil, err
	}
	k, err := m.openMarket()
	if err != nil {
		return nil, err
	}
	ret := market18.SettleDealPaymentsReturn{}
	burnt := big.Zero()
	n := uint64(0)
	err = wanted.ForEach(func(i uint64) error {
		summary, slashed, err := k.settle(abi.DealID(i))
		if err != nil {
			return fmt.Errorf("settling deal %d: %w", i, err)
		}
		burnt = big.Add(burnt, slashed)
		if summary == nil {
			ret.Results.FailCodes = append(ret.Results.FailCodes, stbatch.FailCode{Idx: n, Code: exitDealExpired})
		} else {
			ret.Results.SuccessCount++
			ret.Settlements = append(ret.Settlements, *summary)
		}
		n++
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	if err := m.burn(burnt); err != nil {
		return nil, err
	}
	return encode(&ret)
}

// settle returns nil for a deal that is not, or no longer, in the state.
func (k *market) settle(id abi.DealID) (*market18.DealSettlementSummary, abi.TokenAmount, error) {
	now := k.m.epoch
	p, ok, err := k.proposal(id)
	if err != nil || !ok {
		return nil, big.Zero(), err
	}
	st, active, err := k.state(id)
	if err != nil {
		return nil, big.Zero(), err
	}
	if !active {
		if now < p.StartEpoch {
			return &market18.DealSettlementSummary{Payment: big.Zero()}, big.Zero(), nil
		}
		slashed, err := k.timeOut(id, p)
		return nil, slashed, err
	}
	if st.LastUpdatedEpoch == epochUndefined {
		if err := k.unpend(p); err != nil {
			return nil, big.Zero(), err
		}
	}
	payment := big.Zero()
	if now >= p.StartEpoch {
		due := min(p.EndEpoch, now) - max(p.StartEpoch, st.LastUpdatedEpoch)
		payment = big.Mul(p.StoragePricePerEpoch, big.NewInt(int64(due)))
		if err := k.pay(p, payment); err != nil {
			return nil, big.Zero(), err
		}
	}
	if now < p.EndEpoch {
		st.LastUpdatedEpoch = now
		return &market18.DealSettlementSummary{Payment: payment}, big.Zero(), k.putState(id, st)
	}
	if err := k.unlock(p.Provider, p.ProviderCollateral, forProviderCollateral); err != nil {
		return nil, big.Zero(), err
	}
	if err := k.unlock(p.Client, p.ClientCollateral, forClientCollateral); err != nil {
		return nil, big.Zero(), err
	}
	if err := k.removeDeal(id); err != nil {
		return nil, big.Zero(), err
	}
	if err := k.sectorDeals(p.Provider, st.SectorNumber, func(l abi.DealIDList) abi.DealIDList {
		return slices.DeleteFunc(l, func(x abi.DealID) bool { return x == id })
	}); err != nil {
		return nil, big.Zero(), err
	}
	k.m.emit("deal-completed", id, p.Client, p.Provider)
	k.m.record(change{Kind: completed, ID: id, Epoch: now})
	return &market18.DealSettlementSummary{Payment: payment, Completed: true}, big.Zero(), nil
}
