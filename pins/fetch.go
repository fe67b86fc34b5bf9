package pins

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// announceAtOnce bounds the announcements under way; those beyond it are left to the node's own schedule.
const (
	announceAtOnce = 16
	announceTime   = time.Minute
	connectAtOnce  = 64 // origins being dialled
	originsOfRoot  = 20
)

// startFinds looks for the root blocks of claimed roots, as many as a session takes at a time.
func (d *scheduler) startFinds(ctx context.Context, roots []Root, retry bool) {
	roots = d.startRestores(ctx, roots, retry)
	for len(roots) > 0 {
		n := min(len(roots), MaxFind)
		batch := roots[:n]
		roots = roots[n:]
		d.workers.Go(func() { d.find(ctx, batch, retry) })
	}
}

// find gives one batch its time slice. Each root that turns up becomes a job that waits for a slot; the others go
// back with a growing delay.
func (d *scheduler) find(ctx context.Context, batch []Root, retry bool) {
	waiting := make(map[string]*job, len(batch))
	keys := make([]cid.Cid, 0, len(batch))
	d.jobs.mu.Lock()
	for _, r := range batch {
		j := d.newJob(r, retry)
		j.ctx, j.cancel = context.WithDeadline(OnBehalf(ctx, r.Account), d.wantedAt(r).Add(d.s.cfg.Policy.Deadline)) //nolint:fatcontext // one for each job
		d.jobs.byRoot[r.id] = j
		waiting[r.CID.KeyString()] = j
		keys = append(keys, r.CID)
	}
	d.jobs.mu.Unlock()

	slice, cancel := context.WithTimeout(ctx, d.s.cfg.FindSlice)
	defer cancel()
	var dials sync.WaitGroup
	for _, j := range waiting {
		dials.Go(func() { d.connect(slice, j) })
	}
	err := d.findGuarded(slice, batch[0], keys, func(c cid.Cid) {
		j := waiting[c.KeyString()]
		if j == nil {
			return
		}
		delete(waiting, c.KeyString())
		d.jobs.mu.Lock()
		d.jobs.ready[j.root.Account] = append(d.jobs.ready[j.root.Account], j)
		d.jobs.mu.Unlock()
		signal(d.slots)
	})
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		err = errNotFound
	}
	cancel()
	dials.Wait()
	if ctx.Err() != nil {
		return // Run gives the claims back
	}
	d.giveUpSlice(ctx, waiting, err)
}

func (d *scheduler) newJob(r Root, retry bool) *job {
	_, urgent := d.urgent.since(r.id)
	return &job{root: r, retry: retry, urgent: urgent, release: func() {}}
}

// findGuarded is Find with a panic made an error.
func (d *scheduler) findGuarded(ctx context.Context, first Root, keys []cid.Cid, found func(cid.Cid)) (err error) {
	defer d.guard(first, &err)
	return d.s.hot.Find(ctx, keys, found)
}

// giveUpSlice sends the roots back that were not found.
func (d *scheduler) giveUpSlice(ctx context.Context, waiting map[string]*job, err error) {
	if len(waiting) == 0 {
		return
	}
	var missed []int64
	d.jobs.mu.Lock()
	for _, j := range waiting {
		missed = append(missed, j.root.id)
	}
	d.jobs.mu.Unlock()
	gaveUp := false
	moveErr := d.s.store.moveAll(ctx, missed, func(r Root) Root {
		r = d.after(r, err, 0, 0)
		gaveUp = gaveUp || r.Hot == HotGaveUp
		return r
	})
	if gaveUp {
		signal(d.garbage) // earlier slices may have fetched a part
	}
	if moveErr != nil && ctx.Err() == nil {
		d.log.Error("recording roots that were not found", "err", moveErr)
		d.offerAgain(missed)
	}
	if !errors.Is(err, ErrNoSpace) {
		d.s.meter.misses.Add(float64(len(missed)))
	}
	d.jobs.mu.Lock()
	for _, j := range waiting {
		j.cancel()
		d.jobs.finding.give(j.root.Account)
		d.jobs.forget(j)
	}
	d.jobs.mu.Unlock()
	for _, j := range waiting {
		j.release()
	}
	d.poke()
}

// connect dials the peers that requests for a root have named.
func (d *scheduler) connect(ctx context.Context, j *job) {
	defer d.guard(j.root, new(error))
	texts, err := d.s.store.origins(ctx, j.root.id)
	if err != nil || len(texts) == 0 {
		return
	}
	addrs := make([]multiaddr.Multiaddr, 0, len(texts))
	for _, t := range texts[:min(len(texts), originsOfRoot)] {
		if a, err := multiaddr.NewMultiaddr(t); err == nil {
			addrs = append(addrs, a)
		}
	}
	infos, err := peer.AddrInfosFromP2pAddrs(addrs...)
	if err != nil {
		return // one address without a peer id; they were checked when the request came in
	}
	select {
	case d.dialling <- struct{}{}:
		defer func() { <-d.dialling }()
	case <-ctx.Done():
		return
	}
	release := d.s.hot.Connect(ctx, infos)
	d.jobs.mu.Lock()
	if d.jobs.byRoot[j.root.id] == j {
		j.release, release = release, func() {}
	}
	d.jobs.mu.Unlock()
	release() // the job is over already
}

// walks starts a walk whenever a slot and a root for it are there.
func (d *scheduler) walks(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.slots:
		}
		for j := d.nextWalk(); j != nil; j = d.nextWalk() {
			d.workers.Go(func() {
				d.walk(ctx, j)
				d.s.settle(ctx, j)
				d.jobs.walked(j)
				j.cancel()
				j.release()
				signal(d.slots)
				d.poke()
			})
		}
	}
}

// walk fetches and pins one DAG and records the outcome.
func (d *scheduler) walk(ctx context.Context, j *job) {
	begun, _, err := d.s.store.move(ctx, j.root.id, true, Arrived)
	if err != nil {
		d.recordFailed(ctx, j, err)
		return
	}
	started := d.s.now()
	if begun.Hot == HotRestoring {
		err = d.restore(j)
	} else {
		err = d.carried(j) //nolint:contextcheck // the job has its own
	}
	if ctx.Err() != nil && err != nil {
		return // stopping: Run gives the claim back
	}
	if err = d.blame(err); errors.Is(err, ErrNoSpace) {
		d.failed.Store(d.s.now().UnixMilli())
		d.log.Warn("fetching a dag was stopped: there is no room", "cid", j.root.CID)
	}
	blocks, bytes := j.progress.Totals()
	after, orphans, moveErr := d.s.store.move(ctx, j.root.id, false, func(r Root) Root {
		return d.after(r, err, blocks, bytes)
	})
	d.orphaned(orphans)
	if moveErr != nil || after.Hot == HotGaveUp {
		signal(d.garbage) // what was fetched may be wanted by nothing now
	}
	if moveErr != nil {
		d.recordFailed(ctx, j, moveErr)
		return
	}
	d.s.meter.walked(after.Hot, d.s.now().Sub(started))
	switch after.Hot {
	case HotHeld:
		d.fetched.Add(1)
		d.s.meter.held(blocks, bytes)
		d.log.Info("dag held", "cid", after.CID, "blocks", blocks, "bytes", bytes)
		d.announce(ctx, after)
	case HotGaveUp:
		d.log.Info("dag given up", "cid", after.CID, "reason", after.Reason)
	case HotQueued, HotFetching, HotRestoring, HotOffloaded, HotReleasing:
		d.log.Debug("dag put off", "cid", after.CID, "reason", after.Reason, "err", err)
	}
}

// hold is HotTier.Hold with a panic made an error.
func (d *scheduler) hold(ctx context.Context, j *job) (err error) {
	defer d.guard(j.root, &err)
	if j.root.Damaged {
		if err := d.mend(ctx, j.root.CID); err != nil {
			return err
		}
	}
	limits := d.s.cfg.Limits
	limits.Offline = j.root.Uploaded // it needs no room then
	err = d.s.hot.Hold(ctx, j.root.CID, limits, &j.progress)
	if j.root.Uploaded && errors.Is(err, ErrAbsent) {
		return errIncomplete
	}
	return err
}

func (d *scheduler) recordFailed(ctx context.Context, j *job, err error) {
	if ctx.Err() != nil {
		return
	}
	if !errors.Is(err, errStale) {
		d.log.Error("recording the state of a dag", "cid", j.root.CID, "err", err)
		d.offerAgain([]int64{j.root.id}) // the next pass gives the claim back, as soon as the database takes it
	}
}

// announce tells the network about a DAG without holding anything up.
func (d *scheduler) announce(ctx context.Context, r Root) {
	select {
	case d.announcing <- struct{}{}:
	default:
		return
	}
	d.workers.Go(func() {
		defer func() { <-d.announcing }()
		ctx, cancel := context.WithTimeout(ctx, announceTime)
		defer cancel()
		if err := d.s.hot.Announce(ctx, r.CID); err != nil {
			d.log.Debug("announcing a dag", "cid", r.CID, "err", err)
		}
	})
}
