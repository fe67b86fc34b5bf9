package pins

import (
	"context"

	"gorm.io/gorm"
)

// A row of retained keeps the DAG of a pin that was replaced until the pin that came in its place is held, has gone, or has
// waited too long. Until then the holding of the replaced pin goes on, and its DAG counts as held for its account. No account
// has a row for a root that another of its pins names: that pin keeps it already.

// retain keeps the DAG of a pin that was just replaced, if it is here or was, and unless another pin of the account does. One
// that has yet to come is not worth fetching any more.
func (s *store) retain(tx *gorm.DB, old removed, by *addition, untilMS int64) (kept bool, err error) {
	// Whoever adds such a pin locks the root, too, and then takes over what was kept.
	root, _, err := lockRoot(tx, `r.id = ?`, old.root)
	if err != nil || root.Hot != HotHeld && !root.Lost {
		return false, err
	}
	var named bool
	err = tx.Raw(`SELECT EXISTS (SELECT 1 FROM pins WHERE root_id = ? AND account = ? AND lapsed_ms IS NULL)`, old.root, by.account).
		Row().Scan(&named)
	if err != nil || named {
		return false, err
	}
	err = tx.Exec(`INSERT INTO retained (root_id, successor, successor_root, until_ms, account, pin) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (root_id, successor) DO UPDATE SET until_ms = excluded.until_ms, account = excluded.account, pin = excluded.pin`,
		old.root, by.pin.ID, by.root.id, untilMS, by.account, old.id).Error
	if err != nil {
		return false, err
	}
	// It is not kept cold: coldHoldings no longer finds it.
	return true, changeHoldings(tx, s.now().Unix(), `pin = ? AND copies > 0`, `copies = 0`, old.id)
}

// takeOver forgets what was kept of the roots that additions name. They are locked.
func (s *store) takeOver(tx *gorm.DB, batch []*addition) error {
	var roots [][]any // with their accounts
	for _, a := range batch {
		if a.met {
			roots = append(roots, []any{a.root.id, a.account})
		}
	}
	if len(roots) == 0 {
		return nil
	}
	return s.handOver(tx, roots)
}

// handOver forgets what was kept of roots that pins of the same accounts name now.
func (s *store) handOver(tx *gorm.DB, roots [][]any) error {
	list, err := forgetRetained(tx, `(root_id, account) IN ?`, roots)
	if err != nil {
		return err
	}
	for _, r := range list {
		if err := s.endHolding(tx, r.pin); err != nil {
			return err
		}
	}
	return nil
}

// dropRetained forgets what was kept back under a condition and lets those roots go.
func (s *store) dropRetained(tx *gorm.DB, where string, args ...any) (orphans []int64, err error) {
	list, err := forgetRetained(tx, where, args...)
	if err != nil {
		return nil, err
	}
	for _, r := range list {
		gone, err := s.letGo(tx, r.root)
		if err != nil {
			return nil, err
		}
		if gone {
			orphans = append(orphans, r.root)
		}
		// Only now that the root is locked does it get no holding by becoming held.
		if err := s.endHolding(tx, r.pin); err != nil {
			return nil, err
		}
	}
	return orphans, nil
}

// A retainedDAG is kept for the pin that has replaced another.
type retainedDAG struct {
	root int64
	pin  ID // that was replaced
}

func forgetRetained(tx *gorm.DB, where string, args ...any) (list []retainedDAG, err error) {
	err = query(tx, func(r row) error {
		var dag retainedDAG
		err := r.Scan(&dag.root, &dag.pin)
		list = append(list, dag)
		return err
	}, `DELETE FROM retained WHERE `+where+` RETURNING root_id, pin`, args...)
	return list, err
}

// keptBack returns the bytes that are held for an account only because pins were replaced: by a pin, and by others.
func (s *store) keptBack(ctx context.Context, account Account, by ID) (mine, others int64, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		return query(tx, func(r row) error { return r.Scan(&mine, &others) },
			`SELECT CAST(coalesce(sum(CASE WHEN k.successor = ? THEN r.bytes ELSE 0 END), 0) AS BIGINT),
				CAST(coalesce(sum(CASE WHEN k.successor = ? THEN 0 ELSE r.bytes END), 0) AS BIGINT)
			FROM retained k JOIN roots r ON r.id = k.root_id WHERE k.account = ? AND r.hot = ?`, by, by, account, HotHeld)
	})
	return mine, others, err
}

// A yielding is a DAG that can give way.
type yielding struct {
	root      int64
	successor ID
	bytes     int64
}

// yieldings returns what is held for an account because pins were replaced, in the order in which they were. What was replaced
// by one pin is not among them, nor are some roots.
func yieldings(tx *gorm.DB, account Account, by ID, but map[string]bool) (list []yielding, err error) {
	err = query(tx, func(r row) error {
		var dag yielding
		var text string
		err := r.Scan(&dag.root, &dag.successor, &text, &dag.bytes)
		if !but[text] {
			list = append(list, dag)
		}
		return err
	}, `SELECT k.root_id, k.successor, r.cid, r.bytes FROM retained k JOIN roots r ON r.id = k.root_id
		WHERE k.account = ? AND k.successor <> ? AND r.hot = ? ORDER BY k.until_ms, k.root_id`, account, by, HotHeld)
	return list, err
}

// canYield adds up what can give way.
func (s *store) canYield(ctx context.Context, account Account, by ID, but map[string]bool) (bytes int64, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		bytes = 0
		list, err := yieldings(tx, account, by, but)
		for _, dag := range list {
			bytes += dag.bytes
		}
		return err
	})
	return bytes, err
}

// giveWay lets go so much of what can give way that so many bytes are freed, or nothing when all of it were not enough.
func (s *store) giveWay(ctx context.Context, account Account, by ID, bytes int64, but map[string]bool) (freed int64, orphans []int64, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		freed, orphans = 0, nil
		list, err := yieldings(tx, account, by, but)
		if err != nil {
			return err
		}
		n := 0
		for ; n < len(list) && freed < bytes; n++ {
			freed += list[n].bytes
		}
		if freed < bytes && bytes != AllKept {
			freed = 0
			return nil
		}
		for _, dag := range list[:n] {
			gone, err := s.dropRetained(tx, `root_id = ? AND successor = ?`, dag.root, dag.successor)
			if err != nil {
				return err
			}
			orphans = append(orphans, gone...)
		}
		return nil
	})
	return freed, orphans, err
}
