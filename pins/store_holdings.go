package pins

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/deals"
)

// Every change of what a pin occupies goes through here, in the transaction that makes it. Figures that hold for less than
// a second never were: the second belongs to those that follow.

// beginHoldings begins the holdings of pins that were just inserted, where there is something already.
func (s *store) beginHoldings(tx *gorm.DB, batch []*addition, now time.Time) error {
	var fresh rowsOf
	for _, a := range batch {
		hot, bytes := 0, a.root.Bytes
		switch {
		case a.root.Hot == HotHeld:
			hot = 1
		case a.cold.Active == 0:
			continue
		default: // a root that is being restored has forgotten its size, the pins that were there before have not
			err := tx.Raw(`SELECT coalesce(max(bytes), 0) FROM holdings WHERE root_id = ?`, a.root.id).Row().Scan(&bytes)
			if err != nil {
				return err
			}
		}
		fresh = append(fresh, []any{a.pin.ID, a.root.id, a.account, bytes, hot, a.cold.Active, now.Unix()})
	}
	return fresh.insert(tx, `INSERT INTO holdings (pin, root_id, account, bytes, hot, copies, since_s) VALUES `, "")
}

// hotHoldings follows a root that became held or no longer is. The root is locked.
func (s *store) hotHoldings(tx *gorm.DB, r Root) error {
	now := s.now().Unix()
	switch r.Hot {
	case HotHeld:
	case HotReleasing:
		return nil // no pin has it any more, or none that was not let go
	case HotQueued, HotFetching, HotGaveUp, HotOffloaded, HotRestoring:
		return changeHoldings(tx, now, `root_id = ? AND hot = 1`, `hot = 0`, r.id)
	}
	var before bool
	if err := tx.Raw(`SELECT EXISTS (SELECT 1 FROM holdings WHERE root_id = ?)`, r.id).Row().Scan(&before); err != nil {
		return err
	}
	if before {
		if err := changeHoldings(tx, now, `root_id = ? AND hot = 0 AND NOT EXISTS
			(SELECT 1 FROM pins p WHERE p.id = holdings.pin AND p.lapsed_ms IS NOT NULL)`, `hot = 1`, r.id); err != nil {
			return err
		}
		if err := tx.Exec(`UPDATE holdings SET bytes = ? WHERE root_id = ? AND bytes <> ?`, r.Bytes, r.id, r.Bytes).Error; err != nil {
			return err
		}
	}
	if tx.Name() == "postgres" { // a pin that is being removed must be gone before it is looked for, or stay for so long
		if err := tx.Exec(`SELECT 1 FROM pins WHERE root_id = ? FOR KEY SHARE`, r.id).Error; err != nil {
			return err
		}
	}
	return tx.Exec(`INSERT INTO holdings (pin, root_id, account, bytes, hot, copies, since_s)
		SELECT id, root_id, account, CAST(? AS BIGINT), 1, 0, CAST(? AS BIGINT) FROM (
			SELECT id, root_id, account FROM pins WHERE root_id = ? AND lapsed_ms IS NULL
			UNION ALL SELECT pin, root_id, account FROM retained WHERE root_id = ? AND pin <> '') AS holders WHERE true
		ON CONFLICT (pin) DO NOTHING`, r.Bytes, now, r.id, r.id).Error
}

// coldHoldings follows the number of proven copies of a wish. The root is locked.
func (s *store) coldHoldings(tx *gorm.DB, root int64, terms deals.TermsID, copies int) error {
	return changeHoldings(tx, s.now().Unix(), `root_id = ? AND copies <> ? AND EXISTS
		(SELECT 1 FROM pins p WHERE p.id = holdings.pin AND p.terms = ?)`, `copies = ?`, root, copies, int64(terms), copies)
}

// joinHoldings follows pins that have just got terms, by account and time: copies that are there already are theirs, too. The
// root is locked, and so are they.
func (s *store) joinHoldings(tx *gorm.DB, root int64, terms deals.TermsID, copies int, pins [][]any) error {
	if copies == 0 {
		return nil
	}
	if err := s.coldHoldings(tx, root, terms, copies); err != nil {
		return err
	}
	// Those of a root that is not held have none yet. Its size is what the pins that were there before know.
	return tx.Exec(`INSERT INTO holdings (pin, root_id, account, bytes, hot, copies, since_s)
		SELECT p.id, p.root_id, p.account, (SELECT coalesce(max(h.bytes), 0) FROM holdings h WHERE h.root_id = p.root_id), 0,
			CAST(? AS BIGINT), CAST(? AS BIGINT) FROM pins p WHERE (p.account, p.created_ms) IN ? AND p.lapsed_ms IS NULL
		ON CONFLICT (pin) DO NOTHING`, copies, s.now().Unix(), pins).Error
}

// changeHoldings ends the holdings of pins that a condition names and lets others follow that differ in one figure. args
// are those of the condition and then of the change.
func changeHoldings(tx *gorm.DB, now int64, where, set string, args ...any) error {
	inSet := 0
	for _, r := range set {
		if r == '?' {
			inSet++
		}
	}
	conditions, changes := args[:len(args)-inSet], args[len(args)-inSet:]
	err := exec(tx, `INSERT INTO ended_holdings (pin, account, bytes, hot, copies, since_s, until_s, removed)
		SELECT pin, account, bytes, hot, copies, since_s, CAST(? AS BIGINT), 0 FROM holdings
		WHERE since_s < ? AND (hot = 1 OR copies > 0) AND `+where, append([]any{now, now}, conditions...))
	if err != nil {
		return err
	}
	all := append([]any{now}, changes...)
	return exec(tx, `UPDATE holdings SET since_s = ?, `+set+` WHERE `+where, append(all, conditions...))
}

// endHolding ends the holding of a pin that was just removed, or whose DAG was kept since it was replaced.
func (s *store) endHolding(tx *gorm.DB, pin ID) error {
	h := Holding{Pin: pin}
	var hot, since int64
	err := tx.Raw(`DELETE FROM holdings WHERE pin = ? RETURNING account, bytes, hot, copies, since_s`, pin).
		Row().Scan(&h.Account, &h.Bytes, &hot, &h.Copies, &since)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return exec(tx, `INSERT INTO ended_holdings (pin, account, bytes, hot, copies, since_s, until_s, removed) VALUES (?, ?, ?, ?, ?, ?, ?, 1)`,
		[]any{pin, h.Account, h.Bytes, hot, h.Copies, since, max(since, s.now().Unix())})
}

const holdingColumns = `pin, account, bytes, hot, copies, since_s`

// holdings reads the next pins after one. One statement reads both tables, so that it sees one moment: a pin whose figures
// change meanwhile must not be seen with the new ones alone.
func (s *store) holdings(ctx context.Context, after ID, current bool) (page []Holding, last ID, more bool, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		page, last, more = nil, "", false
		var err error
		if last, more, err = nextBound(tx, after, current); err != nil {
			return err
		}
		upTo, args := ``, []any{after}
		if more {
			upTo, args = ` AND pin <= ?`, append(args, last)
		}
		q := `SELECT ` + holdingColumns + `, until_s, removed, id AS place FROM ended_holdings WHERE pin > ?` + upTo
		if current {
			q += ` UNION ALL SELECT ` + holdingColumns + `, 0, 0, 9223372036854775807 FROM holdings WHERE pin > ?` + upTo
			args = append(args, args...)
		}
		return query(tx, func(r row) error {
			var h Holding
			var hot, since, until, removed, place int64
			err := r.Scan(&h.Pin, &h.Account, &h.Bytes, &hot, &h.Copies, &since, &until, &removed, &place)
			h.Hot, h.Removed, h.Since = hot == 1, removed == 1, time.Unix(since, 0).UTC()
			if until > 0 {
				h.Until = time.Unix(until, 0).UTC()
			}
			page = append(page, h)
			return err
		}, q+` ORDER BY pin, place`, args...)
	})
	return page, last, more, err
}

// nextBound is the last pin of the page that begins after one; more is false when the page is the last and has none.
func nextBound(tx *gorm.DB, after ID, current bool) (last ID, more bool, err error) {
	tables := []string{`ended_holdings`}
	if current {
		tables = append(tables, `holdings`)
	}
	for _, table := range tables {
		err := query(tx, func(r row) error {
			var pin ID
			err := r.Scan(&pin)
			if !more || pin < last {
				last, more = pin, true
			}
			return err
		}, `SELECT pin FROM `+table+` WHERE pin > ? ORDER BY pin LIMIT 1 OFFSET ?`, after, holdingsPage-1)
		if err != nil {
			return "", false, err
		}
	}
	return last, more, nil
}

func (s *store) forgetHoldings(ctx context.Context, ended []Holding) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		for _, h := range ended {
			err := exec(tx, `DELETE FROM ended_holdings WHERE pin = ? AND until_s <= ?`, []any{h.Pin, h.Until.Unix()})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// stock adds up what the pins of an account occupy. It reads all its holdings.
func (s *store) stock(ctx context.Context, account Account) (stock Stock, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		return query(tx, func(r row) error { return r.Scan(&stock.Hot, &stock.Cold) },
			`SELECT CAST(coalesce(sum(bytes * hot), 0) AS BIGINT), CAST(coalesce(sum(bytes * copies), 0) AS BIGINT)
			FROM holdings WHERE account = ?`, account)
	})
	return stock, err
}
