package devnet

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin"
	market18 "github.com/filecoin-project/go-state-types/builtin/v18/market"
	"github.com/filecoin-project/go-state-types/builtin/v18/util/adt"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/ipfs/go-cid"
)

// Fate is what has become of a published deal.
type Fate string

const (
	FatePublished  Fate = "published"  // waits for its provider's proof
	FateActive     Fate = "active"     // proven, and not past its end
	FateMissed     Fate = "missed"     // its start has passed without a proof, whether or not the market has noticed
	FateTerminated Fate = "terminated" // the provider lost the sector
	FateExpired    Fate = "expired"    // past its end, whether or not it has been settled
)

// Deal is one deal that ever was on the chain, with its fate at the head. Tests hold what others believe against it.
type Deal struct {
	ID          abi.DealID
	Fate        Fate
	Proposal    market18.DealProposal        // as stored: client and provider are ids
	ProposalCID cid.Cid                      // of Proposal
	Signed      *market18.ClientDealProposal // as published; nil for deals that were seeded
	Message     cid.Cid                      // PublishStorageDeals; undefined for deals that were seeded
	Sector      abi.SectorNumber
	Published   abi.ChainEpoch
	Activated   abi.ChainEpoch // -1 = never
	Ended       abi.ChainEpoch // terminated, or removed as missed or settled; -1 = still in the state
}

type changeKind string

const (
	published  changeKind = "published"
	activated  changeKind = "activated"
	terminated changeKind = "terminated"
	missed     changeKind = "missed"
	completed  changeKind = "completed"
)

// change is one step in the life of a deal, as an execution made it.
type change struct {
	Kind    changeKind
	ID      abi.DealID
	Epoch   abi.ChainEpoch
	Sector  abi.SectorNumber             `json:",omitempty"`
	Signed  *market18.ClientDealProposal `json:",omitempty"`
	Stored  *market18.DealProposal       `json:",omitempty"`
	Message cid.Cid                      // null where no message caused it
}

func (m *machine) record(c change) { m.changes = append(m.changes, c) }

// chronicle is every change of the chain up to the head, oldest first, by the height at which it became visible.
type chronicle struct {
	entries []chronicled
}

type chronicled struct {
	height abi.ChainEpoch
	change change
}

func (c *chronicle) add(height abi.ChainEpoch, changes []change) {
	for _, ch := range changes {
		c.entries = append(c.entries, chronicled{height, ch})
	}
}

// cut forgets what became visible above a height: the chain was reorganised.
func (c *chronicle) cut(height abi.ChainEpoch) {
	i, _ := slices.BinarySearchFunc(c.entries, height+1, func(e chronicled, h abi.ChainEpoch) int { return cmp.Compare(e.height, h) })
	c.entries = c.entries[:i]
}

// Deals lists every deal that the chain at the head has ever had, by id.
func (n *Net) Deals() ([]Deal, error) {
	n.mu.RLock()
	head := n.head
	entries := slices.Clone(n.chronicle.entries)
	n.mu.RUnlock()

	byID := map[abi.DealID]*Deal{}
	for _, e := range entries {
		if err := apply(byID, e.change); err != nil {
			return nil, err
		}
	}
	if err := n.seededDeals(context.Background(), head, byID); err != nil {
		return nil, err
	}
	all := make([]Deal, 0, len(byID))
	for _, d := range byID {
		d.Fate = d.fateAt(head.ts.Height())
		all = append(all, *d)
	}
	slices.SortFunc(all, func(a, b Deal) int { return cmp.Compare(a.ID, b.ID) })
	return all, nil
}

func apply(byID map[abi.DealID]*Deal, c change) error {
	if c.Kind == published {
		pcid, err := c.Stored.Cid()
		if err != nil {
			return fmt.Errorf("taking the cid of deal %d: %w", c.ID, err)
		}
		byID[c.ID] = &Deal{
			ID: c.ID, Fate: FatePublished, Proposal: *c.Stored, ProposalCID: pcid, Signed: c.Signed, Message: c.Message,
			Published: c.Epoch, Activated: epochUndefined, Ended: epochUndefined,
		}
		return nil
	}
	d, ok := byID[c.ID]
	if !ok {
		return nil // a seeded deal has left; nothing is known of it
	}
	switch c.Kind {
	case published:
	case activated:
		d.Fate, d.Sector, d.Activated = FateActive, c.Sector, c.Epoch
	case terminated:
		d.Fate, d.Ended = FateTerminated, c.Epoch
	case missed:
		d.Fate, d.Ended = FateMissed, c.Epoch
	case completed:
		d.Fate, d.Ended = FateExpired, c.Epoch
	}
	return nil
}

// fateAt adds what only the clock says: neither a missed start nor a passed end changes the state by itself.
func (d *Deal) fateAt(height abi.ChainEpoch) Fate {
	switch {
	case d.Fate == FatePublished && height > d.Proposal.StartEpoch:
		return FateMissed
	case d.Fate == FateActive && height >= d.Proposal.EndEpoch:
		return FateExpired
	default:
		return d.Fate
	}
}

// seededDeals adds the deals of the state that no message has published.
func (n *Net) seededDeals(ctx context.Context, at *entry, byID map[abi.DealID]*Deal) error {
	st, store, err := n.marketAt(ctx, at.ts)
	if err != nil {
		return err
	}
	proposals, err := adt.AsArray(store, st.Proposals, market18.ProposalsAmtBitwidth)
	if err != nil {
		return err
	}
	states, err := adt.AsArray(store, st.States, market18.StatesAmtBitwidth)
	if err != nil {
		return err
	}
	var p market18.DealProposal
	return proposals.ForEach(&p, func(i int64) error {
		if _, known := byID[abi.DealID(i)]; known {
			return nil
		}
		pcid, err := p.Cid()
		if err != nil {
			return err
		}
		var s market18.DealState
		if ok, err := states.Get(uint64(i), &s); err != nil {
			return err
		} else if !ok {
			return nil // published by a message that the chronicle does not know: impossible, and harmless
		}
		byID[abi.DealID(i)] = &Deal{
			ID: abi.DealID(i), Fate: FateActive, Proposal: p, ProposalCID: pcid, Sector: s.SectorNumber,
			Published: s.SectorStartEpoch, Activated: s.SectorStartEpoch, Ended: epochUndefined,
		}
		return nil
	})
}

// marketAt is the market actor's state at a tipset.
func (n *Net) marketAt(ctx context.Context, ts *types.TipSet) (*market18.State, adt.Store, error) {
	m, err := n.stateAt(ctx, ts)
	if err != nil {
		return nil, nil, err
	}
	var st market18.State
	return &st, m.store, m.load(builtin.StorageMarketActorAddr, &st)
}
