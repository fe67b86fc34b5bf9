package ledger

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"gorm.io/gorm"
)

// A notice is what an account was told of its balance last.
type notice struct {
	mood  Mood
	grace Grace
}

func selectNotice(tx *gorm.DB, account int64) (n notice, err error) {
	n.mood = Fine
	err = tx.Raw(`SELECT state, unpaid_ms, stage, due_ms FROM notices WHERE account = ?`, account).Row().
		Scan(&n.mood, intoTime{&n.grace.Since}, &n.grace.Stage, intoTime{&n.grace.Told})
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return n, err
}

// saveNotice replaces what an account was told. The lock on its balance keeps others from doing so meanwhile.
func (s *Service) saveNotice(ctx context.Context, account int64, st Standing) (grace Grace, news bool, err error) {
	err = s.write(ctx, func(tx *gorm.DB) error {
		grace, news = Grace{}, false
		books, err := lock(tx, []int64{account})
		if err != nil {
			return err
		}
		if b := books[account]; st.Unpaid && b.Balance.Balance > b.Floor {
			return nil // paid since it was looked at: the next look tells
		}
		before, err := selectNotice(tx, account)
		if err != nil {
			return err
		}
		after := before.next(st, s.now().UTC().Truncate(time.Millisecond))
		grace, news = after.grace, after.mood != before.mood || after.grace.told(before.grace)
		if after == before {
			return nil
		}
		return tx.Exec(`INSERT INTO notices (account, state, unpaid_ms, stage, due_ms) VALUES (?, ?, ?, ?, ?) ON CONFLICT (account)
			DO UPDATE SET state = excluded.state, unpaid_ms = excluded.unpaid_ms, stage = excluded.stage, due_ms = excluded.due_ms`,
			account, string(after.mood), millis(after.grace.Since), int64(after.grace.Stage), millis(after.grace.Told)).Error
	})
	return grace, news && err == nil, err
}

// endGrace ends the grace period of an account that has something left. That is not left to the next look, before which all may
// be used up again.
func (b *book) endGrace(tx *gorm.DB) error {
	if b.Balance.Balance <= b.Floor {
		return nil
	}
	return tx.Exec(`UPDATE notices SET unpaid_ms = 0, stage = 0, due_ms = 0 WHERE account = ? AND unpaid_ms <> 0`, b.Account).Error
}

func (s *Service) selectGrace(ctx context.Context, account int64) (grace Grace, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		n, err := selectNotice(tx, account)
		grace = n.grace
		return err
	})
	return grace, err
}

// lockGrace keeps payments out until the transaction ends.
func (s *Service) lockGrace(ctx context.Context, account int64) (grace Grace, err error) {
	err = s.write(ctx, func(tx *gorm.DB) error {
		grace = Grace{}
		books, err := lock(tx, []int64{account})
		if err != nil {
			return err
		}
		if b := books[account]; b.Balance.Balance > b.Floor {
			return nil
		}
		n, err := selectNotice(tx, account)
		grace = n.grace
		return err
	})
	return grace, err
}

func (s *Service) selectAccounts(ctx context.Context, after int64, limit int) (list []int64, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		return query(tx, func(r row) error {
			var account int64
			err := r.Scan(&account)
			list = append(list, account)
			return err
		}, `SELECT account FROM balances WHERE account > ? ORDER BY account LIMIT ?`, after, limit)
	})
	return list, err
}
