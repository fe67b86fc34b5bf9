package pins

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// A Policy says how long and how often the service tries.
type Policy struct {
	Deadline   time.Duration // after this long without the DAG its pins have failed
	RetryFirst time.Duration // wait after the first slice that failed; it doubles with each
	RetryMax   time.Duration // and grows no further
}

// Wanted is the root after a request for it by account. A DAG that was given up gets a new chance, one that waits out a
// long back-off is looked at now, and one that was let go is brought back.
//
// Each request changes WantedAt, also two in one millisecond: who refuses the DAG sees by that whether all were asked.
func Wanted(r Root, account Account, now time.Time) Root {
	wantedAt := now
	if now.UnixMilli() == r.WantedAt.UnixMilli() {
		wantedAt = now.Add(time.Millisecond)
	}
	switch r.Hot {
	case HotHeld:
		return r
	case HotGaveUp, HotReleasing:
		r.Hot, r.Attempts, r.Reason, r.Blocks, r.Bytes, r.Lost = HotQueued, 0, "", 0, 0, false
		r.WantedAt = wantedAt
		if r.Cold {
			r.Hot = HotRestoring
		}
	case HotOffloaded:
		r = BroughtBack(r, "it was asked for again", now)
	case HotQueued, HotFetching, HotRestoring:
		// The newest request is owed the whole deadline, and no back-off that older ones have earned.
		r.WantedAt, r.Attempts = wantedAt, 0
	}
	r.Account, r.NextAt = account, now
	return r
}

// Unwanted is the root after its last reference has gone.
func Unwanted(r Root, now time.Time) Root {
	r.Hot, r.Reason, r.Attempts, r.NextAt = HotReleasing, "", 0, now
	return r
}

// Lapsed is a root that was released while pins still name it: those that were let go because they were not paid for.
func Lapsed(r Root, now time.Time) Root {
	r.Hot, r.Reason, r.Attempts, r.NextAt = HotGaveUp, lapsedReason, 0, now
	return r
}

// Lost is a root whose hot copy was found missing or damaged. With cold copies it is restored from them.
func Lost(r Root, now time.Time) Root {
	r.Lost = true
	if r.Cold {
		return BroughtBack(r, "the hot copy was lost and is being restored from Filecoin", now)
	}
	r.Hot, r.Attempts, r.WantedAt, r.NextAt = HotQueued, 0, now, now
	r.Reason = "the hot copy was lost and is being fetched again"
	return r
}

// BroughtBack is a root that shall be here again and that cold copies hold. Where none of them can be read it is looked for
// as what was lost.
func BroughtBack(r Root, reason string, now time.Time) Root {
	r.Lost = r.Lost || r.Hot == HotOffloaded
	r.Hot, r.Attempts, r.WantedAt, r.NextAt, r.Reason = HotRestoring, 0, now, now, reason
	r.Blocks, r.Bytes = 0, 0
	return r
}

// LetGo is a held root whose hot copy is given up for its cold copies. What is known of its size stays known.
func LetGo(r Root, reason string, now time.Time) Root {
	r.Hot, r.Attempts, r.NextAt, r.Reason = HotOffloaded, 0, now, reason
	return r
}

// Dropped is a root whose blocks here are let go before all have come, so that others have room. It waits the longer the
// more often that happens, and the time is none in which it was tried.
func Dropped(r Root, reason string, first time.Duration, now time.Time) Root {
	r.Hot, r.Blocks, r.Bytes, r.Reason = HotQueued, 0, 0, reason
	r.Attempts++
	r.NextAt = now.Add(backoff(r.Attempts, first, dropMax))
	r.WantedAt = r.NextAt
	return r
}

// How long a root waits that was dropped: one that had to make room for others, and one that had no room alone.
const (
	dropFirst = time.Minute
	dropLast  = time.Hour
	dropMax   = 24 * time.Hour
)

// GivenUp is a root that is not looked for any more, and not kept if it was.
func GivenUp(r Root, reason string) Root {
	r.Hot, r.Attempts, r.Reason = HotGaveUp, 0, reason
	return r
}

// Arrived is a root whose root block is here. One that is being restored stays so: it counts as kept meanwhile.
func Arrived(r Root) Root {
	if r.Hot != HotRestoring {
		r.Hot, r.Reason = HotFetching, ""
	}
	return r
}

// errNoCopy is the outcome of a restore that has found no cold copy to read.
var errNoCopy = errors.New("no cold copy can be read")

// errAwaited is the outcome of a walk after which somebody may have asked for the DAG, or be about to, who was not asked
// whether the account can have it.
var errAwaited = errors.New("it was asked for meanwhile")

// errNotFound is the outcome of a time slice in which nobody had the root block.
var errNotFound = errors.New("nobody offered the root block")

// errIncomplete is the outcome of a walk over what was uploaded that does not find all of it here.
var errIncomplete = errors.New("not all that was uploaded is here")

// After is the root after a time slice that ended with err; nil means that the DAG is held. blocks and bytes are what
// the walk has counted. A root that is being restored has no deadline, because its data exists.
func After(r Root, err error, blocks, bytes int64, p Policy, now time.Time) Root {
	var refused *Refused
	switch {
	case errors.Is(err, ErrNoSpace):
		// Nothing is known about the content, and the time without room is none in which it was tried.
		r.Reason = "there was no room on the disk"
		r.NextAt, r.Attempts = now.Add(spaceRetry), max(1, r.Attempts)
		r.WantedAt = r.NextAt
		if blocks > r.Blocks {
			r.Blocks, r.Bytes = blocks, bytes
		}
		return r
	case errors.Is(err, ErrUndecided):
		r.Reason = "what this account may have is not known now; it is tried again"
		r.NextAt, r.Attempts = now.Add(undecidedRetry), max(1, r.Attempts)
		r.WantedAt = r.NextAt
		return r
	case err == nil:
		r.Hot, r.Attempts, r.Reason, r.Lost = HotHeld, 0, "", false
		r.Blocks, r.Bytes = blocks, bytes
		return r
	case errors.As(err, &refused):
		r.Hot, r.Reason = HotGaveUp, refused.Reason
		return r
	case errors.Is(err, errAwaited):
		// It stays as it is, so that a collection keeps what an upload has brought.
		r.Reason, r.NextAt = "", now
		if r.UploadHeld { // and nobody has asked yet
			r.Attempts++
			r.NextAt = now.Add(backoff(r.Attempts, p.RetryFirst, nodeRetry))
		}
		return r
	case errors.Is(err, errIncomplete):
		// From now on it is fetched like any other.
		r.Uploaded, r.NextAt = false, now
		return r
	case errors.Is(err, context.Canceled):
		// Nobody failed: its last pin went and a new one came while it was being worked on.
		r.Reason, r.NextAt = "", now
		return r
	case errors.Is(err, errNotFound), errors.Is(err, ErrAbsent):
		r.Reason = "nobody offers the root block"
	case errors.Is(err, ErrStalled):
		r.Reason = fmt.Sprintf("no new block for a while after %d blocks", blocks)
	case errors.Is(err, ErrUnavailable):
		r.Reason = "the storage node does not answer"
	case errors.Is(err, context.DeadlineExceeded):
		r.Reason = "time ran out"
	default:
		r.Reason = "fetching was interrupted"
	}
	if blocks > r.Blocks {
		r.Blocks, r.Bytes = blocks, bytes
	}
	if r.Hot == HotRestoring {
		if errors.Is(err, errNoCopy) {
			// What the chain has proven nobody gives out: look for it where others may have it.
			r.Hot, r.Attempts, r.WantedAt, r.NextAt = HotQueued, 0, now, now
			r.Reason = "no cold copy can be read; looking for it on the network"
			return r
		}
		r.Reason = "restoring from Filecoin: " + r.Reason
	} else if now.Sub(r.WantedAt) >= p.Deadline {
		if r.Cold {
			return BroughtBack(r, "nobody on the network has it; restoring it from Filecoin", now)
		}
		r.Hot = HotGaveUp
		r.Reason = fmt.Sprintf("%s within %s", r.Reason, p.Deadline)
		return r
	}
	r.Attempts++
	limit := p.RetryMax
	if errors.Is(err, ErrUnavailable) {
		limit = min(limit, nodeRetry) // the node itself was away: nothing is known about the content
	}
	r.NextAt = now.Add(backoff(r.Attempts, p.RetryFirst, limit))
	return r
}

// undecidedRetry is how long a root waits whose accounts may have nobody knows what. Somebody has to see to that.
const undecidedRetry = 10 * time.Minute

// spaceRetry is how long a root waits that found no room. What shows that there is some again may be slower.
const spaceRetry = 10 * time.Second

// nodeRetry bounds the back-off while the hot tier does not answer.
const nodeRetry = 30 * time.Second

// backoff returns how long a root waits after its n-th failed slice, with up to a fifth of jitter so that roots which
// failed together do not come back together.
func backoff(n int, first, limit time.Duration) time.Duration {
	d := min(first, limit)
	for i := 1; i < n && d < limit; i++ {
		d = min(2*d, limit)
	}
	return d - time.Duration(rand.Int64N(int64(d)/5+1)) //nolint:gosec // jitter, not a secret
}
