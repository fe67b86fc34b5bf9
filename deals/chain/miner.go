package chain

import (
	"context"
	"fmt"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/manifest"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/actors"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/multiformats/go-multiaddr"

	"github.com/frostpin/frostpin/deals"
)

// Miner returns what the chain knows of a provider at the head.
func (l *Lotus) Miner(ctx context.Context, p deals.ProviderID) (deals.Miner, bool, error) {
	s, head, err := l.ready(ctx)
	if err != nil {
		return deals.Miner{}, false, err
	}
	info, err := minerInfo(ctx, s, head, p)
	if err != nil {
		if isAnswer(err) || isNoActor(err) {
			if none, doubt := noMiner(ctx, s, head, p); doubt == nil && none {
				return deals.Miner{}, false, nil
			}
		}
		return deals.Miner{}, false, err
	}
	m := deals.Miner{SectorSize: info.SectorSize}
	if info.PeerId != nil {
		m.PeerID = info.PeerId.String()
	}
	for _, raw := range info.Multiaddrs {
		// A provider writes what it likes there.
		if a, err := multiaddr.NewMultiaddrBytes(raw); err == nil {
			m.Addrs = append(m.Addrs, a.String())
		}
	}
	return m, true, nil
}

func minerInfo(ctx context.Context, s *session, head tip, p deals.ProviderID) (*api.MinerInfo, error) {
	info, err := call(ctx, s, "StateMinerInfo", func(ctx context.Context, n *node) (*api.MinerInfo, error) {
		return n.StateMinerInfo(ctx, p.Address(), head.Key)
	})
	if err != nil {
		return nil, fmt.Errorf("looking up provider %s: %w", p, err)
	}
	if info.SectorSize == 0 {
		return nil, fmt.Errorf("looking up provider %s: %w: the answer is empty", p, deals.ErrChain)
	}
	return info, nil
}

// noMiner tells whether there is certainly no miner under an id: no actor at all, or one of another kind.
func noMiner(ctx context.Context, s *session, head tip, p deals.ProviderID) (bool, error) {
	actor, err := call(ctx, s, "StateGetActor", func(ctx context.Context, n *node) (*types.Actor, error) {
		return n.StateGetActor(ctx, p.Address(), head.Key)
	})
	switch {
	case isNoActor(err):
		return true, nil
	case err != nil:
		return false, err
	}
	name, _, known := actors.GetActorMetaByCode(actor.Code)
	return known && name != manifest.MinerKey, nil
}

// Collateral returns the least and the most attoFIL that a provider may put up for a deal, at the head.
func (l *Lotus) Collateral(ctx context.Context, size abi.PaddedPieceSize, verified bool) (least, most abi.TokenAmount, err error) {
	s, head, err := l.ready(ctx)
	if err != nil {
		return least, most, err
	}
	type wanted struct {
		size     abi.PaddedPieceSize
		verified bool
	}
	b, err := remember(ctx, &l.memo, s, head.Key, wanted{size, verified}, func(ctx context.Context) (*api.DealCollateralBounds, error) {
		return call(ctx, s, "StateDealProviderCollateralBounds", func(ctx context.Context, n *node) (*api.DealCollateralBounds, error) {
			return n.StateDealProviderCollateralBounds(ctx, size, verified, head.Key)
		})
	})
	if err != nil {
		return least, most, err
	}
	if b.Min.Nil() || b.Max.Nil() || b.Min.Sign() < 0 || b.Max.Sign() <= 0 || b.Max.LessThan(b.Min) {
		return least, most, fmt.Errorf("asking the node for the collateral of a deal: %w: %s to %s attoFIL are no bounds", deals.ErrChain, b.Min, b.Max)
	}
	return b.Min, b.Max, nil
}
