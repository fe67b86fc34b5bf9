package wire

import (
	"bytes"
	"fmt"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-shipyard/boostly"
	"github.com/google/uuid"
	"github.com/multiformats/go-multiaddr"
)

//go:generate go run ./gen

// The messages of proposing and of asking for a deal's status.
type (
	// DealParams proposes one deal. DealUUID is the client's name for it.
	DealParams = boostly.DealParams
	// A Transfer says where the provider gets the bytes: Type "http", Params an encoded [HTTPRequest], Size the exact
	// number of bytes served.
	Transfer = boostly.Transfer
	// DealResponse accepts or, with the provider's reason, rejects.
	DealResponse = boostly.DealResponse
	// DealStatusRequest is signed by the client's wallet over [StatusBytes].
	DealStatusRequest = boostly.DealStatusRequest
	// DealStatusResponse has Error set if the provider has no answer, and DealStatus otherwise.
	DealStatusResponse = boostly.DealStatusResponse
	// DealStatus is a provider's account of one deal. It is a hint: only the chain knows.
	DealStatus = boostly.DealStatus
	// HTTPRequest says how a provider fetches a piece.
	HTTPRequest = boostly.HttpRequest
)

// AskRequest asks a peer for the ask of one miner; a peer may serve several.
type AskRequest struct {
	Miner address.Address
}

// AskResponse has a nil Ask if the peer does not answer for that miner.
type AskResponse struct {
	Ask *SignedStorageAsk
}

// SignedStorageAsk is an ask with the signature of the miner's worker key over [AskBytes].
type SignedStorageAsk struct {
	Ask       *StorageAsk
	Signature *crypto.Signature
}

// StorageAsk is what a provider wants for storing. Meeting it is necessary, not sufficient.
type StorageAsk struct {
	Price         abi.TokenAmount // attoFIL per GiB and epoch
	VerifiedPrice abi.TokenAmount // the same for verified deals

	MinPieceSize abi.PaddedPieceSize
	MaxPieceSize abi.PaddedPieceSize
	Miner        address.Address
	Timestamp    abi.ChainEpoch // when it was made
	Expiry       abi.ChainEpoch // until when it holds
	SeqNo        uint64         // grows with each change
}

// QueryResponse lists the ways to retrieve from a provider.
type QueryResponse struct {
	Protocols []Protocol
}

// A Protocol is one way to retrieve, such as "http" or "libp2p", and where.
type Protocol struct {
	Name      string
	Addresses [][]byte // multiaddrs
}

// Addresses returns the well-formed addresses listed under a name.
func (r *QueryResponse) Addresses(name string) []multiaddr.Multiaddr {
	var addrs []multiaddr.Multiaddr
	for _, p := range r.Protocols {
		if p.Name != name {
			continue
		}
		for _, raw := range p.Addresses {
			if addr, err := multiaddr.NewMultiaddrBytes(raw); err == nil {
				addrs = append(addrs, addr)
			}
		}
	}
	return addrs
}

// ProposalBytes returns what the client signs of a proposal.
func ProposalBytes(p *market.DealProposal) ([]byte, error) {
	var buf bytes.Buffer
	if err := p.MarshalCBOR(&buf); err != nil {
		return nil, fmt.Errorf("encoding the proposal: %w", err)
	}
	return buf.Bytes(), nil
}

// StatusBytes returns what the client signs to ask for the status of a deal.
func StatusBytes(id uuid.UUID) []byte { return id[:] }

// AskBytes returns what the provider signs of an ask.
func AskBytes(ask *StorageAsk) ([]byte, error) { return Encode(ask) }
