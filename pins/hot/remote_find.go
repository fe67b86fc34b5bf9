package hot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ipfs/boxo/path"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot/hold"
)

// How the roots of all Finds share the daemon. The first look at a root is short and has slots of its own, so that
// what is new and near is found however many are waited for. Later looks are long enough to search a DHT.
const (
	findSlots = 64
	firstTurn = 2 * time.Second
	laterTurn = 20 * time.Second
)

// Find implements pins.HotTier. A root that can never be held counts as found: Hold says why. Over RPC there is no session that asks for many roots at once: every root that is
// looked for takes a request, and a bounded number of requests goes round. With more roots than slots one that
// becomes available is noticed when its turn comes.
func (r *Remote) Find(ctx context.Context, roots []cid.Cid, found func(cid.Cid)) error {
	ctx, done, err := r.life.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if len(roots) > pins.MaxFind {
		return errTooMany
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	arrived := make(chan cid.Cid)
	looking := 0
	for _, root := range roots {
		if _, inline := hold.Identity(root); inline || hold.Admit(root) != nil {
			found(root)
			continue
		}
		looking++
		go func() {
			if err := pins.Safely(func() error { return r.look(ctx, root) }); err != nil {
				cancel(err)
				root = cid.Undef
			}
			arrived <- root
		}()
	}
	for range looking { // also after an error: none may be left behind
		if root := <-arrived; root.Defined() {
			found(root)
		}
	}
	return context.Cause(ctx)
}

// look returns nil when the daemon has the block.
func (r *Remote) look(ctx context.Context, root cid.Cid) error {
	stat := func(ctx context.Context) error {
		_, err := r.daemon.Block().Stat(ctx, path.FromCid(root))
		return err
	}
	err := r.first.do(ctx, func(ctx context.Context) error {
		inner, cancel := context.WithTimeoutCause(ctx, firstTurn, errTurnOver)
		defer cancel()
		err := because(inner, stat(inner))
		if errors.Is(err, errTurnOver) && ctx.Err() == nil {
			return errSecondLook
		}
		return err
	})
	for err != nil {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, pins.ErrUnavailable):
			return fmt.Errorf("looking for %s: %w", root, err)
		case !errors.Is(err, errSecondLook):
			// What the daemon says of one root must not end the search for the others.
			r.log.Debug("could not look for a root", "cid", root, "err", err)
			if err := sleep(ctx, laterTurn); err != nil {
				return err
			}
		}
		err = r.later.do(ctx, func(ctx context.Context) error { return r.daemon.patient(ctx, stat) })
	}
	return nil
}

// errSecondLook says that a root is not near.
var errSecondLook = errors.New("not found at first sight")
