package sp

import (
	"context"
	"fmt"
	"slices"

	commcid "github.com/filecoin-project/go-fil-commcid"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	market18 "github.com/filecoin-project/lotus/chain/actors/builtin/market"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
)

// maxBatch is the most deals of one message, as Boost's.
const maxBatch = 8

// publish sends what was begun but not signed, then a batch that is due.
func (c *chain) publish(ctx context.Context) error {
	if err := c.eject(); err != nil {
		return err
	}
	if err := c.gather(); err != nil {
		return err
	}
	batches := make(map[uuid.UUID][]*Deal)
	var order []uuid.UUID
	for _, d := range c.p.Deals() {
		if d.Stage == Transferred && d.Publish.ID != uuid.Nil {
			if len(batches[d.Publish.ID]) == 0 {
				order = append(order, d.Publish.ID)
			}
			batches[d.Publish.ID] = append(batches[d.Publish.ID], d)
		}
	}
	for _, id := range order {
		if err := c.send(ctx, batches[id]); err != nil {
			return fmt.Errorf("publishing %d deals: %w", len(batches[id]), err)
		}
	}
	return nil
}

// eject gives up deals that could not be sealed in time any more.
func (c *chain) eject() error {
	head := c.p.height()
	for _, d := range c.p.Deals() {
		if d.Stage != Transferred || d.Publish.ID != uuid.Nil || head+c.p.cfg.ExpectedSeal <= d.proposal().StartEpoch {
			continue
		}
		if _, never := c.p.faults.hitDeal(PublishNever, d.UUID); never {
			continue
		}
		err := c.p.fail(d, "deal proposal must be proven on chain by deal proposal start epoch %d, but it has expired: current chain height: %d",
			d.proposal().StartEpoch, head)
		if err != nil {
			return err
		}
	}
	return nil
}

// gather makes batches of the deals that have waited long enough, and of those that wait with them. The composition
// is stored before anything is signed.
func (c *chain) gather() error {
	var waiting []*Deal
	due := false
	for _, d := range c.p.Deals() {
		if d.Stage != Transferred || d.Publish.ID != uuid.Nil {
			continue
		}
		if _, never := c.p.faults.hitDeal(PublishNever, d.UUID); never {
			continue
		}
		waiting = append(waiting, d)
		due = due || c.p.height() >= d.Since+c.p.cfg.PublishDelay
	}
	if !due {
		return nil
	}
	for batch := range slices.Chunk(waiting, maxBatch) {
		id := uuid.New()
		index := 0
		ids := make([]uuid.UUID, len(batch))
		for i, d := range batch {
			ids[i] = d.UUID
		}
		mixed := slices.ContainsFunc(batch, func(d *Deal) bool {
			_, ok := c.p.faults.hitDeal(PublishMixed, d.UUID)
			return ok
		})
		err := c.p.update(func(d *Deal) {
			d.Publish = Sent{ID: id}
			d.Index, d.Mixed = index, mixed
			for _, kind := range []Kind{PublishPiece, PublishPrice, PublishClient} {
				if _, ok := c.p.faults.hitDeal(kind, d.UUID); ok {
					d.Altered = kind
				}
			}
			index++
		}, ids...)
		if err != nil {
			return err
		}
	}
	return nil
}

// send signs and sends a batch.
func (c *chain) send(ctx context.Context, batch []*Deal) error {
	slices.SortFunc(batch, func(a, b *Deal) int { return a.Index - b.Index })
	params, err := c.batch(batch)
	if err != nil {
		return err
	}
	ids := make([]uuid.UUID, len(batch))
	for i, d := range batch {
		ids[i] = d.UUID
	}
	sent := batch[0].Publish
	err = c.push(ctx, &sent, builtin.StorageMarketActorAddr, builtin.MethodsMarket.PublishStorageDeals, big.Zero(), params)
	if err != nil {
		if !refused(err) {
			return err
		}
		// The node has run it: not one of these deals is valid.
		for _, d := range batch {
			if err := c.p.fail(d, "publishing failed: %s", err); err != nil {
				return err
			}
		}
		return nil
	}
	if err := c.p.update(func(d *Deal) { d.Stage, d.Publish = Published, sent }, ids...); err != nil {
		return err
	}
	if _, twice := c.p.faults.hitDeal(PublishTwice, batch[0].UUID); twice {
		again := Sent{ID: uuid.New()}
		err := c.push(ctx, &again, builtin.StorageMarketActorAddr, builtin.MethodsMarket.PublishStorageDeals, big.Zero(), params)
		c.p.log.Info("published a second time", "cid", again.CID.String(), "err", err)
	}
	return nil
}

// batch is the same each time, so that a message that is sent again is the same message.
func (c *chain) batch(batch []*Deal) (*market.PublishStorageDealsParams, error) {
	params := &market.PublishStorageDealsParams{}
	for _, d := range batch {
		deal, err := altered(d, c.p)
		if err != nil {
			return nil, err
		}
		params.Deals = append(params.Deals, deal)
	}
	if !batch[0].Mixed {
		return params, nil
	}
	// A signature over something else, and an end before the start: the chain must drop both and keep the rest.
	forged, backward := params.Deals[0], params.Deals[0]
	forged.Proposal.EndEpoch++
	backward.Proposal.EndEpoch = backward.Proposal.StartEpoch
	params.Deals = append(append([]market.ClientDealProposal{forged}, params.Deals...), backward)
	return params, nil
}

// altered is the deal as this provider publishes it: as it was signed, unless a fault says otherwise.
func altered(d *Deal, p *Provider) (market.ClientDealProposal, error) {
	deal := d.params.ClientDealProposal
	switch d.Altered {
	case PublishPiece:
		raw, err := commcid.CIDToDataCommitmentV1(deal.Proposal.PieceCID)
		if err != nil {
			return deal, fmt.Errorf("altering a piece: %w", err)
		}
		other := slices.Clone(raw)
		other[0] ^= 1
		if deal.Proposal.PieceCID, err = commcid.DataCommitmentV1ToCID(other); err != nil {
			return deal, fmt.Errorf("altering a piece: %w", err)
		}
	case PublishPrice:
		deal.Proposal.StoragePricePerEpoch = big.Add(deal.Proposal.StoragePricePerEpoch, big.NewInt(1))
	case PublishClient:
		deal.Proposal.Client = p.cfg.Worker
	default:
	}
	return deal, nil
}

// confirm learns the deal id from the receipt. What the chain dropped has failed.
func (c *chain) confirm(ctx context.Context, d *Deal) error {
	sent := d.Publish
	found, err := c.landed(ctx, &sent)
	if err != nil {
		return err
	}
	if found == nil {
		if sent.CID == cid.Undef {
			// Lost with a reorganisation: begin again. The market drops the second if both land.
			return c.p.update(func(d *Deal) { d.Stage, d.Publish = Transferred, Sent{} }, d.UUID)
		}
		return nil
	}
	if found.Receipt.ExitCode.IsError() {
		return c.p.fail(d, "publishing failed: exit code %s", found.Receipt.ExitCode)
	}
	version, err := c.node.StateNetworkVersion(ctx, types.EmptyTSK)
	if err != nil {
		return fmt.Errorf("asking for the network version: %w", err)
	}
	ret, err := market18.DecodePublishStorageDealsReturn(found.Receipt.Return, version)
	if err != nil {
		return fmt.Errorf("decoding the receipt of %s: %w", d.Publish.CID, err)
	}
	index := d.Index
	if d.Mixed {
		index++
	}
	valid, at, err := ret.IsDealValid(uint64(index))
	if err != nil {
		return fmt.Errorf("reading the receipt of %s: %w", d.Publish.CID, err)
	}
	if !valid {
		return c.p.fail(d, "publishing failed: the deal was dropped as invalid")
	}
	ids, err := ret.DealIDs()
	if err != nil || at >= len(ids) {
		return fmt.Errorf("reading the receipt of %s: %d ids: %w", d.Publish.CID, len(ids), err)
	}
	return c.p.update(func(d *Deal) { d.Stage, d.DealID = PublishConfirmed, ids[at] }, d.UUID)
}
