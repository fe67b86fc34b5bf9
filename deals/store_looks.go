package deals

import (
	"context"
	"encoding/json"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"gorm.io/gorm"
)

// attemptToLookAt reads an attempt with its bytes, and whether its copy is wanted.
func (s *store) attemptToLookAt(ctx context.Context, id AttemptID) (a Attempt, wanted bool, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		if a, err = wholeAttempt(tx, byAttemptID, int64(id)); err != nil {
			return err
		}
		return tx.Raw(`SELECT wanted FROM archives WHERE id = ?`, int64(a.Archive)).Row().Scan(&wanted)
	})
	return a, wanted, err
}

// mayRemind tells whether a proposal without an answer should be sent again: its copy is wanted, its bytes are here,
// and the slot has nothing better by now.
func (s *store) mayRemind(ctx context.Context, a Attempt) (may bool, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		may = false
		var owner ArchiveID
		err := tx.Raw(`SELECT id FROM archives WHERE id = ? AND wanted = 1 AND held = 1`, int64(a.Archive)).Row().Scan(&owner)
		if notFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		slot, err := attempts(tx, `WHERE a.slot_id = ? AND a.state IN `+liveStates, int64(a.Slot))
		d := &dossier{root: a.Root, attempts: slot}
		may = !rivalled(d, a, s.policy, s.now(), s.height())
		for _, other := range slot {
			// One that was planned since takes its place: it was planned because this one is stuck.
			may = may && (other.ID <= a.ID || stuck(other, s.policy, s.now(), s.height()))
		}
		return err
	})
	return may, err
}

// slotTerms reads what is asked of the copies of a slot, where it has to lie, and the size of the piece before it is
// padded for a provider.
func (s *store) slotTerms(ctx context.Context, id SlotID) (t Terms, region string, natural abi.PaddedPieceSize, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		var terms string
		err := tx.Raw(`SELECT t.terms, s.region, p.size FROM slots s JOIN archives ar ON ar.id = s.archive_id
			JOIN deal_terms t ON t.id = ar.terms_id JOIN pieces p ON p.id = ar.piece_id WHERE s.id = ?`, int64(id)).Row().Scan(&terms, &region, &natural)
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(terms), &t)
	})
	return t, region, natural, err
}

// oldestDue is when the next look at an attempt that moves is due; zero when none is.
func (s *store) oldestDue(ctx context.Context) (at time.Time, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		at = time.Time{}
		return query(tx, func(r row) error { return r.Scan(intoTime{&at}) },
			`SELECT next_ms FROM attempts WHERE state IN `+movingStates+` ORDER BY next_ms LIMIT 1`)
	})
	return at, err
}
