package deals

import (
	"context"
	"errors"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
)

// A Market speaks one deal protocol with providers. All methods may be called concurrently; a context that ends makes
// a call return its cause. None of them keeps anything: what must survive is in the attempt.
type Market interface {
	// Name is the protocol's name as deals show it, such as mk12.
	Name() string

	// Ask asks a provider for its present conditions. An error says why there are none; nothing was concluded.
	Ask(ctx context.Context, p Contact) (Ask, error)

	// Compose makes the message that proposes the deal: bytes that Propose sends, now or after a restart.
	Compose(id uuid.UUID, signed market.ClientDealProposal, root cid.Cid, from Transfer) ([]byte, error)

	// Propose sends a composed message and returns the provider's answer. It is idempotent: sending the same bytes
	// again makes no second deal, and a provider that has them says accepted. Errors: ErrNotSent (certainly nothing
	// left this process); any other means that the outcome is unknown.
	Propose(ctx context.Context, p Contact, message []byte) (Answer, error)

	// Transports asks a provider where it serves over HTTP: base URLs without a slash at their end, the best first, and
	// none when it names none. They are a stranger's words: well-formed, of bounded number and length, and no more.
	Transports(ctx context.Context, p Contact) ([]string, error)

	// Status asks how a deal goes. signature is the client's over StatusBytes. An error means that nothing is known.
	Status(ctx context.Context, p Contact, id uuid.UUID, signature crypto.Signature) (ProviderStatus, error)
}

// StatusBytes is what the client signs to ask for the status of a deal.
func StatusBytes(id uuid.UUID) []byte { return id[:] }

// ErrNotSent says that a proposal certainly did not leave this process.
var ErrNotSent = errors.New("the provider could not be reached, nothing was sent")

// A Contact is how to reach a provider.
type Contact struct {
	Provider ProviderID
	PeerID   string   // libp2p, as text
	Addrs    []string // multiaddrs without /p2p
	HTTP     string   // base URL, or empty
}

// An Ask is what a provider demands.
type Ask struct {
	Price         abi.TokenAmount // attoFIL per GiB and epoch
	VerifiedPrice abi.TokenAmount // attoFIL per GiB and epoch, with datacap
	MinPiece      abi.PaddedPieceSize
	MaxPiece      abi.PaddedPieceSize
	Expiry        Epoch
	// Signed and Signature let the caller check who said it; the adapter has not.
	Signed    []byte
	Signature *crypto.Signature
}

// A Transfer is where the provider gets the bytes.
type Transfer struct {
	URL    string
	Bearer string
	Size   uint64 // exact bytes
}

// An Answer is what a provider said to a proposal.
type Answer struct {
	Accepted  bool
	Text      string // verbatim
	Retryable bool   // refused for a reason that may pass
}

// A ProviderStatus is what a provider says of a deal: a hint, never the truth.
type ProviderStatus struct {
	Unknown      bool   // it says that it does not know the deal
	Status       string // verbatim
	Error        string // verbatim; not empty: it gave up
	Transferred  bool   // it has all bytes, as far as its words can be understood
	Proposal     *market.DealProposal
	PublishCID   cid.Cid // undefined when not told
	DealID       abi.DealID
	Transferring bool // it has begun to pull
}
