package pins

import (
	"context"
	"slices"

	"gorm.io/gorm"
)

// A part is a root whose blocks are here in part.
type part struct {
	id      int64
	account Account
	bytes   int64
	free    bool // nobody works on it
	kept    bool // it was held before, or uploaded: what is here of it is not let go
}

// parts returns what is here in part, oldest first. Like partialRoots it reads the partial indexes only.
func (s *store) parts(ctx context.Context) (list []part, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		return query(tx, func(r row) error {
			var p part
			var hot Hot
			var lost, uploaded int64
			err := r.Scan(&p.id, &hot, &p.account, &p.bytes, &lost, &uploaded, &p.free)
			p.kept = hot == HotRestoring || lost == 1 || uploaded == 1
			list = append(list, p)
			return err
		}, `SELECT r.id, r.hot, r.account, r.bytes, r.lost, r.uploaded, r.claimed_by = '' FROM roots r
			WHERE (r.hot = 'fetching' OR r.hot = 'restoring' AND r.bytes > 0) AND r.id IN (
				SELECT r.id FROM roots r WHERE `+freshRoots+` UNION ALL SELECT r.id FROM roots r WHERE `+retryRoots+`
				UNION ALL SELECT r.id FROM roots r WHERE r.claimed_by <> '') ORDER BY r.id`)
	})
	return list, err
}

// drop applies a transition to roots that are here in part and on which nobody works.
func (s *store) drop(ctx context.Context, list []int64, transition func(Root) Root) (dropped int, err error) {
	for some := range slices.Chunk(list, 500) {
		roots, err := s.claim(ctx, `r.id IN ? AND r.hot = 'fetching' AND r.lost = 0 AND r.uploaded = 0 AND r.claimed_by = ''`, some)
		if err != nil {
			return dropped, err
		}
		if err := s.moveAll(ctx, ids(roots), transition); err != nil {
			return dropped, err
		}
		dropped += len(roots)
	}
	return dropped, nil
}

// claimPart claims a root that is here in part, if it still is and nobody works on it.
func (s *store) claimPart(ctx context.Context, id int64) ([]Root, error) {
	return s.claim(ctx, `r.id = ? AND r.hot IN ('fetching','restoring') AND r.claimed_by = ''`, id)
}
