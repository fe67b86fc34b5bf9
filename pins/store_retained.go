package pins

import (
	"context"
	"maps"
	"slices"

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
	roots := map[Account][]int64{}
	for _, a := range batch {
		if a.met {
			roots[a.account] = append(roots[a.account], a.root.id)
		}
	}
	for account, ids := range roots {
		if err := s.handOver(tx, account, ids); err != nil {
			return err
		}
	}
	return nil
}

// handOver forgets what was kept of roots for an account whose pins name them now.
func (s *store) handOver(tx *gorm.DB, account Account, roots []int64) error {
	list, err := forgetRetained(tx, `account = ? AND root_id IN ?`, account, roots)
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

// dropAtOnce is how many DAGs one transaction lets go of those that are kept.
const dropAtOnce = 200

// dropRetained forgets some of what was kept back under a condition and lets those roots go. more: others may be left. The
// roots are locked first and in their order, as by whoever adds pins.
func (s *store) dropRetained(tx *gorm.DB, where string, args ...any) (list []retainedDAG, orphans []int64, more bool, err error) {
	var roots []int64
	err = query(tx, func(r row) error {
		var id int64
		err := r.Scan(&id)
		roots = append(roots, id)
		return err
	}, `SELECT DISTINCT root_id FROM retained WHERE `+where+` ORDER BY root_id LIMIT ?`, slices.Concat(args, []any{dropAtOnce})...)
	if err != nil || len(roots) == 0 {
		return nil, nil, false, err
	}
	if _, err := lockRoots(tx, roots); err != nil {
		return nil, nil, false, err
	}
	if list, err = forgetRetained(tx, `root_id IN ? AND `+where, slices.Concat([]any{roots}, args)...); err != nil {
		return nil, nil, false, err
	}
	for _, r := range list {
		gone, err := s.letGo(tx, r.root)
		if err != nil {
			return nil, nil, false, err
		}
		if gone {
			orphans = append(orphans, r.root)
		}
		// Only now that the root is locked does it get no holding by becoming held.
		if err := s.endHolding(tx, r.pin); err != nil {
			return nil, nil, false, err
		}
	}
	return list, orphans, len(roots) == dropAtOnce, nil
}

// dropSuperseded lets go what was kept until a root is held, which it is now. Any number of pins may have been replaced by
// pins of one DAG: what is left when there are many of them is overdue.
func (s *store) dropSuperseded(tx *gorm.DB, root int64) (orphans []int64, left bool, err error) {
	_, orphans, left, err = s.dropRetained(tx, `successor_root = ?`, root)
	if err != nil || !left {
		return orphans, false, err
	}
	return orphans, true, tx.Exec(`UPDATE retained SET until_ms = 0 WHERE successor_root = ?`, root).Error
}

// dropAllRetained is dropRetained for what was kept for one pin, which is mostly little.
func (s *store) dropAllRetained(tx *gorm.DB, where string, args ...any) (orphans []int64, err error) {
	for more := true; more; {
		var some []int64
		if _, some, more, err = s.dropRetained(tx, where, args...); err != nil {
			return nil, err
		}
		orphans = append(orphans, some...)
	}
	return orphans, nil
}

// expireRetained lets go what was kept back for a successor that never came, and what dropSuperseded has left.
func (s *store) expireRetained(ctx context.Context) (orphans []int64, err error) {
	for more := true; more; {
		var some []int64
		err = s.db.Write(ctx, func(tx *gorm.DB) (err error) {
			_, some, more, err = s.dropRetained(tx, `until_ms <= ?`, s.now().UnixMilli())
			return err
		})
		if err != nil {
			return orphans, err
		}
		orphans = append(orphans, some...)
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

// rootOf is the root that a pin names, or none.
const rootOf = `coalesce((SELECT root_id FROM pins WHERE id = ?), 0)`

// replacedBy adds up what is held for an account only because pins were replaced by one pin.
func (s *store) replacedBy(ctx context.Context, account Account, by ID) (int64, error) {
	return s.keptBack(ctx, `k.successor = ? AND +k.account = ?`, by, account)
}

// keptFor adds up what is held for an account only until the DAG of one pin is: it may have replaced them by several pins.
func (s *store) keptFor(ctx context.Context, account Account, pin ID) (int64, error) {
	return s.keptBack(ctx, `k.successor_root = `+rootOf+` AND +k.account = ?`, pin, account)
}

// The account of a condition has a sign so that SQLite does not read all that is kept for it.
func (s *store) keptBack(ctx context.Context, where string, args ...any) (bytes int64, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		return query(tx, func(r row) error { return r.Scan(&bytes) },
			`SELECT CAST(coalesce(sum(r.bytes), 0) AS BIGINT) FROM retained k JOIN roots r ON r.id = k.root_id
			WHERE `+where+` AND r.hot = ?`, slices.Concat(args, []any{HotHeld})...)
	})
	return bytes, err
}

// A yielding is a DAG that can give way.
type yielding struct{ root, bytes int64 }

// yieldings returns what is held for an account because pins were replaced, in the order in which they were. What waits for
// the DAG of one pin is not among them, nor are some roots.
func (s *store) yieldings(ctx context.Context, account Account, by ID, but map[string]bool) (list []yielding, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		return query(tx, func(r row) error {
			var dag yielding
			var text string
			err := r.Scan(&dag.root, &text, &dag.bytes)
			if !but[text] {
				list = append(list, dag)
			}
			return err
		}, `SELECT k.root_id, r.cid, r.bytes FROM retained k JOIN roots r ON r.id = k.root_id
			WHERE k.account = ? AND k.successor_root <> `+rootOf+` AND r.hot = ? ORDER BY k.until_ms, k.root_id`, account, by, HotHeld)
	})
	return list, err
}

func sumOf(list []yielding) (bytes int64) {
	for _, dag := range list {
		bytes += dag.bytes
	}
	return bytes
}

// canYield adds up what can give way.
func (s *store) canYield(ctx context.Context, account Account, by ID, but map[string]bool) (bytes int64, err error) {
	list, err := s.yieldings(ctx, account, by, but)
	return sumOf(list), err
}

// giveWay lets go so much of what can give way that so many bytes are freed, or nothing when all of it were not enough. What
// another lets go at the same time is not counted here.
func (s *store) giveWay(ctx context.Context, account Account, by ID, bytes int64, but map[string]bool) (freed int64, orphans []int64, err error) {
	list, err := s.yieldings(ctx, account, by, but)
	if err != nil || sumOf(list) < bytes && bytes != AllKept {
		return 0, nil, err
	}
	for len(list) > 0 && freed < bytes {
		sizes := map[int64]int64{}
		n := 0
		for sum := freed; n < min(len(list), dropAtOnce) && sum < bytes; n++ {
			sizes[list[n].root] = list[n].bytes
			sum += list[n].bytes
		}
		list = list[n:]
		var gone []retainedDAG
		var some []int64
		err := s.db.Write(ctx, func(tx *gorm.DB) (err error) {
			gone, some, _, err = s.dropRetained(tx, `root_id IN ? AND account = ? AND successor_root <> `+rootOf,
				slices.Collect(maps.Keys(sizes)), account, by)
			return err
		})
		if err != nil {
			return freed, orphans, err
		}
		orphans = append(orphans, some...)
		for _, dag := range gone {
			freed += sizes[dag.root]
		}
	}
	return freed, orphans, nil
}
