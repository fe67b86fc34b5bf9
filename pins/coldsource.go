package pins

import (
	"context"
	"time"

	"github.com/ipfs/go-cid"
)

// A ColdSource reads cold copies back. All methods may be called concurrently and return when ctx ends.
type ColdSource interface {
	// Restore stores every block below root that is not on the hot tier, read from cold copies, and counts into p. What
	// it has stored may be collected until the DAG is held. Errors: ErrAbsent (there is no copy to read from), *Refused
	// (over lim). Others are transient.
	Restore(ctx context.Context, root cid.Cid, lim Limits, p *Progress) error

	// Prove reads a cold copy back now and records that it could be read. Errors: ErrAbsent (there is none),
	// ErrUnavailable (no provider may be asked now, so that nothing is known).
	Prove(ctx context.Context, root cid.Cid) error

	// Proven tells when Prove last succeeded, zero when never.
	Proven(ctx context.Context, root cid.Cid) (time.Time, error)

	// FirstByte tells how long a provider takes to begin an answer, by what is known; zero when nothing is. It never waits.
	FirstByte(provider string) time.Duration
}
