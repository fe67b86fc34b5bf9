package mk12

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/mk12/wire"
)

// What providers say, by which their answers are told apart. Boost and Curio have no codes.
var (
	// duplicates mean that the provider has the proposal already. Boost: identical, same uuid; Curio: the others.
	duplicates = []string{
		"deal proposal is identical to deal",
		"deal has the same uuid as deal",
		"market deal with the same proposalCID",
		"updated 0 rows instead of 1",
	}
	// passing are refusals of which the reason may pass: pressure, failures of the provider, a view of the chain that
	// is behind ours or ahead of it, and our funds.
	passing = []string{
		"please retry in some time",
		"server error: ",
		"has already elapsed (current epoch",
		"not enough to meet storage cost",
		"verified deal datacap",
		"storage price per epoch less than asking price",
	}
	// unknowns say that the provider has no deal with the uuid; Curio's also that it dropped one.
	unknowns = []string{
		"no storage deal found with deal uuid",
		"failed to get sealed deal status",
	}
	// transferred are the states in which a provider has all bytes.
	transferred = []string{
		"Transferred", "Published", "PublishConfirmed", "AddedPiece", "IndexedAndAnnounced", "Complete", // Boost
		"Sealed", "Sealed and Indexed", // Curio
	}
)

// maxText bounds, in bytes, what is kept of a provider's words.
const maxText = 8 << 10

// says tells whether a text contains one of phrases, whatever the case.
func says(text string, phrases []string) bool {
	text = strings.ToLower(text)
	return slices.ContainsFunc(phrases, func(p string) bool { return strings.Contains(text, strings.ToLower(p)) })
}

// verbatim is a provider's text, fit for a database and a terminal.
func verbatim(text string) string {
	if len(text) > maxText {
		text = text[:maxText]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, "�"))
}

func understandAnswer(resp *wire.DealResponse) deals.Answer {
	a := deals.Answer{Accepted: resp.Accepted, Text: verbatim(resp.Message)}
	if a.Accepted {
		return a
	}
	a.Accepted = says(resp.Message, duplicates)
	a.Retryable = !a.Accepted && says(resp.Message, passing)
	return a
}

func understandAsk(p deals.ProviderID, signed *wire.SignedStorageAsk) (deals.Ask, error) {
	ask := signed.Ask
	if ask.Miner != p.Address() {
		return deals.Ask{}, fmt.Errorf("the answer is of %s", ask.Miner)
	}
	if ask.Price.Nil() || ask.VerifiedPrice.Nil() || ask.Price.Sign() < 0 || ask.VerifiedPrice.Sign() < 0 {
		return deals.Ask{}, errors.New("the answer has a price below zero")
	}
	if ask.MinPieceSize > ask.MaxPieceSize {
		return deals.Ask{}, fmt.Errorf("the answer has a least size of %d above its greatest of %d", ask.MinPieceSize, ask.MaxPieceSize)
	}
	message, err := wire.AskBytes(ask)
	if err != nil {
		return deals.Ask{}, err
	}
	return deals.Ask{
		Price:         ask.Price,
		VerifiedPrice: ask.VerifiedPrice,
		MinPiece:      ask.MinPieceSize,
		MaxPiece:      ask.MaxPieceSize,
		Expiry:        ask.Expiry,
		Signed:        message,
		Signature:     signed.Signature,
	}, nil
}

func understandStatus(id uuid.UUID, resp *wire.DealStatusResponse) (deals.ProviderStatus, error) {
	if resp.Error != "" {
		if says(resp.Error, unknowns) {
			return deals.ProviderStatus{Unknown: true}, nil
		}
		return deals.ProviderStatus{}, fmt.Errorf("the provider answers: %s", verbatim(resp.Error))
	}
	d := resp.DealStatus
	if d == nil {
		return deals.ProviderStatus{}, errors.New("the provider answers nothing")
	}
	if resp.DealUUID != id {
		return deals.ProviderStatus{}, fmt.Errorf("the provider answers for deal %s", resp.DealUUID)
	}
	s := deals.ProviderStatus{
		Status:   verbatim(d.Status),
		Error:    verbatim(d.Error),
		Proposal: &d.Proposal,
		DealID:   d.ChainDealID,
	}
	if d.PublishCid != nil {
		s.PublishCID = *d.PublishCid
	}
	// Curio always says one byte of one: that is no progress.
	counted := resp.TransferSize > 1
	s.Transferred = slices.Contains(transferred, d.Status) || counted && resp.NBytesReceived >= resp.TransferSize
	s.Transferring = s.Transferred || counted && resp.NBytesReceived > 0
	return s, nil
}
