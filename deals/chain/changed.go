package chain

import (
	"context"
	"errors"
	"fmt"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/piece"
)

// batchSize is how many ids are compared at once: the more, the more nodes are read side by side.
const batchSize = 1 << 13

// Changed names the deals that are not active; see deals.Chain.
//
// Under a node of the tree that is the same as in since, all deals are as they were: active. So only the paths that
// differ are read, down to the leaves of now; of the earlier tree only what is above the leaves, to compare links. That
// is asked of the node; where it no longer has it, or never had, the paths to all deals are read. Nothing depends on
// which chain since was taken from: a CID stands for what is under it, on every chain. A node whose tree cannot be read
// is asked for each deal.
func (l *Lotus) Changed(ctx context.Context, since deals.Snapshot, ids func(yield func(abi.DealID) bool), changed func(abi.DealID) error) (deals.Snapshot, error) {
	s, head, err := l.ready(ctx)
	if err != nil {
		return deals.Snapshot{}, err
	}
	final, err := l.finalTip(ctx, s, head)
	if err != nil {
		return deals.Snapshot{}, err
	}
	w := walk{l: l, s: s, at: final}
	snapshot := deals.Snapshot{Height: final.Height}
	if m, err := l.market(ctx, s, head, final); err != nil {
		if !errors.Is(err, errUnreadable) {
			return deals.Snapshot{}, err
		}
		w.unreadable(err)
	} else {
		if m.known && since.State.Defined() && m.states == since.State {
			return deals.Snapshot{Height: final.Height, State: m.states}, nil
		}
		if err := w.begin(ctx, m, since); err != nil {
			return deals.Snapshot{}, err
		}
		snapshot.State = m.states
	}
	batch := make([]abi.DealID, 0, batchSize)
	flush := func() error {
		named, err := w.compare(ctx, batch)
		if err != nil {
			return err
		}
		for i, id := range batch {
			if !named[i] {
				continue
			}
			if err := changed(id); err != nil {
				return err
			}
		}
		batch = batch[:0]
		return nil
	}
	last := abi.DealID(0)
	for id := range ids {
		if id < last {
			return deals.Snapshot{}, fmt.Errorf("comparing deals: %d comes after %d: they must ascend", id, last)
		}
		last = id
		if batch = append(batch, id); len(batch) < batchSize {
			continue
		}
		if err := flush(); err != nil {
			return deals.Snapshot{}, err
		}
	}
	if err := flush(); err != nil {
		return deals.Snapshot{}, err
	}
	if w.byDeal {
		return deals.Snapshot{Height: final.Height}, nil
	}
	return snapshot, nil
}

// A walk compares the tree of deal states in a tipset with an earlier one.
type walk struct {
	l      *Lotus
	s      *session
	at     tip
	now    root
	was    past
	byDeal bool // the tree cannot be read
}

// A link is the CID of a vertex, if there is one.
type link struct {
	cid   cid.Cid
	there bool
}

// A past is what is known of the place of the earlier tree at which the walk is.
type past struct {
	known  bool    // it is known what was there
	height uint    // of the vertex; the walk may be higher up, where the tree has grown
	vertex *vertex // nil: nothing was there
}

// child is the past one level down, which has yet to be read when there is a link.
func (p past) child(height, digit uint) (next past, l link) {
	switch {
	case !p.known || p.vertex == nil:
		return p, l
	case p.height < height:
		// The tree has grown: all of the earlier one is under entry 0 of the later.
		if digit != 0 {
			return past{known: true}, l
		}
		return p, l
	}
	l.cid, l.there = p.vertex.child(digit)
	return past{known: true, height: height - 1}, l
}

// begin reads the roots.
func (w *walk) begin(ctx context.Context, m marketState, since deals.Snapshot) error {
	if !m.known {
		w.unreadable(fmt.Errorf("%w: this build does not know its version", errUnreadable))
		return nil
	}
	var err error
	if w.now, err = w.l.states(ctx, w.s, m.states); err != nil {
		return w.orByDeal(err)
	}
	if !since.State.Defined() {
		return nil
	}
	was, err := w.l.states(ctx, w.s, since.State)
	if err == nil && was.width == w.now.width {
		w.was, err = w.shrink(ctx, was)
	}
	if err != nil && !errors.Is(err, errUnreadable) {
		return err
	}
	return nil
}

// shrink brings a higher earlier tree down to the height of the later one.
func (w *walk) shrink(ctx context.Context, was root) (past, error) {
	p := past{known: true, height: was.height, vertex: was.top}
	for p.height > w.now.height {
		c, ok := p.vertex.child(0)
		if !ok {
			return past{known: true}, nil
		}
		v, err := w.l.vertex(ctx, w.s, c, was.width, p.height-1)
		if err != nil {
			return past{}, err
		}
		p.height, p.vertex = p.height-1, v
	}
	return p, nil
}

func (w *walk) orByDeal(err error) error {
	if errors.Is(err, errUnreadable) {
		w.unreadable(err)
		return nil
	}
	return err
}

func (w *walk) unreadable(err error) {
	w.byDeal = true
	w.l.sayUnreadable(err)
}

func (l *Lotus) sayUnreadable(err error) {
	l.noTree.Do(func() {
		l.log.Warn("the Filecoin node's state cannot be read, so it is asked for each deal instead", "err", err)
	})
}

// compare tells which of the ids are to be named.
func (w *walk) compare(ctx context.Context, ids []abi.DealID) ([]bool, error) {
	named := make([]bool, len(ids))
	if !w.byDeal {
		err := w.descend(ctx, ids, named)
		if err == nil {
			return named, nil
		}
		if err := w.orByDeal(err); err != nil {
			return nil, err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(w.parallel())
	for i, id := range ids {
		group.Go(func() error {
			return piece.Calm(func() error {
				d, found, err := dealAt(ctx, w.s, w.at, id)
				named[i] = !found || d.SectorStart < 0 || d.SlashEpoch >= 0
				return err
			})
		})
	}
	return named, group.Wait()
}

// parallel leaves half of the calls to those who make deals meanwhile.
func (w *walk) parallel() int { return max(1, w.l.cfg.Calls/2) }

// A place is a vertex to which the walk has come, with the ids under it.
type place struct {
	now    *vertex
	was    past
	lo, hi int // of ids

	link    link // of now, until it is read
	wasLink link // of was.vertex, until it is read
}

// descend goes down from the roots level by level, so that the vertices of a level are read side by side.
func (w *walk) descend(ctx context.Context, ids []abi.DealID, named []bool) error {
	within := len(ids)
	for within > 0 && !w.now.holds(ids[within-1]) {
		within--
		named[within] = true
	}
	places := []place{{now: w.now.top, was: w.was, hi: within}}
	for h := w.now.height; h > 0; h-- {
		var next []place
		for _, p := range places {
			next = w.split(p, h, ids, named, next)
		}
		if err := w.read(ctx, next, h-1); err != nil {
			return err
		}
		places = next
	}
	for _, p := range places {
		for i := p.lo; i < p.hi; i++ {
			digit := w.now.digit(ids[i], 0)
			named[i] = p.now.active>>digit&1 == 0
		}
	}
	return nil
}

// split adds the places one level below p that have to be looked at.
func (w *walk) split(p place, height uint, ids []abi.DealID, named []bool, next []place) []place {
	for lo := p.lo; lo < p.hi; {
		digit := w.now.digit(ids[lo], height)
		hi := lo + 1
		for hi < p.hi && w.now.digit(ids[hi], height) == digit {
			hi++
		}
		c, ok := p.now.child(digit)
		was, wasLink := p.was.child(height, digit)
		switch {
		case !ok:
			for i := lo; i < hi; i++ {
				named[i] = true
			}
		case wasLink.there && wasLink.cid == c:
			// Nothing has changed under it.
		default:
			next = append(next, place{link: link{c, true}, was: was, wasLink: wasLink, lo: lo, hi: hi})
		}
		lo = hi
	}
	return next
}

// read reads the vertices of places, which lie at one height.
func (w *walk) read(ctx context.Context, places []place, height uint) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(w.parallel())
	for i := range places {
		group.Go(func() error { return piece.Calm(func() error { return w.readPlace(ctx, &places[i], height) }) })
	}
	return group.Wait()
}

// readPlace reads the vertices of one place.
func (w *walk) readPlace(ctx context.Context, p *place, height uint) (err error) {
	p.now, err = w.l.vertex(ctx, w.s, p.link.cid, w.now.width, height)
	if err != nil || !p.wasLink.there || height == 0 {
		return err // of an earlier leaf all is known: the deals asked about were active
	}
	p.was.vertex, err = w.l.vertex(ctx, w.s, p.wasLink.cid, w.now.width, height)
	if errors.Is(err, errUnreadable) {
		p.was = past{} // the node no longer keeps what was
		return nil
	}
	return err
}
