package pins

import (
	"context"
	"errors"
	"slices"

	"github.com/ipfs/go-cid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/spec"
)

// accountCounts returns the number of pins of an account per status, of all four.
func (s *store) accountCounts(ctx context.Context, account Account) (counts map[spec.Status]int64, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		counts = map[spec.Status]int64{spec.Queued: 0, spec.Pinning: 0, spec.Pinned: 0, spec.Failed: 0}
		return query(tx, func(r row) error {
			var status spec.Status
			var n int64
			if err := r.Scan(&status, &n); err != nil {
				return err
			}
			counts[status] += n
			return nil
		}, `SELECT status, n FROM pin_counts WHERE account = ? AND level = 3`, account)
	})
	return counts, err
}

// heldBytes adds up what is held for an account, by its pins and for those that were replaced. It reads all its pins.
func (s *store) heldBytes(ctx context.Context, account Account) (bytes int64, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		return query(tx, func(r row) error { return r.Scan(&bytes) },
			`SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM roots
			WHERE hot = ? AND id IN (SELECT root_id FROM pins WHERE account = ? AND lapsed_ms IS NULL
				UNION SELECT root_id FROM retained WHERE account = ?)`, HotHeld, account, account)
	})
	return bytes, err
}

// size is what is known of how large a DAG is, unless it is being fetched for the first time: the sponsor is asked then.
// Nobody is asked about what is here or comes back from cold copies, so that a request for it must be weighed by this.
func (s *store) size(ctx context.Context, root cid.Cid) (bytes int64, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		bytes = 0
		var id int64
		var hot Hot
		err := query(tx, func(r row) error { return r.Scan(&id, &hot, &bytes) },
			`SELECT id, hot, bytes FROM roots WHERE cid = ? AND (hot NOT IN ('queued','fetching') OR lost = 1)`, root.String())
		if err != nil || id == 0 || hot == HotHeld || hot == HotOffloaded {
			return err
		}
		// The row counts what has come back so far; the pins that were there before know the rest.
		var before int64
		err = tx.Raw(`SELECT coalesce(max(bytes), 0) FROM holdings WHERE root_id = ?`, id).Row().Scan(&before)
		bytes = max(bytes, before)
		return err
	})
	return bytes, err
}

// A countedDAG is what is known of how large a DAG is, and whether it is among what heldBytes adds up for an account.
type countedDAG struct {
	Extent
	counted bool
}

// extentsAtOnce is how many DAGs one query looks up.
const extentsAtOnce = 500

// extents returns what is known of DAGs, by their canonical CIDs, where size would say it, and how many bytes are held
// for an account only because of one of its pins, and of what that has replaced.
func (s *store) extents(ctx context.Context, account Account, dags []Sized, replaced ID) (there map[string]countedDAG, freed int64, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		there, freed = make(map[string]countedDAG, len(dags)), 0
		for some := range slices.Chunk(dags, extentsAtOnce) {
			roots := make([]string, len(some))
			for i, dag := range some {
				roots[i] = spec.Canonical(dag.Root).String()
			}
			err := query(tx, func(r row) error {
				var text string
				var hot Hot
				var here, before Extent
				var mine bool
				if err := r.Scan(&text, &hot, &here.Blocks, &here.Bytes, &before.Bytes, &mine); err != nil {
					return err
				}
				if hot != HotHeld && hot != HotOffloaded {
					here.Bytes = max(here.Bytes, before.Bytes)
				}
				there[text] = countedDAG{here, mine && hot == HotHeld}
				return nil
			}, `SELECT r.cid, r.hot, r.blocks, r.bytes, coalesce((SELECT max(h.bytes) FROM holdings h WHERE h.root_id = r.id), 0),
				EXISTS (SELECT 1 FROM pins p WHERE p.root_id = r.id AND p.account = ? AND p.lapsed_ms IS NULL) OR
				EXISTS (SELECT 1 FROM retained k WHERE k.root_id = r.id AND k.account = ? AND k.successor <> ?)
				FROM roots r WHERE r.cid IN ? AND (r.hot NOT IN ('queued','fetching') OR r.lost = 1)`, account, account, replaced, roots)
			if err != nil {
				return err
			}
		}
		if replaced == "" {
			return nil
		}
		var kept int64
		err := query(tx, func(r row) error { return r.Scan(&kept) },
			`SELECT CAST(coalesce(sum(r.bytes), 0) AS BIGINT) FROM retained k JOIN roots r ON r.id = k.root_id
			WHERE k.successor = ? AND k.account = ? AND r.hot = ?`, replaced, account, HotHeld)
		if err != nil {
			return err
		}
		err = query(tx, func(r row) error { return r.Scan(&freed) },
			`SELECT r.bytes FROM pins p JOIN roots r ON r.id = p.root_id
			WHERE p.account = ? AND p.id = ? AND p.lapsed_ms IS NULL AND r.hot = ? AND NOT EXISTS (
				SELECT 1 FROM pins o WHERE o.root_id = p.root_id AND o.account = p.account AND o.id <> p.id AND o.lapsed_ms IS NULL)`,
			account, replaced, HotHeld)
		freed += kept
		return err
	})
	return there, freed, err
}

// retryAtOnce is how many DAGs one transaction takes into work again.
const retryAtOnce = 200

// retry wants DAGs again that were given up for a reason, as if the account had asked for them now, and those that were for
// another reason which may be that of somebody else. What the account was told itself is the reason where it is known.
func (s *store) retry(ctx context.Context, account Account, reason, others string) (some bool, err error) {
	match, args := `substr(coalesce(f.reason, r.reason), 1, ?) = ?`, []any{len(reason), reason}
	if others != "" {
		// It is the account's own where nobody else has asked for the DAG.
		match += ` OR f.reason IS NULL AND substr(r.reason, 1, ?) = ? AND (r.account <> ? OR EXISTS (SELECT 1 FROM pins o WHERE o.root_id = r.id AND o.account < ?)
			OR EXISTS (SELECT 1 FROM pins o WHERE o.root_id = r.id AND o.account > ?))`
		args = append(args, len(others), others, account, account, account)
	}
	for after := int64(0); ; {
		var ids []int64
		err := s.db.Write(ctx, func(tx *gorm.DB) error {
			ids = nil
			err := query(tx, func(r row) error {
				var id int64
				err := r.Scan(&id)
				ids = append(ids, id)
				return err
			}, `SELECT DISTINCT r.id FROM pins p JOIN roots r ON r.id = p.root_id
				LEFT JOIN refusals f ON f.root_id = p.root_id AND f.account = p.account
				WHERE p.account = ? AND p.status = 'failed' AND r.hot = 'gave_up' AND r.id > ?
				AND (`+match+`) ORDER BY r.id LIMIT ?`, slices.Concat([]any{account, after}, args, []any{retryAtOnce})...)
			if err != nil {
				return err
			}
			for _, id := range ids {
				before, holder, err := lockRoot(tx, `r.id = ?`, id)
				if errors.Is(err, errStale) || err == nil && before.Hot != HotGaveUp {
					continue
				}
				if err != nil {
					return err
				}
				blocked, err := isBlocked(tx, before.CID)
				if err != nil {
					return err
				}
				if blocked {
					continue
				}
				if before.Cold, err = s.hasCold(tx, before); err != nil {
					return err
				}
				if err := s.saveRoot(tx, before, Wanted(before, account, s.now()), holder); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(ids) == 0 {
			return some, err
		}
		some, after = true, ids[len(ids)-1]
	}
}
