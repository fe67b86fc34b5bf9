package ledger

import (
	"context"
	"database/sql"
	"errors"

	"gorm.io/gorm"
)

// hold reads a hold.
func hold(tx *gorm.DB, ref string) (account int64, amount Amount, found bool, err error) {
	err = tx.Raw(`SELECT account, amount FROM holds WHERE ref = ?`, ref).Row().Scan(&account, &amount)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, 0, false, nil
	}
	return account, amount, err == nil, err
}

// lockHold locks an account and reads its hold, which exists afterwards.
func lockHold(tx *gorm.DB, account int64, ref string) (b *book, held Amount, err error) {
	books, err := lock(tx, []int64{account})
	if err != nil {
		return nil, 0, err
	}
	owner, held, found, err := hold(tx, ref)
	if err != nil {
		return nil, 0, err
	}
	if found && owner != account {
		return nil, 0, ErrKeyReused
	}
	if !found {
		err = tx.Exec(`INSERT INTO holds (ref, account, amount) VALUES (?, ?, 0)`, ref, account).Error
	}
	return books[account], held, err
}

// writeStockHold holds what 30 days of more cost beside what is stored and what the other holds of the account are for. The
// lock on the account covers them.
func (s *Service) writeStockHold(ctx context.Context, account int64, ref string, prices Prices, stored, more Stock) (amount Amount, err error) {
	err = s.write(ctx, func(tx *gorm.DB) error {
		b, held, err := lockHold(tx, account, ref)
		if err != nil {
			return err
		}
		err = tx.Exec(`UPDATE holds SET hot = CASE WHEN hot < ? THEN ? ELSE hot END, cold = CASE WHEN cold < ? THEN ? ELSE cold END WHERE ref = ?`,
			more.Hot, more.Hot, more.Cold, more.Cold, ref).Error
		if err != nil {
			return err
		}
		var all Stock
		var others Amount
		err = tx.Raw(`SELECT CAST(sum(hot) AS BIGINT), CAST(sum(cold) AS BIGINT), CAST(sum(CASE WHEN ref = ? THEN 0 ELSE amount END) AS BIGINT)
			FROM holds WHERE account = ?`, ref, account).Row().Scan(&all.Hot, &all.Cold, &others)
		if err != nil {
			return err
		}
		// Together they hold what all of it costs, and each at least what it would cost alone.
		amount = min(max(prices.adds(stored, all)-others, prices.adds(stored, more)), MaxAmount)
		return b.reserve(tx, ref, held, amount)
	})
	return amount, err
}

// deleteHold finds the account first, locks it, and reads the hold again: it may have changed while the lock was waited for.
func (s *Service) deleteHold(ctx context.Context, ref string) error {
	return s.write(ctx, func(tx *gorm.DB) error {
		account, _, found, err := hold(tx, ref)
		if err != nil || !found {
			return err
		}
		books, err := lock(tx, []int64{account})
		if err != nil {
			return err
		}
		owner, held, found, err := hold(tx, ref)
		if err != nil || !found || owner != account {
			return err // released meanwhile
		}
		if err := tx.Exec(`DELETE FROM holds WHERE ref = ?`, ref).Error; err != nil {
			return err
		}
		b := books[account]
		b.Holds -= held
		return b.save(tx)
	})
}

// reserve raises a hold to an amount, if that much more is available. Nothing asks nothing of the balance: what an
// allowance covers can be had at zero.
func (b *book) reserve(tx *gorm.DB, ref string, held, amount Amount) error {
	more := amount - held
	if more <= 0 {
		return nil
	}
	if more > b.Available() {
		return ErrFunds
	}
	b.Holds += more
	if err := tx.Exec(`UPDATE holds SET amount = ? WHERE ref = ?`, int64(amount), ref).Error; err != nil {
		return err
	}
	return b.save(tx)
}

// selectRefs returns references of holds under a condition, in the order of their text.
func (s *Service) selectRefs(ctx context.Context, where string, limit int, args ...any) (refs []string, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		refs = nil
		return query(tx, func(r row) error {
			var ref string
			err := r.Scan(&ref)
			refs = append(refs, ref)
			return err
		}, `SELECT ref FROM holds WHERE `+where+` ORDER BY ref LIMIT ?`, append(args, limit)...)
	})
	return refs, err
}

func (s *Service) selectComing(ctx context.Context, account int64) (coming Stock, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		return tx.Raw(`SELECT CAST(coalesce(sum(hot), 0) AS BIGINT), CAST(coalesce(sum(cold), 0) AS BIGINT) FROM holds WHERE account = ?`, account).
			Row().Scan(&coming.Hot, &coming.Cold)
	})
	return coming, err
}
