package sp

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/google/uuid"
)

// A Kind is one way to misbehave. What a kind reads of its Fault is in the comment; without it, its default.
type Kind string

const (
	// Being there at all. These two hold while they apply, whatever Nth, First and Probability say.

	Offline Kind = "offline"       // libp2p and HTTP are down; the work goes on
	Vanish  Kind = "vanish"        // they are down and no work is done
	NoPeer  Kind = "wrong_peer_id" // the chain names a peer id that is not ours

	// The ask.

	AskPrice    Kind = "ask_price"       // Text: attoFIL per GiB and epoch, 1 FIL
	AskMinimum  Kind = "ask_minimum"     // Bytes: least piece size, 16 GiB
	AskUnsigned Kind = "ask_unsigned"    // no signature
	AskForged   Kind = "ask_forged"      // a signature over something else
	AskOther    Kind = "ask_other_miner" // signed, but for another miner
	AskNone     Kind = "ask_none"        // no ask
	AskHang     Kind = "ask_hang"        // no answer, the stream stays open

	// The proposal.

	Reject       Kind = "reject"        // Text: the reason, exactly
	ProposeHang  Kind = "propose_hang"  // read, not looked at, the stream stays open
	ProposeClose Kind = "propose_close" // read, not looked at, closed without an answer
	AcceptClose  Kind = "accept_close"  // accepted and stored, closed without an answer
	AcceptReset  Kind = "accept_reset"  // accepted and stored, the stream is reset
	AcceptLate   Kind = "accept_late"   // accepted and stored; Delay: before the answer, 70 s
	AcceptForget Kind = "accept_forget" // accepted, answered, and never heard of again

	// The pull.

	PullNever  Kind = "pull_never"       // not begun while it applies
	PullSlow   Kind = "pull_slow"        // Bytes: per second, 64 KiB
	PullCut    Kind = "pull_cut"         // Bytes: the connection is dropped after so many, 1,000; then resumed
	PullStop   Kind = "pull_stop"        // Bytes: after so many it stops for ever, 1,000
	PullToken  Kind = "pull_wrong_token" // the Authorization header is altered
	PullRange  Kind = "pull_wrong_range" // first asks for a range that does not exist
	PullBeyond Kind = "pull_beyond_end"  // asks for one byte past the end
	PullBytes  Kind = "pull_wrong_bytes" // one bit of what arrived is flipped: commitment mismatch
	PullDrop   Kind = "pull_drop"        // after the whole transfer the deal is given up

	// Publishing.

	PublishNever  Kind = "publish_never"          // not while it applies
	PublishPiece  Kind = "publish_altered_piece"  // another piece CID under the client's signature
	PublishPrice  Kind = "publish_altered_price"  // one attoFIL more per epoch
	PublishClient Kind = "publish_altered_client" // the worker as client
	PublishTwice  Kind = "publish_twice"          // the same deals in a second message
	PublishMixed  Kind = "publish_with_invalid"   // between deals that the chain must drop

	// Sealing.

	SealNever      Kind = "seal_never"       // not while it applies
	SealLate       Kind = "seal_late"        // Epochs: more than the configured delay, 100
	SealAfterStart Kind = "seal_after_start" // proves when the start epoch has passed
	Terminate      Kind = "terminate"        // Epochs: after activation, 0; FromEpoch works as well

	// The status protocol.

	StatusUnknown    Kind = "status_unknown"      // Text: a status nobody knows, "Frobnicating"
	StatusProcessing Kind = "status_processing"   // Curio's "Processing", whatever is true
	StatusSealed     Kind = "status_sealed"       // "Sealed", whatever is true
	StatusWrongID    Kind = "status_wrong_id"     // Number: as chain deal id, ours plus 1
	StatusOther      Kind = "status_other_client" // another deal's proposal, id and publish message, if there is one
	StatusError      Kind = "status_error"        // Text: in the answer's Error, "internal error"
	StatusFailed     Kind = "status_failed"       // Text: in the deal's Error, "transfer failed"
	StatusForgotten  Kind = "status_forgotten"    // the text for a deal that was never heard of
	StatusHang       Kind = "status_hang"         // no answer, the stream stays open

	// Retrieval.

	RetrieveMissing  Kind = "retrieve_404"
	RetrieveBusy     Kind = "retrieve_429"
	RetrieveError    Kind = "retrieve_5xx"      // Number: the status, 500
	RetrieveStall    Kind = "retrieve_stall"    // Bytes: served before nothing more comes, 0
	RetrieveBytes    Kind = "retrieve_wrong"    // one bit of the body is flipped
	RetrieveTruncate Kind = "retrieve_truncate" // Bytes: served before the connection is cut, 1,000
	RetrieveEndless  Kind = "retrieve_endless"  // a CAR goes on with blocks that nobody asked for
	RetrieveRedirect Kind = "retrieve_redirect" // Text: where to, http://10.0.0.1/

	RetrieveOther  Kind = "retrieve_other_block" // a block, alone or in a CAR, has other bytes of its length; Number: which of a CAR, 1
	RetrieveExtra  Kind = "retrieve_extra"       // a CAR has blocks between its own that nobody asked for
	RetrieveShort  Kind = "retrieve_short"       // a CAR ends as if it were whole; Number: after so many blocks, 1
	RetrieveMid    Kind = "retrieve_mid_block"   // the connection is dropped in the middle of a block; Number: which of a CAR, 1
	RetrieveHTML   Kind = "retrieve_html"        // a web page, with status 200; Text: the page
	RetrieveDrip   Kind = "retrieve_drip"        // Bytes: at a time, 1; Delay: between them, 1 s
	RetrievePiece  Kind = "retrieve_wrong_piece" // pieces have other bytes of their length, blocks and CARs are right
	RetrieveStale  Kind = "retrieve_stale"       // HEAD says that it is there, GET that it is not
	RetrieveNoIPFS Kind = "retrieve_pieces_only" // nothing is indexed: only pieces are served
	RetrieveDelay  Kind = "retrieve_delay"       // Delay: before each answer, 80 ms; whatever else is on
)

var kinds = []Kind{
	Offline, Vanish, NoPeer,
	AskPrice, AskMinimum, AskUnsigned, AskForged, AskOther, AskNone, AskHang,
	Reject, ProposeHang, ProposeClose, AcceptClose, AcceptReset, AcceptLate, AcceptForget,
	PullNever, PullSlow, PullCut, PullStop, PullToken, PullRange, PullBeyond, PullBytes, PullDrop,
	PublishNever, PublishPiece, PublishPrice, PublishClient, PublishTwice, PublishMixed,
	SealNever, SealLate, SealAfterStart, Terminate,
	StatusUnknown, StatusProcessing, StatusSealed, StatusWrongID, StatusOther, StatusError, StatusFailed,
	StatusForgotten, StatusHang,
	RetrieveMissing, RetrieveBusy, RetrieveError, RetrieveStall, RetrieveBytes, RetrieveTruncate, RetrieveEndless,
	RetrieveRedirect, RetrieveOther, RetrieveExtra, RetrieveShort, RetrieveMid, RetrieveHTML, RetrieveDrip, RetrievePiece,
	RetrieveStale, RetrieveNoIPFS, RetrieveDelay,
}

// Kinds lists every way to misbehave.
func Kinds() []Kind { return slices.Clone(kinds) }

// A Fault is a switch that is on. It applies where all of its conditions hold; without any it always applies.
type Fault struct {
	Kind Kind `json:"kind"`

	// When. Calls are counted per fault, from 1, within its epochs. A call is a request, ours or a client's; but
	// pull_never, pull_stop, pull_wrong_bytes, pull_drop and everything about publishing and sealing are looked at again
	// and again, so there a call is a deal, and what was decided for it stays.
	Nth         int            `json:"nth,omitempty"`         // only this call
	First       int            `json:"first,omitempty"`       // only so many calls
	Probability float64        `json:"probability,omitempty"` // of each call, from the provider's seed
	FromEpoch   abi.ChainEpoch `json:"from_epoch,omitempty"`
	ToEpoch     abi.ChainEpoch `json:"to_epoch,omitempty"` // exclusive
	// What; see the kinds.
	Text   string         `json:"text,omitempty"`
	Bytes  int64          `json:"bytes,omitempty"`
	Number int64          `json:"number,omitempty"`
	Epochs abi.ChainEpoch `json:"epochs,omitempty"`
	Delay  Duration       `json:"delay,omitempty"`
}

// Faults are the switches of one provider. The first that applies wins within a kind.
type Faults []Fault

// Validate refuses kinds that do not exist and conditions that cannot hold.
func (f Faults) Validate() error {
	for i, fault := range f {
		switch {
		case !slices.Contains(kinds, fault.Kind):
			return fmt.Errorf("fault %d: no kind %q", i+1, fault.Kind)
		case fault.Probability < 0 || fault.Probability > 1:
			return fmt.Errorf("fault %d (%s): probability %v is not within 0 and 1", i+1, fault.Kind, fault.Probability)
		case fault.Nth < 0 || fault.First < 0 || fault.Bytes < 0 || fault.Delay < 0 || fault.Epochs < 0:
			return fmt.Errorf("fault %d (%s): a count is negative", i+1, fault.Kind)
		case fault.ToEpoch != 0 && fault.ToEpoch <= fault.FromEpoch:
			return fmt.Errorf("fault %d (%s): it ends before it begins", i+1, fault.Kind)
		}
	}
	return nil
}

// A Duration is text such as "70s" in JSON.
type Duration time.Duration

// MarshalJSON writes the text.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads the text.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf("a duration is a text such as \"70s\": %w", err)
	}
	parsed, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("parsing a duration: %w", err)
	}
	*d = Duration(parsed)
	return nil
}

// A board holds the switches that are on and counts their calls.
type board struct {
	mu      sync.Mutex
	faults  Faults
	calls   []int
	decided []map[string]bool
	random  *rand.Rand
	height  abi.ChainEpoch
}

func newBoard(seed uint64) *board {
	return &board{random: rand.New(rand.NewPCG(seed, 0x5350))}
}

func (b *board) set(faults Faults) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = slices.Clone(faults)
	b.calls = make([]int, len(faults))
	b.decided = make([]map[string]bool, len(faults))
	for i := range b.decided {
		b.decided[i] = make(map[string]bool)
	}
}

func (b *board) get() Faults {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.faults)
}

func (b *board) setHeight(h abi.ChainEpoch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.height = h
}

// hit tells whether a fault of that kind applies to this call.
func (b *board) hit(kind Kind) (Fault, bool) { return b.decide(kind, "") }

// hitDeal tells whether a fault of that kind applies to that deal: the same each time, while it is timely.
func (b *board) hitDeal(kind Kind, id uuid.UUID) (Fault, bool) { return b.decide(kind, id.String()) }

func (b *board) decide(kind Kind, key string) (Fault, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, f := range b.faults {
		if f.Kind != kind || !b.timely(f) {
			continue
		}
		applies, known := b.decided[i][key]
		if !known {
			b.calls[i]++
			applies = (f.Nth == 0 || b.calls[i] == f.Nth) &&
				(f.First == 0 || b.calls[i] <= f.First) &&
				(f.Probability == 0 || b.random.Float64() < f.Probability)
			if key != "" {
				b.decided[i][key] = applies
			}
		}
		if applies {
			return f, true
		}
	}
	return Fault{}, false
}

// holds tells whether a fault that is a state, not an event, is on now.
func (b *board) holds(kind Kind) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.faults {
		if f.Kind == kind && b.timely(f) {
			return true
		}
	}
	return false
}

func (b *board) timely(f Fault) bool {
	return b.height >= f.FromEpoch && (f.ToEpoch == 0 || b.height < f.ToEpoch)
}
