package ledger

import (
	"context"
	"database/sql"
	"errors"
	"math/big"
	"time"

	"gorm.io/gorm"
)

// deferCharge keeps a charge that is counted and cannot be priced now, in the transaction that counts it. What readers are
// sent comes every few seconds: a day of it is one charge, under the first one's key. The lock on the account covers it.
func deferCharge(tx *gorm.DB, c Charge) error {
	if c.Kind == EgressHot || c.Kind == EgressCold {
		var key string
		var qty *big.Int
		err := tx.Raw(`SELECT idem_key, qty FROM deferred_charges WHERE account = ? AND kind = ? AND day = ? AND ref = ?`,
			c.Account, string(c.Kind), dayOf(c.At), c.Ref).Row().Scan(&key, intoQty{&qty})
		if err == nil {
			return tx.Exec(`UPDATE deferred_charges SET qty = ? WHERE idem_key = ?`, qty.Add(qty, c.Qty).String(), key).Error
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	return tx.Exec(`INSERT INTO deferred_charges (idem_key, account, kind, day, ref, qty, at_ms) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		c.Key, c.Account, string(c.Kind), dayOf(c.At), c.Ref, c.Qty.String(), c.At.UnixMilli()).Error
}

// deferredBatch is how many charges that have waited one transaction books, and how many accounts with some are listed.
const deferredBatch = 500

// bookDeferred books what has waited for its price. unread gets the accounts whose plan still cannot be read, with its name.
func (s *Service) bookDeferred(ctx context.Context, unread map[int64]string) error {
	for after, more := int64(0), true; more; {
		oldest, last, err := s.deferredAccounts(ctx, after)
		if err != nil {
			return err
		}
		after, more = last, len(oldest) == deferredBatch
		all, err := s.terms(ctx, oldest)
		if err != nil {
			return err
		}
		for account, t := range all {
			if t.Unknown {
				unread[account] = t.Name
				continue
			}
			if err := s.bookDeferredOf(ctx, account, t); err != nil {
				return err
			}
		}
	}
	return nil
}

// deferredAccounts are the next accounts after one of which charges wait, with the time of the oldest.
func (s *Service) deferredAccounts(ctx context.Context, after int64) (oldest map[int64]time.Time, last int64, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		oldest, last = make(map[int64]time.Time), after
		return query(tx, func(r row) error {
			var at time.Time
			err := r.Scan(&last, intoTime{&at})
			oldest[last] = at
			return err
		}, `SELECT account, min(at_ms) FROM deferred_charges WHERE account > ? GROUP BY account ORDER BY account LIMIT ?`, after, deferredBatch)
	})
	return oldest, last, err
}

func (s *Service) bookDeferredOf(ctx context.Context, account int64, t terms) error {
	for n := deferredBatch; n == deferredBatch; {
		err := s.write(ctx, func(tx *gorm.DB) error {
			books, err := lock(tx, []int64{account})
			if err != nil {
				return err
			}
			var charges []Charge
			var keys []string
			err = query(tx, func(r row) error {
				c := Charge{Account: account}
				err := r.Scan(&c.Key, &c.Kind, &c.Ref, intoQty{&c.Qty}, intoTime{&c.At})
				charges, keys = append(charges, c), append(keys, c.Key)
				return err
			}, `SELECT idem_key, kind, ref, qty, at_ms FROM deferred_charges WHERE account = ? ORDER BY kind, day, ref, idem_key LIMIT ?`,
				account, deferredBatch)
			if n = len(charges); err != nil || n == 0 {
				return err
			}
			c := newCounters()
			if err := s.billCharges(tx, c, books, charges, map[int64]terms{account: t}, true); err != nil {
				return err
			}
			return tx.Exec(`DELETE FROM deferred_charges WHERE idem_key IN ?`, keys).Error
		})
		if err != nil {
			return err
		}
	}
	return nil
}
