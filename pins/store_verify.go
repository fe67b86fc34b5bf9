package pins

import (
	"context"
	"errors"

	"github.com/ipfs/go-cid"
	"gorm.io/gorm"
)

// heldRoot returns the held root that a condition names, if there is one.
func (s *store) heldRoot(ctx context.Context, where string, args ...any) (r Root, found bool, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		found = false
		return query(tx, func(from row) (err error) {
			r, err = scanRoot(from)
			found = true
			return err
		}, `SELECT `+rootColumns+` FROM roots r WHERE r.hot = 'held' AND `+where, args...)
	})
	return r, found, err
}

// verified records that a held root was read and found whole.
func (s *store) verified(ctx context.Context, id int64) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`UPDATE roots SET verified_ms = ? WHERE id = ? AND hot = 'held'`, s.now().UnixMilli(), id).Error
	})
}

// claimUnwanted claims a root if it is wanted but not on the hot tier, and nobody works on it.
func (s *store) claimUnwanted(ctx context.Context, c cid.Cid) (r Root, claimed bool, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		claimed = false
		root, holder, err := lockRoot(tx, `r.cid = ?`, c.String())
		if errors.Is(err, errStale) || err == nil && (!root.unwanted() || holder != "") {
			return nil
		}
		if err != nil {
			return err
		}
		held, err := heldByUpload(tx, c)
		if err != nil || held {
			return err
		}
		r, claimed = root, true
		return tx.Exec(`UPDATE roots SET claimed_by = ? WHERE id = ?`, s.me, root.id).Error
	})
	return r, claimed, err
}
