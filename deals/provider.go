package deals

import (
	"time"

	"github.com/filecoin-project/go-state-types/abi"
)

// A Trust says whether the operator wants a provider used. The zero value is invalid.
type Trust string

const (
	Neutral Trust = "neutral" // used while nobody is allowed explicitly
	Allowed Trust = "allowed" // as soon as one provider is allowed, only those are used
	Denied  Trust = "denied"  // never used, whatever else says
)

// A Provider is a storage provider of the registry: what the operator decided and what was found out.
type Provider struct {
	ID ProviderID

	// What the operator decided.
	Trust        Trust
	Region       string              // canonical; empty: unknown
	RegionSource string              // who says so
	PriceCap     abi.TokenAmount     // attoFIL per GiB and epoch; nil: the service's cap
	MinPiece     abi.PaddedPieceSize // 0: what the provider says
	MaxPiece     abi.PaddedPieceSize // 0: what the provider says
	Concurrency  int                 // attempts in flight at once; 0: the service's
	HTTP         string              // base URL for retrieval; empty: what the provider announces
	PeerID       string              // overrides the chain's; empty: the chain's
	Addrs        []string

	// What was found out.
	Contact    Contact
	Found      []string  // base URLs for retrieval that it announces, the best first
	FoundAt    time.Time // when it did; zero: never
	SectorSize abi.SectorSize
	Ask        *Ask // nil: never answered
	ProbedAt   time.Time
	ProbeError string // why the last probe failed; empty when it did not

	// How it has served us.
	Score     float64 // 0 to 1, from outcomes: see After
	Successes int64   // attempts that became active
	Failures  int64   // attempts that did not
	Streak    int     // consecutive failures
	OpenUntil time.Time
	LastError string
}
