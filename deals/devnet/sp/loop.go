package sp

import (
	"context"
	"errors"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/lotus/api"
)

// retryNode is how long a provider waits before it asks a node again that has failed it.
const retryNode = time.Second

// follow turns new heads into passes.
func (p *Provider) follow(ctx context.Context) {
	for ctx.Err() == nil {
		changes, err := p.node.ChainNotify(ctx)
		if err != nil {
			p.log.Debug("following the chain", "err", err)
			if wait(ctx, retryNode) != nil {
				return
			}
			continue
		}
		p.followUntilClosed(ctx, changes)
		if wait(ctx, retryNode/10) != nil {
			return
		}
	}
}

func (p *Provider) followUntilClosed(ctx context.Context, changes <-chan []*api.HeadChange) {
	for {
		select {
		case <-ctx.Done():
			return
		case batch, ok := <-changes:
			if !ok {
				return
			}
			for _, change := range batch {
				if change.Val != nil && change.Type != "revert" {
					p.advance(ctx, change.Val.Height())
				}
			}
			p.poke()
		}
	}
}

func (p *Provider) advance(ctx context.Context, height abi.ChainEpoch) {
	p.mu.Lock()
	p.head = height
	p.mu.Unlock()
	p.faults.setHeight(height)
	p.net.adjust(ctx)
}

// loop does passes until the context ends.
func (p *Provider) loop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.poked:
		}
		if p.faults.holds(Vanish) {
			continue
		}
		p.pass(ctx)
	}
}

// pass looks at everything once. What fails is tried again at the next pass; only a journal that cannot be written is
// the end of a provider's work.
func (p *Provider) pass(ctx context.Context) {
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"identity", p.chain.identify},
		{"collateral", p.chain.fund},
		{"pulls", p.startPulls},
		{"publishing", p.chain.publish},
		{"deals", p.stepDeals},
	} {
		if err := step.do(ctx); err != nil && ctx.Err() == nil {
			p.log.Warn("a step failed", "step", step.name, "err", err)
		}
	}
}

// stepDeals moves on each deal that waits for the chain or for the disk.
func (p *Provider) stepDeals(ctx context.Context) error {
	var failed []error
	for _, d := range p.Deals() {
		var err error
		switch d.Stage {
		case Accepted, Transferred, Failed, Ended:
		case Published:
			err = p.chain.confirm(ctx, d)
		case PublishConfirmed:
			err = p.chain.preCommit(ctx, d)
		case AddedPiece:
			if err = p.indexDeal(d, Boost); err == nil {
				err = p.chain.prove(ctx, d)
			}
		case Sealed:
			if err = p.indexDeal(d, Curio); err == nil {
				err = p.update(func(d *Deal) { d.Stage, d.Indexed = Complete, true }, d.UUID)
			}
		case Complete:
			err = p.chain.watch(ctx, d)
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// indexDeal makes a deal's piece retrievable: Boost does so as soon as it lies in a sector, Curio when it is sealed.
func (p *Provider) indexDeal(d *Deal, style Style) error {
	if d.Indexed || p.cfg.Style != style && d.Stage != Sealed {
		return nil
	}
	if err := p.pieces.serve(d.proposal().PieceCID); err != nil {
		return err
	}
	return p.update(func(d *Deal) { d.Indexed = true }, d.UUID)
}

// startPulls begins the pulls that are due, as many as may run at once.
func (p *Provider) startPulls(ctx context.Context) error {
	for _, d := range p.Deals() {
		if d.Stage != Accepted {
			continue
		}
		if _, never := p.faults.hitDeal(PullNever, d.UUID); never {
			continue
		}
		if err := p.startPull(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

func (p *Provider) startPull(ctx context.Context, d *Deal) error {
	p.mu.Lock()
	_, running := p.pulling[d.UUID]
	full := len(p.pulling) >= p.cfg.Pull.Concurrent
	p.mu.Unlock()
	if running || full {
		return nil
	}
	if p.cfg.Style == Curio && p.pieces.has(d.proposal().PieceCID, d.transferSize()) {
		// The piece is parked already, for another deal.
		return p.update(func(d *Deal) { d.Stage = Transferred }, d.UUID)
	}
	t, err := p.newPull(d)
	if err != nil {
		return p.fail(d, "data transfer failed: %s", err)
	}
	p.mu.Lock()
	p.pulling[d.UUID] = t
	p.mu.Unlock()
	p.work.Go(func() {
		p.finishPull(ctx, t, t.run(ctx))
	})
	return nil
}

// finishPull stores what a pull has brought. A pull that stopped for ever keeps its place and does nothing.
func (p *Provider) finishPull(ctx context.Context, t *pull, err error) {
	d := t.d
	if err == nil {
		err = p.storePiece(d)
	}
	if ctx.Err() != nil {
		return // the provider ends; the pull goes on when it starts again
	}
	_, dropped := p.faults.hitDeal(PullDrop, d.UUID)
	switch {
	case errors.Is(err, errStopped):
		p.log.Info("a pull has stopped", "deal", d.UUID.String())
		for p.stillStopped(d) {
			select {
			case <-ctx.Done():
				return
			case <-p.Changed():
			}
		}
		err = nil
	case err != nil:
		err = p.fail(d, "data transfer failed: %s", err)
	case dropped:
		err = p.fail(d, "data transfer failed: the data was lost")
	default:
		err = p.update(func(d *Deal) { d.Stage = Transferred }, d.UUID)
	}
	if err != nil {
		p.log.Error("storing the outcome of a pull", "deal", d.UUID.String(), "err", err)
	}
	p.mu.Lock()
	delete(p.pulling, d.UUID)
	p.mu.Unlock()
	p.poke()
}

func (p *Provider) stillStopped(d *Deal) bool {
	_, stopped := p.faults.hitDeal(PullStop, d.UUID)
	return stopped
}

func (p *Provider) storePiece(d *Deal) error {
	t := &pull{p: p, d: d}
	_, corrupted := p.faults.hitDeal(PullBytes, d.UUID)
	return p.pieces.assemble(assembly{
		id: d.UUID, parts: len(t.spans()), piece: d.proposal().PieceCID, size: d.proposal().PieceSize,
		pad: p.cfg.Style == Boost, corrupted: corrupted,
	})
}

// received is how many bytes of a deal have arrived.
func (p *Provider) received(d *Deal) int64 {
	if d.Stage != Accepted && d.Stage != Failed {
		return d.transferSize()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if t, ok := p.pulling[d.UUID]; ok {
		return t.received.Load()
	}
	return 0
}
