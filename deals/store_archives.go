package deals

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/deals/piece"
)

// key is a wish as it is looked up.
type key struct {
	root  string
	terms TermsID
}

func keysOf(wishes []Wish) (keys []key, roots []string) {
	for _, w := range wishes {
		k := key{text(w.Root), w.Terms}
		keys, roots = append(keys, k), append(roots, k.root)
	}
	return keys, roots
}

// want records that archives are wanted, with one statement for those that are new. first is the standing that a new
// archive has.
func (s *store) want(ctx context.Context, held bool, wishes []Wish, first map[TermsID]string) error {
	// Whoever takes several locks takes them in this order.
	wishes = slices.Clone(wishes)
	slices.SortFunc(wishes, func(a, b Wish) int {
		return cmp.Or(cmp.Compare(text(a.Root), text(b.Root)), cmp.Compare(a.Terms, b.Terms))
	})
	wishes = slices.Compact(wishes)
	if len(wishes) == 0 {
		return nil
	}
	now := ms(s.now())
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		known, err := knownArchives(tx, wishes)
		if err != nil {
			return err
		}
		var rows []string
		var args []any
		var reopen []Wish
		for _, w := range wishes {
			if a, ok := known[key{text(w.Root), w.Terms}]; ok {
				if !a.wanted || a.held != held {
					reopen = append(reopen, w)
				}
				continue
			}
			rows = append(rows, `(?, ?, 1, ?, 0, NULL, '', ?, ?, 0, ?, ?)`)
			args = append(args, text(w.Root), int64(w.Terms), bit(held), ColdPending, first[w.Terms], now, now)
		}
		if len(rows) > 0 {
			err := tx.Exec(`INSERT INTO archives (root, terms_id, wanted, held, barred, piece_id, reason, cold, standing, tries, next_ms, created_ms)
				VALUES `+strings.Join(rows, `, `)+` ON CONFLICT (root, terms_id) DO UPDATE SET wanted = 1, held = excluded.held`, args...).Error
			if err != nil {
				return err
			}
		}
		for _, w := range reopen {
			if err := s.reopen(tx, w, held); err != nil {
				return err
			}
		}
		return nil
	})
}

type knownArchive struct{ wanted, held bool }

func knownArchives(tx *gorm.DB, wishes []Wish) (map[key]knownArchive, error) {
	_, roots := keysOf(wishes)
	known := map[key]knownArchive{}
	err := query(tx, func(r row) error {
		var k key
		var a knownArchive
		err := r.Scan(&k.root, &k.terms, &a.wanted, &a.held)
		known[k] = a
		return err
	}, `SELECT root, terms_id, wanted, held FROM archives WHERE root IN ?`, roots)
	return known, err
}

// reopen wants an archive again that was recorded before.
func (s *store) reopen(tx *gorm.DB, w Wish, held bool) error {
	d, err := s.open(tx, w.Root)
	if err != nil {
		return err
	}
	for i := range d.archives {
		a := &d.archives[i]
		if a.terms != w.Terms {
			continue
		}
		wantedAgain := !a.Wanted
		a.Wanted, a.Held, a.next = true, held, s.now()
		err := tx.Exec(`UPDATE archives SET wanted = 1, held = ?, next_ms = ? WHERE id = ?`, bit(held), ms(a.next), int64(a.ID)).Error
		if err != nil {
			return err
		}
		for j := range d.slots {
			if slot := &d.slots[j]; slot.Archive == a.ID && (wantedAgain || held) {
				before := *slot
				if slot.State == Closed {
					slot.State, slot.Exhausted = Open, false
				}
				slot.Reason, slot.Queued, slot.NextAt = "", false, s.now()
				if err := saveSlot(tx, before, *slot); err != nil {
					return err
				}
			}
		}
	}
	return s.close(tx, d)
}

// unwant records that nobody wants archives any more, and makes what is planned for them due: it gets cancelled.
func (s *store) unwant(ctx context.Context, wishes []Wish) error {
	roots := map[string]Wish{}
	for _, w := range wishes {
		roots[text(w.Root)] = w
	}
	order := make([]string, 0, len(roots))
	for root := range roots {
		order = append(order, root)
	}
	slices.Sort(order)
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		for _, root := range order {
			d, err := s.open(tx, roots[root].Root)
			if err != nil {
				return err
			}
			for i := range d.archives {
				a := &d.archives[i]
				if !a.Wanted || !slices.Contains(wishes, Wish{Root: d.root, Terms: a.terms}) {
					continue
				}
				a.Wanted = false
				if err := s.abandon(tx, d, a); err != nil {
					return err
				}
			}
			if err := s.close(tx, d); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *store) abandon(tx *gorm.DB, d *dossier, a *archiveRow) error {
	now := s.now()
	if err := tx.Exec(`UPDATE archives SET wanted = 0 WHERE id = ?`, int64(a.ID)).Error; err != nil {
		return err
	}
	for i := range d.slots {
		slot := &d.slots[i]
		if slot.Archive != a.ID || slot.State == Closed {
			continue
		}
		before := *slot
		slot.Queued, slot.NextAt = false, now
		if err := saveSlot(tx, before, *slot); err != nil {
			return err
		}
	}
	for i := range d.attempts {
		if t := &d.attempts[i]; t.Archive == a.ID && t.State == Planned {
			t.NextAt = now
			if err := saveAttempt(tx, *t); err != nil {
				return err
			}
		}
	}
	// Other terms for the same root may take over what this one leaves behind.
	for i := range d.slots {
		slot := &d.slots[i]
		if slot.Archive == a.ID || slot.State != Open || !d.archive(slot.Archive).Wanted {
			continue
		}
		before := *slot
		slot.Queued, slot.NextAt = false, now
		if err := saveSlot(tx, before, *slot); err != nil {
			return err
		}
	}
	return nil
}

// held records whether the bytes of a root are on the hot tier.
func (s *store) held(ctx context.Context, root cid.Cid, held bool) error {
	now := ms(s.now())
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		done := tx.Exec(`UPDATE archives SET held = ?, tries = 0, next_ms = ? WHERE root = ? AND held <> ?`, bit(held), now, text(root), bit(held))
		if done.Error != nil || done.RowsAffected == 0 {
			return done.Error
		}
		if !held {
			// Whoever lets bytes go that are needed learns it in the same transaction.
			d, err := s.open(tx, root)
			if err != nil {
				return err
			}
			return s.close(tx, d)
		}
		return tx.Exec(`UPDATE slots SET next_ms = ?, queued = 0 WHERE state <> 'closed' AND archive_id IN
			(SELECT id FROM archives WHERE root = ? AND wanted = 1)`, now, text(root)).Error
	})
}

// standings returns how archives stand; those that were never wanted are not in it.
func (s *store) standings(ctx context.Context, wishes []Wish) (out map[Wish]Standing, err error) {
	keys, roots := keysOf(wishes)
	asked := map[key]Wish{}
	for i, w := range wishes {
		asked[keys[i]] = w
	}
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		out = map[Wish]Standing{}
		if len(roots) == 0 {
			return nil
		}
		return query(tx, func(r row) error {
			var k key
			var standing string
			if err := r.Scan(&k.root, &k.terms, &standing); err != nil {
				return err
			}
			w, ok := asked[k]
			if !ok {
				return nil
			}
			var decoded Standing
			err := json.Unmarshal([]byte(standing), &decoded)
			out[w] = decoded
			return err
		}, `SELECT root, terms_id, standing FROM archives WHERE root IN ?`, roots)
	})
	return out, err
}

// A toPrepare is an archive whose piece is to be made.
type toPrepare struct {
	id    ArchiveID
	root  cid.Cid
	tries int
	at    time.Time
}

// dueArchives returns the archives without a piece, in the order of their time, up to the first few that have to wait.
func (s *store) dueArchives(ctx context.Context, limit int) (all []toPrepare, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		all = nil
		return query(tx, func(r row) error {
			var p toPrepare
			err := r.Scan(&p.id, intoCID{&p.root}, &p.tries, intoTime{&p.at})
			all = append(all, p)
			return err
		}, `SELECT id, root, tries, next_ms FROM archives
			WHERE wanted = 1 AND held = 1 AND barred = 0 AND piece_id IS NULL ORDER BY next_ms LIMIT ?`, limit)
	})
	return all, err
}

// prepared records the piece of a root: its archives get their slots, and these are due.
func (s *store) prepared(ctx context.Context, root cid.Cid, p piece.Piece) error {
	return s.work(ctx, func(tx *gorm.DB) error {
		d, err := s.open(tx, root)
		if err != nil {
			return err
		}
		id, err := s.addPiece(tx, root, p)
		if err != nil {
			return err
		}
		for i := range d.archives {
			a := &d.archives[i]
			if a.Piece != nil {
				continue
			}
			a.Piece, a.pieceID, a.Reason, a.Barred = &p, id, "", false
			err := tx.Exec(`UPDATE archives SET piece_id = ?, reason = '', barred = 0, tries = 0 WHERE id = ?`, id, int64(a.ID)).Error
			if err != nil {
				return err
			}
			if err := s.addSlots(tx, d, a); err != nil {
				return err
			}
		}
		return s.close(tx, d)
	})
}

// addSlots makes the promise of an archive: one slot for each copy.
func (s *store) addSlots(tx *gorm.DB, d *dossier, a *archiveRow) error {
	now := s.now()
	for index := range a.Terms.Replicas {
		slot := Slot{Archive: a.ID, Index: index, Region: a.Terms.Region(index), State: Open, NextAt: now}
		err := tx.Raw(`INSERT INTO slots (archive_id, idx, region, state, reason, exhausted, queued, forgiven_ms, next_ms)
			VALUES (?, ?, ?, ?, '', 0, 0, 0, ?) RETURNING id`, int64(a.ID), index, slot.Region, slot.State, ms(now)).Row().Scan(&slot.ID)
		if err != nil {
			return err
		}
		d.slots = append(d.slots, slot)
	}
	return nil
}

// unprepared records why there is no piece yet, or, barred, why there never will be.
func (s *store) unprepared(ctx context.Context, root cid.Cid, reason string, barred bool, next time.Time) error {
	return s.work(ctx, func(tx *gorm.DB) error {
		d, err := s.open(tx, root)
		if err != nil {
			return err
		}
		for i := range d.archives {
			a := &d.archives[i]
			if a.Piece != nil {
				continue
			}
			a.Reason, a.Barred = reason, barred
			err := tx.Exec(`UPDATE archives SET reason = ?, barred = ?, tries = tries + 1, next_ms = ? WHERE id = ?`,
				reason, bit(barred), ms(next), int64(a.ID)).Error
			if err != nil {
				return err
			}
		}
		return s.close(tx, d)
	})
}
