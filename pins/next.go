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

// Wanted is the root after a request for it by account. A DAG that was given up gets a new chance, and one that waits
// out a long back-off is looked at now.
func Wanted(r Root, account Account, now time.Time) Root {
	switch r.Hot {
	case HotHeld:
		return r
	case HotGaveUp, HotReleasing:
		r.Hot, r.Attempts, r.Reason, r.Blocks, r.Bytes = HotQueued, 0, "", 0, 0
		r.WantedAt = now
	case HotQueued, HotFetching:
		// The newest request is owed the whole deadline, and no back-off that older ones have earned.
		r.WantedAt, r.Attempts = now, 0
	}
	r.Account, r.NextAt = account, now
	return r
}

// Unwanted is the root after its last reference has gone.
func Unwanted(r Root, now time.Time) Root {
	r.Hot, r.Reason, r.Attempts, r.NextAt = HotReleasing, "", 0, now
	return r
}

// Lost is a held root whose hot copy was found missing.
func Lost(r Root, now time.Time) Root {
	r.Hot, r.Attempts, r.WantedAt, r.NextAt = HotQueued, 0, now, now
	r.Reason = "the hot copy was lost and is being fetched again"
	return r
}

// Arrived is a root whose root block is here.
func Arrived(r Root) Root {
	r.Hot, r.Reason = HotFetching, ""
	return r
}

// errNotFound is the outcome of a time slice in which nobody had the root block.
var errNotFound = errors.New("nobody offered the root block")

// After is the root after a time slice that ended with err; nil means that the DAG is held. blocks and bytes are what
// the walk has counted.
func After(r Root, err error, blocks, bytes int64, p Policy, now time.Time) Root {
	var refused *Refused
	switch {
	case err == nil:
		r.Hot, r.Attempts, r.Reason = HotHeld, 0, ""
		r.Blocks, r.Bytes = blocks, bytes
		return r
	case errors.As(err, &refused):
		r.Hot, r.Reason = HotGaveUp, refused.Reason
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
	if now.Sub(r.WantedAt) >= p.Deadline {
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
