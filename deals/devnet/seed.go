package devnet

import (
	"context"
	"fmt"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	market18 "github.com/filecoin-project/go-state-types/builtin/v18/market"
	"github.com/ipfs/go-cid"
	cbg "github.com/whyrusleeping/cbor-gen"
)

// SeedDeal is a deal that was made before the devnet was looked at.
type SeedDeal struct {
	Proposal  market18.DealProposal // client and provider as any address of existing actors
	Sector    abi.SectorNumber
	Activated abi.ChainEpoch // its SectorStartEpoch
}

// Seed writes active deals straight into the market's state, with the escrow they lock, and returns their ids in order.
// It is for benchmarks that need more deals than messages can make in the time: no message, event or signature of these
// deals exists, nothing is checked, and their sectors are known to the market only, so that they cannot be terminated.
// The deals show in the state of the next tipset.
func (n *Net) Seed(ctx context.Context, deals []SeedDeal) ([]abi.DealID, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	over := newOverlay(n.objects)
	m, err := openMachine(ctx, &n.policy, over, n.head.post.root)
	if err != nil {
		return nil, err
	}
	k, err := m.openMarket()
	if err != nil {
		return nil, err
	}
	s := seeding{k: k, locks: map[address.Address]abi.TokenAmount{}, sectors: map[address.Address]map[abi.SectorNumber]abi.DealIDList{}}
	ids := make([]abi.DealID, len(deals))
	for i := range deals {
		if ids[i], err = s.add(&deals[i]); err != nil {
			return nil, fmt.Errorf("seeding deal %d of %d: %w", i, len(deals), err)
		}
	}
	if err := s.finish(); err != nil {
		return nil, fmt.Errorf("seeding deals: %w", err)
	}
	root, err := m.tree.Flush(ctx)
	if err != nil {
		return nil, fmt.Errorf("writing the state tree: %w", err)
	}
	if err := n.journal.state(n.head, root, over.commit(root)); err != nil {
		return nil, err
	}
	n.head.post.root = root
	n.liveBytes = max(n.liveBytes, n.objects.size) // not garbage
	return ids, nil
}

// seeding gathers what the deals change in tables that are keyed by party, to write each entry once.
type seeding struct {
	k       *market
	locks   map[address.Address]abi.TokenAmount
	sectors map[address.Address]map[abi.SectorNumber]abi.DealIDList
}

func (s *seeding) add(d *SeedDeal) (abi.DealID, error) {
	p := d.Proposal
	var err error
	if p.Client, err = s.k.m.tree.LookupIDAddress(p.Client); err != nil {
		return 0, fmt.Errorf("looking up the client: %w", err)
	}
	if p.Provider, err = s.k.m.tree.LookupIDAddress(p.Provider); err != nil {
		return 0, fmt.Errorf("looking up the provider: %w", err)
	}
	id := s.k.st.NextID
	s.k.st.NextID++
	proposals, err := s.k.proposals()
	if err != nil {
		return 0, err
	}
	if err := proposals.Set(uint64(id), &p); err != nil {
		return 0, err
	}
	if err := s.k.putState(id, &market18.DealState{
		SectorNumber: d.Sector, SectorStartEpoch: d.Activated, LastUpdatedEpoch: epochUndefined, SlashEpoch: epochUndefined,
	}); err != nil {
		return 0, err
	}
	fee := p.TotalStorageFee()
	s.lock(p.Client, big.Add(fee, p.ClientCollateral))
	s.lock(p.Provider, p.ProviderCollateral)
	st := &s.k.st
	st.TotalClientStorageFee = big.Add(st.TotalClientStorageFee, fee)
	st.TotalClientLockedCollateral = big.Add(st.TotalClientLockedCollateral, p.ClientCollateral)
	st.TotalProviderLockedCollateral = big.Add(st.TotalProviderLockedCollateral, p.ProviderCollateral)
	if s.sectors[p.Provider] == nil {
		s.sectors[p.Provider] = map[abi.SectorNumber]abi.DealIDList{}
	}
	s.sectors[p.Provider][d.Sector] = append(s.sectors[p.Provider][d.Sector], id)
	return id, nil
}

func (s *seeding) lock(who address.Address, amount abi.TokenAmount) {
	sum, ok := s.locks[who]
	if !ok {
		sum = big.Zero()
	}
	s.locks[who] = big.Add(sum, amount)
}

func (s *seeding) finish() error {
	locked, err := s.k.locked()
	if err != nil {
		return err
	}
	for who, amount := range s.locks {
		if err := s.k.addEscrow(who, amount); err != nil {
			return err
		}
		if err := addBalance(locked, who, amount); err != nil {
			return err
		}
		if err := s.k.m.credit(builtin.StorageMarketActorAddr, amount); err != nil {
			return err
		}
	}
	outer, err := s.k.hamt(&s.k.st.ProviderSectors, market18.ProviderSectorsHamtBitwidth)
	if err != nil {
		return err
	}
	for provider, sectors := range s.sectors {
		id, err := address.IDFromAddress(provider)
		if err != nil {
			return err
		}
		var at cbg.CborCid
		found, err := outer.Get(abi.UIntKey(id), &at)
		if err != nil {
			return err
		}
		inner, err := openMap(s.k.m.store, found, cid.Cid(at))
		if err != nil {
			return err
		}
		for sector, ids := range sectors {
			if err := inner.Put(abi.UIntKey(uint64(sector)), &ids); err != nil {
				return err
			}
		}
		root, err := inner.Root()
		if err != nil {
			return err
		}
		at = cbg.CborCid(root)
		if err := outer.Put(abi.UIntKey(id), &at); err != nil {
			return err
		}
	}
	return s.k.commit()
}
