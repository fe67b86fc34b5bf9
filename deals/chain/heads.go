package chain

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/lotus/chain/types"

	"github.com/frostpin/frostpin/deals"
)

// finality is the number of epochs after which a tipset is taken as final where the node does not say.
const finality = 900

// ready is the connection and its head, or why there is none that can be believed. It waits for the first try to
// connect, so that what is asked right after the start is not refused for nothing.
func (l *Lotus) ready(ctx context.Context) (*session, tip, error) {
	select {
	case <-l.settled:
	case <-ctx.Done():
		return nil, tip{}, context.Cause(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sess == nil {
		if errors.Is(l.why, deals.ErrChain) {
			return nil, tip{}, l.why
		}
		return nil, tip{}, fmt.Errorf("%w: %w", deals.ErrChain, l.why)
	}
	if err := l.believe(l.head); err != nil {
		return nil, tip{}, fmt.Errorf("%w: %w", deals.ErrChain, err)
	}
	return l.sess, tipOf(l.head), nil
}

// believe says what is wrong with a head. The caller holds mu.
func (l *Lotus) believe(head *types.TipSet) error {
	if head.Height() < l.final.Height {
		return fmt.Errorf("its head at epoch %d is behind epoch %d, which was final", head.Height(), l.final.Height)
	}
	if l.cfg.AllowedLag < 0 {
		return nil
	}
	if lag := l.lag(head); lag > l.cfg.AllowedLag {
		return fmt.Errorf("its head at epoch %d is %s old: it is not in sync", head.Height(), lag.Round(time.Second))
	}
	return nil
}

func (l *Lotus) lag(head *types.TipSet) time.Duration {
	return l.cfg.Now().Sub(time.Unix(int64(head.MinTimestamp()), 0)) //nolint:gosec // seconds since 1970
}

// Heads tells where the chain stands.
func (l *Lotus) Heads(ctx context.Context) (deals.Heads, error) {
	s, head, err := l.ready(ctx)
	if err != nil {
		return deals.Heads{}, err
	}
	final, err := l.finalTip(ctx, s, head)
	if err != nil {
		return deals.Heads{}, err
	}
	return deals.Heads{Head: head.Height, Final: final.Height}, nil
}

// finalTip is the last final tipset under a head.
func (l *Lotus) finalTip(ctx context.Context, s *session, head tip) (tip, error) {
	return remember(ctx, &l.memo, s, head.Key, "final", func(ctx context.Context) (tip, error) {
		claimed, err := claimedFinal(ctx, s, head)
		if err != nil {
			return tip{}, err
		}
		return l.extend(ctx, s, claimed)
	})
}

// claimedFinal is what the node takes as final; genesis while nothing else is.
func claimedFinal(ctx context.Context, s *session, head tip) (tip, error) {
	ts, err := call(ctx, s, "ChainGetFinalizedTipSet", func(ctx context.Context, n *node) (*types.TipSet, error) {
		return n.ChainGetFinalizedTipSet(ctx)
	})
	switch {
	case err == nil && ts.Height() <= head.Height:
		return tipOf(ts), nil
	case err == nil: // it has moved on since it told its head
		return byHeight(ctx, s, head.Height, ts.Key())
	case !isAbsent(err):
		return tip{}, err
	}
	return byHeight(ctx, s, max(0, head.Height-finality), head.Key)
}

// extend takes a tipset as final if the last final one is its ancestor, and returns the higher of the two. A node that
// has left what was final is given up.
func (l *Lotus) extend(ctx context.Context, s *session, claimed tip) (tip, error) {
	l.mu.Lock()
	known := l.final
	l.mu.Unlock()
	if claimed.Height < known.Height || claimed == known {
		return known, nil
	}
	if known.Height > 0 {
		if err := ancestor(ctx, s, known, claimed); err != nil {
			if errors.Is(err, errFork) {
				s.fail(err)
			}
			return tip{}, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sess != s {
		return tip{}, s.lost("the final tipset")
	}
	if l.final.Key.IsEmpty() || claimed.Height > l.final.Height {
		l.final = claimed
	}
	return l.final, nil
}

var errFork = errors.New("the node is on another chain than before")

// ancestor makes sure that one tipset lies on the chain of another.
func ancestor(ctx context.Context, s *session, old, young tip) error {
	on, err := byHeight(ctx, s, old.Height, young.Key)
	if err != nil {
		return err
	}
	if on != old {
		return fmt.Errorf("%w: %w: the tipset at epoch %d, which was final, is not on it", deals.ErrChain, errFork, old.Height)
	}
	return nil
}

func byHeight(ctx context.Context, s *session, height deals.Epoch, from types.TipSetKey) (tip, error) {
	ts, err := call(ctx, s, "ChainGetTipSetByHeight", func(ctx context.Context, n *node) (*types.TipSet, error) {
		return n.ChainGetTipSetByHeight(ctx, abi.ChainEpoch(height), from)
	})
	if err != nil {
		return tip{}, err
	}
	return tipOf(ts), nil
}
