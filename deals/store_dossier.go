package deals

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"gorm.io/gorm"
)

// A dossier is what a transaction has read of a root, and keeps others from changing: every archive of it, their slots,
// and the attempts that still matter.
type dossier struct {
	root     cid.Cid
	archives []archiveRow
	slots    []Slot
	attempts []Attempt // live ones, those that were ever active, and those that ended lately
}

// An archiveRow is an archive with what only the store knows of it.
type archiveRow struct {
	Archive
	terms    TermsID
	pieceID  int64 // 0: none
	standing string
	tries    int
	next     time.Time
}

// matters is how long an attempt that has ended counts for anything: cool-downs double with each failure.
const matters = 90 * day

const archiveColumns = `ar.id, ar.root, ar.terms_id, t.terms, ar.wanted, ar.held, ar.barred, ar.reason, ar.standing, ar.tries, ar.next_ms, ` + pieceColumns

func scanArchive(from row) (a archiveRow, err error) {
	var terms string
	var p pieceRow
	dest := []any{&a.ID, intoCID{&a.Root}, &a.terms, &terms, &a.Wanted, &a.Held, &a.Barred, &a.Reason, &a.standing, &a.tries, intoTime{&a.next}}
	if err := from.Scan(append(dest, p.targets()...)...); err != nil {
		return archiveRow{}, err
	}
	if err := json.Unmarshal([]byte(terms), &a.Terms); err != nil {
		return archiveRow{}, fmt.Errorf("reading the terms of archive %d: %w", a.ID, err)
	}
	a.pieceID = p.id.Int64
	if a.Piece, err = p.piece(); err != nil {
		return archiveRow{}, fmt.Errorf("reading the piece of archive %d: %w", a.ID, err)
	}
	return a, nil
}

const slotColumns = `id, archive_id, idx, region, state, reason, exhausted, wanting, queued, turn, waits, forgiven_ms, next_ms`

func scanSlot(from row) (s Slot, err error) {
	err = from.Scan(&s.ID, &s.Archive, &s.Index, &s.Region, &s.State, &s.Reason, &s.Exhausted, &s.Wanting, &s.Queued, &s.Turn, &s.Waits,
		intoTime{&s.Forgiven}, intoTime{&s.NextAt})
	return s, err
}

// open reads the dossier of a root. Others that open it wait until the transaction ends.
func (s *store) open(tx *gorm.DB, root cid.Cid) (*dossier, error) {
	d := &dossier{root: root}
	if err := lockArchives(tx, root); err != nil {
		return nil, err
	}
	err := query(tx, func(r row) error {
		a, err := scanArchive(r)
		d.archives = append(d.archives, a)
		return err
	}, `SELECT `+archiveColumns+` FROM archives ar JOIN deal_terms t ON t.id = ar.terms_id LEFT JOIN pieces p ON p.id = ar.piece_id
		WHERE ar.root = ? ORDER BY ar.id`, text(root))
	if err != nil || len(d.archives) == 0 {
		return d, err
	}
	ids := make([]int64, len(d.archives))
	for i, a := range d.archives {
		ids[i] = int64(a.ID)
	}
	err = query(tx, func(r row) error {
		slot, err := scanSlot(r)
		d.slots = append(d.slots, slot)
		return err
	}, `SELECT `+slotColumns+` FROM slots WHERE archive_id IN ? ORDER BY archive_id, idx`, ids)
	if err != nil {
		return nil, err
	}
	d.attempts, err = attempts(tx, `WHERE a.root = ? AND (a.state IN `+liveStates+` OR a.active_ms > 0 OR a.ended_ms > ?) ORDER BY a.id`,
		text(root), ms(s.now().Add(-matters)))
	return d, err
}

// lockArchives waits until nobody else has the dossier of a root open. It is a statement of its own: one that waits for a
// row and joins others to it sees that row as it is now and the others, such as its piece, as they were before.
func lockArchives(tx *gorm.DB, root cid.Cid) error {
	if forUpdate(tx, "ar") == "" {
		return nil
	}
	return tx.Exec(`SELECT ar.id FROM archives ar WHERE ar.root = ? ORDER BY ar.id`+forUpdate(tx, "ar"), text(root)).Error
}

// archive finds one of the dossier's, which knows all of its root.
func (d *dossier) archive(id ArchiveID) *archiveRow {
	i := slices.IndexFunc(d.archives, func(a archiveRow) bool { return a.ID == id })
	if i < 0 {
		return &archiveRow{Archive: Archive{ID: id, Root: d.root}}
	}
	return &d.archives[i]
}

func (d *dossier) attempt(id AttemptID) *Attempt {
	i := slices.IndexFunc(d.attempts, func(a Attempt) bool { return a.ID == id })
	if i < 0 {
		return nil
	}
	return &d.attempts[i]
}

func (d *dossier) slot(id SlotID) *Slot {
	i := slices.IndexFunc(d.slots, func(s Slot) bool { return s.ID == id })
	if i < 0 {
		return nil
	}
	return &d.slots[i]
}

// of returns the attempts of a slot.
func (d *dossier) of(slot SlotID) []Attempt {
	var out []Attempt
	for _, a := range d.attempts {
		if a.Slot == slot {
			out = append(out, a)
		}
	}
	return out
}

func (d *dossier) view(slot *Slot) View {
	return View{Slot: *slot, Archive: d.archive(slot.Archive).Archive, Attempts: d.of(slot.ID)}
}

// saveSlot writes a slot that was read in this transaction, where it is not what it was.
func saveSlot(tx *gorm.DB, before, after Slot) error {
	if before == after {
		return nil
	}
	return tx.Exec(`UPDATE slots SET state = ?, reason = ?, exhausted = ?, wanting = ?, queued = ?, turn = ?, waits = ?, forgiven_ms = ?, next_ms = ? WHERE id = ?`,
		after.State, after.Reason, bit(after.Exhausted), bit(after.Wanting), bit(after.Queued), int64(after.Turn), after.Waits,
		ms(after.Forgiven), ms(after.NextAt), int64(after.ID)).Error
}

// close writes how the archives stand, where that has changed, and tells the follower.
func (s *store) close(tx *gorm.DB, d *dossier) error {
	for i := range d.archives {
		a := &d.archives[i]
		var slots []Slot
		for _, slot := range d.slots {
			if slot.Archive == a.ID {
				slots = append(slots, slot)
			}
		}
		var own []Attempt
		for _, t := range d.attempts {
			if t.Archive == a.ID {
				own = append(own, t)
			}
		}
		standing := StandingOf(a.Archive, slots, own)
		encoded, err := json.Marshal(standing)
		if err != nil {
			return fmt.Errorf("encoding how %s stands: %w", d.root, err)
		}
		if string(encoded) == a.standing {
			continue
		}
		err = tx.Exec(`UPDATE archives SET cold = ?, standing = ? WHERE id = ?`, standing.Cold, string(encoded), int64(a.ID)).Error
		if err != nil {
			return err
		}
		a.standing = string(encoded)
		if s.follow == nil {
			continue
		}
		if err := s.follow(tx.Statement.Context, Wish{Root: d.root, Terms: a.terms}, standing); err != nil {
			return err
		}
	}
	return nil
}

// settle brings a slot to where Next sees it after something has happened to one of its attempts. What has to be
// planned is left to the next pass.
func (s *store) settle(tx *gorm.DB, d *dossier, id SlotID) error {
	slot := d.slot(id)
	if slot == nil {
		return nil
	}
	before := *slot
	*slot = s.after(before, Next(d.view(slot), s.policy, s.now(), s.height()))
	return saveSlot(tx, before, *slot)
}

func (s *store) height() Epoch { return Epoch(s.head.Load()) }

// after is a slot with a step applied.
func (s *store) after(slot Slot, step Step) Slot {
	slot.State, slot.Exhausted, slot.Wanting, slot.Reason, slot.NextAt, slot.Queued = step.State, step.Exhausted, step.Wanting, step.Reason, step.Until, false
	if s.height() == 0 && step.State == Filled {
		// Without the chain nobody knows how long the deal still runs.
		slot.NextAt = s.now().Add(s.policy.PollSlow)
	}
	slot.NextAt = slot.NextAt.Truncate(time.Millisecond)
	return slot
}
