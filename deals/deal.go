package deals

import (
	"errors"
	"slices"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals/piece"
)

// A State is where an attempt is on its way to a proven deal. The zero value is invalid.
type State string

const (
	Planned      State = "planned"      // recorded, nothing signed; the maker moves it on
	Proposing    State = "proposing"    // signed and stored, perhaps sent; the provider's answer or status moves it on
	Accepted     State = "accepted"     // the provider has said yes; its pull or the chain moves it on
	Transferring State = "transferring" // the provider has begun to pull; the chain moves it on
	Published    State = "published"    // the chain knows the proposal, its id is unknown; the chain moves it on
	Sealing      State = "sealing"      // on chain under an id, not activated; the chain moves it on
	Active       State = "active"       // proven; the chain moves it on
	Rejected     State = "rejected"     // final: the provider has said no
	Failed       State = "failed"       // final: the provider gave up before it was published
	Missed       State = "missed"       // final: not activated by its start epoch
	Expired      State = "expired"      // final: ran to its end
	Terminated   State = "terminated"   // final: the chain dropped it before its end
	Cancelled    State = "cancelled"    // final: withdrawn before it was sent
)

// States lists every state, in the order in which an attempt passes through them; the final ones come last.
func States() []State {
	return []State{
		Planned, Proposing, Accepted, Transferring, Published, Sealing, Active,
		Rejected, Failed, Missed, Expired, Terminated, Cancelled,
	}
}

// Final tells whether nothing moves the attempt on.
func (s State) Final() bool {
	switch s {
	case Planned, Proposing, Accepted, Transferring, Published, Sealing, Active:
		return false
	case Rejected, Failed, Missed, Expired, Terminated, Cancelled:
		return true
	}
	return true
}

// InFlight tells whether the provider is busy with our proposal or our bytes: what concurrency is counted by.
func (s State) InFlight() bool {
	return s == Planned || s == Proposing || s == Accepted || s == Transferring
}

// before tells whether s comes earlier on the way than other.
func (s State) before(other State) bool {
	return slices.Index(States(), s) < slices.Index(States(), other)
}

// Epoch is a height of the chain.
type Epoch = abi.ChainEpoch

// EpochsPerDay is the number of epochs of 30 s in a day.
const EpochsPerDay = 2880

// An AttemptID names an attempt in the database.
type AttemptID int64

// An Attempt is one try to fill a slot: one deal, from the intent to its end.
type Attempt struct {
	ID         AttemptID
	UUID       uuid.UUID // the deal's id with the provider
	Slot       SlotID
	Archive    ArchiveID
	Root       cid.Cid
	Piece      piece.Piece
	Generation int       // 1 for a slot's first attempt
	Renews     AttemptID // the active attempt it follows, or 0
	Provider   ProviderID
	Protocol   string

	// What was signed; zero while planned.
	ProposalCID cid.Cid // of the proposal as signed (with key addresses)
	Signed      []byte  // CBOR of the market.ClientDealProposal; only where it is said to be read
	Message     []byte  // the whole message to the provider; sent as it is, as often as needed; read as Signed is
	Start, End  Epoch
	Price       abi.TokenAmount // attoFIL per epoch for the whole piece
	Collateral  abi.TokenAmount // attoFIL of the provider
	Verified    bool
	Reserved    abi.TokenAmount // attoFIL of escrow that this attempt may still lock; zero once published or final
	Day         string          // the day (UTC, 2006-01-02) whose budget it was charged to

	State     State
	Reason    string // why it ended, or what it waits for, in words for the user
	Verbatim  string // what the provider said, at most 1,000 characters
	Retryable bool   // rejected or failed in a way that may pass with this provider later

	PublishCID  cid.Cid // undefined until it is named
	Claimed     bool    // PublishCID is the provider's word: the chain was not seen to have the deal in it
	DealID      abi.DealID
	Sector      abi.SectorNumber
	SeenPending bool      // the chain has shown the proposal as published
	PendingAt   time.Time // when the chain was last asked for that
	Blind       bool      // for a while it was not asked: it may have been published and activated unseen
	Unknowns    int       // consecutive answers of the provider that it does not know the deal
	UnknownAt   time.Time // the first of these
	Missing     int       // consecutive final observations without an active deal
	Height      Epoch     // of the last observation on chain

	PlannedAt, SentAt, AcceptedAt, PulledAt, PublishedAt, ActiveAt, EndedAt time.Time // zero until then
	ChangedAt                                                               time.Time // of the present state
	NextAt                                                                  time.Time // when to look again
}

// Cost is the most attoFIL of ours that the deal locks.
func (a Attempt) Cost() abi.TokenAmount {
	if a.Price.Nil() {
		return abi.NewTokenAmount(0)
	}
	return big.Mul(a.Price, big.NewInt(int64(a.End-a.Start)))
}

// Errors a caller may meet.
var (
	ErrNotFound = errors.New("no such deal")
	// ErrUnauthorized is the answer for a piece that is not there, and for one that the bearer may not have.
	ErrUnauthorized = errors.New("no live deal with this token for this piece")
	errLease        = errors.New("another process makes deals now")
	errStale        = errors.New("the row is no longer what it was")
)
