package pins

import (
	"context"
	"errors"

	"github.com/go-gormigrate/gormigrate/v2"
	"github.com/ipfs/go-cid"
	"gorm.io/gorm"
)

// uploadHoldsMigration makes the table of what uploads at work hold on the hot tier without a pin. It has a row for each
// of their roots only.
func uploadHoldsMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261129_70_upload_holds",
		Migrate: func(tx *gorm.DB) error {
			return execute(tx, []string{
				`CREATE TABLE pin_upload_holds (
					id         CTEXT NOT NULL,
					root       CTEXT NOT NULL,
					claimed_by CTEXT NOT NULL,
					PRIMARY KEY (id, root)
				)`,
			})
		},
	}
}

// An uploadHold is one root that an upload holds.
type uploadHold struct {
	id, root string
	mine     bool
	alive    bool // who has begun it
}

// recordHold records what an upload is about to hold, but for what is held already and not by us: no root that should be
// here has a row, and no other upload holds it.
func (s *store) recordHold(ctx context.Context, id string, roots []cid.Cid, held []bool) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		for i, root := range roots {
			ours := !held[i]
			if !ours {
				err := tx.Raw(`SELECT EXISTS (SELECT 1 FROM roots WHERE cid = ? AND hot NOT IN ('gave_up','offloaded')) OR EXISTS (SELECT 1 FROM pin_upload_holds WHERE root = ?)`,
					root.String(), root.String()).Row().Scan(&ours)
				if err != nil {
					return err
				}
			}
			if !ours {
				continue
			}
			if err := tx.Exec(`INSERT INTO pin_upload_holds (id, root, claimed_by) VALUES (?, ?, ?)`, id, root.String(), s.me).Error; err != nil {
				return err
			}
		}
		return nil
	})
}

// heldByUpload tells whether an upload holds a root, or has held it and its end was not seen to yet.
func heldByUpload(tx *gorm.DB, root cid.Cid) (held bool, err error) {
	err = tx.Raw(`SELECT EXISTS (SELECT 1 FROM pin_upload_holds WHERE root = ?)`, root.String()).Row().Scan(&held)
	return held, err
}

// openHolds are the holds of a root whose uploads are at work: of no other does anybody wait for a pin.
const openHolds = `SELECT 1 FROM pin_upload_holds h WHERE h.root = ? AND h.claimed_by IN (SELECT id FROM workers)`

// heldBesides tells whether an upload at work holds a root, other than the one that has ended.
func heldBesides(tx *gorm.DB, root cid.Cid, ended string) (held bool, err error) {
	err = tx.Raw(`SELECT EXISTS (`+openHolds+` AND h.id <> ?)`, root.String(), ended).Row().Scan(&held)
	return held, err
}

// adoptEnded is adopt for what an upload has held that has ended.
func (s *store) adoptEnded(ctx context.Context, root cid.Cid, ended string) (held bool, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) (err error) {
		if held, err = heldBesides(tx, root, ended); err != nil || held {
			return err
		}
		return s.adopt(tx.Statement.Context, root)
	})
	return held, err
}

// adoptStray is adopt for what no upload holds: its pin is about to come, or its end is seen to elsewhere.
func (s *store) adoptStray(ctx context.Context, root cid.Cid) (held bool, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) (err error) {
		if held, err = heldByUpload(tx, root); err != nil || held {
			return err
		}
		return s.adopt(tx.Statement.Context, root)
	})
	return held, err
}

// endHolds says for all servers that uploads of this one have ended, but for those at work: two that wait for each other
// would hold for ever what both have held.
func (s *store) endHolds(ctx context.Context, working func(id string) bool) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		var ended []string
		err := query(tx, func(r row) error {
			var id string
			err := r.Scan(&id)
			if !working(id) {
				ended = append(ended, id)
			}
			return err
		}, `SELECT DISTINCT id FROM pin_upload_holds WHERE claimed_by = ?`, s.me)
		if err != nil || len(ended) == 0 {
			return err
		}
		return tx.Exec(`UPDATE pin_upload_holds SET claimed_by = '' WHERE id IN ?`, ended).Error
	})
}

// pinHold ends what an upload holds, for a root that has a pin now.
func pinHold(tx *gorm.DB, id string, root cid.Cid) error {
	return tx.Exec(`DELETE FROM pin_upload_holds WHERE id = ? AND root = ?`, id, root.String()).Error
}

func (s *store) uploadHolds(ctx context.Context) (list []uploadHold, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		return query(tx, func(r row) error {
			var h uploadHold
			var by string
			err := r.Scan(&h.id, &h.root, &by, &h.alive)
			h.mine = by == s.me
			list = append(list, h)
			return err
		}, `SELECT h.id, h.root, h.claimed_by, EXISTS (SELECT 1 FROM workers w WHERE w.id = h.claimed_by) FROM pin_upload_holds h`)
	})
	return list, err
}

func (s *store) forgetHold(ctx context.Context, h uploadHold) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`DELETE FROM pin_upload_holds WHERE id = ? AND root = ?`, h.id, h.root).Error
	})
}

// claimStray claims a root that has a row and is not to be on the hot tier. named tells whether it has one; busy means
// that it is such a root and another one works on it, or holds it: an upload other than the one that has ended.
func (s *store) claimStray(ctx context.Context, c cid.Cid, ended string) (r Root, named, claimed, busy bool, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		named, claimed, busy = false, false, false
		root, holder, err := lockRoot(tx, `r.cid = ?`, c.String())
		if errors.Is(err, errStale) {
			return nil
		}
		if err != nil {
			return err
		}
		named = true
		if root.Hot != HotGaveUp && root.Hot != HotOffloaded {
			return nil
		}
		if busy, err = heldBesides(tx, c, ended); err != nil {
			return err
		}
		if busy = busy || holder != ""; busy {
			return nil
		}
		r, claimed = root, true
		return tx.Exec(`UPDATE roots SET claimed_by = ? WHERE id = ?`, s.me, root.id).Error
	})
	return r, named, claimed, busy, err
}
