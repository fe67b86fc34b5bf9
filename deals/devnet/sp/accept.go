package sp

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-padreader"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin/v18/market"
	"github.com/filecoin-project/go-state-types/builtin/v18/miner"
	market9 "github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/filecoin-project/lotus/lib/sigs"
	_ "github.com/filecoin-project/lotus/lib/sigs/delegated" // f4 clients
	_ "github.com/filecoin-project/lotus/lib/sigs/secp"      // f1 clients
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals/mk12/wire"
)

// maxLabel is the most bytes of a deal's label.
const maxLabel = 256

// collateralMultiplier bounds what a provider puts into a deal, as a multiple of the least.
const collateralMultiplier = 2

// A refusal is a reason for the client, in the words of the field. It is no error: deciding has succeeded.
type refusal string

func refuse(format string, args ...any) refusal { return refusal(fmt.Sprintf(format, args...)) }

// judge decides about a proposal in a provider's order (rules F1 to F6). The empty refusal is a yes, except that
// duplicates are seen only where the deal is stored.
func (p *Provider) judge(ctx context.Context, params *wire.DealParams) refusal {
	head, err := p.node.ChainHead(ctx)
	if err != nil {
		return p.invalid(p.serverError("server error: getting chain head", err))
	}
	proposal := &params.ClientDealProposal.Proposal
	for _, check := range []func() refusal{
		func() refusal { return p.checkForm(ctx, &params.ClientDealProposal) },
		func() refusal { return checkEpochs(proposal, head.Height()) },
		func() refusal { return p.checkFunds(ctx, proposal, head.Key()) },
	} {
		if r := check(); r != "" {
			return p.invalid(r)
		}
	}
	if r := p.checkPolicy(proposal); r != "" {
		return r
	}
	return checkTransfer(p.cfg.Style, params)
}

// invalid marks what fails the validation that comes before a provider's own wishes.
func (p *Provider) invalid(r refusal) refusal { return "failed validation: " + r }

// serverError keeps from the client what is only the operator's to know.
func (p *Provider) serverError(text string, err error) refusal {
	p.log.Warn("judging a proposal", "step", text, "err", err)
	return refusal(text)
}

// checkForm is F1.
func (p *Provider) checkForm(ctx context.Context, signed *market9.ClientDealProposal) refusal {
	proposal := &signed.Proposal
	if !proposal.PieceCID.Defined() {
		return "proposal PieceCID undefined"
	}
	data, err := wire.ProposalBytes(proposal)
	if err != nil {
		return p.serverError("server error: validating signature", err)
	}
	valid, err := p.verify(ctx, proposal.Client, data, &signed.ClientSignature)
	switch {
	case err != nil:
		return p.serverError("server error: validating signature", err)
	case !valid:
		return "invalid signature"
	case proposal.Provider != p.cfg.Miner:
		return refuse("incorrect provider for deal; proposal.Provider: %s; provider.Address: %s", proposal.Provider, p.cfg.Miner)
	case proposal.Label.Length() > maxLabel:
		return refuse("deal label can be at most %d bytes, is %d", maxLabel, proposal.Label.Length())
	}
	if err := proposal.PieceSize.Validate(); err != nil {
		return refuse("proposal piece size is invalid: %s", err)
	}
	if proposal.PieceCID.Prefix() != market.PieceCIDPrefix {
		return "proposal PieceCID had wrong prefix"
	}
	return ""
}

// verify checks a client's signature. An error means that it could not be checked.
func (p *Provider) verify(ctx context.Context, signer address.Address, data []byte, sig *crypto.Signature) (bool, error) {
	key, err := p.node.StateAccountKey(ctx, signer, types.EmptyTSK)
	if err != nil {
		return false, fmt.Errorf("looking up the key of %s: %w", signer, err)
	}
	if sig.Type == crypto.SigTypeBLS {
		// Checking it here would need a native library; the node has one.
		return p.node.WalletVerify(ctx, key, data, sig)
	}
	return sigs.Verify(sig, key, data) == nil, nil
}

// checkEpochs is F2.
func checkEpochs(proposal *market9.DealProposal, head abi.ChainEpoch) refusal {
	if proposal.EndEpoch <= proposal.StartEpoch {
		return refuse("proposal end %d before proposal start %d", proposal.EndEpoch, proposal.StartEpoch)
	}
	if head > proposal.StartEpoch {
		return refuse("deal start epoch %d has already elapsed (current epoch: %d)", proposal.StartEpoch, head)
	}
	least, most := market.DealDurationBounds(proposal.PieceSize)
	if proposal.Duration() < least || proposal.Duration() > most {
		return refuse("deal duration out of bounds (min, max, provided): %d, %d, %d", least, most, proposal.Duration())
	}
	if proposal.EndEpoch > head+miner.MaxSectorExpirationExtension {
		return refuse("invalid deal end epoch %d: cannot be more than %d past current epoch %d",
			proposal.EndEpoch, miner.MaxSectorExpirationExtension, head)
	}
	return ""
}

// checkFunds is F3.
func (p *Provider) checkFunds(ctx context.Context, proposal *market9.DealProposal, tsk types.TipSetKey) refusal {
	bounds, err := p.node.StateDealProviderCollateralBounds(ctx, proposal.PieceSize, proposal.VerifiedDeal, types.EmptyTSK)
	if err != nil {
		return p.serverError("server error: getting collateral bounds", err)
	}
	most := big.Mul(bounds.Min, big.NewInt(collateralMultiplier))
	if proposal.ProviderCollateral.LessThan(bounds.Min) {
		return refuse("proposed provider collateral %s below minimum %s", proposal.ProviderCollateral, bounds.Min)
	}
	if proposal.ProviderCollateral.GreaterThan(most) {
		return refuse("proposed provider collateral %s above maximum %s", proposal.ProviderCollateral, most)
	}
	balance, err := p.node.StateMarketBalance(ctx, proposal.Client, tsk)
	if err != nil {
		return p.serverError("server error: getting market balance", err)
	}
	available := big.Sub(balance.Escrow, balance.Locked)
	if available.LessThan(proposal.ClientBalanceRequirement()) {
		return refuse("client available funds in escrow %d not enough to meet storage cost for deal %d",
			available, proposal.ClientBalanceRequirement())
	}
	if !proposal.VerifiedDeal {
		return ""
	}
	datacap, err := p.node.StateVerifiedClientStatus(ctx, proposal.Client, tsk)
	if err != nil {
		return p.serverError("server error: getting verified datacap", err)
	}
	if datacap == nil {
		return "client is not a verified client"
	}
	if size := big.NewIntUnsigned(uint64(proposal.PieceSize)); datacap.LessThan(size) {
		return refuse("verified deal DataCap %d too small for proposed piece size %d", *datacap, size)
	}
	return ""
}

// checkPolicy is F5 and F6.
func (p *Provider) checkPolicy(proposal *market9.DealProposal) refusal {
	if p.cfg.MaxInFlight > 0 && p.inFlight() >= p.cfg.MaxInFlight {
		return "deal rejected due to backpressure. Please retry in some time."
	}
	if len(p.cfg.Clients) > 0 && !slices.Contains(p.cfg.Clients, proposal.Client) {
		return "client not allowed by provider"
	}
	ask := p.effectiveAsk()
	price := ask.Price
	if proposal.VerifiedDeal {
		price = ask.VerifiedPrice
	}
	least := big.Div(big.Mul(price, big.NewIntUnsigned(uint64(proposal.PieceSize))), big.NewInt(1<<30))
	switch {
	case proposal.StoragePricePerEpoch.LessThan(least):
		return refuse("storage price per epoch less than asking price: %s < %s", proposal.StoragePricePerEpoch, least)
	case proposal.PieceSize < ask.MinPieceSize:
		return refuse("piece size less than minimum required size: %d < %d", proposal.PieceSize, ask.MinPieceSize)
	case proposal.PieceSize > ask.MaxPieceSize:
		return refuse("piece size more than maximum allowed size: %d > %d", proposal.PieceSize, ask.MaxPieceSize)
	}
	return ""
}

// checkTransfer is F4, and that the bytes can be fetched at all.
func checkTransfer(style Style, params *wire.DealParams) refusal {
	if params.IsOffline {
		return "offline deals are not allowed on this provider"
	}
	if params.Transfer.Type == "libp2p" {
		return "libp2p URLs are not supported by this provider"
	}
	if _, err := wire.ParseHTTPTransfer(params.Transfer); err != nil {
		return refuse("failed to de-serialize transport params bytes '%s': %s", params.Transfer.Params, err)
	}
	size := params.ClientDealProposal.Proposal.PieceSize
	padded := padreader.PaddedSize(params.Transfer.Size).Padded()
	// Curio wants the piece to be full; Boost pads what it gets.
	if style == Curio && padded != size || padded > size {
		return refuse("deal proposal piece size %d doesn't match padded piece size %d", size, padded)
	}
	return ""
}

// errUnstored keeps a client from being told that its deal is safe.
var errUnstored = errors.New("the deal could not be stored")

// accept stores a deal that passed, or names the one that is stored already.
func (p *Provider) accept(d *Deal) (refusal, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cfg.Style == Curio {
		if p.ledger.byProposal(d.proposalCID, cid.Undef) != nil {
			return refuse("store deal: market deal with the same proposalCID %s already exists: 1", d.proposalCID), nil
		}
		if _, ok := p.ledger.byID[d.UUID]; ok {
			return "store deal: store deal success: updated 0 rows instead of 1", nil
		}
	} else {
		if other := p.ledger.byProposal(cid.Undef, d.signedCID); other != nil {
			return refuse("deal proposal is identical to deal %s (proposed at %s)", other.UUID, other.Accepted), nil
		}
		if other, ok := p.ledger.byID[d.UUID]; ok {
			return refuse("deal has the same uuid as deal %s (proposed at %s)", other.UUID, other.Accepted), nil
		}
	}
	if err := p.ledger.put(d); err != nil {
		return "", fmt.Errorf("%w: %w", errUnstored, err)
	}
	return "", nil
}
