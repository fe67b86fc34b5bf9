package devnet

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v18/account"
	verifreg18 "github.com/filecoin-project/go-state-types/builtin/v18/verifreg"
	"github.com/filecoin-project/go-state-types/network"
	"github.com/filecoin-project/lotus/api"
	apitypes "github.com/filecoin-project/lotus/api/types"
	"github.com/filecoin-project/lotus/chain/actors"
	lotusmarket "github.com/filecoin-project/lotus/chain/actors/builtin/market"
	"github.com/filecoin-project/lotus/chain/actors/builtin/verifreg"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/ipfs/go-cid"
)

func (v *view) stateMethods(node *api.FullNodeStruct) {
	m := &node.Internal
	m.StateNetworkVersion = func(context.Context, types.TipSetKey) (apitypes.NetworkVersion, error) { return networkVersion, nil }
	m.StateActorCodeCIDs = func(_ context.Context, nv network.Version) (map[string]cid.Cid, error) {
		if nv != networkVersion {
			return nil, fmt.Errorf("this network has only ever had version %d", networkVersion)
		}
		codes, ok := actors.GetActorCodeIDsFromManifest(actorsVersion)
		if !ok {
			return nil, fmt.Errorf("no manifest for actors version %d", actorsVersion)
		}
		return codes, nil
	}
	m.StateGetActor = v.actor
	m.StateLookupID = v.lookupID
	m.StateAccountKey = v.accountKey
	m.StateReadState = v.readState
	m.StateMarketBalance = v.marketBalance
	m.StateMarketStorageDeal = v.marketDeal
	m.StateMarketDeals = v.marketDeals
	m.StateMarketProposalPending = v.proposalPending
	m.StateDealProviderCollateralBounds = v.collateralBounds
	m.StateVMCirculatingSupplyInternal = func(context.Context, types.TipSetKey) (api.CirculatingSupply, error) {
		zero := big.Zero()
		supply := v.n.policy.circulatingSupply
		return api.CirculatingSupply{FilVested: supply, FilMined: zero, FilBurnt: zero, FilLocked: zero, FilCirculating: supply, FilReserveDisbursed: zero}, nil
	}
	m.StateVerifiedClientStatus = v.verifiedStatus
	m.StateGetAllocation = v.allocation
	m.StateGetAllocations = v.allocations
	m.StateGetAllocationIdForPendingDeal = v.pendingAllocationID
	m.StateGetAllocationForPendingDeal = v.pendingAllocation
	m.StateGetClaim = v.claim
	m.StateGetClaims = v.claims
}

func (v *view) actor(ctx context.Context, a address.Address, key types.TipSetKey) (*types.Actor, error) {
	m, err := v.state(ctx, key)
	if err != nil {
		return nil, err
	}
	act, err := m.tree.GetActor(a)
	if errors.Is(err, types.ErrActorNotFound) {
		return nil, &api.ErrActorNotFound{}
	}
	return act, err
}

func (v *view) lookupID(ctx context.Context, a address.Address, key types.TipSetKey) (address.Address, error) {
	m, err := v.state(ctx, key)
	if err != nil {
		return address.Undef, err
	}
	id, err := m.tree.LookupIDAddress(a)
	if errors.Is(err, types.ErrActorNotFound) {
		return address.Undef, &api.ErrActorNotFound{}
	}
	return id, err
}

func (v *view) accountKey(ctx context.Context, a address.Address, key types.TipSetKey) (address.Address, error) {
	m, err := v.state(ctx, key)
	if err != nil {
		return address.Undef, err
	}
	return v.n.keyOf(m, a)
}

func (v *view) readState(ctx context.Context, a address.Address, key types.TipSetKey) (*api.ActorState, error) {
	m, err := v.state(ctx, key)
	if err != nil {
		return nil, err
	}
	act, err := m.tree.GetActor(a)
	if err != nil {
		return nil, fmt.Errorf("getting actor: %w", err)
	}
	var st any
	switch act.Code {
	case code.account:
		acc := &account.State{}
		st, err = acc, m.load(a, acc)
	case code.market:
		market, loadErr := lotusmarket.Load(m.store, act)
		if st, err = nil, loadErr; err == nil {
			st = market.GetState()
		}
	case code.miner:
		st, _, err = m.openMiner(a)
	default:
		return nil, fmt.Errorf("reading the state of actors with code %s is not offered here", act.Code)
	}
	if err != nil {
		return nil, err
	}
	return &api.ActorState{Balance: act.Balance, Code: act.Code, State: st}, nil
}

// market reads the market actor's state with lotus' own code, so that what it cannot read shows here first.
func (v *view) market(ctx context.Context, key types.TipSetKey) (lotusmarket.State, *machine, error) {
	m, err := v.state(ctx, key)
	if err != nil {
		return nil, nil, err
	}
	act, err := m.tree.GetActor(builtin.StorageMarketActorAddr)
	if err != nil {
		return nil, nil, fmt.Errorf("failed to load market actor: %w", err)
	}
	st, err := lotusmarket.Load(m.store, act)
	if err != nil {
		return nil, nil, fmt.Errorf("failed to load market actor state: %w", err)
	}
	return st, m, nil
}

func (v *view) marketBalance(ctx context.Context, a address.Address, key types.TipSetKey) (api.MarketBalance, error) {
	_, m, err := v.market(ctx, key)
	if err != nil {
		return api.MarketBalance{}, err
	}
	id, err := m.tree.LookupIDAddress(a)
	if err != nil {
		return api.MarketBalance{}, fmt.Errorf("looking up %s: %w", a, err)
	}
	k, err := m.openMarket()
	if err != nil {
		return api.MarketBalance{}, err
	}
	escrow, err := k.escrow()
	if err != nil {
		return api.MarketBalance{}, err
	}
	locked, err := k.locked()
	if err != nil {
		return api.MarketBalance{}, err
	}
	var out api.MarketBalance
	if out.Escrow, err = balance(escrow, id); err != nil {
		return api.MarketBalance{}, err
	}
	out.Locked, err = balance(locked, id)
	return out, err
}

func dealNotFound(id abi.DealID) error {
	return fmt.Errorf("deal %d not found - deal may not have completed sealing before deal proposal start epoch, or deal may have been slashed", id)
}

func (v *view) marketDeal(ctx context.Context, id abi.DealID, key types.TipSetKey) (*api.MarketDeal, error) {
	if v.faulty && v.n.faults.lie() {
		return nil, dealNotFound(id)
	}
	st, _, err := v.market(ctx, key)
	if err != nil {
		return nil, err
	}
	proposals, err := st.Proposals()
	if err != nil {
		return nil, fmt.Errorf("failed to get proposals from state : %w", err)
	}
	p, found, err := proposals.Get(id)
	if err != nil {
		return nil, fmt.Errorf("failed to get proposal : %w", err)
	}
	if !found {
		return nil, dealNotFound(id)
	}
	states, err := st.States()
	if err != nil {
		return nil, fmt.Errorf("failed to get states : %w", err)
	}
	s, found, err := states.Get(id)
	if err != nil {
		return nil, fmt.Errorf("failed to get state : %w", err)
	}
	if !found {
		s = nil
	}
	return &api.MarketDeal{Proposal: *p, State: dealState(s)}, nil
}

func dealState(s lotusmarket.DealState) api.MarketDealState {
	if s == nil {
		return api.MarketDealState{SectorStartEpoch: epochUndefined, LastUpdatedEpoch: epochUndefined, SlashEpoch: epochUndefined}
	}
	return api.MarketDealState{
		SectorNumber: s.SectorNumber(), SectorStartEpoch: s.SectorStartEpoch(),
		LastUpdatedEpoch: s.LastUpdatedEpoch(), SlashEpoch: s.SlashEpoch(),
	}
}

func (v *view) marketDeals(ctx context.Context, key types.TipSetKey) (map[string]*api.MarketDeal, error) {
	st, _, err := v.market(ctx, key)
	if err != nil {
		return nil, err
	}
	proposals, err := st.Proposals()
	if err != nil {
		return nil, err
	}
	states, err := st.States()
	if err != nil {
		return nil, err
	}
	out := map[string]*api.MarketDeal{}
	err = proposals.ForEach(func(id abi.DealID, p lotusmarket.DealProposal) error {
		s, found, err := states.Get(id)
		if err != nil {
			return err
		}
		if !found {
			s = nil
		}
		out[strconv.FormatUint(uint64(id), 10)] = &api.MarketDeal{Proposal: p, State: dealState(s)}
		return nil
	})
	return out, err
}

func (v *view) proposalPending(ctx context.Context, proposal cid.Cid, key types.TipSetKey) (bool, error) {
	st, _, err := v.market(ctx, key)
	if err != nil {
		return false, err
	}
	pending, err := st.PendingProposals()
	if err != nil {
		return false, err
	}
	return pending.Has(proposal)
}

func (v *view) collateralBounds(ctx context.Context, size abi.PaddedPieceSize, _ bool, key types.TipSetKey) (api.DealCollateralBounds, error) {
	m, err := v.state(ctx, key)
	if err != nil {
		return api.DealCollateralBounds{}, err
	}
	power, err := m.networkPower()
	if err != nil {
		return api.DealCollateralBounds{}, err
	}
	least, most := v.n.policy.collateralBounds(size, power)
	// Lotus adds a tenth, because power and supply move between the proposal and its publication.
	return api.DealCollateralBounds{Min: big.Div(big.Mul(least, big.NewInt(110)), big.NewInt(100)), Max: most}, nil
}

func (v *view) verifiedStatus(ctx context.Context, a address.Address, key types.TipSetKey) (*abi.StoragePower, error) {
	m, err := v.state(ctx, key)
	if err != nil {
		return nil, err
	}
	id, err := m.tree.LookupIDAddress(a)
	if err != nil {
		return nil, fmt.Errorf("looking up %s: %w", a, err)
	}
	left, err := m.dataCap(id)
	if err != nil || left.IsZero() {
		return nil, err
	}
	return &left, nil
}

func (v *view) registry(ctx context.Context, a address.Address, key types.TipSetKey) (*verifreg18.State, *machine, address.Address, error) {
	m, err := v.state(ctx, key)
	if err != nil {
		return nil, nil, address.Undef, err
	}
	id, err := m.tree.LookupIDAddress(a)
	if err != nil {
		return nil, nil, address.Undef, fmt.Errorf("looking up %s: %w", a, err)
	}
	var st verifreg18.State
	return &st, m, id, m.load(builtin.VerifiedRegistryActorAddr, &st)
}

func (v *view) allocation(ctx context.Context, client address.Address, id verifreg.AllocationId, key types.TipSetKey) (*verifreg.Allocation, error) {
	st, m, who, err := v.registry(ctx, client, key)
	if err != nil {
		return nil, err
	}
	a, found, err := st.FindAllocation(m.store, who, verifreg18.AllocationId(id))
	if err != nil || !found {
		return nil, err
	}
	out := verifreg.Allocation(*a)
	return &out, nil
}

func (v *view) allocations(ctx context.Context, client address.Address, key types.TipSetKey) (map[verifreg.AllocationId]verifreg.Allocation, error) {
	st, m, who, err := v.registry(ctx, client, key)
	if err != nil {
		return nil, err
	}
	all, err := st.LoadAllocationsToMap(m.store, who)
	if err != nil {
		return nil, err
	}
	out := make(map[verifreg.AllocationId]verifreg.Allocation, len(all))
	for id, a := range all {
		out[verifreg.AllocationId(id)] = verifreg.Allocation(a)
	}
	return out, nil
}

func (v *view) pendingAllocationID(ctx context.Context, id abi.DealID, key types.TipSetKey) (verifreg.AllocationId, error) {
	m, err := v.state(ctx, key)
	if err != nil {
		return 0, err
	}
	k, err := m.openMarket()
	if err != nil {
		return 0, err
	}
	alloc, err := k.allocationOf(id)
	return verifreg.AllocationId(alloc), err
}

func (v *view) pendingAllocation(ctx context.Context, id abi.DealID, key types.TipSetKey) (*verifreg.Allocation, error) {
	alloc, err := v.pendingAllocationID(ctx, id, key)
	if err != nil || alloc == verifreg.NoAllocationID {
		return nil, err
	}
	deal, err := v.marketDeal(ctx, id, key)
	if err != nil {
		return nil, err
	}
	return v.allocation(ctx, deal.Proposal.Client, alloc, key)
}

func (v *view) claim(ctx context.Context, provider address.Address, id verifreg.ClaimId, key types.TipSetKey) (*verifreg.Claim, error) {
	st, m, who, err := v.registry(ctx, provider, key)
	if err != nil {
		return nil, err
	}
	c, found, err := st.FindClaim(m.store, who, verifreg18.ClaimId(id))
	if err != nil || !found {
		return nil, err
	}
	out := verifreg.Claim(*c)
	return &out, nil
}

func (v *view) claims(ctx context.Context, provider address.Address, key types.TipSetKey) (map[verifreg.ClaimId]verifreg.Claim, error) {
	st, m, who, err := v.registry(ctx, provider, key)
	if err != nil {
		return nil, err
	}
	all, err := st.LoadClaimsToMap(m.store, who)
	if err != nil {
		return nil, err
	}
	out := make(map[verifreg.ClaimId]verifreg.Claim, len(all))
	for id, c := range all {
		out[verifreg.ClaimId(id)] = verifreg.Claim(c)
	}
	return out, nil
}
