package pins

import (
	"context"
	"errors"
	"slices"

	"github.com/ipfs/go-cid"
)

// errDamaged ends a verification at the first block that is missing or wrong.
var errDamaged = errors.New("a block is missing or wrong")

func unpaced(context.Context, int) error { return nil }

// startRestores puts claimed roots that cold copies hold, or that were uploaded, into the line for a slot, without looking
// for them on the network first, and returns the others.
func (d *scheduler) startRestores(ctx context.Context, roots []Root, retry bool) (others []Root) {
	others = slices.DeleteFunc(slices.Clone(roots), Root.inNoNeedOfPeers)
	if len(others) == len(roots) {
		return roots
	}
	d.jobs.mu.Lock()
	for _, r := range roots {
		if !r.inNoNeedOfPeers() {
			continue
		}
		j := d.newJob(r, retry)
		j.ctx, j.cancel = context.WithCancel(OnBehalf(ctx, r.Account)) //nolint:fatcontext // one for each job
		d.jobs.byRoot[r.id] = j
		d.jobs.ready[r.Account] = append(d.jobs.ready[r.Account], j)
	}
	d.jobs.mu.Unlock()
	signal(d.slots)
	return others
}

// inNoNeedOfPeers tells whether the root block is not looked for on the network.
func (r Root) inNoNeedOfPeers() bool { return r.Hot == HotRestoring || r.Uploaded }

// restore brings a DAG back from its cold copies and holds it. What a copy leaves out is asked for on the network.
func (d *scheduler) restore(j *job) (err error) {
	defer d.guard(j.root, &err)
	if j.root.Uploaded {
		return d.hold(j.ctx, j)
	}
	// What was let go may not have been collected yet. Hashed, because a damaged DAG may still have its pin.
	switch err := d.s.hot.Verify(j.ctx, j.root.CID, unpaced, func(cid.Cid, error) error { return errDamaged }); {
	case err == nil:
		return d.s.hot.Hold(j.ctx, j.root.CID, d.s.cfg.Limits, &j.progress)
	case !errors.Is(err, errDamaged):
		return err
	}
	if d.s.cfg.ColdSource == nil {
		return errNoCopy
	}
	switch err := d.s.cfg.ColdSource.Restore(j.ctx, j.root.CID, d.s.cfg.Limits, &j.progress); {
	case errors.Is(err, ErrAbsent):
		return errNoCopy
	case err != nil:
		return err
	}
	j.progress.Reset()
	d.s.meter.restores.Inc()
	return d.s.hot.Hold(j.ctx, j.root.CID, d.s.cfg.Limits, &j.progress)
}
