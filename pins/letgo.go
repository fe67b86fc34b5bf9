package pins

import (
	"container/heap"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/frostpin/frostpin/pins/heat"
)

const (
	letGoEvery = time.Minute     // how often it is looked at whether there is too much here
	letGoMost  = time.Hour       // the same after passes that have found too little that may go
	letGoApart = 5 * time.Second // until a pass after cold copies were proven: others gather
	letGoPage  = 1000            // roots that are looked at in one transaction
	maxLeaving = 50_000          // roots that one pass lets go
	maxProofs  = 64              // cold copies that one pass reads back
	proofAge   = 7 * 24 * time.Hour
)

// Why DAGs were let go, as metrics have it and as it is told.
const (
	forRoom, forRoomReason = "room", "there was no room for what is read less"
	forPin, forPinReason   = "cold_only", "it is wanted cold only"
)

// letGoing lets hot copies go whose cold copies are proven: those that are wanted cold only, and while the quota is
// nearly used up those that are worth least.
func (d *scheduler) letGoing(ctx context.Context) {
	if d.s.cfg.Archive == nil || d.s.cfg.ColdSource == nil {
		return
	}
	wait, timer := letGoEvery, time.NewTimer(letGoApart)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.proven:
			timer.Reset(letGoApart)
			continue
		case <-timer.C:
		}
		enough, err := d.letGoPass(ctx)
		if err != nil && ctx.Err() == nil {
			d.log.Error("letting hot copies go", "err", err)
		}
		if enough {
			wait = letGoEvery
		}
		timer.Reset(wait)
		if !enough {
			wait = min(2*wait, letGoMost)
		}
	}
}

// letGoPass lets go what should go now, and tells whether that was enough.
func (d *scheduler) letGoPass(ctx context.Context) (enough bool, err error) {
	if leads, err := d.s.store.leads(ctx); err != nil || !leads {
		return true, err
	}
	pass := &leaving{d: d, proofs: maxProofs}
	if err := pass.coldOnly(ctx); err != nil || d.s.cfg.HotQuota <= 0 {
		return true, err
	}
	sums, err := d.s.store.occupied(ctx)
	if err != nil {
		return false, err
	}
	used := sums[HotHeld].Bytes + sums[HotRestoring].Bytes
	quota := float64(d.s.cfg.HotQuota)
	if float64(used) <= heat.High*quota {
		return true, nil
	}
	return pass.room(ctx, used-int64(heat.Low*quota))
}

// A leaving is one pass.
type leaving struct {
	d       *scheduler
	proofs  int // that may still be asked for
	freed   int64
	highest float64 // priority of what was let go
}

// coldOnly lets go what is wanted cold only.
func (l *leaving) coldOnly(ctx context.Context) error {
	for at := int64(0); ; {
		list, next, err := l.d.s.store.coldOnly(ctx, at, letGoPage)
		if err != nil {
			return err
		}
		for _, r := range list {
			if r.ground == GroundNone && r.coldOnly {
				if _, err := l.letGo(ctx, r, forPin, forPinReason); err != nil {
					return err
				}
			}
		}
		if at = next; at == 0 {
			return nil
		}
	}
}

// room lets go what is worth least until so many bytes are freed, and tells whether they are.
func (l *leaving) room(ctx context.Context, bytes int64) (enough bool, err error) {
	l.freed = 0
	list, err := l.d.coldest(ctx, bytes)
	if err != nil {
		return false, err
	}
	defer func() {
		if l.highest > 0 {
			err = errors.Join(err, l.d.moveClock(context.WithoutCancel(ctx), l.highest))
		}
	}()
	for _, c := range list {
		if l.freed >= bytes {
			break
		}
		gone, err := l.letGo(ctx, c.resident, forRoom, forRoomReason)
		if err != nil {
			return false, err
		}
		if gone {
			l.freed += c.Bytes
			l.highest = max(l.highest, c.priority)
		}
	}
	if l.freed < bytes {
		l.d.log.Warn("the hot tier is over its quota, and what is left may not be let go", "freed", l.freed, "wanted", bytes)
	}
	return l.freed >= bytes, nil
}

// letGo lets one DAG go, if a cold copy of it can be read back.
func (l *leaving) letGo(ctx context.Context, r resident, why, reason string) (gone bool, err error) {
	readable, err := l.readable(ctx, r)
	if err != nil || !readable {
		return false, err
	}
	r, gone, err = l.d.s.store.offload(ctx, r.id, reason)
	if err != nil || !gone {
		return false, err
	}
	l.d.s.meter.letGo.WithLabelValues(why).Inc()
	if err := l.d.dropHot(ctx, r.Root); err != nil {
		l.d.log.Warn("letting the blocks of a dag go", "cid", r.CID, "err", err) // comparing finds it again
	}
	return true, nil
}

// readable tells whether a cold copy was read back lately, and tries it now when it was not.
func (l *leaving) readable(ctx context.Context, r resident) (bool, error) {
	source := l.d.s.cfg.ColdSource
	last, err := source.Proven(ctx, r.CID)
	if err != nil || l.d.s.now().Sub(last) < proofAge {
		return err == nil, err
	}
	if l.proofs == 0 {
		return false, nil
	}
	err = source.Prove(ctx, r.CID)
	if errors.Is(err, ErrUnavailable) {
		return false, nil // later
	}
	l.proofs--
	if err != nil {
		if ctx.Err() == nil {
			l.d.log.Warn("a dag stays hot because no cold copy of it could be read back", "cid", r.CID, "err", err)
		}
		return false, nil
	}
	return true, nil
}

func (d *scheduler) moveClock(ctx context.Context, highest float64) error {
	clock, err := d.s.store.clock(ctx)
	if err != nil {
		return err
	}
	return d.s.store.setClock(ctx, clock.After(highest, d.s.now()))
}

// A candidate is a resident with what it is worth.
type candidate struct {
	resident
	priority float64
}

// coldest returns residents that nothing keeps here, those first that are worth least: enough to free twice as many
// bytes, because some may turn out not to be readable.
func (d *scheduler) coldest(ctx context.Context, bytes int64) ([]candidate, error) {
	best := candidates{most: maxLeaving, enough: 2 * bytes}
	err := d.eachResident(ctx, func(r resident) {
		if d.groundOf(r) == GroundNone {
			best.offer(candidate{r, d.priority(r)})
		}
	})
	return best.sorted(), err
}

func (d *scheduler) priority(r resident) float64 {
	return r.Priority(r.Bytes, d.cost(r), r.came(), d.s.now())
}

// groundOf is what keeps a resident here, but for what only asking a provider can tell.
func (d *scheduler) groundOf(r resident) Ground {
	if r.ground == GroundNone && !r.Ripe(r.came(), d.s.now(), d.s.cfg.HotStay) {
		return GroundYoung
	}
	return r.ground
}

// eachResident reads all held roots, page by page.
func (d *scheduler) eachResident(ctx context.Context, do func(resident)) error {
	for last := int64(0); ; {
		page, err := d.s.store.residents(ctx, `r.id > ? AND r.hot = 'held' AND r.claimed_by = '' ORDER BY r.id LIMIT ?`, last, letGoPage)
		if err != nil {
			return err
		}
		for _, r := range page {
			do(r)
			last = r.id
		}
		if len(page) < letGoPage {
			return nil
		}
	}
}

// candidates keep those that are worth least, the dearest of them on top of a heap.
type candidates struct {
	most   int   // DAGs
	enough int64 // bytes; 0: no bound
	heap   []candidate
	bytes  int64
}

// offer takes c in if it is among the most DAGs that are worth least and together have enough bytes.
func (l *candidates) offer(c candidate) {
	heap.Push(l, c)
	for len(l.heap) > l.most || l.enough > 0 && l.bytes-l.heap[0].Bytes >= l.enough {
		heap.Pop(l)
	}
}

// sorted empties the heap, those worth least first.
func (l *candidates) sorted() []candidate {
	slices.SortFunc(l.heap, compareWorth)
	return l.heap
}

func compareWorth(a, b candidate) int {
	switch {
	case a.priority < b.priority:
		return -1
	case a.priority > b.priority:
		return 1
	}
	return int(a.id - b.id)
}

func (l *candidates) Len() int           { return len(l.heap) }
func (l *candidates) Less(i, j int) bool { return compareWorth(l.heap[i], l.heap[j]) > 0 }
func (l *candidates) Swap(i, j int)      { l.heap[i], l.heap[j] = l.heap[j], l.heap[i] }

// Push implements heap.Interface.
func (l *candidates) Push(x any) {
	c := x.(candidate) //nolint:forcetypeassert // only offer calls it
	l.heap, l.bytes = append(l.heap, c), l.bytes+c.Bytes
}

// Pop implements heap.Interface.
func (l *candidates) Pop() any {
	last := l.heap[len(l.heap)-1]
	l.heap, l.bytes = l.heap[:len(l.heap)-1], l.bytes-last.Bytes
	return last
}
