package retrieval

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
)

// A lane is one provider that has been asked for everything below a block: as a CAR, or for the root's own bytes of the
// piece. It belongs to the goroutine that runs the transfer.
type lane struct {
	from  Source
	piece bool
	at    step
	stop  context.CancelFunc
	heard time.Time // when it brought its last block, or was asked
	met   []string  // the blocks that were taken from it
}

// name is what a transfer remembers it by.
func (l *lane) name() string {
	if l.piece {
		return l.from.Provider + " piece"
	}
	return l.from.Provider
}

// An arrival is the next verified block of a lane, or its end.
type arrival struct {
	lane  *lane
	step  step
	data  []byte
	ended bool
	err   error // why it ended before all had come
}

// lanesTo lists who may be asked for everything below a block, best first: for a CAR, and in case they index nothing for
// the root's bytes of the piece.
func (j *job) lanesTo(ctx context.Context, at step) ([]*lane, error) {
	sources, err := j.s.holders(ctx, j.root)
	if err != nil {
		return nil, fmt.Errorf("looking for copies of %s: %w", j.root, err)
	}
	var list []*lane
	for _, from := range sources {
		if l := (&lane{from: from, at: at}); !j.useless[l.name()] {
			list = append(list, l)
		}
	}
	if !at.cid.Equals(j.root) {
		return list, nil
	}
	return append(list, j.piecesOf(sources)...), nil
}

// piecesOf lists those who may be asked for the root's bytes of the piece.
func (j *job) piecesOf(sources []Source) (list []*lane) {
	for _, from := range sources {
		l := &lane{from: from, piece: true, at: step{j.root, 0}}
		if from.Piece.Defined() && from.Length > 0 && !j.useless[l.name()] {
			list = append(list, l)
		}
	}
	return list
}

// launch asks a provider. What it brings goes to j.arrivals until it is called back or ctx ends.
func (j *job) launch(ctx context.Context, l *lane) {
	life, stop := context.WithCancel(ctx)
	l.stop, l.heard = stop, j.s.now()
	j.flying = append(j.flying, l)
	j.lanes.Go(func() {
		err := safely(func() error { return j.carry(life, l) })
		select {
		case j.arrivals <- arrival{lane: l, ended: true, err: err}:
		case <-life.Done():
		}
	})
}

// carry brings what one provider gives, in the order of the walk, while life lasts.
func (j *job) carry(life context.Context, l *lane) error {
	ctx, cancel := context.WithCancelCause(life)
	defer cancel(nil)
	watchdog := time.AfterFunc(j.s.cfg.Idle+j.s.cfg.Header, func() { cancel(errNoProgress) })
	defer watchdog.Stop()
	begun := j.s.now()
	var body io.ReadCloser
	var err error
	if l.piece {
		body, err = j.s.openPiece(ctx, l.from)
	} else {
		body, err = j.s.openCAR(ctx, l.from, l.at.cid)
	}
	if err != nil {
		return err
	}
	defer body.Close()
	first := j.s.now().Sub(begun)
	err = follow(streamReader{body}, l.at, j.s.cfg.BlockSize, j.budget.Blocks, j.s.parts.Codec, func(c cid.Cid, data []byte, depth int) error {
		watchdog.Stop() // what it waits for now is not the provider's
		defer watchdog.Reset(j.s.cfg.Idle)
		if first >= 0 { // whoever only promises has served nothing
			j.s.ranks.served(l.from.Provider, first)
			first = -1
		}
		select {
		case j.arrivals <- arrival{lane: l, step: step{c, depth}, data: data}:
			return nil
		case <-life.Done():
			return context.Cause(life)
		}
	})
	if errors.Is(err, errStream) {
		err = broken(ctx, err)
	}
	return err
}

// callBack ends all lanes but one, which have not failed: another was there first.
func (j *job) callBack(but *lane) {
	for _, l := range j.flying {
		if l == but {
			continue
		}
		l.stop()
		if len(l.met) == 0 {
			j.s.ranks.outrun(l.from.Provider, j.s.now().Sub(l.heard))
		}
	}
	j.flying = slices.DeleteFunc(j.flying, func(l *lane) bool { return l != but })
}

// flies tells whether a provider has been asked and may still bring something.
func (j *job) flies(provider string) bool {
	return slices.ContainsFunc(j.flying, func(l *lane) bool { return l.from.Provider == provider })
}

// await waits for the next arrival, or returns false when something else comes first: a moment, or a rival's end.
func (j *job) await(ctx context.Context, moment <-chan time.Time, rival <-chan struct{}) (arrival, bool, error) {
	for {
		select {
		case a := <-j.arrivals:
			if slices.Contains(j.flying, a.lane) { // else it has been called back
				return a, true, nil
			}
		case <-moment:
			return arrival{}, false, nil
		case <-rival:
			return arrival{}, false, nil
		case <-ctx.Done():
			return arrival{}, false, context.Cause(ctx)
		}
	}
}

// race asks one after the other, the next when one has failed or is slow, beside those that fly already. The first that
// brings a block goes on alone. rival, which may be nil, is closed when what is wanted has come in another way.
//
// whole: all below the block has come. again: some of it has, or may have; who brought it may fly still. An error is one
// that no other provider could mend.
func (j *job) race(ctx context.Context, at step, next []*lane, rival <-chan struct{}) (whole, again bool, err error) {
	hedge := time.NewTimer(0) // who flies already is slow
	defer hedge.Stop()
	start := func() bool {
		i := slices.IndexFunc(next, func(l *lane) bool { return !j.flies(l.from.Provider) })
		if i < 0 || len(j.flying) >= inFlight {
			return false
		}
		l := next[i]
		next = slices.Delete(next, i, i+1)
		j.launch(ctx, l)
		hedge.Reset(j.s.ranks.patience(l.from.Provider, j.s.cfg.Hedge))
		return true
	}
	for {
		if len(j.flying) == 0 && !start() && rival == nil {
			return false, false, nil
		}
		a, came, err := j.await(ctx, hedge.C, rival)
		switch {
		case err != nil:
			return false, false, err
		case came && !a.ended:
			j.callBack(a.lane)
			return j.ride(ctx, at, a)
		case came:
			whole, again, err := j.ended(ctx, at, a)
			if whole || err != nil || again && (rival == nil || a.err == nil) {
				return whole, again, err
			}
			start()
		case closed(rival):
			return false, false, nil
		default:
			start()
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// ride takes what a lane brings from its first block on, to its end, or until nothing has come for so long that others
// are asked beside it, for what is still missing.
func (j *job) ride(ctx context.Context, at step, a arrival) (whole, again bool, err error) {
	silence := time.NewTimer(j.s.cfg.Hedge)
	defer silence.Stop()
	for {
		if a.ended {
			return j.ended(ctx, at, a)
		}
		if err := j.take(ctx, a); err != nil {
			return false, false, err
		}
		silence.Reset(j.s.cfg.Hedge)
		l := a.lane
		for came := false; !came; {
			if a, came, err = j.await(ctx, silence.C, nil); err != nil {
				return false, false, err
			}
			if !came && j.others(ctx, l.from.Provider) {
				j.s.ranks.outrun(l.from.Provider, j.s.now().Sub(l.heard))
				return false, true, nil
			}
		}
	}
}

// others tells whether there is anybody else to ask.
func (j *job) others(ctx context.Context, provider string) bool {
	sources, err := j.s.holders(ctx, j.root)
	return err == nil && slices.ContainsFunc(sources, func(s Source) bool { return s.Provider != provider })
}

// take takes a block of a lane.
func (j *job) take(ctx context.Context, a arrival) error {
	l := a.lane
	l.heard, l.met = j.s.now(), append(l.met, a.step.cid.KeyString())
	j.s.meter.bytes.WithLabelValues("provider").Add(float64(len(a.data)))
	return j.arrive(ctx, a.step, a.data, l.from.Provider)
}

// ended remembers how it went with a lane that is at its end. It returns what race does.
func (j *job) ended(ctx context.Context, at step, a arrival) (whole, again bool, err error) {
	l := a.lane
	l.stop()
	j.flying = slices.DeleteFunc(j.flying, func(other *lane) bool { return other == l })
	if a.err == nil {
		for _, key := range l.met {
			j.whole[key] = struct{}{}
		}
		if l.piece {
			j.useless[l.name()] = true // it has given all that is in it
		}
		j.callBack(nil)
		return l.at.cid.Equals(at.cid), true, nil
	}
	var failed *failure
	switch {
	case ctx.Err() != nil:
		return false, false, context.Cause(ctx)
	case !errors.As(a.err, &failed): // the DAG can be read from nobody
		return false, false, a.err
	}
	f := j.s.note(l.from.Provider, a.err)
	j.s.log.Debug("a transfer broke off", "cid", j.top, "provider", l.from.Provider, "blocks", len(l.met), "err", a.err)
	j.cuts[l.name()]++
	if len(l.met) == 0 || f.lie || j.cuts[l.name()] >= cutsMost {
		j.useless[l.name()] = true
	}
	return false, len(l.met) > 0, nil
}
