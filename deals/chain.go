package deals

import (
	"context"
	"errors"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
)

// A Chain is a Filecoin node with a wallet. All methods may be called concurrently. Every error means that nothing is
// known: what the chain says, also "there is none", is in the results. ErrChain is wrapped by the errors of a node
// that does not answer, lags or belongs to another network.
type Chain interface {
	// Heads tells where the chain stands. Final is the height below which nothing is undone any more, or 0.
	Heads(ctx context.Context) (Heads, error)

	// Follow calls seen after each new head, and after each reconnection, until ctx ends. Calls may be merged.
	Follow(ctx context.Context, seen func())

	// Client is the key address that proposes and pays, and its ID address on chain.
	Client(ctx context.Context) (Client, error)

	// Sign signs with the client's key, which stays in the node's wallet.
	Sign(ctx context.Context, message []byte) (crypto.Signature, error)

	// VerifyAsk tells whether the provider's worker signed these bytes.
	VerifyAsk(ctx context.Context, p ProviderID, message []byte, s crypto.Signature) (bool, error)

	// Miner returns what the chain knows of a provider; found is false when there is no such miner.
	Miner(ctx context.Context, p ProviderID) (m Miner, found bool, err error)

	// Collateral returns the least and the most attoFIL that a provider may put up for a deal.
	Collateral(ctx context.Context, size abi.PaddedPieceSize, verified bool) (least, most abi.TokenAmount, err error)

	// Funds returns what the client has.
	Funds(ctx context.Context) (Funds, error)

	// AddEscrow moves attoFIL from the wallet to the market. The same key never moves it twice, also after a crash;
	// it returns the message.
	AddEscrow(ctx context.Context, key uuid.UUID, amount abi.TokenAmount) (cid.Cid, error)

	// Message tells what has become of a message; found is false while it is on no tipset.
	Message(ctx context.Context, message cid.Cid) (m Message, found bool, err error)

	// Pending tells whether the chain has a proposal, as signed, among the published ones, at the head. It forgets them
	// some time after their start epoch, not when they are activated.
	Pending(ctx context.Context, p market.DealProposal) (bool, error)

	// Published looks for the id of a proposal, as signed, in the message that a provider named; found is false when
	// the message is not on chain, failed, or published something else.
	Published(ctx context.Context, message cid.Cid, p market.DealProposal) (id abi.DealID, found bool, err error)

	// Events returns the deals of the client published from a height on, by ascending id, as far as the node can tell. It
	// looks back no further than EventsReach. What was published from read on has to be asked for again; a node that knows
	// no events has told all. With an error it returns what was read until then.
	Events(ctx context.Context, from Epoch) (all []Publication, read Epoch, err error)

	// Deal returns a deal from the head, or with final from the last final tipset; found is false when the chain has
	// no such deal there.
	Deal(ctx context.Context, id abi.DealID, final bool) (d OnChain, found bool, err error)

	// Changed calls changed with each of ids, which must ascend, that is not active in the final tipset, where active
	// is proven and not slashed. since is the snapshot of an earlier call, of any process, in which all of ids were
	// active; or zero, when that is not known of some. What is the same as then is not looked at again. It returns the
	// snapshot of the final tipset.
	Changed(ctx context.Context, since Snapshot, ids func(yield func(abi.DealID) bool), changed func(abi.DealID) error) (Snapshot, error)

	// Calls is the number of requests sent to the node so far.
	Calls() int64
}

// EventsReach is how many epochs before the head the events of deals are looked for.
const EventsReach = 8 * EpochsPerDay

// ErrChain is wrapped by errors of the node.
var ErrChain = errors.New("the Filecoin node does not answer as it should")

// Heads is where the chain stands.
type Heads struct {
	Head  Epoch // height of the heaviest tipset
	Final Epoch // height that is not undone any more
}

// A Snapshot stands for a state of the market that was looked at whole.
type Snapshot struct {
	Height Epoch
	State  cid.Cid // root of the deal states; undefined: none, for they could not be read whole
}

// A Client is who proposes and pays.
type Client struct {
	Key address.Address // f1 or f3: what signs
	ID  address.Address // f0: what the chain stores
}

// A Miner is what the chain knows of a provider.
type Miner struct {
	PeerID     string
	Addrs      []string // multiaddrs
	SectorSize abi.SectorSize
}

// Funds are attoFIL, and bytes of datacap.
type Funds struct {
	Wallet  abi.TokenAmount
	Escrow  abi.TokenAmount // in the market, locked and free
	Locked  abi.TokenAmount
	Datacap abi.TokenAmount // bytes
}

// A Message is a message on chain.
type Message struct {
	Height   Epoch
	ExitCode int64 // 0: it did what it says
}

// A Publication is a deal's id and the message that published it; undefined where the node does not tell.
type Publication struct {
	Deal    abi.DealID
	Message cid.Cid
}

// OnChain is a deal as the chain has it.
type OnChain struct {
	Proposal    market.DealProposal // with ID addresses
	Sector      abi.SectorNumber
	SectorStart Epoch // -1: not activated
	SlashEpoch  Epoch // -1: not slashed
	ObservedAt  Epoch
}
