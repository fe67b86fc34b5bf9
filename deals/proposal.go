package deals

import (
	"errors"
	"fmt"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	fbig "github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals/piece"
)

// A DraftInput is what a proposal is made of.
type DraftInput struct {
	Client     address.Address // key address that signs and pays
	Provider   ProviderID
	Ask        Ask             // what the provider demands now
	Price      abi.TokenAmount // attoFIL per GiB and epoch that we are ready to pay
	Piece      piece.Piece     // padded to what the provider takes
	Root       cid.Cid
	Head       Epoch
	StartDelay Epoch
	Days       int
	Least      abi.TokenAmount // attoFIL that the provider must put up at least, as the chain says
	Verified   bool
}

// A DraftError says that a proposal would be refused or would fail on chain, whoever sends it and however often.
type DraftError struct{ Reason string }

func (e *DraftError) Error() string { return e.Reason }

// Bounds of the market actor. go-state-types keeps those of each version apart; the devnet asserts that they are these.
const (
	minDuration = MinDays * EpochsPerDay
	maxDuration = MaxDays * EpochsPerDay
)

// Draft makes the proposal of a deal. It refuses with a *DraftError what the provider or the market would refuse for
// its content; what it cannot see are escrow, datacap, and the provider's mood.
func Draft(d DraftInput) (market.DealProposal, error) {
	for _, check := range []func(DraftInput) error{checkClient, checkPiece, checkEpochs, checkAsk} {
		if err := check(d); err != nil {
			return market.DealProposal{}, err
		}
	}
	label, err := market.NewLabelFromString(d.Root.String())
	if err != nil {
		return market.DealProposal{}, &DraftError{fmt.Sprintf("the root CID does not fit a deal's label: %s", err)}
	}
	start := d.Head + d.StartDelay
	return market.DealProposal{
		PieceCID:             d.Piece.CIDv1,
		PieceSize:            d.Piece.Size,
		VerifiedDeal:         d.Verified,
		Client:               d.Client,
		Provider:             d.Provider.Address(),
		Label:                label,
		StartEpoch:           start,
		EndEpoch:             start + Epoch(d.Days)*EpochsPerDay,
		StoragePricePerEpoch: EpochPrice(d.Price, d.Piece.Size),
		ProviderCollateral:   collateral(d.Least),
		ClientCollateral:     fbig.Zero(),
	}, nil
}

// collateral is a fifth more than the least: the least moves with the network while the proposal is on its way, and
// providers refuse more than twice as much.
func collateral(least abi.TokenAmount) abi.TokenAmount {
	return fbig.Div(fbig.Add(fbig.Mul(amount(least), fbig.NewInt(6)), fbig.NewInt(4)), fbig.NewInt(5))
}

func checkClient(d DraftInput) error {
	switch d.Client.Protocol() {
	case address.SECP256K1, address.BLS, address.Delegated:
		return nil
	case address.ID, address.Actor, address.Unknown:
	}
	return &DraftError{fmt.Sprintf("the client %s is no address of a key", d.Client)}
}

func checkPiece(d DraftInput) error {
	if !d.Root.Defined() || !d.Piece.CIDv1.Defined() {
		return errors.New("drafting a proposal without a root or a piece")
	}
	if err := d.Piece.Size.Validate(); err != nil {
		return &DraftError{fmt.Sprintf("a piece of %d bytes: %s", d.Piece.Size, err)}
	}
	if d.Piece.CIDv1.Prefix() != market.PieceCIDPrefix {
		return &DraftError{fmt.Sprintf("%s is no commitment to a piece", d.Piece.CIDv1)}
	}
	if fits := piece.PieceSize(d.Piece.RawSize); fits != d.Piece.Size {
		return &DraftError{fmt.Sprintf("%d bytes make a piece of %d bytes, not of %d", d.Piece.RawSize, fits, d.Piece.Size)}
	}
	return nil
}

func checkEpochs(d DraftInput) error {
	duration := Epoch(d.Days) * EpochsPerDay
	switch {
	case d.Head <= 0:
		return errors.New("drafting a proposal without the height of the chain")
	case d.StartDelay <= 0:
		return &DraftError{"a deal has to start after the present epoch"}
	case duration < minDuration || duration > maxDuration:
		return &DraftError{fmt.Sprintf("a deal lasts from %d to %d days, not %d", MinDays, MaxDays, d.Days)}
	case d.StartDelay+duration > maxDuration:
		return &DraftError{fmt.Sprintf("the deal would end %d epochs from now, and %d is the most", d.StartDelay+duration, maxDuration)}
	}
	return nil
}

func checkAsk(d DraftInput) error {
	asked, offered := d.Ask.PriceOf(d.Verified), amount(d.Price)
	switch {
	case offered.LessThan(fbig.Zero()):
		return &DraftError{"the price is negative"}
	case amount(d.Least).LessThan(fbig.Zero()):
		return &DraftError{"the collateral is negative"}
	case offered.LessThan(asked):
		return &DraftError{fmt.Sprintf("the provider asks for %s per GiB and epoch, %s is offered", FIL(asked), FIL(offered))}
	case d.Piece.Size < d.Ask.MinPiece:
		return &DraftError{fmt.Sprintf("the provider takes pieces from %d bytes on, this one has %d", d.Ask.MinPiece, d.Piece.Size)}
	case d.Ask.MaxPiece > 0 && d.Piece.Size > d.Ask.MaxPiece:
		return &DraftError{fmt.Sprintf("the provider takes pieces up to %d bytes, this one has %d", d.Ask.MaxPiece, d.Piece.Size)}
	}
	return nil
}
