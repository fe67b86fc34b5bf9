package pins

import (
	"context"
	"time"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/deals"
)

// depart remembers a pin that is being removed, if it wanted cold copies.
func (s *store) depart(tx *gorm.DB, account Account, id ID, root int64, terms deals.TermsID, createdMS int64) error {
	if terms <= 0 {
		return nil
	}
	return tx.Exec(`INSERT INTO departures (pin, account, root, terms, since_ms, until_ms)
		SELECT CAST(? AS TEXT), CAST(? AS BIGINT), cid, CAST(? AS BIGINT), CAST(? AS BIGINT), CAST(? AS BIGINT) FROM roots WHERE id = ? ON CONFLICT DO NOTHING`,
		id, account, int64(terms), createdMS, s.now().UnixMilli(), root).Error
}

func (s *store) claims(ctx context.Context, w deals.Wish, from, to time.Time) (list []Claim, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		return query(tx, func(r row) error {
			var c Claim
			var since, until int64
			err := r.Scan(&c.Pin, &c.Account, &since, &until)
			c.Since = time.UnixMilli(since).UTC()
			if until > 0 {
				c.Until = time.UnixMilli(until).UTC()
			}
			list = append(list, c)
			return err
		}, `SELECT p.id, p.account, p.created_ms, 0 FROM roots r JOIN pins p ON p.root_id = r.id
			WHERE r.cid = ? AND p.terms = ? AND p.terms > 0 AND p.created_ms < ?
			UNION ALL SELECT pin, account, since_ms, until_ms FROM departures WHERE root = ? AND terms = ? AND until_ms > ? AND since_ms < ?`,
			w.Root.String(), int64(w.Terms), to.UnixMilli(), w.Root.String(), int64(w.Terms), from.UnixMilli(), to.UnixMilli())
	})
	return list, err
}

func (s *store) forgetDepartures(ctx context.Context, before time.Time) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`DELETE FROM departures WHERE until_ms < ?`, before.UnixMilli()).Error
	})
}
