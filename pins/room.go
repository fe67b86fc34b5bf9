package pins

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Room tells how much may still be stored.
type Room int

const (
	RoomPlenty Room = iota // everything goes on
	RoomScarce             // fetched is only what makes room, what was uploaded, what is being fetched, and if nothing is the oldest that was
	RoomNone               // nothing is fetched
)

// roomEvery is how often the scheduler looks whether there is room.
const roomEvery = time.Second

func (s *Service) room() Room {
	if s.cfg.Room == nil {
		return RoomPlenty
	}
	return s.cfg.Room()
}

// room is how much there is now, and remembers when there was little.
func (d *scheduler) room() Room {
	now := d.s.room()
	if now != RoomPlenty {
		d.scarce.Store(d.s.now().UnixMilli())
	}
	if now == RoomNone {
		d.full.Store(d.s.now().UnixMilli())
	}
	return now
}

// rooms follows how much room there is: what cannot go on gives its claim back, and goes on once there is room.
func (d *scheduler) rooms(ctx context.Context) {
	var r relief
	if d.s.cfg.Room == nil {
		every(ctx, roomEvery, func(ctx context.Context) { d.relieve(ctx, &r, RoomPlenty) })
		return
	}
	before := RoomPlenty
	every(ctx, roomEvery, func(ctx context.Context) {
		now := d.room()
		switch {
		case now == RoomPlenty && before != RoomPlenty:
			d.poke()
		case now == RoomPlenty:
		default:
			d.putOff(ctx, now == RoomNone)
			if now == RoomNone {
				d.jobs.stop()
			}
		}
		before = now
		signal(d.slots) // room may have been little for a moment that only those saw who wait for a slot
		d.relieve(ctx, &r, now)
	})
}

// nextWalk is the job that should be walked next, if any may.
func (d *scheduler) nextWalk() *job {
	room := d.room()
	if room == RoomNone {
		return nil
	}
	return d.jobs.nextReady(room == RoomScarce)
}

// putOff gives roots back that wait for a slot: all, or those that do not go on with little room.
func (d *scheduler) putOff(ctx context.Context, all bool) {
	waiting := d.jobs.takeReady(all)
	if len(waiting) > 0 {
		d.giveUpSlice(ctx, waiting, ErrNoSpace)
	}
}

// giveOffered gives back the places of roots that are not looked for, and returns the roots.
func (d *scheduler) giveOffered(offered []Root) (returned []int64) {
	d.jobs.mu.Lock()
	defer d.jobs.mu.Unlock()
	for _, r := range offered {
		d.jobs.finding.give(r.Account)
		returned = append(returned, r.id)
	}
	return returned
}

// takeReady takes the jobs that wait for a slot, by the key of their roots: all, or those that do not go on with little room.
func (j *jobs) takeReady(all bool) map[string]*job {
	j.mu.Lock()
	defer j.mu.Unlock()
	taken := make(map[string]*job)
	for account, list := range j.ready {
		var stay []*job
		for _, waiting := range list {
			if !all && j.needsNoRoom(waiting) {
				stay = append(stay, waiting)
				continue
			}
			taken[waiting.root.CID.KeyString()] = waiting
		}
		if j.ready[account] = stay; len(stay) == 0 {
			delete(j.ready, account)
		}
	}
	return taken
}

// needsNoRoom tells whether a job goes on while there is little room. j.mu is held.
func (j *jobs) needsNoRoom(waiting *job) bool {
	return waiting.urgent || waiting.root.Uploaded || waiting.root.id == j.alone
}

// stop cancels every walk. Looking for root blocks ends by itself.
func (j *jobs) stop() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, running := range j.byRoot {
		if running.walking {
			running.cancel()
		}
	}
}

// blame makes what a walk failed with the want of room where there was none: what was cancelled for it, and whatever
// else a node says that cannot write.
func (d *scheduler) blame(err error) error {
	var refused *Refused
	if err == nil || errors.Is(err, ErrNoSpace) || errors.As(err, &refused) || d.room() != RoomNone {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNoSpace, err)
}

// wantedAt is from when the deadline of a root runs: while there was no room nobody tried.
func (d *scheduler) wantedAt(r Root) time.Time {
	nobody := time.UnixMilli(d.scarce.Load())
	if since, urgent := d.urgent.since(r.id); urgent { // it is tried with little room, too
		nobody = time.UnixMilli(max(since.UnixMilli(), d.full.Load()))
	}
	if nobody.After(r.WantedAt) {
		return nobody
	}
	return r.WantedAt
}

// after is After, with the deadline as it is for this process. What nobody can have who was asked is given up only if
// all were.
func (d *scheduler) after(r Root, err error, blocks, bytes int64) Root {
	if short, ok := errors.AsType[*shortfall](err); ok {
		wanted := !r.WantedAt.Equal(short.wantedAt)
		if wanted || short.kept || r.UploadHeld {
			err, r.UploadHeld = errAwaited, !wanted
		} else {
			r.refusals = short.refusals()
		}
	}
	r.WantedAt = d.wantedAt(r)
	return After(r, err, blocks, bytes, d.s.cfg.Policy, d.s.now())
}
