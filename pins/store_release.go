package pins

import (
	"context"
	"errors"
	"time"

	"gorm.io/gorm"
)

// claimReleasing claims up to n roots that nothing wants any more.
func (s *store) claimReleasing(ctx context.Context, n int) ([]Root, error) {
	return s.claim(ctx, `r.hot = 'releasing' AND r.claimed_by = '' AND r.next_ms <= ? ORDER BY r.next_ms LIMIT ?`,
		s.now().UnixMilli(), n)
}

// toRelease tells whether a root that this process has claimed is still to be released, and no upload holds it.
func (s *store) toRelease(ctx context.Context, r Root) (yes bool, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		return tx.Raw(`SELECT EXISTS (SELECT 1 FROM roots WHERE id = ? AND claimed_by = ? AND hot = 'releasing') AND NOT EXISTS (`+openHolds+`)`,
			r.id, s.me, r.CID.String()).Row().Scan(&yes)
	})
	return yes, err
}

// released deletes a root after the hot tier has let it go, or gives it up while pins name it that were let go, or one of
// them is being replaced. If it was asked for meanwhile, it stays and is fetched again; done is false then.
func (s *store) released(ctx context.Context, id int64) (done bool, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		done = false
		before, holder, err := lockRoot(tx, `r.id = ?`, id)
		if errors.Is(err, errStale) || err == nil && holder != s.me {
			return nil
		}
		if err != nil {
			return err
		}
		if before.Hot != HotReleasing {
			return s.saveRoot(tx, before, before, "")
		}
		done = true
		var named bool
		if err := tx.Raw(`SELECT EXISTS (SELECT 1 FROM pins WHERE root_id = ?) OR EXISTS (SELECT 1 FROM retained WHERE root_id = ?)`,
			id, id).Row().Scan(&named); err != nil {
			return err
		}
		if named {
			return s.saveRoot(tx, before, Lapsed(before, s.now()), "")
		}
		return tx.Exec(`DELETE FROM roots WHERE id = ?`, id).Error
	})
	return done, err
}

// postponeRelease puts a release off that the hot tier could not carry out, or that is not to be now.
func (s *store) postponeRelease(ctx context.Context, id int64, until time.Time) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`UPDATE roots SET claimed_by = '', next_ms = CASE WHEN hot = 'releasing' THEN ? ELSE next_ms END
			WHERE id = ? AND claimed_by = ?`, until.UnixMilli(), id, s.me).Error
	})
}
