package deals

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/ipfs/go-cid"
)

// readEvents looks for the ids of deals of ours that nobody has told. What one pass does not get done is left to the next.
func (w *watcher) readEvents(ctx context.Context, heads Heads) (failed error) {
	if len(w.published) == 0 {
		published, read, err := w.s.parts.Chain.Events(ctx, w.from) // at first as far back as the node tells
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		w.tellEvents(err)
		if err != nil {
			failed = fmt.Errorf("reading the events of the market: %w", err)
		}
		if len(w.known) > keepMost {
			clear(w.known)
		}
		w.published, w.undecided = append(published, w.undecided...), nil
		slices.SortStableFunc(w.published, func(a, b Publication) int { return cmp.Compare(a.Deal, b.Deal) })
		w.published = slices.CompactFunc(w.published, func(a, b Publication) bool { return a.Deal == b.Deal })
		w.upTo = max(w.from, min(read, heads.Head-eventDepth))
	}
	for looked := 0; len(w.published) > 0; {
		if looked >= eventPage {
			w.lacksIDs.Store(true)
			return failed
		}
		n, err := w.matchSome(ctx, heads, eventPage-looked)
		if err != nil {
			return errors.Join(failed, err)
		}
		looked += n
	}
	w.from = w.upTo
	if len(w.undecided) > 0 {
		w.lacksIDs.Store(true) // what they wait for may be over any time: until it is known, another copy may be bought
	}
	return failed
}

// tellEvents says when the events of the market cannot be read any more, and when they can again.
func (w *watcher) tellEvents(err error) {
	switch {
	case err != nil && !w.eventless:
		w.s.log.Warn("the events of the market cannot be read: deals may be found later than they are published", "err", err)
	case err == nil && w.eventless:
		w.s.log.Info("the events of the market can be read again")
	}
	w.eventless = err != nil
}

// matchSome goes through a page of what was published, and returns how many deals it has looked at, which are at most so
// many: not those that are on record, which are nearly all of them after a restart.
func (w *watcher) matchSome(ctx context.Context, heads Heads, most int) (looked int, err error) {
	page := w.published[:min(eventPage, len(w.published))]
	ids := make([]abi.DealID, len(page))
	for i, p := range page {
		ids[i] = p.Deal
	}
	recorded, err := w.s.store.recorded(ctx, ids)
	if err != nil {
		return 0, fmt.Errorf("reading which deals are on record: %w", err)
	}
	for _, p := range page {
		_, known := w.known[p.Deal]
		unknown := !known && !recorded[p.Deal]
		if unknown && looked == most {
			break
		}
		w.published = w.published[1:]
		if !unknown {
			continue
		}
		looked++
		done, err := w.match(ctx, p, heads)
		if err != nil {
			w.undecided = append(w.undecided, p) // once more in the next round
		}
		if err != nil && !errors.Is(err, errUndecided) {
			w.upTo = w.from // whose deal it is is not known: nothing from there on counts as read
			return looked, err
		}
		if done {
			w.known[p.Deal] = struct{}{}
		}
	}
	return looked, nil
}

// match finds the attempt whose deal this is: its label is the root, its provider the provider. done tells that the
// deal need not be looked at again.
func (w *watcher) match(ctx context.Context, p Publication, heads Heads) (done bool, err error) {
	d, found, err := w.s.parts.Chain.Deal(ctx, p.Deal, false)
	if err != nil || !found {
		return false, err
	}
	label, err := d.Proposal.Label.ToString()
	if err != nil {
		return true, nil //nolint:nilerr // not one of ours: these have text
	}
	root, err := cid.Decode(label)
	if err != nil {
		return true, nil //nolint:nilerr // not one of ours: these name a root
	}
	provider, err := address.IDFromAddress(d.Proposal.Provider)
	if err != nil {
		return true, nil //nolint:nilerr // the market stores ID addresses, so this is no deal
	}
	candidates, err := w.s.store.unpublished(ctx, root, ProviderID(provider))
	if err != nil {
		return false, err
	}
	for _, a := range candidates {
		if a.State == Planned {
			continue
		}
		l, err := w.looker(ctx, a.ID, heads)
		if err != nil {
			return false, err
		}
		if Matches(l.signed, l.client, a.Provider, d) {
			w.s.cfg.At("publish-found")
			err := w.s.maker.record(ctx, l.a, Observation{Heads: heads, DealID: p.Deal, Deal: &d, PublishCID: p.Message})
			return err == nil, err
		}
	}
	return true, nil
}
