package devnet

import (
	"fmt"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin"
	market18 "github.com/filecoin-project/go-state-types/builtin/v18/market"
	"github.com/filecoin-project/go-state-types/builtin/v18/util/adt"
	"github.com/filecoin-project/go-state-types/builtin/v18/verifreg"
	"github.com/filecoin-project/go-state-types/exitcode"
	"github.com/ipfs/go-cid"
	cbg "github.com/whyrusleeping/cbor-gen"
)

// exitDealExpired is the market's own exit code for a deal that has left the state.
const exitDealExpired = exitcode.FirstActorSpecificExitCode

// market is the storage market actor's state, opened for one method. Tables are loaded when first used and written
// back by commit.
type market struct {
	m      *machine
	st     market18.State
	tables map[*cid.Cid]table
}

type table interface{ Root() (cid.Cid, error) }

func (m *machine) openMarket() (*market, error) {
	k := &market{m: m, tables: map[*cid.Cid]table{}}
	return k, m.load(builtin.StorageMarketActorAddr, &k.st)
}

func (k *market) commit() error {
	for field, t := range k.tables {
		root, err := t.Root()
		if err != nil {
			return fmt.Errorf("writing a market table: %w", err)
		}
		*field = root
	}
	return k.m.save(builtin.StorageMarketActorAddr, &k.st)
}

func (k *market) hamt(field *cid.Cid, bits int) (*adt.Map, error) {
	if t, ok := k.tables[field]; ok {
		return t.(*adt.Map), nil
	}
	t, err := adt.AsMap(k.m.store, *field, bits)
	if err != nil {
		return nil, fmt.Errorf("loading a market table: %w", err)
	}
	k.tables[field] = t
	return t, nil
}

func (k *market) amt(field *cid.Cid, bits int) (*adt.Array, error) {
	if t, ok := k.tables[field]; ok {
		return t.(*adt.Array), nil
	}
	t, err := adt.AsArray(k.m.store, *field, bits)
	if err != nil {
		return nil, fmt.Errorf("loading a market table: %w", err)
	}
	k.tables[field] = t
	return t, nil
}

func (k *market) proposals() (*adt.Array, error) {
	return k.amt(&k.st.Proposals, market18.ProposalsAmtBitwidth)
}

func (k *market) states() (*adt.Array, error) {
	return k.amt(&k.st.States, market18.StatesAmtBitwidth)
}

func (k *market) pending() (*adt.Map, error) {
	return k.hamt(&k.st.PendingProposals, builtin.DefaultHamtBitwidth)
}

func (k *market) pendingAllocations() (*adt.Map, error) {
	return k.hamt(&k.st.PendingDealAllocationIds, builtin.DefaultHamtBitwidth)
}

func (k *market) escrow() (*adt.Map, error) {
	return k.hamt(&k.st.EscrowTable, adt.BalanceTableBitwidth)
}

func (k *market) locked() (*adt.Map, error) {
	return k.hamt(&k.st.LockedTable, adt.BalanceTableBitwidth)
}

func (k *market) proposal(id abi.DealID) (*market18.DealProposal, bool, error) {
	all, err := k.proposals()
	if err != nil {
		return nil, false, err
	}
	var p market18.DealProposal
	ok, err := all.Get(uint64(id), &p)
	return &p, ok, err
}

func (k *market) state(id abi.DealID) (*market18.DealState, bool, error) {
	all, err := k.states()
	if err != nil {
		return nil, false, err
	}
	var s market18.DealState
	ok, err := all.Get(uint64(id), &s)
	return &s, ok, err
}

func (k *market) putState(id abi.DealID, s *market18.DealState) error {
	all, err := k.states()
	if err != nil {
		return err
	}
	return all.Set(uint64(id), s)
}

func (k *market) removeProposal(id abi.DealID) error {
	all, err := k.proposals()
	if err != nil {
		return err
	}
	return all.Delete(uint64(id))
}

// removeDeal deletes proposal and state together: a deal never has a state alone.
func (k *market) removeDeal(id abi.DealID) error {
	all, err := k.states()
	if err != nil {
		return err
	}
	if err := all.Delete(uint64(id)); err != nil {
		return err
	}
	return k.removeProposal(id)
}

// unpend forgets that a proposal is pending, if it was.
func (k *market) unpend(p *market18.DealProposal) error {
	c, err := p.Cid()
	if err != nil {
		return err
	}
	set, err := k.pending()
	if err != nil {
		return err
	}
	_, err = set.TryDelete(abi.CidKey(c))
	return err
}

func (k *market) dropAllocation(id abi.DealID) error {
	all, err := k.pendingAllocations()
	if err != nil {
		return err
	}
	_, err = all.TryDelete(abi.UIntKey(uint64(id)))
	return err
}

// scheduleDeal puts a deal into the cron's queue at its first turn at or after an epoch.
func (k *market) scheduleDeal(id abi.DealID, earliest abi.ChainEpoch) error {
	queue, err := k.hamt(&k.st.DealOpsByEpoch, builtin.DefaultHamtBitwidth)
	if err != nil {
		return err
	}
	at := abi.UIntKey(uint64(nextTurn(id, k.m.policy.cronInterval, earliest)))
	var root cbg.CborCid
	found, err := queue.Get(at, &root)
	if err != nil {
		return err
	}
	set, err := openSet(k.m.store, found, cid.Cid(root))
	if err != nil {
		return err
	}
	if err := set.Put(abi.UIntKey(uint64(id))); err != nil {
		return err
	}
	next, err := set.Root()
	if err != nil {
		return err
	}
	root = cbg.CborCid(next)
	return queue.Put(at, &root)
}

func openSet(store adt.Store, found bool, root cid.Cid) (*adt.Set, error) {
	if !found {
		return adt.MakeEmptySet(store, builtin.DefaultHamtBitwidth)
	}
	return adt.AsSet(store, root, builtin.DefaultHamtBitwidth)
}

// nextTurn is the first epoch at or after earliest that is congruent to the deal id modulo the interval.
func nextTurn(id abi.DealID, interval, earliest abi.ChainEpoch) abi.ChainEpoch {
	offset := abi.ChainEpoch(uint64(id) % uint64(interval))
	if earliest <= offset {
		return offset
	}
	return offset + (earliest-offset+interval-1)/interval*interval
}

// sectorDeals changes the list of deals that the market remembers for one sector; an empty result removes the entry.
func (k *market) sectorDeals(provider address.Address, sector abi.SectorNumber, change func(abi.DealIDList) abi.DealIDList) error {
	id, err := address.IDFromAddress(provider)
	if err != nil {
		return err
	}
	outer, err := k.hamt(&k.st.ProviderSectors, market18.ProviderSectorsHamtBitwidth)
	if err != nil {
		return err
	}
	var root cbg.CborCid
	found, err := outer.Get(abi.UIntKey(id), &root)
	if err != nil {
		return err
	}
	inner, err := openMap(k.m.store, found, cid.Cid(root))
	if err != nil {
		return err
	}
	var list abi.DealIDList
	if _, err := inner.Get(abi.UIntKey(uint64(sector)), &list); err != nil {
		return err
	}
	list = change(list)
	if len(list) == 0 {
		if _, err := inner.TryDelete(abi.UIntKey(uint64(sector))); err != nil {
			return err
		}
	} else if err := inner.Put(abi.UIntKey(uint64(sector)), &list); err != nil {
		return err
	}
	next, err := inner.Root()
	if err != nil {
		return err
	}
	root = cbg.CborCid(next)
	return outer.Put(abi.UIntKey(id), &root)
}

func openMap(store adt.Store, found bool, root cid.Cid) (*adt.Map, error) {
	if !found {
		return adt.MakeEmptyMap(store, builtin.DefaultHamtBitwidth)
	}
	return adt.AsMap(store, root, builtin.DefaultHamtBitwidth)
}

// callMarket dispatches to the methods a message can reach.
func (m *machine) callMarket(c call) ([]byte, error) {
	switch c.method {
	case builtin.MethodsMarket.AddBalance, builtin.MethodsMarket.AddBalanceExported:
		return nil, m.addMarketBalance(c)
	case builtin.MethodsMarket.WithdrawBalance, builtin.MethodsMarket.WithdrawBalanceExported:
		return m.withdrawMarketBalance(c)
	case builtin.MethodsMarket.PublishStorageDeals, builtin.MethodsMarket.PublishStorageDealsExported:
		return m.publishStorageDeals(c)
	case builtin.MethodsMarket.SettleDealPaymentsExported:
		return m.settleDealPayments(c)
	default:
		return nil, abort(exitcode.ErrUnhandledMessage, "invalid method %d", c.method)
	}
}

// allocationOf is the verified registry's allocation that belongs to a deal not activated yet, or none.
func (k *market) allocationOf(id abi.DealID) (verifreg.AllocationId, error) {
	all, err := k.pendingAllocations()
	if err != nil {
		return verifreg.NoAllocationID, err
	}
	var alloc cbg.CborInt
	if _, err := all.Get(abi.UIntKey(uint64(id)), &alloc); err != nil {
		return verifreg.NoAllocationID, err
	}
	return verifreg.AllocationId(alloc), nil
}
