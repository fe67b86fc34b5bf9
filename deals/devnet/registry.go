package devnet

import (
	"fmt"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v18/datacap"
	market18 "github.com/filecoin-project/go-state-types/builtin/v18/market"
	miner18 "github.com/filecoin-project/go-state-types/builtin/v18/miner"
	"github.com/filecoin-project/go-state-types/builtin/v18/util/adt"
	"github.com/filecoin-project/go-state-types/builtin/v18/verifreg"
	"github.com/filecoin-project/go-state-types/exitcode"
	"github.com/ipfs/go-cid"
	cbg "github.com/whyrusleeping/cbor-gen"
)

// The verified registry and its datacap token, as far as deals of the market use them: a verified deal turns datacap
// into an allocation when it is published, and a proof turns the allocation into a claim.

// dataCap is what a client may still allocate, in bytes.
func (m *machine) dataCap(client address.Address) (abi.StoragePower, error) {
	_, balances, err := m.openDataCap()
	if err != nil {
		return big.Zero(), err
	}
	id, err := address.IDFromAddress(client)
	if err != nil {
		return big.Zero(), err
	}
	tokens := big.Zero()
	if _, err := balances.Get(abi.UIntKey(id), &tokens); err != nil {
		return big.Zero(), err
	}
	return big.Div(tokens, verifreg.DataCapGranularity), nil
}

func (m *machine) openDataCap() (*datacap.State, *adt.Map, error) {
	var st datacap.State
	if err := m.load(builtin.DatacapActorAddr, &st); err != nil {
		return nil, nil, err
	}
	balances, err := adt.AsMap(m.store, st.Token.Balances, int(st.Token.HamtBitWidth))
	if err != nil {
		return nil, nil, fmt.Errorf("loading datacap balances: %w", err)
	}
	return &st, balances, nil
}

// mintDataCap gives a client datacap, in bytes.
func (m *machine) mintDataCap(client address.Address, bytes abi.StoragePower) error {
	tokens := big.Mul(bytes, verifreg.DataCapGranularity)
	st, balances, err := m.openDataCap()
	if err != nil {
		return err
	}
	st.Token.Supply = big.Add(st.Token.Supply, tokens)
	return m.moveDataCap(st, balances, map[address.Address]abi.TokenAmount{client: tokens})
}

func (m *machine) moveDataCap(st *datacap.State, balances *adt.Map, moves map[address.Address]abi.TokenAmount) error {
	for who, tokens := range moves {
		id, err := address.IDFromAddress(who)
		if err != nil {
			return err
		}
		have := big.Zero()
		if _, err := balances.Get(abi.UIntKey(id), &have); err != nil {
			return err
		}
		have = big.Add(have, tokens)
		if have.Sign() < 0 {
			return abort(exitcode.ErrInsufficientFunds, "datacap of %s would be negative", who)
		}
		if have.IsZero() {
			if _, err := balances.TryDelete(abi.UIntKey(id)); err != nil {
				return err
			}
		} else if err := balances.Put(abi.UIntKey(id), &have); err != nil {
			return err
		}
	}
	var err error
	if st.Token.Balances, err = balances.Root(); err != nil {
		return err
	}
	return m.save(builtin.DatacapActorAddr, st)
}

// allocate moves a verified deal's datacap from the client to the registry and returns the new allocation. The bounds
// are those of the registry; a deal outside of them fails the message, as the token transfer would.
func (m *machine) allocate(p *market18.DealProposal) (verifreg.AllocationId, error) {
	term := p.Duration()
	alloc := verifreg.Allocation{
		Data: p.PieceCID, Size: p.PieceSize, TermMin: term,
		TermMax:    min(term+allocationTermBuffer, allocationMaxTerm),
		Expiration: min(p.StartEpoch, m.epoch+allocationMaxExpiration),
	}
	client, err := address.IDFromAddress(p.Client)
	if err != nil {
		return 0, err
	}
	provider, err := address.IDFromAddress(p.Provider)
	if err != nil {
		return 0, err
	}
	alloc.Client, alloc.Provider = abi.ActorID(client), abi.ActorID(provider)
	if alloc.Size < allocationMinSize {
		return 0, abort(exitcode.ErrIllegalArgument, "allocation size %d below minimum %d", alloc.Size, allocationMinSize)
	}
	if alloc.TermMin < allocationMinTerm {
		return 0, abort(exitcode.ErrIllegalArgument, "allocation term min %d below limit %d", alloc.TermMin, allocationMinTerm)
	}

	st, balances, err := m.openDataCap()
	if err != nil {
		return 0, err
	}
	tokens := big.Mul(big.NewIntUnsigned(uint64(p.PieceSize)), verifreg.DataCapGranularity)
	if err := m.moveDataCap(st, balances, map[address.Address]abi.TokenAmount{
		p.Client: tokens.Neg(), builtin.VerifiedRegistryActorAddr: tokens,
	}); err != nil {
		return 0, err
	}
	var reg verifreg.State
	if err := m.load(builtin.VerifiedRegistryActorAddr, &reg); err != nil {
		return 0, err
	}
	id := reg.NextAllocationId
	reg.NextAllocationId++
	if reg.Allocations, err = m.inner(reg.Allocations, client, func(t *adt.Map) error { return t.Put(id, &alloc) }); err != nil {
		return 0, err
	}
	return id, m.save(builtin.VerifiedRegistryActorAddr, &reg)
}

// inner changes the map of one actor inside of a map of maps and returns the new root.
func (m *machine) inner(root cid.Cid, actor uint64, change func(*adt.Map) error) (cid.Cid, error) {
	outer, err := adt.AsMap(m.store, root, builtin.DefaultHamtBitwidth)
	if err != nil {
		return cid.Undef, err
	}
	var at cbg.CborCid
	found, err := outer.Get(abi.UIntKey(actor), &at)
	if err != nil {
		return cid.Undef, err
	}
	t, err := openMap(m.store, found, cid.Cid(at))
	if err != nil {
		return cid.Undef, err
	}
	if err := change(t); err != nil {
		return cid.Undef, err
	}
	next, err := t.Root()
	if err != nil {
		return cid.Undef, err
	}
	at = cbg.CborCid(next)
	if err := outer.Put(abi.UIntKey(actor), &at); err != nil {
		return cid.Undef, err
	}
	return outer.Root()
}

// claimPieces turns the allocations that a proven sector names into claims; the datacap is spent.
func (m *machine) claimPieces(miner address.Address, s *provenSector) (*fault, error) {
	provider, err := address.IDFromAddress(miner)
	if err != nil {
		return nil, err
	}
	for _, p := range s.manifest.Pieces {
		if p.VerifiedAllocationKey == nil {
			continue
		}
		refusal, err := m.claim(abi.ActorID(provider), s, p)
		if refusal != nil || err != nil {
			return refusal, err
		}
	}
	return nil, nil
}

// claim grants the claim of a piece, or gives the reason why the registry does not grant it.
func (m *machine) claim(provider abi.ActorID, s *provenSector, p miner18.PieceActivationManifest) (*fault, error) {
	key := p.VerifiedAllocationKey
	var reg verifreg.State
	if err := m.load(builtin.VerifiedRegistryActorAddr, &reg); err != nil {
		return nil, err
	}
	client, err := address.NewIDAddress(uint64(key.Client))
	if err != nil {
		return nil, err
	}
	alloc, ok, err := reg.FindAllocation(m.store, client, key.ID)
	if err != nil {
		return nil, err
	}
	refuse := func(format string, args ...any) (*fault, error) {
		return &fault{exitcode.ErrForbidden, fmt.Sprintf(format, args...)}, nil
	}
	if !ok {
		return refuse("no allocation %d for client %d", key.ID, key.Client)
	}
	lifetime := s.pre.Info.Expiration - m.epoch
	switch {
	case alloc.Provider != provider || alloc.Data != p.CID || alloc.Size != p.Size:
		return refuse("invalid allocation %d for piece %s of provider %d", key.ID, p.CID, provider)
	case m.epoch > alloc.Expiration:
		return refuse("allocation %d expired at %d", key.ID, alloc.Expiration)
	case lifetime < alloc.TermMin || lifetime > alloc.TermMax:
		return refuse("sector lifetime %d outside of the allocation's terms %d to %d", lifetime, alloc.TermMin, alloc.TermMax)
	}
	if reg.Allocations, err = m.inner(reg.Allocations, uint64(key.Client), func(t *adt.Map) error { return t.Delete(key.ID) }); err != nil {
		return nil, err
	}
	if reg.Claims, err = m.inner(reg.Claims, uint64(provider), func(t *adt.Map) error {
		return t.Put(verifreg.ClaimId(key.ID), &verifreg.Claim{
			Provider: provider, Client: alloc.Client, Data: alloc.Data, Size: alloc.Size,
			TermMin: alloc.TermMin, TermMax: alloc.TermMax, TermStart: m.epoch, Sector: s.manifest.SectorNumber,
		})
	}); err != nil {
		return nil, err
	}
	if err := m.save(builtin.VerifiedRegistryActorAddr, &reg); err != nil {
		return nil, err
	}
	st, balances, err := m.openDataCap()
	if err != nil {
		return nil, err
	}
	tokens := big.Mul(big.NewIntUnsigned(uint64(alloc.Size)), verifreg.DataCapGranularity)
	st.Token.Supply = big.Sub(st.Token.Supply, tokens)
	return nil, m.moveDataCap(st, balances, map[address.Address]abi.TokenAmount{builtin.VerifiedRegistryActorAddr: tokens.Neg()})
}

// callRegistry dispatches to the methods a message can reach.
func (m *machine) callRegistry(c call) ([]byte, error) {
	return nil, abort(exitcode.ErrUnhandledMessage, "invalid method %d", c.method)
}
