package deals

import (
	"context"
	"errors"
	"time"

	"github.com/filecoin-project/go-state-types/big"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"gorm.io/gorm"
)

// observe moves an attempt on by what was observed of it as it was seen, with everything that follows from that: the
// slot, the money, the provider's record, the standing. It returns errStale when the attempt is no longer as it was.
func (s *store) observe(ctx context.Context, seen Attempt, o Observation) (after Attempt, err error) {
	err = s.work(ctx, func(tx *gorm.DB) error {
		d, err := s.open(tx, seen.Root)
		if err != nil {
			return err
		}
		current := d.attempt(seen.ID)
		if current == nil || current.State != seen.State || !current.ChangedAt.Equal(seen.ChangedAt) || current.DealID != seen.DealID {
			return errStale
		}
		after, err = s.move(tx, d, current, o)
		return err
	})
	return after, err
}

// hint moves an attempt on by what our own endpoint has seen, whoever holds the lease: every server serves pieces.
func (s *store) hint(ctx context.Context, id AttemptID, root cid.Cid, o Observation) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		d, err := s.open(tx, root)
		if err != nil {
			return err
		}
		current := d.attempt(id)
		if current == nil || current.State.Final() || current.State == Planned {
			return nil
		}
		_, err = s.move(tx, d, current, o)
		return err
	})
}

// move applies an observation to an attempt of the dossier.
func (s *store) move(tx *gorm.DB, d *dossier, a *Attempt, o Observation) (Attempt, error) {
	before := *a
	o.Wanted = d.archive(a.Archive).Wanted
	*a = Track(before, o, s.policy, s.now())
	if before.State.Final() && !a.PublishedAt.IsZero() && before.PublishedAt.IsZero() {
		if err := s.acknowledge(tx, d, before, a); err != nil {
			return *a, err
		}
		if before.State == Rejected {
			err := s.outcome(tx, a.Provider, Outcome{Event: Sneaked, Why: "it has published a deal that it had refused"}, s.now())
			if err != nil {
				return *a, err
			}
		}
	}
	if err := saveAttempt(tx, *a); err != nil {
		return *a, err
	}
	if err := s.reckon(tx, before, *a, o); err != nil {
		return *a, err
	}
	if before.PublishedAt.IsZero() && !a.PublishedAt.IsZero() {
		s.released.Add(1)
	}
	if err := s.giveBack(tx, before, *a); err != nil {
		return *a, err
	}
	if before.State == a.State && (o.Silent || o.Unreachable && a.DealID == 0) {
		err := s.outcome(tx, a.Provider, Outcome{Event: Unreached, Why: "it did not answer"}, s.now())
		if err != nil {
			return *a, err
		}
	}
	if before.State != a.State {
		excused := o.Forbidden && (a.State == Failed || a.State == Missed)
		if outcome, says := OutcomeOf(*a); says && !excused {
			if err := s.outcome(tx, a.Provider, outcome, s.now()); err != nil {
				return *a, err
			}
		}
		if err := s.settle(tx, d, a.Slot); err != nil {
			return *a, err
		}
	}
	return *a, s.close(tx, d)
}

// errUndecided says that a deal that was given up or refused is on chain, and that it is not known yet whether it is a copy:
// its provider was asked for another one, which may become one too.
var errUndecided = errors.New("whether it is a copy shows when another proposal to its provider is over")

// acknowledge charges a deal that its provider has given up or refused, and published all the same, whatever the caps say:
// it is paid already. Where another one with this provider is active already there is one copy, and the deal only counts
// as spent. Errors: errUndecided.
func (s *store) acknowledge(tx *gorm.DB, d *dossier, before Attempt, a *Attempt) error {
	for i := range d.attempts {
		switch other := &d.attempts[i]; {
		case other.ID == a.ID || other.Provider != a.Provider || other.Renews != a.Renews || other.State.Final():
		case other.State == Planned:
			w := withdrawal{state: Cancelled, reason: "the provider has published a deal that it had given up or refused"}
			if err := s.withdrawOpen(tx, d, other.ID, w); err != nil {
				return err
			}
		case other.State.before(Active):
			return errUndecided
		default:
			before.DealID, before.PublishCID, before.Claimed, before.PublishedAt = a.DealID, a.PublishCID, a.Claimed, a.PublishedAt
			before.Reason += "; it has published the deal all the same, beside another one"
			*a = before
		}
	}
	charged := before.Reserved.Sign() > 0
	if a.Reserved = big.Zero(); charged {
		return nil
	}
	a.Day = dayOf(s.now())
	return s.owe(tx, a.Day, a.Cost())
}

// giveBack refunds what was charged for an attempt that has ended without ever being on chain, and that nobody can
// publish any more.
func (s *store) giveBack(tx *gorm.DB, before, after Attempt) error {
	if before.State.Final() || !after.State.Final() || !after.PublishedAt.IsZero() || after.Reserved.Sign() > 0 {
		return nil
	}
	charged := before.Cost()
	if before.State == Planned {
		charged = before.Reserved
	}
	return s.refund(tx, before.Day, charged)
}

// givenUp returns the next attempts after one that their provider gave up and may still publish, or have published: those
// that are still charged, and those that cost nothing until their start is final.
func (s *store) givenUp(ctx context.Context, final Epoch, after AttemptID, limit int) (ids []AttemptID, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		ids = nil
		return query(tx, func(r row) error {
			var id AttemptID
			err := r.Scan(&id)
			ids = append(ids, id)
			return err
		}, `SELECT id FROM attempts WHERE reserved <> '0' AND state = 'failed' AND id > ?
			UNION SELECT id FROM attempts WHERE state = 'failed' AND accepted_ms > 0 AND published_ms = 0 AND start_epoch >= ? AND id > ?
			ORDER BY id LIMIT ?`, int64(after), int64(final), int64(after), limit)
	})
	return ids, err
}

// release refunds an attempt that its provider gave up and that can no longer be published, unless it was taken up.
func (s *store) release(ctx context.Context, id AttemptID) error {
	return s.work(ctx, func(tx *gorm.DB) error {
		given, err := attempts(tx, `WHERE a.id = ? AND a.reserved <> '0' AND a.state = 'failed'`, int64(id))
		if err != nil {
			return err
		}
		for _, a := range given {
			if err := s.refund(tx, a.Day, a.Cost()); err != nil {
				return err
			}
			a.Reserved = big.Zero()
			if err := saveAttempt(tx, a); err != nil {
				return err
			}
		}
		return nil
	})
}

// An offer is what is about to be signed away.
type offer struct {
	attempt Attempt // with everything that was signed, and the message
	funds   funding
	caps    Caps
}

// errRival says that a slot is being filled by another attempt meanwhile.
var errRival = errors.New("another attempt fills the slot")

// commit records the signed bytes of a planned attempt before they are sent, with what they may cost. Errors: errStale
// when it is no longer wanted or planned, errRival, *CapError, *fundsError.
func (s *store) commit(ctx context.Context, o offer) (after Attempt, err error) {
	err = s.work(ctx, func(tx *gorm.DB) error {
		a := o.attempt
		d, err := s.open(tx, a.Root)
		if err != nil {
			return err
		}
		current := d.attempt(a.ID)
		owner := d.archive(a.Archive)
		if current == nil || current.State != Planned || !owner.Wanted || !owner.Held {
			return errStale
		}
		if rivalled(d, *current, s.policy, s.now(), s.height()) {
			return errRival
		}
		cost := a.Cost()
		if err := s.refund(tx, current.Day, current.Reserved); err != nil {
			return err
		}
		// What this attempt has reserved so far is not to be counted beside what it needs.
		current.Reserved, current.Day = big.Zero(), dayOf(s.now())
		if err := saveAttempt(tx, *current); err != nil {
			return err
		}
		a.Day, a.Reserved, a.State = current.Day, cost, Proposing
		if err := s.pay(tx, a, cost, o.funds, o.caps); err != nil {
			return err
		}
		// From here on it counts as sent: a crash leaves no other trace of whether it was.
		a.SentAt, a.ChangedAt, a.NextAt = s.now(), s.now(), s.now().Add(s.policy.Poll)
		if err := saveSigned(tx, a); err != nil {
			return err
		}
		if err := saveAttempt(tx, a); err != nil {
			return err
		}
		*current = a
		if err := s.settle(tx, d, a.Slot); err != nil {
			return err
		}
		after = a
		return s.close(tx, d)
	})
	return after, err
}

// rivalled tells whether a slot has, or may soon have, its copy without this attempt.
func rivalled(d *dossier, a Attempt, p Policy, now time.Time, head Epoch) bool {
	renewed := d.attempt(a.Renews)
	for _, other := range d.of(a.Slot) {
		switch {
		case other.ID == a.ID || other.ID == a.Renews || other.State.Final():
		case other.State == Active:
			if renewed == nil || other.End > renewed.End {
				return true
			}
		case other.ID < a.ID && !stuck(other, p, now, head):
			return true
		}
	}
	return false
}

// A withdrawal says how an attempt ends of which nothing was sent.
type withdrawal struct {
	state  State // Cancelled, or Failed when the provider is to blame
	reason string
	wait   time.Duration // before the slot tries again, at least
	queue  bool          // it waits for others instead
}

// withdraw ends a planned attempt. A slot that still needs a copy looks for another provider.
func (s *store) withdraw(ctx context.Context, id AttemptID, root cid.Cid, w withdrawal) error {
	return s.work(ctx, func(tx *gorm.DB) error {
		d, err := s.open(tx, root)
		if err != nil {
			return err
		}
		if a := d.attempt(id); a == nil || a.State != Planned {
			return errStale
		}
		return s.withdrawOpen(tx, d, id, w)
	})
}

func (s *store) withdrawOpen(tx *gorm.DB, d *dossier, id AttemptID, w withdrawal) error {
	a := d.attempt(id)
	before := *a
	*a = end(*a, w.state, w.reason)
	a.ChangedAt, a.EndedAt, a.Reserved, a.Retryable = s.now(), s.now(), big.Zero(), true
	if err := saveAttempt(tx, *a); err != nil {
		return err
	}
	if err := s.giveBack(tx, before, *a); err != nil {
		return err
	}
	if err := s.settle(tx, d, a.Slot); err != nil {
		return err
	}
	if slot := d.slot(a.Slot); slot != nil && slot.Wanting {
		was := *slot // also one that has a copy, and wants it renewed
		slot.Reason = w.reason
		if earliest := s.now().Add(w.wait); slot.NextAt.Before(earliest) {
			slot.NextAt = earliest
		}
		if w.queue {
			s.enqueue(d, slot, w.reason)
		}
		if err := saveSlot(tx, was, *slot); err != nil {
			return err
		}
	}
	return s.close(tx, d)
}

// later makes a look at an attempt due at a time, when the last one came to nothing.
func (s *store) later(ctx context.Context, id AttemptID, at time.Time) error {
	return s.work(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`UPDATE attempts SET next_ms = ? WHERE id = ? AND state IN `+movingStates, ms(at), int64(id)).Error
	})
}

// retry forgives the slots of a root what has failed.
func (s *store) retry(ctx context.Context, root cid.Cid) (n int, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		n = 0
		d, err := s.open(tx, root)
		if err != nil {
			return err
		}
		wanted := false
		for i := range d.archives {
			a := &d.archives[i]
			if !a.Wanted {
				continue
			}
			wanted = true
			if a.Piece != nil && !a.Barred {
				continue
			}
			a.Barred, a.Reason = false, ""
			err := tx.Exec(`UPDATE archives SET barred = 0, reason = '', tries = 0, next_ms = ? WHERE id = ?`, ms(s.now()), int64(a.ID)).Error
			if err != nil {
				return err
			}
			if a.Piece == nil {
				n += a.Terms.Replicas // it has no slots yet
			}
		}
		if !wanted {
			return ErrNotFound
		}
		for i := range d.slots {
			slot := &d.slots[i]
			if slot.State == Closed || slot.State == Filled || !d.archive(slot.Archive).Wanted {
				continue
			}
			before := *slot
			slot.Forgiven, slot.NextAt, slot.Exhausted, slot.Queued, slot.Waits = s.now(), s.now(), false, false, 0
			if err := saveSlot(tx, before, *slot); err != nil {
				return err
			}
			n++
		}
		return s.close(tx, d)
	})
	return n, err
}

// cancel withdraws a planned attempt on the operator's word.
func (s *store) cancel(ctx context.Context, id uuid.UUID) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		a, err := wholeAttempt(tx, byUUID, id.String())
		if err != nil {
			return err
		}
		d, err := s.open(tx, a.Root)
		if err != nil {
			return err
		}
		current := d.attempt(a.ID)
		if current == nil || current.State != Planned {
			return ErrSent
		}
		return s.withdrawOpen(tx, d, a.ID, withdrawal{state: Cancelled, reason: "cancelled by the operator", wait: s.policy.RetryFirst})
	})
}
