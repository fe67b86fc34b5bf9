package devnet

import (
	"bytes"
	"fmt"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-bitfield"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v18/account"
	market18 "github.com/filecoin-project/go-state-types/builtin/v18/market"
	"github.com/filecoin-project/go-state-types/builtin/v18/verifreg"
	"github.com/filecoin-project/go-state-types/exitcode"
	"github.com/filecoin-project/lotus/lib/sigs"
	_ "github.com/filecoin-project/lotus/lib/sigs/secp" // registers the only signature type the devnet checks
	"github.com/ipfs/go-cid"
	cbg "github.com/whyrusleeping/cbor-gen"
)

// publishStorageDeals takes a batch signed by clients. What is invalid is dropped, the rest is published; a batch with
// nothing valid fails as a whole.
func (m *machine) publishStorageDeals(c call) ([]byte, error) {
	var params market18.PublishStorageDealsParams
	if err := c.decode(&params); err != nil {
		return nil, err
	}
	if len(params.Deals) == 0 {
		return nil, abort(exitcode.ErrIllegalArgument, "Empty deals parameter")
	}
	named := params.Deals[0].Proposal.Provider
	provider, ok, err := m.resolve(named)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, abort(exitcode.ErrNotFound, "failed to resolve provider address %s", named)
	}
	if isMiner, err := m.isMiner(provider); err != nil {
		return nil, err
	} else if !isMiner {
		return nil, abort(exitcode.ErrIllegalArgument, "deal provider is not a storage miner actor")
	}
	_, info, err := m.openMiner(provider)
	if err != nil {
		return nil, err
	}
	if !info.controls(c.from) {
		return nil, abort(exitcode.ErrForbidden, "caller %s is not worker or control address of provider %s", c.from, provider)
	}
	k, err := m.openMarket()
	if err != nil {
		return nil, err
	}
	b := &batch{
		k: k, named: named, provider: provider, clients: map[address.Address]abi.TokenAmount{},
		dataCap: map[address.Address]abi.StoragePower{}, seen: map[cid.Cid]struct{}{}, locked: big.Zero(),
	}
	if b.power, err = m.networkPower(); err != nil {
		return nil, err
	}
	valid := bitfield.New()
	for i := range params.Deals {
		reason, err := b.consider(&params.Deals[i])
		if err != nil {
			return nil, err
		}
		if reason == "" {
			valid.Set(uint64(i))
		}
	}
	if len(b.accepted) == 0 {
		return nil, abort(exitcode.ErrIllegalArgument, "All deal proposals invalid")
	}
	ids, err := b.publish()
	if err != nil {
		return nil, err
	}
	return encode(&market18.PublishStorageDealsReturn{IDs: ids, ValidDeals: valid})
}

// batch is one PublishStorageDeals message while its deals are looked at in order.
type batch struct {
	k               *market
	named, provider address.Address                     // as the first proposal names it, and its id
	power           abi.StoragePower                    // raw power of the network
	clients         map[address.Address]abi.TokenAmount // what the accepted deals lock, by client id
	locked          abi.TokenAmount                     // what they lock of the provider
	dataCap         map[address.Address]abi.StoragePower
	seen            map[cid.Cid]struct{}
	accepted        []acceptedDeal
}

type acceptedDeal struct {
	signed *market18.ClientDealProposal
	stored market18.DealProposal // addresses replaced by ids
	cid    cid.Cid               // of stored
}

// consider accepts a deal or gives the reason for dropping it; an error fails the whole message.
func (b *batch) consider(signed *market18.ClientDealProposal) (reason string, err error) {
	m, p := b.k.m, signed.Proposal
	client, ok, err := m.resolve(p.Client)
	if err != nil {
		return "", err
	}
	if !ok {
		return fmt.Sprintf("failed to resolve proposal.client address %s for deal", p.Client), nil
	}
	if reason, err := m.authenticate(client, signed); reason != "" || err != nil {
		return reason, err
	}
	if reason := m.checkTerms(&p, b.power); reason != "" {
		return reason, nil
	}
	if p.Provider != b.provider && p.Provider != b.named {
		return "cannot publish deals from multiple providers in one batch", nil
	}

	clientLock := p.ClientBalanceRequirement()
	if sum, ok := b.clients[client]; ok {
		clientLock = big.Add(sum, clientLock)
	}
	if ok, err := b.k.covered(client, clientLock); err != nil {
		return "", err
	} else if !ok {
		return "insufficient client funds to cover proposal cost", nil
	}
	providerLock := big.Add(b.locked, p.ProviderCollateral)
	if ok, err := b.k.covered(b.provider, providerLock); err != nil {
		return "", err
	} else if !ok {
		return "insufficient provider funds to cover proposal cost", nil
	}

	p.Provider, p.Client = b.provider, client
	pcid, err := p.Cid()
	if err != nil {
		return "", fmt.Errorf("taking the cid of a proposal: %w", err)
	}
	pending, err := b.k.pending()
	if err != nil {
		return "", err
	}
	known, err := pending.Has(abi.CidKey(pcid))
	if err != nil {
		return "", err
	}
	if _, twice := b.seen[pcid]; known || twice {
		return "cannot publish duplicate deal proposal", nil
	}
	if p.VerifiedDeal {
		left, ok := b.dataCap[client]
		if !ok {
			if left, err = m.dataCap(client); err != nil {
				return "", err
			}
		}
		size := big.NewIntUnsigned(uint64(p.PieceSize))
		if left.LessThan(size) {
			b.dataCap[client] = left
			return "insufficient datacap", nil
		}
		b.dataCap[client] = big.Sub(left, size)
	}
	b.clients[client], b.locked = clientLock, providerLock
	b.seen[pcid] = struct{}{}
	b.accepted = append(b.accepted, acceptedDeal{signed: signed, stored: p, cid: pcid})
	return "", nil
}

// authenticate checks the client's signature over the proposal as it was signed, by the key of the client's account.
func (m *machine) authenticate(client address.Address, signed *market18.ClientDealProposal) (reason string, err error) {
	act, err := m.tree.GetActor(client)
	if err != nil {
		return "", fmt.Errorf("loading actor %s: %w", client, err)
	}
	if act.Code != code.account {
		return "proposal authentication failed", nil
	}
	var st account.State
	if err := m.load(client, &st); err != nil {
		return "", err
	}
	var buf bytes.Buffer
	if err := signed.Proposal.MarshalCBOR(&buf); err != nil {
		return "", fmt.Errorf("encoding a proposal: %w", err)
	}
	if err := sigs.Verify(&signed.ClientSignature, st.Address, buf.Bytes()); err != nil {
		return "proposal authentication failed: " + err.Error(), nil //nolint:nilerr // that is the finding
	}
	return "", nil
}

// checkTerms holds a proposal against the market's bounds.
func (m *machine) checkTerms(p *market18.DealProposal, networkPower abi.StoragePower) (reason string) {
	if n := p.Label.Length(); n > market18.DealMaxLabelSize {
		return fmt.Sprintf("deal label can be at most %d bytes, is %d", market18.DealMaxLabelSize, n)
	}
	if err := p.PieceSize.Validate(); err != nil {
		return fmt.Sprintf("proposal piece size is invalid: %s", err)
	}
	if !p.PieceCID.Defined() || p.PieceCID.Prefix() != market18.PieceCIDPrefix {
		return "proposal PieceCID undefined"
	}
	if p.EndEpoch <= p.StartEpoch {
		return "proposal end before proposal start"
	}
	if m.epoch > p.StartEpoch {
		return "Deal start epoch has already elapsed."
	}
	if d := p.Duration(); d < dealMinDuration || d > dealMaxDuration {
		return "Deal duration out of bounds."
	}
	if p.StoragePricePerEpoch.Sign() < 0 || p.StoragePricePerEpoch.GreaterThan(builtin.TotalFilecoin) {
		return "Storage price out of bounds."
	}
	least, most := m.policy.collateralBounds(p.PieceSize, networkPower)
	if p.ProviderCollateral.LessThan(least) || p.ProviderCollateral.GreaterThan(most) {
		return "Provider collateral out of bounds."
	}
	if p.ClientCollateral.Sign() < 0 || p.ClientCollateral.GreaterThan(builtin.TotalFilecoin) {
		return "Client collateral out of bounds."
	}
	return ""
}

// publish locks the funds of the accepted deals and stores them.
func (b *batch) publish() ([]abi.DealID, error) {
	k, m := b.k, b.k.m
	allocations := map[cid.Cid]verifreg.AllocationId{}
	for i := range b.accepted {
		if d := &b.accepted[i]; d.stored.VerifiedDeal {
			id, err := m.allocate(&d.stored)
			if err != nil {
				return nil, err
			}
			allocations[d.cid] = id
		}
	}
	ids := make([]abi.DealID, 0, len(b.accepted))
	for i := range b.accepted {
		d := &b.accepted[i]
		id := k.st.NextID
		k.st.NextID++
		if err := k.store(id, d, allocations[d.cid]); err != nil {
			return nil, fmt.Errorf("storing deal %d: %w", id, err)
		}
		m.emit("deal-published", id, d.stored.Client, d.stored.Provider)
		m.record(change{Kind: published, ID: id, Epoch: m.epoch, Signed: d.signed, Stored: &d.stored, Message: m.message})
		ids = append(ids, id)
	}
	return ids, k.commit()
}

// store locks the funds of one deal and writes it into the market's tables, waiting for activation.
func (k *market) store(id abi.DealID, d *acceptedDeal, allocation verifreg.AllocationId) error {
	p := &d.stored
	if err := k.lockFunds(p); err != nil {
		return err
	}
	pending, err := k.pending()
	if err != nil {
		return err
	}
	if err := pending.Put(abi.CidKey(d.cid), nil); err != nil {
		return err
	}
	proposals, err := k.proposals()
	if err != nil {
		return err
	}
	if err := proposals.Set(uint64(id), p); err != nil {
		return err
	}
	if allocation != verifreg.NoAllocationID {
		all, err := k.pendingAllocations()
		if err != nil {
			return err
		}
		value := cbg.CborInt(allocation)
		if err := all.Put(abi.UIntKey(uint64(id)), &value); err != nil {
			return err
		}
	}
	return k.scheduleDeal(id, p.StartEpoch)
}

func (k *market) lockFunds(p *market18.DealProposal) error {
	if err := k.lock(p.Client, p.ClientCollateral, forClientCollateral); err != nil {
		return err
	}
	if err := k.lock(p.Client, p.TotalStorageFee(), forStorageFee); err != nil {
		return err
	}
	return k.lock(p.Provider, p.ProviderCollateral, forProviderCollateral)
}
