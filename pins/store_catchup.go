package pins

import (
	"context"
	"errors"
	"slices"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/deals"
)

// Names of pin_settings.
const (
	settingPinnedWhen = "pinned_when"
	settingSeen       = "archive_seen"
	settingUndecided  = "undecided"
	settingClock      = "heat_clock"
)

func setSetting(tx *gorm.DB, name, value string) error {
	return tx.Exec(`UPDATE pin_settings SET value = ? WHERE name = ?`, value, name).Error
}

func (s *store) settings(ctx context.Context) (map[string]string, error) {
	var values map[string]string
	err := s.db.Read(ctx, func(tx *gorm.DB) error {
		values = map[string]string{}
		return query(tx, func(r row) error {
			var name, value string
			err := r.Scan(&name, &value)
			values[name] = value
			return err
		}, `SELECT name, value FROM pin_settings`)
	})
	return values, err
}

func (s *store) remember(ctx context.Context, name, value string) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error { return setSetting(tx, name, value) })
}

// begin makes the rows right for this start: whether there is an archive, and which rule gives statuses. After a
// change of the rule every pin with cold copies is looked at, before anybody reads.
func (s *store) begin(ctx context.Context) error {
	was, err := s.settings(ctx)
	if err != nil {
		return err
	}
	seen := was[settingSeen] != ""
	switch {
	case s.archive == nil:
		s.owing.Store(seen)
		if was[settingUndecided] == "" {
			err = s.remember(ctx, settingUndecided, uuid.NewString())
		}
	case !seen:
		err = s.remember(ctx, settingSeen, "1")
	}
	if err == nil && (s.archive == nil || !s.source) {
		err = s.disown(ctx) // nobody can read the cold copies of what was let go
	}
	if err != nil || was[settingPinnedWhen] == s.rule.String() {
		return err
	}
	// Emptied first: a start under the old rule must not take a rewrite that was broken off for none.
	if err := s.remember(ctx, settingPinnedWhen, ""); err != nil {
		return err
	}
	if err := s.restateAll(ctx); err != nil {
		return err
	}
	return s.remember(ctx, settingPinnedWhen, s.rule.String())
}

// coldPage is how many pins or wishes one transaction of the background looks at.
const coldPage = 200

// A rootWish is a wish with its root's row.
type rootWish struct {
	root  int64
	terms deals.TermsID
}

// restateAll gives every pin that wants cold copies its status.
func (s *store) restateAll(ctx context.Context) error {
	last := rootWish{}
	for n := coldPage; n == coldPage; {
		err := s.db.Write(ctx, func(tx *gorm.DB) error {
			var page []rootWish
			err := query(tx, func(r row) error {
				var w rootWish
				err := r.Scan(&w.root, &w.terms)
				page = append(page, w)
				return err
			}, `SELECT DISTINCT p.root_id, p.terms FROM pins p WHERE p.terms > 0 AND (p.root_id, p.terms) > (?, ?)
				ORDER BY p.root_id, p.terms LIMIT ?`, last.root, last.terms, coldPage)
			if n = len(page); err != nil || n == 0 {
				return err
			}
			if err := s.restatePage(tx, page); err != nil {
				return err
			}
			last = page[n-1]
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *store) restatePage(tx *gorm.DB, page []rootWish) error {
	roots, err := lockRoots(tx, rootsOf(page))
	if err != nil {
		return err
	}
	var asked []deals.Wish
	for _, w := range page {
		if r := roots[w.root]; r.hot == HotHeld || r.hot.readsCold() {
			asked = append(asked, deals.Wish{Root: r.cid, Terms: w.terms})
		}
	}
	var standings map[deals.Wish]deals.Standing
	if s.archive != nil && len(asked) > 0 {
		if standings, err = s.standings(tx, asked); err != nil {
			return err
		}
	}
	for _, w := range page {
		r := roots[w.root]
		if r.hot != HotHeld && !r.hot.readsCold() {
			continue
		}
		if err := s.restate(tx, w.root, r.hot, w.terms, s.coldOf(w.terms, standings, deals.Wish{Root: r.cid, Terms: w.terms})); err != nil {
			return err
		}
	}
	return nil
}

func rootsOf(page []rootWish) []int64 {
	var ids []int64
	for _, w := range page {
		ids = append(ids, w.root)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// A lockedRoot is what a wish needs to know of its root.
type lockedRoot struct {
	cid cid.Cid
	hot Hot
}

// lockRoots reads roots and keeps others from changing them until the transaction ends.
func lockRoots(tx *gorm.DB, ids []int64) (map[int64]lockedRoot, error) {
	q := `SELECT r.id, r.cid, r.hot FROM roots r WHERE r.id IN ? ORDER BY r.id`
	if tx.Name() == "postgres" {
		q += ` FOR UPDATE`
	}
	roots := make(map[int64]lockedRoot, len(ids))
	err := query(tx, func(from row) error {
		var id int64
		var text string
		var r lockedRoot
		if err := from.Scan(&id, &text, &r.hot); err != nil {
			return err
		}
		var err error
		r.cid, err = cid.Decode(text)
		roots[id] = r
		return err
	}, q, ids)
	return roots, err
}

// An undecidedPin is a pin without terms.
type undecidedPin struct {
	account   Account
	createdMS int64
	root      int64
}

// decide gives the next undecided pins after a place their terms, with the wishes that follow from them. It returns
// the place after them, and false when there are no others.
func (s *store) decide(ctx context.Context, after undecidedPin, terms deals.TermsID) (last undecidedPin, more bool, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		var page []undecidedPin
		q := `SELECT p.account, p.created_ms, p.root_id FROM pins p WHERE p.terms IS NULL AND (p.account, p.created_ms) > (?, ?)
			ORDER BY p.account, p.created_ms LIMIT ?`
		if tx.Name() == "postgres" {
			q += ` FOR UPDATE`
		}
		err := query(tx, func(r row) error {
			var p undecidedPin
			err := r.Scan(&p.account, &p.createdMS, &p.root)
			page = append(page, p)
			return err
		}, q, after.account, after.createdMS, coldPage)
		if err != nil || len(page) == 0 {
			last, more = after, false
			return err
		}
		last, more = page[len(page)-1], len(page) == coldPage
		return s.decidePage(tx, page, terms)
	})
	return last, more, err
}

func (s *store) decidePage(tx *gorm.DB, page []undecidedPin, terms deals.TermsID) error {
	var wishes []rootWish
	byAccount := map[Account][]int64{}
	joined := map[int64][][]any{} // by root: accounts and times of its pins
	for _, p := range page {
		joined[p.root] = append(joined[p.root], []any{p.account, p.createdMS})
		wishes = append(wishes, rootWish{p.root, terms})
		byAccount[p.account] = append(byAccount[p.account], p.createdMS)
	}
	roots, err := lockRoots(tx, rootsOf(wishes))
	if err != nil {
		return err
	}
	for account, created := range byAccount {
		if err := tx.Exec(`UPDATE pins SET terms = ? WHERE account = ? AND created_ms IN ?`, terms, account, created).Error; err != nil {
			return err
		}
	}
	if terms <= 0 {
		return nil
	}
	var coming, held []deals.Wish
	for _, r := range roots {
		w := deals.Wish{Root: r.cid, Terms: terms}
		if r.hot == HotHeld {
			held = append(held, w)
		} else {
			coming = append(coming, w)
		}
	}
	standings, err := s.want(tx, coming, held)
	if err != nil {
		return err
	}
	for id, r := range roots {
		cold := s.coldOf(terms, standings, deals.Wish{Root: r.cid, Terms: terms})
		if err := s.joinHoldings(tx, id, terms, cold.Active, joined[id]); err != nil {
			return err
		}
		if !s.coldDecides(r.hot) {
			continue
		}
		if err := s.restate(tx, id, r.hot, terms, cold); err != nil {
			return err
		}
	}
	return nil
}

// decided notes that a round of undecided pins is through, unless another has begun.
func (s *store) decided(ctx context.Context, round string) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`UPDATE pin_settings SET value = '' WHERE name = ? AND value = ?`, settingUndecided, round).Error
	})
}

// payOwed tells the archive what it has missed, and returns whether there is more.
func (s *store) payOwed(ctx context.Context) (more bool, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		more = false
		var owed []deals.Wish
		err := query(tx, func(r row) error {
			var text string
			var w deals.Wish
			if err := r.Scan(&text, &w.Terms); err != nil {
				return err
			}
			var err error
			w.Root, err = cid.Decode(text)
			owed = append(owed, w)
			return err
		}, `SELECT root, terms FROM cold_owed ORDER BY root, terms LIMIT ?`, coldPage)
		if err != nil {
			return err
		}
		for _, w := range owed {
			if err := s.pay(tx, w); err != nil {
				return err
			}
		}
		more = len(owed) == coldPage
		return nil
	})
	return more, err
}

// pay tells the archive how one wish stands now.
func (s *store) pay(tx *gorm.DB, w deals.Wish) error {
	if err := tx.Exec(`DELETE FROM cold_owed WHERE root = ? AND terms = ?`, w.Root.String(), w.Terms).Error; err != nil {
		return err
	}
	ctx := tx.Statement.Context
	r, _, err := lockRoot(tx, `r.cid = ?`, w.Root.String())
	wanted := false
	switch {
	case errors.Is(err, errStale): // gone, and with it all its pins
	case err != nil:
		return err
	default:
		if wanted, err = hasWish(tx, r.id, w.Terms); err != nil {
			return err
		}
	}
	if !wanted {
		return s.archive.Unwant(ctx, w)
	}
	return s.archive.Want(ctx, r.Hot == HotHeld, w)
}
