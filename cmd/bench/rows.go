package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/filecoin-project/go-address"
	commcid "github.com/filecoin-project/go-fil-commcid"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin/v18/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/piece"
	"github.com/frostpin/frostpin/pins/pinstest"
)

const (
	crowdCopies = 3
	crowdDays   = 540
	crowdSize   = 1 << 20 // bytes of a piece
)

// crowdRoot is a DAG that is stored as often as it is wanted.
func crowdRoot(i int) cid.Cid { return pinstest.Leaf(fmt.Sprint("stored ", i)).Root }

// crowdPiece is its piece: the commitment is made up.
func crowdPiece(i int) (p piece.Piece, err error) {
	sum := crowdRoot(i).Hash()
	commitment := bytes.Clone(sum[len(sum)-32:])
	commitment[31] &= 0x3f // it is a number below the field's order
	p = piece.Piece{Size: crowdSize, RawSize: crowdSize / 128 * 127, CARSize: crowdSize / 128 * 127}
	if p.CIDv1, err = commcid.DataCommitmentV1ToCID(commitment); err != nil {
		return p, err
	}
	p.CIDv2, err = commcid.DataCommitmentToPieceCidv2(commitment, uint64(p.RawSize))
	return p, err
}

// rows inserts into one table, many rows at once.
type rows struct {
	tx     *gorm.DB
	insert string
	one    string // a row
	count  int
	args   []any
}

func (r *rows) add(args ...any) { r.args, r.count = append(r.args, args...), r.count+1 }

func (r *rows) flush() error {
	if r.count == 0 {
		return nil
	}
	err := r.tx.Exec(r.insert+strings.Repeat(r.one+`, `, r.count-1)+r.one, r.args...).Error
	r.count, r.args = 0, r.args[:0]
	return err
}

// fillCrowd writes the rows of roots whose every copy is active, as the service would have written them. Slots are
// looked at again within a week, which goes on in the background as it does in a server.
func fillCrowd(ctx context.Context, db *database.DB, roots int, terms deals.TermsID, c *crowd) error {
	const atOnce = 10_000
	for from := 0; from < roots; from += atOnce {
		err := db.Write(ctx, func(tx *gorm.DB) error {
			t := newTables(tx)
			for i := from; i < min(from+atOnce, roots); i++ {
				if err := t.add(i, terms, c); err != nil {
					return err
				}
			}
			return t.flush()
		})
		if err != nil {
			return fmt.Errorf("filling the database: %w", err)
		}
	}
	return nil
}

// tables are those that a stored root has rows in, parents first.
type tables struct{ pieces, roots, archives, slots, attempts *rows }

func newTables(tx *gorm.DB) *tables {
	return &tables{
		pieces: &rows{tx: tx, insert: `INSERT INTO pieces (id, cid_v1, cid_v2, size, raw_size, car_size) VALUES `, one: `(?, ?, ?, ?, ?, ?)`},
		roots:  &rows{tx: tx, insert: `INSERT INTO piece_roots (piece_id, root, at, length) VALUES `, one: `(?, ?, 0, ?)`},
		archives: &rows{
			tx: tx, one: `(?, ?, ?, 1, 1, 0, ?, '', ?, ?, 0, ?, ?)`,
			insert: `INSERT INTO archives (id, root, terms_id, wanted, held, barred, piece_id, reason, cold, standing, tries, next_ms,
				created_ms) VALUES `,
		},
		slots: &rows{
			tx: tx, one: `(?, ?, ?, '', ?, '', 0, 0, 0, ?)`,
			insert: `INSERT INTO slots (id, archive_id, idx, region, state, reason, exhausted, queued, forgiven_ms, next_ms) VALUES `,
		},
		attempts: &rows{
			tx: tx,
			one: `(?, ?, ?, ?, ?, ?, 1, 0, ?, 'mk12', ?, ?, ?, ?, ?, ?, ?, 0, '0', ?, 'active', '', '', 0, '', ?, ?, 1, ?, 0, 0, 0, 0, 1,
				?, ?, ?, ?, ?, ?, 0, ?, ?, 1)`,
			insert: `INSERT INTO attempts (id, uuid, slot_id, archive_id, root, piece_id, generation, renews, provider, protocol,
				proposal_cid, signed, message, start_epoch, end_epoch, price, collateral, verified, reserved, day, state, reason,
				verbatim, retryable, publish_cid, deal_id, sector, seen_pending, pending_ms, blind, unknowns, unknown_ms, missing, height,
				planned_ms, sent_ms, accepted_ms, pulled_ms, published_ms, active_ms, ended_ms, changed_ms, next_ms,
				in_snapshot) VALUES `,
		},
	}
}

// add writes the rows of a root, whose numbers follow from its own.
func (t *tables) add(i int, terms deals.TermsID, c *crowd) error {
	root, now := crowdRoot(i), time.Now()
	p, err := crowdPiece(i)
	if err != nil {
		return err
	}
	a := deals.Archive{
		ID: deals.ArchiveID(i + 1), Root: root, Terms: deals.Terms{Replicas: crowdCopies, Days: crowdDays}, Wanted: true, Held: true, Piece: &p,
	}
	var slots []deals.Slot
	var made []deals.Attempt
	for k := range c.Providers {
		n := i*crowdCopies + k
		slot := deals.Slot{ID: deals.SlotID(n + 1), Archive: a.ID, Index: k, State: deals.Filled}
		slot.NextAt = now.Add(rand.N(7 * 24 * time.Hour)) //nolint:gosec // no secret
		attempt := deals.Attempt{
			ID: deals.AttemptID(n + 1), UUID: uuid.New(), Slot: slot.ID, Archive: a.ID, Root: root, Piece: p, Protocol: "mk12",
			State: deals.Active, ActiveAt: now, DealID: c.First + abi.DealID(n), Sector: abi.SectorNumber(n / crowdSector),
		}
		if err := sign(&attempt, i, c.Wallet, c.Providers[k]); err != nil {
			return err
		}
		slots, made = append(slots, slot), append(made, attempt)
	}
	standing := deals.StandingOf(a, slots, made)
	text, err := json.Marshal(standing)
	if err != nil {
		return err
	}
	id, ms := int64(a.ID), now.UnixMilli()
	t.pieces.add(id, p.CIDv1.String(), p.CIDv2.String(), int64(p.Size), p.RawSize, p.CARSize)
	t.roots.add(id, root.String(), p.CARSize)
	t.archives.add(id, root.String(), int64(terms), id, string(standing.Cold), string(text), ms, ms)
	for k, m := range made {
		s := slots[k]
		t.slots.add(int64(s.ID), id, s.Index, string(s.State), s.NextAt.UnixMilli())
		t.attempts.add(int64(m.ID), m.UUID.String(), int64(m.Slot), id, root.String(), id, int64(m.Provider), m.ProposalCID.String(),
			m.Signed, m.Message, int64(m.Start), int64(m.End), m.Price.String(), m.Collateral.String(), now.Format(time.DateOnly),
			int64(m.DealID), int64(m.Sector), ms, ms, ms, ms, ms, ms, ms, ms, ms)
	}
	if t.attempts.count >= rowsAtOnce {
		return t.flush()
	}
	return nil
}

// rowsAtOnce keeps a statement below the number of arguments that SQLite takes.
const rowsAtOnce = 500

func (t *tables) flush() error {
	for _, r := range []*rows{t.pieces, t.roots, t.archives, t.slots, t.attempts} {
		if err := r.flush(); err != nil {
			return err
		}
	}
	return nil
}

// sign fills in what was sent to the provider. Its proposal is the one on chain; the signature, and the rest of the
// message, only take as much room as real ones.
func sign(a *deals.Attempt, root int, client address.Address, provider crowdProvider) (err error) {
	if a.Provider, err = provider.id(); err != nil {
		return err
	}
	proposal, err := crowdDeal(root, client, provider.Miner)
	if err != nil {
		return err
	}
	if a.ProposalCID, err = proposal.Cid(); err != nil {
		return err
	}
	deal := market.ClientDealProposal{
		Proposal: proposal, ClientSignature: crypto.Signature{Type: crypto.SigTypeSecp256k1, Data: make([]byte, 65)},
	}
	var signed bytes.Buffer
	if err := deal.MarshalCBOR(&signed); err != nil {
		return err
	}
	const transfer = 300 // bytes of the message beside the proposal: where the piece is, and the token for it
	a.Signed, a.Message = signed.Bytes(), append(bytes.Clone(signed.Bytes()), make([]byte, transfer)...)
	a.Start, a.End, a.Price, a.Collateral = proposal.StartEpoch, proposal.EndEpoch, proposal.StoragePricePerEpoch, proposal.ProviderCollateral
	return nil
}
