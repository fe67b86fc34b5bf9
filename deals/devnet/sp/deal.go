package sp

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals/mk12/wire"
)

// A Stage is how far a deal has come; see the package's description. The zero value is invalid.
type Stage string

const (
	Accepted         Stage = "accepted"
	Transferred      Stage = "transferred"
	Published        Stage = "published"
	PublishConfirmed Stage = "publishConfirmed"
	AddedPiece       Stage = "addedPiece"
	Sealed           Stage = "sealed"
	Complete         Stage = "complete"
	Failed           Stage = "failed"
	Ended            Stage = "ended"
)

// final tells whether no work is left on the deal, and nothing is served of it.
func (s Stage) final() bool { return s == Failed || s == Ended }

// A Sent is a message to the chain: its identity is stored before it is signed.
type Sent struct {
	ID     uuid.UUID      `json:"id"`
	CID    cid.Cid        `json:"cid"`              // undefined until the node has signed it
	Height abi.ChainEpoch `json:"height,omitempty"` // of the head when it was signed
}

// pending tells whether the node has signed the message.
func (s Sent) pending() bool { return s.CID.Defined() }

// A Deal is what a provider keeps of one proposal.
type Deal struct {
	UUID     uuid.UUID      `json:"uuid"`
	Message  []byte         `json:"message"` // DealParams as they came
	Peer     string         `json:"peer"`    // who proposed
	Accepted time.Time      `json:"accepted"`
	Stage    Stage          `json:"stage"`
	Since    abi.ChainEpoch `json:"since"` // height of the head when it came to this stage
	Error    string         `json:"error,omitempty"`

	Publish Sent       `json:"publish"`
	Index   int        `json:"index,omitempty"` // position in the published batch
	Altered Kind       `json:"altered,omitempty"`
	Mixed   bool       `json:"mixed,omitempty"` // invalid deals stand around it in the batch
	DealID  abi.DealID `json:"deal_id,omitempty"`

	Sector       abi.SectorNumber `json:"sector,omitempty"`
	PreCommit    Sent             `json:"pre_commit"`
	PreCommitted abi.ChainEpoch   `json:"pre_committed,omitempty"` // height of its execution
	Prove        Sent             `json:"prove"`
	Activated    abi.ChainEpoch   `json:"activated,omitempty"`
	Terminate    Sent             `json:"terminate"`

	Indexed bool `json:"indexed,omitempty"`

	// Derived from Message.
	params      *wire.DealParams
	proposalCID cid.Cid
	signedCID   cid.Cid
}

// decode fills what is derived.
func (d *Deal) decode() error {
	params := &wire.DealParams{}
	if err := wire.Decode(bytes.NewReader(d.Message), params); err != nil {
		return err
	}
	proposalCID, err := params.ClientDealProposal.Proposal.Cid()
	if err != nil {
		return fmt.Errorf("encoding the proposal: %w", err)
	}
	signed, err := wire.Encode(&params.ClientDealProposal)
	if err != nil {
		return err
	}
	signedCID, err := abi.CidBuilder.Sum(signed)
	if err != nil {
		return fmt.Errorf("hashing the signed proposal: %w", err)
	}
	d.params, d.proposalCID, d.signedCID = params, proposalCID, signedCID
	return nil
}

func (d *Deal) proposal() *market.DealProposal { return &d.params.ClientDealProposal.Proposal }

func (d *Deal) transferSize() int64 { return int64(d.params.Transfer.Size) }

// published tells whether the chain may know the deal.
func (d *Deal) published() bool { return d.Publish.pending() }

// served tells whether the deal's piece can be retrieved.
func (d *Deal) served() bool { return d.Indexed && !d.Stage.final() }

// A ledger is the deals of one provider, in memory and in the journal.
type ledger struct {
	journal *journal
	byID    map[uuid.UUID]*Deal
	order   []uuid.UUID // as accepted
}

func openLedger(path string) (*ledger, error) {
	l := &ledger{byID: make(map[uuid.UUID]*Deal)}
	j, err := openJournal(path, func(d *Deal) error {
		if err := d.decode(); err != nil {
			return fmt.Errorf("deal %s: %w", d.UUID, err)
		}
		if _, ok := l.byID[d.UUID]; !ok {
			l.order = append(l.order, d.UUID)
		}
		l.byID[d.UUID] = d
		return nil
	})
	if err != nil {
		return nil, err
	}
	l.journal = j
	if err := j.compact(l.all()); err != nil {
		return nil, err
	}
	return l, nil
}

// put stores deals durably, together, and then in memory. The ledger keeps them.
func (l *ledger) put(deals ...*Deal) error {
	if err := l.journal.append(deals...); err != nil {
		return err
	}
	for _, d := range deals {
		if _, ok := l.byID[d.UUID]; !ok {
			l.order = append(l.order, d.UUID)
		}
		l.byID[d.UUID] = d
	}
	return nil
}

func (l *ledger) all() []*Deal {
	deals := make([]*Deal, 0, len(l.order))
	for _, id := range l.order {
		deals = append(deals, l.byID[id])
	}
	return deals
}

// byProposal finds the deal with the same proposal, or with the same proposal and signature.
func (l *ledger) byProposal(proposal, signed cid.Cid) *Deal {
	i := slices.IndexFunc(l.order, func(id uuid.UUID) bool {
		d := l.byID[id]
		return proposal.Defined() && d.proposalCID.Equals(proposal) || signed.Defined() && d.signedCID.Equals(signed)
	})
	if i < 0 {
		return nil
	}
	return l.byID[l.order[i]]
}

// nextSector returns a number that no deal has used.
func (l *ledger) nextSector() abi.SectorNumber {
	next := abi.SectorNumber(1)
	for _, d := range l.byID {
		if d.Sector >= next {
			next = d.Sector + 1
		}
	}
	return next
}
