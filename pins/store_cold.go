package pins

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/deals"
)

// errNoArchive is a mistake of ours: terms are decided only where there is an archive.
var errNoArchive = errors.New("there is no archive to ask for cold copies")

// termsColumn is how terms are stored.
func termsColumn(t deals.TermsID) sql.NullInt64 {
	return sql.NullInt64{Int64: int64(t), Valid: t != Undecided}
}

func termsOf(column sql.NullInt64) deals.TermsID {
	if !column.Valid {
		return Undecided
	}
	return deals.TermsID(column.Int64)
}

// wantCold asks the archive for what additions want cold, once their roots are known, and gives them their standings.
func (s *store) wantCold(tx *gorm.DB, batch []*addition) error {
	var coming, held []deals.Wish
	seen := map[deals.Wish]bool{}
	undecided := false
	for _, a := range batch {
		a.cold = s.coldOf(a.terms, nil, deals.Wish{})
		undecided = undecided || a.terms == Undecided
		w := deals.Wish{Root: a.request.Root, Terms: a.terms}
		if a.terms <= 0 || seen[w] {
			continue
		}
		seen[w] = true
		if a.root.Hot == HotHeld {
			held = append(held, w)
		} else {
			coming = append(coming, w)
		}
	}
	if undecided && s.archive != nil {
		if err := setSetting(tx, settingUndecided, uuid.NewString()); err != nil {
			return err
		}
	}
	if len(seen) == 0 {
		return nil
	}
	if s.archive == nil {
		return errNoArchive
	}
	standings, err := s.want(tx, coming, held)
	if err != nil {
		return err
	}
	for _, a := range batch {
		a.cold = s.coldOf(a.terms, standings, deals.Wish{Root: a.request.Root, Terms: a.terms})
	}
	return nil
}

// want asks the archive for wishes, in one order, and tells how they stand.
func (s *store) want(tx *gorm.DB, coming, held []deals.Wish) (map[deals.Wish]deals.Standing, error) {
	ctx := tx.Statement.Context
	for _, some := range []struct {
		wishes []deals.Wish
		held   bool
	}{{coming, false}, {held, true}} {
		if len(some.wishes) == 0 {
			continue
		}
		slices.SortFunc(some.wishes, compareWishes)
		if err := s.archive.Want(ctx, some.held, some.wishes...); err != nil {
			return nil, err
		}
	}
	return s.standings(tx, slices.Concat(coming, held))
}

// compareWishes is the order in which wishes are asked for, so that two servers do not wait for each other's locks.
func compareWishes(a, b deals.Wish) int {
	if c := strings.Compare(a.Root.KeyString(), b.Root.KeyString()); c != 0 {
		return c
	}
	return int(a.Terms - b.Terms)
}

func (s *store) standings(tx *gorm.DB, wishes []deals.Wish) (map[deals.Wish]deals.Standing, error) {
	all := make(map[deals.Wish]deals.Standing, len(wishes))
	for some := range slices.Chunk(wishes, MaxStandings) {
		found, err := s.archive.Standings(tx.Statement.Context, some)
		if err != nil {
			return nil, err
		}
		maps.Copy(all, found)
	}
	return all, nil
}

// coldOf is what is known of a pin's cold copies.
func (s *store) coldOf(terms deals.TermsID, standings map[deals.Wish]deals.Standing, w deals.Wish) deals.Standing {
	switch {
	case s.archive == nil || terms == Uncopied:
		return deals.Standing{Cold: deals.ColdDisabled}
	case terms == Undecided:
		return deals.Standing{Cold: deals.ColdPending}
	}
	if st, ok := standings[w]; ok {
		return st
	}
	return deals.Standing{Cold: deals.ColdPending}
}

// addStandings completes pins that were just read in the same snapshot, with one question for all of them.
func (s *store) addStandings(tx *gorm.DB, list []Pin) error {
	var wishes []deals.Wish
	if s.archive != nil {
		seen := map[deals.Wish]bool{}
		for _, p := range list {
			if w, ok := p.Wish(); ok && !seen[w] {
				seen[w] = true
				wishes = append(wishes, w)
			}
		}
	}
	var found map[deals.Wish]deals.Standing
	if len(wishes) > 0 {
		var err error
		if found, err = s.standings(tx, wishes); err != nil {
			return err
		}
	}
	scarce := s.room() != RoomPlenty
	for i := range list {
		w, _ := list[i].Wish()
		list[i].Cold, list[i].Rule, list[i].Waits = s.coldOf(list[i].Terms, found, w), s.rule, scarce
	}
	return nil
}

// unwant withdraws the wish of a pin that was just removed, unless another pin has the same.
func (s *store) unwant(tx *gorm.DB, root int64, terms deals.TermsID) error {
	if terms <= 0 {
		return nil
	}
	r, _, err := lockRoot(tx, `r.id = ?`, root)
	if err != nil {
		return err
	}
	w := deals.Wish{Root: r.CID, Terms: terms}
	if s.archive == nil {
		return owe(tx, w)
	}
	wanted, err := hasWish(tx, root, terms)
	if err != nil || wanted {
		return err
	}
	return s.archive.Unwant(tx.Statement.Context, w)
}

// hasWish tells whether a pin of a root has these terms.
func hasWish(tx *gorm.DB, root int64, terms deals.TermsID) (wanted bool, err error) {
	err = tx.Raw(`SELECT EXISTS (SELECT 1 FROM pins WHERE root_id = ? AND terms = ? AND terms > 0)`, root, terms).Row().Scan(&wanted)
	return wanted, err
}

// heldChanged tells the archive that a root became held or no longer is, and gives the pins that need cold copies
// their status.
func (s *store) heldChanged(tx *gorm.DB, r Root) error {
	switch {
	case s.archive != nil:
		if err := s.archive.Held(tx.Statement.Context, r.CID, r.Hot == HotHeld); err != nil {
			return err
		}
	case s.owing.Load():
		return tx.Exec(`INSERT INTO cold_owed (root, terms) SELECT DISTINCT CAST(? AS TEXT), p.terms FROM pins p
			WHERE p.root_id = ? AND p.terms > 0 ON CONFLICT (root, terms) DO NOTHING`, r.CID.String(), r.id).Error
	}
	return nil
}

// rootWishes returns what the pins of a root want cold.
func rootWishes(tx *gorm.DB, r Root) (wishes []deals.Wish, err error) {
	err = query(tx, func(from row) error {
		w := deals.Wish{Root: r.CID}
		err := from.Scan(&w.Terms)
		wishes = append(wishes, w)
		return err
	}, `SELECT DISTINCT p.terms FROM pins p WHERE p.root_id = ? AND p.terms > 0`, r.id)
	return wishes, err
}

// hasCold tells whether a root has proven cold copies that can be read back.
func (s *store) hasCold(tx *gorm.DB, r Root) (bool, error) {
	if s.archive == nil || !s.source {
		return false, nil
	}
	wishes, err := rootWishes(tx, r)
	if err != nil || len(wishes) == 0 {
		return false, err
	}
	standings, err := s.standings(tx, wishes)
	for _, st := range standings {
		if st.Active > 0 {
			return true, err
		}
	}
	return false, err
}

// restateCold gives the pins of a root that want cold copies the status that these give them.
func (s *store) restateCold(tx *gorm.DB, r Root) error {
	wishes, err := rootWishes(tx, r)
	if err != nil || len(wishes) == 0 {
		return err
	}
	var standings map[deals.Wish]deals.Standing
	if s.archive != nil {
		if standings, err = s.standings(tx, wishes); err != nil {
			return err
		}
	}
	for _, w := range wishes {
		if err := s.restate(tx, r.id, r.Hot, w.Terms, s.coldOf(w.Terms, standings, w)); err != nil {
			return err
		}
	}
	return nil
}

// restate gives the pins of a root with these terms their status.
func (s *store) restate(tx *gorm.DB, root int64, hot Hot, terms deals.TermsID, cold deals.Standing) error {
	_, err := s.restated(tx, root, hot, terms, cold)
	return err
}

// restated is restate that tells how many pins had another status.
func (s *store) restated(tx *gorm.DB, root int64, hot Hot, terms deals.TermsID, cold deals.Standing) (int64, error) {
	status := StatusOf(hot, cold, s.rule)
	done := tx.Exec(`UPDATE pins SET status = ? WHERE root_id = ? AND terms = ? AND terms > 0 AND status <> ? AND lapsed_ms IS NULL`,
		status, root, terms, status)
	return done.RowsAffected, done.Error
}

// archived gives pins their status after the standing of their cold copies has changed, and brings a DAG back that was
// let go when a deal needs its bytes or its last proven copy has gone, or that was given up when a copy was proven. The
// root is locked as it is by whoever adds a pin or moves the root: of two that change a status at once, the second sees
// what the first has written.
func (s *store) archived(ctx context.Context, w deals.Wish, cold deals.Standing) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		r, holder, err := lockRoot(tx, `r.cid = ?`, w.Root.String())
		if errors.Is(err, errStale) {
			return nil // its last pin has gone
		}
		if err != nil {
			return err
		}
		if err := s.coldHoldings(tx, r.id, w.Terms, cold.Active); err != nil {
			return err
		}
		reason := ""
		switch {
		case r.Hot == HotOffloaded && cold.NeedsBytes:
			reason = "a deal needs its bytes"
		case r.Hot == HotOffloaded && cold.Wanted > 0 && cold.Active < cold.Wanted:
			reason = "a cold copy was lost"
		case r.Hot == HotGaveUp && cold.Active > 0 && s.source:
			if blocked, err := isBlocked(tx, r.CID); err != nil || blocked {
				return err
			}
			if wanted, err := isWanted(tx, r.id); err != nil || !wanted {
				return err // its pins were let go
			}
			reason = "nobody on the network has it; restoring it from Filecoin"
		}
		if reason != "" {
			return s.saveRoot(tx, r, BroughtBack(r, reason, s.now()), holder)
		}
		if !s.coldDecides(r.Hot) {
			return nil
		}
		changed, err := s.restated(tx, r.id, r.Hot, w.Terms, cold)
		if err != nil || changed == 0 {
			return err
		}
		return s.tellStatus(tx.Statement.Context, w, StatusOf(r.Hot, cold, s.rule))
	})
}

// owe records what an archive that is not there has to be told later: how this wish stands then.
func owe(tx *gorm.DB, w deals.Wish) error {
	return tx.Exec(`INSERT INTO cold_owed (root, terms) VALUES (?, ?) ON CONFLICT (root, terms) DO NOTHING`,
		w.Root.String(), w.Terms).Error
}
