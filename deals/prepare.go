package deals

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals/piece"
)

// passPrepare makes pieces for archives that are due, a few at a time.
func (m *maker) passPrepare(ctx context.Context) (time.Time, error) {
	_, running := m.preparing.full()
	all, err := m.s.store.dueArchives(ctx, running+preparing+1)
	if err != nil {
		return time.Time{}, err
	}
	for _, p := range all {
		if m.s.now().Before(p.at) {
			return p.at, nil
		}
		if !m.preparing.enter(p.root, 0) {
			continue // somebody is at it, or there is no room: whoever ends pokes
		}
		m.workers.Go(func() {
			err := m.prepareOne(ctx, p)
			m.preparing.leave(p.root, 0)
			m.report(ctx, "preparing a piece", err)
			if err == nil {
				signal(m.prepare)
				signal(m.slots)
			}
		})
	}
	return time.Time{}, nil
}

// prepareOne makes the piece of a root, or records why there is none yet.
func (m *maker) prepareOne(ctx context.Context, p toPrepare) (err error) {
	defer m.guard(&err)
	made, err := m.pieceOf(ctx, p.root)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if large := (*piece.TooLargeError)(nil); errors.As(err, &large) {
		reason := fmt.Sprintf("the data does not fit a piece of %s, the largest that is stored here", size(large.Limit))
		m.s.log.Warn("a dag is too large for a piece", "cid", p.root.String(), "err", err)
		return m.s.store.unprepared(ctx, p.root, reason, true, m.s.now())
	}
	if err != nil {
		wait := pause(p.tries+1, m.s.cfg.Policy.RetryFirst, m.s.cfg.Policy.RetryMax)
		m.s.log.Warn("making a piece", "cid", p.root.String(), "err", err)
		// The error may name what users have no business with.
		return m.s.store.unprepared(ctx, p.root, "the data could not be read from the hot tier, trying again", false, m.s.now().Add(wait))
	}
	m.s.cfg.At("piece-built")
	if err := m.s.store.prepared(ctx, p.root, made); err != nil {
		return fmt.Errorf("recording the piece of %s: %w", p.root, err)
	}
	m.s.cfg.At("piece-stored")
	m.s.log.Info("piece is ready", "cid", p.root.String(), "piece", made.CIDv1.String(), "size", uint64(made.Size))
	return nil
}

// pieceOf is the piece of a root: one that was made before for other terms, or a new one.
func (m *maker) pieceOf(ctx context.Context, root cid.Cid) (piece.Piece, error) {
	known, err := m.s.store.pieceOf(ctx, root)
	if err != nil {
		return piece.Piece{}, err
	}
	if known != nil {
		return *known, nil
	}
	began := m.s.now()
	made, err := m.s.parts.Layouts.Build(ctx, m.s.parts.Blocks, root, m.s.cfg.MaxPiece)
	if err == nil {
		m.s.meter.built(made, m.s.now().Sub(began))
	}
	return made, err
}

// size is a piece size for people: they are powers of two.
func size(n abi.PaddedPieceSize) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	unit := 0
	for n >= 1024 && unit < len(units)-1 {
		n, unit = n/1024, unit+1
	}
	return fmt.Sprintf("%d %s", n, units[unit])
}
