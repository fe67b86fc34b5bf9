package deals

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"gorm.io/gorm"
)

// attemptColumns are what every look reads of an attempt. The bytes that were signed are read where they are needed.
const (
	attemptColumns = `a.id, a.uuid, a.slot_id, a.archive_id, a.root, a.generation, a.renews, a.provider, a.protocol,
		a.proposal_cid, a.start_epoch, a.end_epoch, a.price, a.collateral, a.verified, a.reserved, a.day,
		a.state, a.reason, a.verbatim, a.retryable, a.publish_cid, a.publish_claimed, a.deal_id, a.sector, a.seen_pending, a.pending_ms, a.blind,
		a.unknowns, a.unknown_ms, a.missing, a.height, a.planned_ms, a.sent_ms, a.accepted_ms, a.pulled_ms,
		a.published_ms, a.active_ms, a.ended_ms, a.changed_ms, a.next_ms, ` + pieceColumns
	fromAttempts = ` FROM attempts a JOIN pieces p ON p.id = a.piece_id `
	withBytes    = `, a.signed, a.message`
)

// scanAttempt reads attemptColumns, and further columns into more.
func scanAttempt(from row, more ...any) (a Attempt, err error) {
	var id string
	var p pieceRow
	dest := []any{
		&a.ID, &id, &a.Slot, &a.Archive,
		intoCID{&a.Root},
		&a.Generation, &a.Renews, &a.Provider, &a.Protocol,
		intoCID{&a.ProposalCID},
		&a.Start, &a.End,
		intoAmount{&a.Price},
		intoAmount{&a.Collateral},
		&a.Verified,
		intoAmount{&a.Reserved},
		&a.Day,
		&a.State, &a.Reason, &a.Verbatim, &a.Retryable,
		intoCID{&a.PublishCID},
		&a.Claimed, &a.DealID, &a.Sector, &a.SeenPending,
		intoTime{&a.PendingAt},
		&a.Blind,
		&a.Unknowns,
		intoTime{&a.UnknownAt},
		&a.Missing, &a.Height,
		intoTime{&a.PlannedAt},
		intoTime{&a.SentAt},
		intoTime{&a.AcceptedAt},
		intoTime{&a.PulledAt},
		intoTime{&a.PublishedAt},
		intoTime{&a.ActiveAt},
		intoTime{&a.EndedAt},
		intoTime{&a.ChangedAt},
		intoTime{&a.NextAt},
	}
	dest = append(append(dest, p.targets()...), more...)
	if err := from.Scan(dest...); err != nil {
		return Attempt{}, err
	}
	if a.UUID, err = uuid.Parse(id); err != nil {
		return Attempt{}, fmt.Errorf("reading attempt %d: %w", a.ID, err)
	}
	carried, err := p.piece()
	if err != nil {
		return Attempt{}, fmt.Errorf("reading the piece of attempt %d: %w", a.ID, err)
	}
	a.Piece = *carried
	return a, nil
}

// attempts reads those that a condition on a selects.
func attempts(tx *gorm.DB, condition string, args ...any) (all []Attempt, err error) {
	err = query(tx, func(r row) error {
		a, err := scanAttempt(r)
		all = append(all, a)
		return err
	}, `SELECT `+attemptColumns+fromAttempts+condition, args...)
	return all, err
}

// attempt reads one with its bytes, or returns ErrNotFound.
func (s *store) attempt(ctx context.Context, condition string, arg any) (a Attempt, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		a, err = wholeAttempt(tx, condition, arg)
		return err
	})
	return a, err
}

func wholeAttempt(tx *gorm.DB, condition string, arg any) (a Attempt, err error) {
	var signed, message []byte
	a, err = scanAttempt(tx.Raw(`SELECT `+attemptColumns+withBytes+fromAttempts+condition, arg).Row(), &signed, &message)
	if errors.Is(err, sql.ErrNoRows) {
		return Attempt{}, ErrNotFound
	}
	a.Signed, a.Message = signed, message
	return a, err
}

const (
	byAttemptID = `WHERE a.id = ?`
	byUUID      = `WHERE a.uuid = ?`
)

// insertAttempt records an intent and returns its number.
func insertAttempt(tx *gorm.DB, a Attempt, pieceID int64) (id AttemptID, err error) {
	err = tx.Raw(`INSERT INTO attempts (uuid, slot_id, archive_id, root, piece_id, generation, renews, provider, protocol,
		proposal_cid, start_epoch, end_epoch, price, collateral, verified, reserved, day, state, reason, verbatim, retryable,
		publish_cid, deal_id, sector, seen_pending, pending_ms, blind, unknowns, unknown_ms, missing, height, planned_ms, sent_ms,
		accepted_ms, pulled_ms, published_ms, active_ms, ended_ms, changed_ms, next_ms)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '', 0, 0, '0', '0', ?, ?, ?, ?, '', '', 0, '', 0, 0, 0, 0, 0, 0, 0, 0, 0, ?, 0, 0, 0, 0, 0, 0, ?, ?)
		RETURNING id`,
		a.UUID.String(), int64(a.Slot), int64(a.Archive), text(a.Root), pieceID, a.Generation, int64(a.Renews), int64(a.Provider), a.Protocol, //nolint:gosec // a provider's number fits
		bit(a.Verified), decimal(a.Reserved), a.Day, a.State, ms(a.PlannedAt), ms(a.ChangedAt), ms(a.NextAt)).Row().Scan(&id)
	return id, err
}

// saveAttempt writes what may change after the intent. Bytes that were signed are written once and never changed.
func saveAttempt(tx *gorm.DB, a Attempt) error {
	return tx.Exec(`UPDATE attempts SET start_epoch = ?, end_epoch = ?, price = ?, collateral = ?, reserved = ?, day = ?,
		state = ?, reason = ?, verbatim = ?, retryable = ?, publish_cid = ?, publish_claimed = ?, deal_id = ?, sector = ?,
		seen_pending = ?, pending_ms = ?, blind = ?, unknowns = ?, unknown_ms = ?, missing = ?, height = ?, sent_ms = ?, accepted_ms = ?, pulled_ms = ?,
		published_ms = ?, active_ms = ?, ended_ms = ?, changed_ms = ?, next_ms = ? WHERE id = ?`,
		int64(a.Start), int64(a.End), decimal(a.Price), decimal(a.Collateral), decimal(a.Reserved), a.Day,
		a.State, a.Reason, a.Verbatim, bit(a.Retryable), text(a.PublishCID), bit(a.Claimed), int64(a.DealID), int64(a.Sector), //nolint:gosec // numbers of deals and sectors fit
		bit(a.SeenPending), ms(a.PendingAt), bit(a.Blind), a.Unknowns, ms(a.UnknownAt), a.Missing, int64(a.Height), ms(a.SentAt), ms(a.AcceptedAt), ms(a.PulledAt),
		ms(a.PublishedAt), ms(a.ActiveAt), ms(a.EndedAt), ms(a.ChangedAt), ms(a.NextAt), int64(a.ID)).Error
}

// saveSigned writes what is sent, once: there is never a second message for an attempt.
func saveSigned(tx *gorm.DB, a Attempt) error {
	done := tx.Exec(`UPDATE attempts SET proposal_cid = ?, signed = ?, message = ? WHERE id = ? AND state = 'planned' AND message IS NULL`,
		text(a.ProposalCID), a.Signed, a.Message, int64(a.ID))
	if done.Error == nil && done.RowsAffected == 0 {
		return errStale
	}
	return done.Error
}

// A due is an attempt or a slot whose time has come, or will.
type due struct {
	id       int64
	root     cid.Cid
	provider ProviderID
	at       time.Time
}

// dueAttempts returns the attempts that move, those first that have waited longest, up to the first few whose time has
// not come; none with the providers named, which are busy answering others.
func (s *store) dueAttempts(ctx context.Context, not []ProviderID, limit int) (all []due, err error) {
	condition, args := "", []any{}
	if len(not) > 0 {
		condition, args = ` AND provider NOT IN ?`, append(args, numbersOf(not))
	}
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		all = nil
		return query(tx, func(r row) error {
			var d due
			err := r.Scan(&d.id, intoCID{&d.root}, &d.provider, intoTime{&d.at})
			all = append(all, d)
			return err
		}, `SELECT id, root, provider, next_ms FROM attempts WHERE state IN `+movingStates+condition+` ORDER BY next_ms LIMIT ?`, append(args, limit)...)
	})
	return all, err
}

// activeByDeal returns the active attempts with these deals.
func (s *store) activeByDeal(ctx context.Context, ids []abi.DealID) (all []Attempt, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		all, err = attempts(tx, `WHERE a.state = 'active' AND a.deal_id IN ?`, numbersOf(ids))
		return err
	})
	return all, err
}

// doubtful returns active attempts that a final tipset has not shown once, or that have reached their end.
func (s *store) doubtful(ctx context.Context, final Epoch, limit int) (all []Attempt, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		missing, err := attempts(tx, `WHERE a.state = 'active' AND a.missing > 0 ORDER BY a.id LIMIT ?`, limit)
		if err != nil {
			return err
		}
		ended, err := attempts(tx, `WHERE a.state = 'active' AND a.end_epoch <= ? ORDER BY a.end_epoch LIMIT ?`, int64(final), limit)
		all = append(missing, ended...)
		return err
	})
	return all, err
}

// unpublished returns the attempts of a root with a provider that may be the deal that was found on chain. Also those that
// it has given up or refused: it has what we signed.
func (s *store) unpublished(ctx context.Context, root cid.Cid, p ProviderID) (all []Attempt, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		all, err = attempts(tx, `WHERE a.root = ? AND a.provider = ? AND a.deal_id = 0 AND (a.state IN `+movingStates+`
			OR a.published_ms = 0 AND (a.state = 'failed' AND a.accepted_ms > 0 OR a.state = 'rejected'))`, text(root), int64(p)) //nolint:gosec // a provider's number fits
		return err
	})
	return all, err
}

// recorded tells which deals are those of attempts.
func (s *store) recorded(ctx context.Context, ids []abi.DealID) (are map[abi.DealID]bool, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		are = map[abi.DealID]bool{}
		return query(tx, func(r row) error {
			var id abi.DealID
			err := r.Scan(&id)
			are[id] = true
			return err
		}, `SELECT deal_id FROM attempts WHERE deal_id <> 0 AND deal_id IN ?`, numbersOf(ids))
	})
	return are, err
}

// busy counts the attempts in flight by provider.
func busyProviders(tx *gorm.DB) (by map[ProviderID]int, total int, err error) {
	by = map[ProviderID]int{}
	err = query(tx, func(r row) error {
		var p ProviderID
		var n int
		err := r.Scan(&p, &n)
		by[p], total = n, total+n
		return err
	}, `SELECT provider, count(*) FROM attempts WHERE state IN ('planned','proposing','accepted','transferring') GROUP BY provider`)
	return by, total, err
}

// A Filter selects attempts. Zero fields select everything.
type Filter struct {
	States   []State
	Provider ProviderID
	Root     cid.Cid
	Before   AttemptID // only older ones: the last of the page before
	Limit    int       // at most 1000, which 0 means, too
}

// maxListed bounds a page.
const maxListed = 1000

func (s *store) list(ctx context.Context, f Filter) (all []Attempt, err error) {
	var where []string
	var args []any
	and := func(condition string, arg any) { where, args = append(where, condition), append(args, arg) }
	if len(f.States) > 0 {
		and(`a.state IN ?`, f.States)
	}
	if f.Provider != 0 {
		and(`a.provider = ?`, int64(f.Provider)) //nolint:gosec // a provider's number fits
	}
	if f.Root.Defined() {
		and(`a.root = ?`, text(f.Root))
	}
	if f.Before > 0 {
		and(`a.id < ?`, int64(f.Before))
	}
	condition := ""
	if len(where) > 0 {
		condition = `WHERE ` + strings.Join(where, ` AND `)
	}
	if f.Limit <= 0 || f.Limit > maxListed {
		f.Limit = maxListed
	}
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		all, err = attempts(tx, condition+` ORDER BY a.id DESC LIMIT ?`, append(args, f.Limit)...)
		return err
	})
	return all, err
}

// dealsOf returns all attempts of an archive with what was signed, newest last.
func (s *store) dealsOf(ctx context.Context, w Wish) (all []Attempt, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		all = []Attempt{}
		return query(tx, func(r row) error {
			var signed, message []byte
			a, err := scanAttempt(r, &signed, &message)
			a.Signed, a.Message = signed, message
			all = append(all, a)
			return err
		}, `SELECT `+attemptColumns+withBytes+fromAttempts+`JOIN archives ar ON ar.id = a.archive_id
			WHERE ar.root = ? AND ar.terms_id = ? ORDER BY a.id`, text(w.Root), int64(w.Terms))
	})
	return all, err
}

// A tally counts attempts.
type tally struct {
	state    State
	provider ProviderID
	n        int64
}

func (s *store) tallies(ctx context.Context) (all []tally, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		all = nil
		return query(tx, func(r row) error {
			var t tally
			err := r.Scan(&t.state, &t.provider, &t.n)
			all = append(all, t)
			return err
		}, `SELECT state, provider, count(*) FROM attempts GROUP BY provider, state`)
	})
	return all, err
}
