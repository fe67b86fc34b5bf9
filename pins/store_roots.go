package pins

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"gorm.io/gorm"
)

// takeable is the condition of the partial index that holds the roots waiting for a time slice: those nobody has
// tried yet, and those due again.
const (
	freshRoots = `r.hot IN ('queued','fetching','restoring') AND r.attempts = 0 AND r.claimed_by = ''`
	retryRoots = `r.hot IN ('queued','fetching','restoring') AND r.attempts > 0 AND r.claimed_by = ''`
)

// waitingAccounts lists the accounts that have roots under a condition, by jumping from one to the next in the index.
func (s *store) waitingAccounts(ctx context.Context, condition string) (accounts []Account, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		accounts = nil
		return query(tx, func(r row) error {
			var a Account
			err := r.Scan(&a)
			accounts = append(accounts, a)
			return err
		}, `WITH RECURSIVE a (x) AS (
				SELECT (SELECT min(r.account) FROM roots r WHERE `+condition+`)
				UNION ALL
				SELECT (SELECT min(r.account) FROM roots r WHERE `+condition+` AND r.account > a.x) FROM a WHERE a.x IS NOT NULL
			) SELECT x FROM a WHERE x IS NOT NULL LIMIT 10000`)
	})
	return accounts, err
}

// claimFresh claims up to n of an account's roots that nobody has tried, newest first.
func (s *store) claimFresh(ctx context.Context, account Account, n int) ([]Root, error) {
	return s.claim(ctx, freshRoots+` AND r.account = ? ORDER BY r.id DESC LIMIT ?`, account, n)
}

// claimRetry claims up to n of an account's roots that are due again, longest due first.
func (s *store) claimRetry(ctx context.Context, account Account, n int) ([]Root, error) {
	return s.claim(ctx, retryRoots+` AND r.account = ? AND r.next_ms <= ? ORDER BY r.next_ms LIMIT ?`,
		account, s.now().UnixMilli(), n)
}

// claimUploaded claims up to n roots that came with uploads and are due, longest due first. They need no room.
func (s *store) claimUploaded(ctx context.Context, n int) ([]Root, error) {
	return s.claim(ctx, `r.uploaded = 1 AND r.claimed_by = '' AND r.hot IN ('queued','fetching','restoring') AND r.next_ms <= ?
		ORDER BY r.next_ms LIMIT ?`, s.now().UnixMilli(), n)
}

func (s *store) claim(ctx context.Context, condition string, args ...any) (roots []Root, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		roots = nil
		q := `SELECT ` + rootColumns + ` FROM roots r WHERE ` + condition
		if tx.Name() == "postgres" {
			q += ` FOR UPDATE SKIP LOCKED`
		}
		err := query(tx, func(r row) error {
			root, err := scanRoot(r)
			roots = append(roots, root)
			return err
		}, q, args...)
		if err != nil || len(roots) == 0 {
			return err
		}
		return tx.Exec(`UPDATE roots SET claimed_by = ? WHERE id IN ?`, s.me, ids(roots)).Error
	})
	if err != nil {
		return nil, err
	}
	return roots, nil
}

func ids(roots []Root) []int64 {
	out := make([]int64, len(roots))
	for i, r := range roots {
		out[i] = r.id
	}
	return out
}

// unclaim gives roots back that were not worked on.
func (s *store) unclaim(ctx context.Context, roots []int64) error {
	if len(roots) == 0 {
		return nil
	}
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		for some := range slices.Chunk(roots, 500) {
			if err := tx.Exec(`UPDATE roots SET claimed_by = '' WHERE claimed_by = ? AND id IN ?`, s.me, some).Error; err != nil {
				return err
			}
		}
		return nil
	})
}

// move applies a transition to a root that this process has claimed. With keep the claim stays. It returns errStale
// when the root is being released or is no longer ours; a claim that was ours is given up then.
func (s *store) move(ctx context.Context, id int64, keep bool, transition func(Root) Root) (after Root, orphans []int64, err error) {
	var m moved
	err = s.db.Write(ctx, func(tx *gorm.DB) (err error) {
		m, err = s.moveIn(tx, id, keep, transition)
		return err
	})
	if err == nil && m.left {
		signal(s.overdue)
	}
	if err == nil && m.stale {
		err = errStale
	}
	return m.after, m.orphans, err
}

// moveAll applies one transition, by which none becomes held, to many roots and gives their claims up; roots that are stale
// are passed over.
func (s *store) moveAll(ctx context.Context, ids []int64, transition func(Root) Root) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		for _, id := range ids {
			if _, err := s.moveIn(tx, id, false, transition); err != nil {
				return err
			}
		}
		return nil
	})
}

// A moved is what has come of a root.
type moved struct {
	after   Root
	stale   bool    // nothing was to be done
	orphans []int64 // roots that were kept until this one is held
	left    bool    // more was kept for it, which is overdue now
}

func (s *store) moveIn(tx *gorm.DB, id int64, keep bool, transition func(Root) Root) (moved, error) {
	before, holder, err := lockRoot(tx, `r.id = ?`, id)
	if errors.Is(err, errStale) {
		return moved{stale: true}, nil
	}
	if err != nil || holder != s.me {
		return moved{stale: true}, err
	}
	if !before.Hot.waits() {
		return moved{stale: true}, s.saveRoot(tx, before, before, "")
	}
	after := transition(before)
	if after.Hot == HotGaveUp && before.Hot != HotRestoring {
		// Only what would end is worth the questions whether cold copies or an upload keep it alive.
		if before.Cold, err = s.hasCold(tx, before); err != nil {
			return moved{}, err
		}
		if before.UploadHeld, err = heldByUpload(tx, before.CID); err != nil {
			return moved{}, err
		}
		if before.Cold || before.UploadHeld {
			after = transition(before)
		}
	}
	claim := ""
	if keep {
		claim = s.me
	}
	if err := s.saveRoot(tx, before, after, claim); err != nil {
		return moved{}, err
	}
	m := moved{after: after}
	if after.Hot == HotHeld {
		m.orphans, m.left, err = s.dropSuperseded(tx, id)
	}
	return m, err
}

// lost moves a held root to where its copy is made again. damaged: blocks are wrong, and the tier may not notice.
func (s *store) lost(ctx context.Context, id int64, damaged bool) error {
	err := s.db.Write(ctx, func(tx *gorm.DB) error {
		before, holder, err := lockRoot(tx, `r.id = ?`, id)
		if err != nil {
			return err
		}
		if before.Hot != HotHeld {
			return errStale
		}
		return s.loseIn(tx, before, holder, damaged)
	})
	if errors.Is(err, errStale) {
		return nil
	}
	return err
}

func (s *store) loseIn(tx *gorm.DB, before Root, holder string, damaged bool) (err error) {
	if before.Cold, err = s.hasCold(tx, before); err != nil {
		return err
	}
	if damaged {
		if err := setDamaged(tx, before.id); err != nil {
			return err
		}
	}
	return s.saveRoot(tx, before, Lost(before, s.now()), holder)
}

func setDamaged(tx *gorm.DB, id int64) error {
	return tx.Exec(`UPDATE roots SET verified_ms = -1 WHERE id = ?`, id).Error
}

// damaged notes that blocks of a root are missing or wrong, and returns it as it is then: lost if it was held. waits is
// false if nobody will make it whole.
func (s *store) damaged(ctx context.Context, root cid.Cid) (after Root, waits, fresh bool, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		waits, fresh = false, false
		before, holder, err := lockRoot(tx, `r.cid = ?`, root.String())
		if err != nil {
			return err
		}
		after, waits, fresh = before, before.Hot.waits() || before.Hot == HotHeld, before.Hot == HotHeld
		switch {
		case fresh:
			return s.loseIn(tx, before, holder, true)
		case waits:
			return setDamaged(tx, before.id)
		}
		return nil
	})
	if errors.Is(err, errStale) {
		err = nil
	}
	return after, waits, fresh, err
}

// claimSome claims those of some roots that a time slice is due to.
func (s *store) claimSome(ctx context.Context, roots []int64) (claimed []Root, err error) {
	for some := range slices.Chunk(roots, 500) {
		list, err := s.claim(ctx, `r.id IN ? AND (`+freshRoots+` OR `+retryRoots+` AND r.next_ms <= ?)`, some, s.now().UnixMilli())
		if err != nil {
			return claimed, err
		}
		claimed = append(claimed, list...)
	}
	return claimed, nil
}

// A count is how far the walk of one root has come.
type count struct{ id, blocks, bytes int64 }

// progress records how far walks have come, so that every server can tell.
func (s *store) progress(ctx context.Context, counts []count) error {
	if len(counts) == 0 {
		return nil
	}
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		for _, c := range counts {
			err := tx.Exec(`UPDATE roots SET blocks = ?, bytes = ? WHERE id = ? AND claimed_by = ? AND hot IN ('fetching','restoring')`,
				c.blocks, c.bytes, c.id, s.me).Error
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// origins returns what the pins of a root name as peers that have it, newest pin first.
func (s *store) origins(ctx context.Context, id int64) (origins []string, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		origins = nil
		return query(tx, func(r row) error {
			var text string
			if err := r.Scan(&text); err != nil {
				return err
			}
			var some []string
			err := fromJSON(nullString(text), &some)
			origins = append(origins, some...)
			return err
		}, `SELECT p.origins FROM pins p WHERE p.root_id = ? AND p.origins IS NOT NULL ORDER BY p.created_ms DESC LIMIT 5`, id)
	})
	return origins, err
}

// A rootRef names a root without its history.
type rootRef struct {
	id       int64
	cid      string
	hot      Hot
	unwanted bool // see DAG.unwanted
}

// walkRoots yields all roots in pages, each page from its own snapshot.
func (s *store) walkRoots(ctx context.Context, yield func(rootRef) error) error {
	const page = 5000
	for last := int64(0); ; {
		var refs []rootRef
		err := s.db.Read(ctx, func(tx *gorm.DB) error {
			refs = refs[:0]
			return query(tx, func(r row) error {
				var ref rootRef
				var dag DAG
				err := r.Scan(&ref.id, &ref.cid, &dag.Hot)
				ref.hot, ref.unwanted = dag.Hot, dag.unwanted()
				refs = append(refs, ref)
				return err
			}, `SELECT id, cid, hot FROM roots WHERE id > ? ORDER BY id LIMIT ?`, last, page)
		})
		if err != nil {
			return err
		}
		for _, ref := range refs {
			if err := yield(ref); err != nil {
				return err
			}
			last = ref.id
		}
		if len(refs) < page {
			return nil
		}
	}
}

// partialRoots reads the partial indexes only, however many roots are held. One that is queued and was lost, or uploaded,
// may be here whole, without its pin, and wait for room that a collection is to make, or for its next turn.
const partialRoots = `SELECT r.cid FROM roots r WHERE (r.hot IN ('fetching','restoring') OR r.hot = 'queued' AND (r.lost = 1 OR r.uploaded = 1)) AND r.id IN (
	SELECT r.id FROM roots r WHERE ` + freshRoots + ` UNION ALL SELECT r.id FROM roots r WHERE ` + retryRoots + `
	UNION ALL SELECT r.id FROM roots r WHERE r.claimed_by <> '')`

// partial returns the roots whose blocks are here in part and should survive a collection.
func (s *store) partial(ctx context.Context) (roots []cid.Cid, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		roots = nil
		return query(tx, func(r row) error {
			var text string
			if err := r.Scan(&text); err != nil {
				return err
			}
			root, err := cid.Decode(text)
			roots = append(roots, root)
			return err
		}, partialRoots)
	})
	return roots, err
}

// adopt records a DAG that the hot tier holds and no pin names as one to be released. Going through the states keeps
// a request that arrives in the same moment safe.
func (s *store) adopt(ctx context.Context, root cid.Cid) error {
	now := s.now().UnixMilli()
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`INSERT INTO roots (cid, hot, account, attempts, wanted_ms, next_ms, claimed_by, blocks, bytes, reason)
			VALUES (?, ?, 0, 0, ?, ?, '', 0, 0, '') ON CONFLICT (cid) DO NOTHING`, root.String(), HotReleasing, now, now).Error
	})
}

// oldestWait returns since when the longest waiting root nobody has tried waits; ok is false when none does.
func (s *store) oldestWait(ctx context.Context) (since time.Time, ok bool, err error) {
	accounts, err := s.waitingAccounts(ctx, freshRoots)
	if err != nil {
		return time.Time{}, false, err
	}
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		since, ok = time.Time{}, false
		for _, a := range accounts {
			err := query(tx, func(r row) error {
				var ms int64
				if err := r.Scan(&ms); err != nil {
					return err
				}
				if at := time.UnixMilli(ms); !ok || at.Before(since) {
					since, ok = at, true
				}
				return nil
			}, `SELECT r.wanted_ms FROM roots r WHERE `+freshRoots+` AND r.account = ? ORDER BY r.id LIMIT 1`, a)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return since, ok, err
}

// disown moves roots that only cold copies hold, which nobody here can read, to where they are looked for.
func (s *store) disown(ctx context.Context) error {
	for {
		n := 0
		err := s.db.Write(ctx, func(tx *gorm.DB) error {
			var page []int64
			err := query(tx, func(r row) error {
				var id int64
				err := r.Scan(&id)
				page = append(page, id)
				return err
			}, `SELECT r.id FROM roots r WHERE r.hot IN ('offloaded','restoring') ORDER BY r.id LIMIT ?`, coldPage)
			if n = len(page); err != nil {
				return err
			}
			for _, id := range page {
				before, holder, err := lockRoot(tx, `r.id = ?`, id)
				if errors.Is(err, errStale) || err == nil && !before.Hot.readsCold() {
					continue
				}
				if err == nil {
					err = s.saveRoot(tx, before, Lost(before, s.now()), holder)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || n == 0 {
			return err
		}
	}
}
