package deals

import (
	"context"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/ipfs/go-cid"
	"gorm.io/gorm"
)

// dueSlots returns the roots of slots whose time has come, or will, in that order; not those that wait for others.
func (s *store) dueSlots(ctx context.Context, limit int) (all []due, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		all = nil
		return query(tx, func(r row) error {
			var d due
			err := r.Scan(&d.id, intoCID{&d.root}, intoTime{&d.at})
			all = append(all, d)
			return err
		}, `SELECT s.id, ar.root, s.next_ms FROM slots s JOIN archives ar ON ar.id = s.archive_id
			WHERE s.state <> 'closed' AND s.queued = 0 ORDER BY s.next_ms LIMIT ?`, limit)
	})
	return all, err
}

// planLater makes the slots of a root that are due look again at a time; those in the queue only if it is their turn.
func (s *store) planLater(ctx context.Context, root cid.Cid, queued bool, at time.Time) error {
	return s.work(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`UPDATE slots SET next_ms = ? WHERE archive_id IN (SELECT id FROM archives WHERE root = ?)
			AND state <> 'closed' AND queued <= ? AND next_ms <= ?`, ms(at), text(root), bit(queued), ms(s.now())).Error
	})
}

// unpaidAtOnce is how many slots that nobody paid for are read, and woken, in one transaction.
const unpaidAtOnce = 500

// unpaidSlots returns slots that nobody paid for, behind one in the order in which they look again, up to a time. The index of
// what is due finds them.
func (s *store) unpaidSlots(ctx context.Context, behind due, until time.Time, limit int) (list []due, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		return query(tx, func(r row) error {
			var d due
			err := r.Scan(&d.id, intoCID{&d.root}, intoTime{&d.at})
			list = append(list, d)
			return err
		}, `SELECT s.id, ar.root, s.next_ms FROM slots s JOIN archives ar ON ar.id = s.archive_id
			WHERE s.state <> 'closed' AND s.queued = 0 AND s.next_ms >= ? AND s.next_ms <= ? AND (s.next_ms > ? OR s.id > ?) AND s.reason = ?
			ORDER BY s.next_ms, s.id LIMIT ?`, ms(behind.at), ms(until), ms(behind.at), behind.id, unpaid, limit)
	})
	return list, err
}

// wakeUnpaid lets slots look now that nobody had paid for.
func (s *store) wakeUnpaid(ctx context.Context, list []due, now time.Time) error {
	if len(list) == 0 {
		return nil
	}
	ids := make([]int64, len(list))
	for i, d := range list {
		ids[i] = d.id
	}
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`UPDATE slots SET next_ms = ?, waits = 0 WHERE id IN ? AND state <> 'closed' AND queued = 0 AND reason = ?`,
			ms(now), ids, unpaid).Error
	})
}

// A place is one in the queue. The zero value is before all.
type place struct {
	turn  Epoch
	since int64 // Unix milliseconds
	slot  SlotID
}

// A waiting is a slot in the queue.
type waiting struct {
	place
	root cid.Cid
	kind kind
}

// A kind is what slots have in common that find the same providers, and wait for as much money: where one finds none, the
// others need not look.
type kind struct {
	terms  TermsID
	region string
	size   abi.PaddedPieceSize
	// provider has the copy that is to be renewed. Others have one too, as a rule, so that often only this one can renew it.
	provider ProviderID
}

// queue returns slots that wait for others, in the order of their turns, and of one turn those first that have waited
// longest; from a place on, which is not among them, up to a turn.
func (s *store) queue(ctx context.Context, after place, to Epoch, limit int) (all []waiting, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		all = nil
		return query(tx, func(r row) error {
			var w waiting
			err := r.Scan(&w.turn, &w.since, &w.slot, intoCID{&w.root}, &w.kind.terms, &w.kind.region, &w.kind.size, &w.kind.provider)
			all = append(all, w)
			return err
		}, `SELECT s.turn, s.next_ms, s.id, ar.root, ar.terms_id, s.region, coalesce(p.size, 0),
			coalesce((SELECT max(a.provider) FROM attempts a WHERE a.slot_id = s.id AND a.state = 'active'), 0)
			FROM slots s JOIN archives ar ON ar.id = s.archive_id LEFT JOIN pieces p ON p.id = ar.piece_id
			WHERE s.queued = 1 AND (s.turn, s.next_ms, s.id) > (?, ?, ?) AND s.turn <= ?
			ORDER BY s.turn, s.next_ms, s.id LIMIT ?`, int64(after.turn), after.since, int64(after.slot), int64(to), limit)
	})
	return all, err
}

// enqueue makes a slot wait for others to be done: the queue is looked at when one is.
func (s *store) enqueue(d *dossier, slot *Slot, reason string) {
	slot.Queued, slot.Turn, slot.Waits, slot.Reason, slot.NextAt = true, turnOf(d, slot), 0, reason, s.now()
}

// turnOf tells how much hurry there is with a slot.
func turnOf(d *dossier, slot *Slot) Epoch {
	turn, ends := turnFirst, Epoch(0)
	for _, a := range d.of(slot.ID) {
		if a.State == Active {
			ends = max(ends, a.End)
		}
		if !a.ActiveAt.IsZero() {
			turn = turnLost
		}
	}
	if ends > 0 {
		return ends
	}
	return turn
}

// putOff makes a slot that nobody can fill, or pays for, look again at a time, but not before a pause that doubles with
// each look in vain: a million of them must not keep the database busy.
func (s *store) putOff(slot *Slot, reason string, at time.Time, first, most time.Duration) {
	wait := first
	for i := 0; i < slot.Waits && wait < most; i++ {
		wait = min(2*wait, most)
	}
	if earliest := s.now().Add(wait).Truncate(time.Millisecond); at.Before(earliest) {
		at = earliest
	}
	slot.Reason, slot.NextAt, slot.Waits = reason, at, slot.Waits+1
}

// between is a time to look again that is neither at once nor for ever.
func (s *store) between(t time.Time) time.Time {
	earliest, latest := s.now().Add(s.policy.Poll), s.now().Add(s.policy.PollSlow)
	switch {
	case t.Before(earliest):
		return earliest
	case t.After(latest):
		return latest
	}
	return t.Truncate(time.Millisecond)
}
