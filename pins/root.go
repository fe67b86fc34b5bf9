package pins

import (
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/spec"
)

// Hot is what is known about a DAG on the hot tier.
type Hot string

const (
	HotQueued    Hot = "queued"    // wanted, root block not here; the scheduler moves it on
	HotFetching  Hot = "fetching"  // root block here, rest coming; the scheduler moves it on
	HotHeld      Hot = "held"      // whole, verified, pinned; final while it is wanted
	HotGaveUp    Hot = "gave_up"   // refused or past the deadline; a new request moves it on
	HotReleasing Hot = "releasing" // no longer wanted; the scheduler deletes the row
	HotOffloaded Hot = "offloaded" // let go while proven deals hold it whole; a read, a request or a deal moves it on
	HotRestoring Hot = "restoring" // wanted here and not whole, cold copies exist; the scheduler moves it on
)

// Hots lists every state, in the order in which a DAG passes through them.
func Hots() []Hot {
	return []Hot{HotQueued, HotFetching, HotHeld, HotOffloaded, HotRestoring, HotGaveUp, HotReleasing}
}

// waits tells whether the scheduler may take a root in this state into work.
func (h Hot) waits() bool { return h == HotQueued || h == HotFetching || h == HotRestoring }

// readsCold tells whether a root in this state is kept by its cold copies, which then give its pins their status.
func (h Hot) readsCold() bool { return h == HotOffloaded || h == HotRestoring }

// A DAG is what is known about the blocks below one root.
type DAG struct {
	Hot      Hot
	Attempts int       // time slices that ended without the DAG
	NextAt   time.Time // when to look again
	Blocks   int64     // distinct blocks walked so far; all of them once held
	Bytes    int64     // sum of their sizes
	Reason   string    // why it waits or failed, in words for the user; empty when there is nothing to say
}

// unwanted tells whether a DAG that pins name is not to be on the hot tier: it was let go or given up, or its content was
// blocked. What was held once and could not be mended would be pinned for ever else, and hold up every collection. A block
// that was taken back leaves it so until somebody asks for it.
func (d DAG) unwanted() bool { return d.Hot == HotOffloaded || d.Hot == HotGaveUp }

// short tells whether a DAG was given up because those who want it cannot have it. Its reason may be that of one of them.
func (d DAG) short() bool {
	return d.Hot == HotGaveUp && (strings.HasPrefix(d.Reason, spec.ReasonQuotaExceeded) || strings.HasPrefix(d.Reason, spec.ReasonInsufficientFunds))
}

// A Root is a DAG that at least one pin wants, or wanted. What happens to a DAG happens once, here.
type Root struct {
	id       int64
	CID      cid.Cid   // canonical
	Account  Account   // whose share of the scheduler it uses: the account that asked last
	WantedAt time.Time // the deadline runs from here
	Lost     bool      // it was held, and its hot copy was lost: who has paid for it does not have to pay in advance again
	Damaged  bool      // blocks of it were found wrong, and it has not been verified since
	Uploaded bool      // all of it came with an upload and may be nowhere else; only while it waits

	// Known only where a transition asks for it.
	Cold       bool // proven cold copies exist
	UploadHeld bool // an upload holds it, whose pin may be about to come

	// Known only to the transition that gives it up: what each account is told, where that is not Reason for all.
	refusals *map[Account]string
	DAG
}
