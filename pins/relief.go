package pins

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// DAGs that are fetched at the same time can together need more room than there is, although each of them would fit. Then
// all wait for room, and none for anything that ends: what has come of each is kept, because it is wanted. So when nothing
// moves the oldest goes on alone while that is allowed, and else the younger ones give up what has come of them. What was
// held before gives nothing up: cold copies or a damaged hot one are what is left of it.

// A shortage is what is seen of a want of room.
type shortage struct {
	room        Room
	failed      bool  // a walk has found none lately, whatever room says
	walking     int   // walks that run
	held        int64 // DAGs that became held after a walk, so far
	collections int64 // that have ended so far
}

// A measure is what is done about it.
type measure int

const (
	measureNone    measure = iota
	measureCollect         // see first what is garbage
	measureResume          // let the oldest go on alone
	measureDrop            // let the younger half go
)

const (
	reliefAfter  = 5 * time.Second // without anything that moves
	reliefDoubts = time.Minute     // the same where only walks say that there is no room
	failedFor    = 2 * spaceRetry  // how long the word of a walk counts
)

// A relief remembers what was seen and done. The zero value is ready.
type relief struct {
	since   time.Time // from when nothing has moved; zero: something does
	held    int64
	asked   bool  // for a collection
	before  int64 // collections when it was asked for
	resumed bool  // the oldest had its turn, and nothing was held since
}

// next is what to do now. It is asked again and again.
func (r *relief) next(s shortage, now time.Time) measure {
	if s.room == RoomPlenty && !s.failed || s.held != r.held {
		*r = relief{held: s.held}
		return measureNone
	}
	patience := reliefAfter
	if s.room == RoomPlenty {
		patience = reliefDoubts // walks that start again all the time tell nothing
	} else if s.walking > 0 {
		r.since, r.asked = time.Time{}, false
		return measureNone
	}
	if r.since.IsZero() {
		r.since = now
	}
	switch {
	case now.Sub(r.since) < patience:
		return measureNone
	case s.room == RoomScarce && !r.resumed:
		r.since, r.resumed = time.Time{}, true
		return measureResume
	case !r.asked:
		r.asked, r.before = true, s.collections
		return measureCollect
	case s.collections == r.before:
		return measureNone
	}
	*r = relief{held: s.held}
	return measureDrop
}

// relieve does what a look at the room asks for.
// Where the blocks are on another's disk it does nothing: letting go of what is there would make no room here.
func (d *scheduler) relieve(ctx context.Context, r *relief, room Room) {
	if !d.s.cfg.Exclusive {
		return
	}
	_, walking := d.jobs.sizes()
	now := d.s.now()
	s := shortage{room, now.Sub(time.UnixMilli(d.failed.Load())) < failedFor, walking, d.fetched.Load(), d.s.meter.collections.Load()}
	var err error
	switch r.next(s, now) {
	case measureNone:
	case measureCollect:
		var some bool
		if some, err = d.unfinished(ctx); some {
			signal(d.garbage)
		} else {
			*r = relief{held: r.held} // what takes the room is held, and a collection finds nothing
		}
	case measureResume:
		var resumed bool
		if resumed, err = d.resumeOldest(ctx); !resumed {
			*r = relief{held: r.held} // nobody has had a turn alone, so nothing is let go
		}
	case measureDrop:
		var dropped int
		if dropped, err = d.dropYounger(ctx, room); dropped > 0 {
			signal(d.garbage)
		}
	}
	if err != nil && ctx.Err() == nil {
		d.log.Error("making room for dags that wait for each other", "err", err)
	}
}

// unfinished tells whether anything is here in part that may be let go.
func (d *scheduler) unfinished(ctx context.Context) (bool, error) {
	parts, err := d.s.store.parts(ctx)
	return slices.ContainsFunc(parts, func(p part) bool { return p.free && !p.kept }), err
}

// resumeOldest lets the oldest DAG that is here in part go on although there is little room, and before it is due again.
func (d *scheduler) resumeOldest(ctx context.Context) (resumed bool, err error) {
	parts, err := d.s.store.parts(ctx)
	if err != nil {
		return false, err
	}
	for _, p := range parts {
		if !p.free {
			continue
		}
		roots, err := d.s.store.claimPart(ctx, p.id)
		if err != nil || len(roots) == 0 {
			return false, err
		}
		d.jobs.mu.Lock()
		d.jobs.alone = p.id
		d.jobs.finding.take(roots[0].Account, 1)
		d.jobs.mu.Unlock()
		d.log.Info("fetching the oldest unfinished dag alone: there is little room", "cid", roots[0].CID)
		d.startFinds(ctx, roots, true)
		return true, nil
	}
	return false, nil
}

// dropYounger gives up what has come of the younger half of the DAGs that are here in part, never of the oldest; and of
// that only when it is the last one, because it has no room even alone. Their pins stay queued.
func (d *scheduler) dropYounger(ctx context.Context, room Room) (dropped int, err error) {
	parts, err := d.s.store.parts(ctx)
	if err != nil || len(parts) == 0 {
		return 0, err
	}
	var younger []int64
	for _, p := range parts[1:] {
		if p.free && !p.kept {
			younger = append(younger, p.id)
		}
	}
	drop := func(r Root) Root {
		return Dropped(r, "what had come of it was let go to make room for what was asked for earlier", dropFirst, d.s.now())
	}
	if len(younger) > 0 {
		younger = younger[len(younger)/2:]
	} else if last := parts[0]; last.free && !last.kept && !slices.ContainsFunc(parts[1:], func(p part) bool { return !p.kept }) {
		younger = []int64{last.id}
		drop = func(r Root) Root {
			reason := "what had come of it was let go to make room for others"
			if room != RoomScarce {
				reason = fmt.Sprintf("there was no room on the disk for all of it: %d bytes had come", r.Bytes)
			}
			return Dropped(r, reason, dropLast, d.s.now())
		}
	}
	dropped, err = d.s.store.drop(ctx, younger, drop)
	if dropped > 0 {
		d.log.Warn("unfinished dags were let go, to be fetched again later: none had room to go on", "dags", dropped, "left", len(parts)-dropped)
	}
	return dropped, err
}
