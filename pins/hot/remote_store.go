package hot

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/boxo/path"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins"
)

// Roots implements pins.HotTier. Pins of CIDv0 are not ours: we never make one (H10).
func (r *Remote) Roots(ctx context.Context, yield func(cid.Cid) error) error {
	ctx, done, err := r.life.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	// Not Pin().Ls: it panics on an error answer (H6).
	request := r.daemon.Request("pin/ls").Option("type", "recursive").Option("stream", true)
	var stop error
	err = r.daemon.patient(ctx, func(ctx context.Context) error {
		return stream(ctx, request, func(pin struct{ Cid string }) error {
			c, err := cid.Decode(pin.Cid)
			if err != nil {
				return fmt.Errorf("reading the pin %q: %w", pin.Cid, err)
			}
			if c.Version() > 0 {
				stop = yield(c)
			}
			return stop
		})
	})
	if stop != nil {
		return stop
	}
	if err != nil {
		return fmt.Errorf("listing pins: %w", err)
	}
	return nil
}

// Collect implements pins.HotTier. A daemon cannot be told what else to keep, so unfinished DAGs lose what they have
// and running Holds fetch it again. While an import is open it does nothing: the next one will.
func (r *Remote) Collect(ctx context.Context, _ []cid.Cid) (removed int64, err error) {
	ctx, done, err := r.life.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	if r.imports.Any() {
		r.log.Info("collecting is put off while data is being imported")
		return 0, nil
	}
	err = r.holder.Pause(ctx, func([]cid.Cid) error {
		var problems []error
		err := r.daemon.patient(ctx, func(ctx context.Context) error {
			request := r.daemon.Request("repo/gc").Option("stream-errors", true)
			return stream(ctx, request, func(line struct{ Error string }) error {
				if line.Error == "" {
					removed++
				} else if len(problems) < 3 { // enough to know what is wrong
					problems = append(problems, errors.New(line.Error))
				}
				return nil
			})
		})
		if err = errors.Join(append(problems, err)...); err != nil {
			return fmt.Errorf("collecting in the kubo daemon: %w", err)
		}
		return nil
	})
	return removed, err
}

// Announce implements pins.HotTier.
func (r *Remote) Announce(ctx context.Context, root cid.Cid) error {
	err := r.quick(ctx, func(ctx context.Context) error {
		return r.daemon.Routing().Provide(ctx, path.FromCid(root))
	})
	if err != nil {
		return fmt.Errorf("announcing %s: %w", root, err)
	}
	return nil
}

// Usage implements pins.HotTier.
func (r *Remote) Usage(ctx context.Context) (pins.Usage, error) {
	var out struct{ RepoSize int64 }
	err := r.quick(ctx, func(ctx context.Context) error {
		return r.daemon.Request("repo/stat").Option("size-only", true).Exec(ctx, &out)
	})
	if err != nil {
		return pins.Usage{}, fmt.Errorf("measuring the daemon's repository: %w", err)
	}
	return pins.Usage{Bytes: out.RepoSize, Free: -1}, nil
}
