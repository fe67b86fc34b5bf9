package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	"gorm.io/gorm"
)

// A DB runs transactions. Write returns nil only after a durable commit; both may run fn more than once. With the
// context of a running transaction they join it.
type DB interface {
	Read(ctx context.Context, fn func(tx *gorm.DB) error) error
	Write(ctx context.Context, fn func(tx *gorm.DB) error) error
}

// write runs fn again when another process has used one of its keys, or names, in the same moment: the second time fn
// finds it. Inside a transaction of somebody else's there is no second time.
func (s *Service) write(ctx context.Context, fn func(tx *gorm.DB) error) error {
	err := s.db.Write(ctx, fn)
	if errors.Is(err, gorm.ErrDuplicatedKey) {
		err = s.db.Write(ctx, fn)
	}
	return err
}

// A row of a result.
type row interface{ Scan(dest ...any) error }

func query(tx *gorm.DB, scan func(row) error, sql string, args ...any) (err error) {
	rows, err := tx.Raw(sql, args...).Rows()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func forUpdate(tx *gorm.DB) string {
	if tx.Name() == "postgres" {
		return " FOR UPDATE"
	}
	return "" // SQLite runs one Write at a time
}

// intoQty scans decimal text.
type intoQty struct{ v **big.Int }

func (i intoQty) Scan(src any) error {
	text, ok := src.(string)
	if raw, isBytes := src.([]byte); isBytes {
		text, ok = string(raw), true
	}
	v, valid := new(big.Int).SetString(text, 10)
	if !ok || !valid {
		return fmt.Errorf("reading a quantity: %v", src)
	}
	*i.v = v
	return nil
}

// intoTime scans Unix milliseconds, 0 for never.
type intoTime struct{ v *time.Time }

func (i intoTime) Scan(src any) error {
	ms, ok := src.(int64)
	if !ok {
		return fmt.Errorf("reading a time: %v", src)
	}
	*i.v = time.Time{}
	if ms != 0 {
		*i.v = time.UnixMilli(ms).UTC()
	}
	return nil
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

const balanceColumns = `account, balance, holds, floor, last_ms, empty_ms`

// A book is an account's row, which the transaction has locked: nobody else books for the account meanwhile.
type book struct {
	Balance
	last time.Time // of its newest entry
}

func scanBook(r row) (*book, error) {
	var b book
	err := r.Scan(&b.Account, &b.Balance.Balance, &b.Holds, &b.Floor, intoTime{&b.last}, intoTime{&b.Empty})
	return &b, err
}

// lock reads the rows of accounts, which exist afterwards, and keeps others from booking for them. Everybody locks in
// the same order.
func lock(tx *gorm.DB, accounts []int64) (map[int64]*book, error) {
	accounts = slices.Compact(slices.Sorted(slices.Values(accounts)))
	books := make(map[int64]*book, len(accounts))
	for range 2 {
		err := query(tx, func(r row) error {
			b, err := scanBook(r)
			books[b.Account] = b
			return err
		}, `SELECT `+balanceColumns+` FROM balances WHERE account IN ? ORDER BY account`+forUpdate(tx), accounts)
		if err != nil || len(books) == len(accounts) {
			return books, err
		}
		for _, account := range accounts {
			if _, known := books[account]; known {
				continue
			}
			err := tx.Exec(`INSERT INTO balances (`+balanceColumns+`) VALUES (?, 0, 0, 0, 0, 0) ON CONFLICT (account) DO NOTHING`, account).Error
			if err != nil {
				return nil, err
			}
		}
	}
	return nil, fmt.Errorf("locking %d accounts: %d are there", len(accounts), len(books))
}

// save writes back what has become of a book.
func (b *book) save(tx *gorm.DB) error {
	return tx.Exec(`UPDATE balances SET balance = ?, holds = ?, floor = ?, last_ms = ?, empty_ms = ? WHERE account = ?`,
		int64(b.Balance.Balance), int64(b.Holds), int64(b.Floor), millis(b.last), millis(b.Empty), b.Account).Error
}

// tick returns the time of the account's next entry: now, unless a clock has gone back.
func (b *book) tick(now time.Time) time.Time {
	now = now.UTC().Truncate(time.Millisecond)
	if now.Before(b.last) {
		now = b.last
	}
	b.last = now
	return now
}

// move changes the balance and remembers since when there is nothing left.
func (b *book) move(amount Amount, at time.Time) {
	b.Balance.Balance += amount
	b.mark(at)
}

func (b *book) mark(at time.Time) {
	switch {
	case b.Balance.Balance > b.Floor:
		b.Empty = time.Time{}
	case b.Empty.IsZero():
		b.Empty = at
	}
}

func (s *Service) selectBalance(ctx context.Context, account int64) (found Balance, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		b, err := scanBook(tx.Raw(`SELECT `+balanceColumns+` FROM balances WHERE account = ?`, account).Row())
		if errors.Is(err, sql.ErrNoRows) {
			found = Balance{Account: account}
			return nil
		}
		found = b.Balance
		return err
	})
	return found, err
}

func (s *Service) updateFloor(ctx context.Context, account int64, floor Amount) error {
	return s.write(ctx, func(tx *gorm.DB) error {
		books, err := lock(tx, []int64{account})
		if err != nil {
			return err
		}
		b := books[account]
		if b.Balance.Balance < floor {
			return ErrFunds
		}
		b.Floor = floor
		b.mark(s.now())
		return errors.Join(b.endGrace(tx), b.save(tx), b.toppedUp(tx))
	})
}

const entryColumns = `id, account, kind, qty, free, unit, price, amount, waived, balance, ref, idem_key, at_ms`

func scanEntry(r row) (e Entry, err error) {
	err = r.Scan(&e.ID, &e.Account, &e.Kind, intoQty{&e.Qty}, intoQty{&e.Free}, &e.Unit, &e.Price, &e.Amount, &e.Waived, &e.Balance,
		&e.Ref, &e.Key, intoTime{&e.At})
	return e, err
}

// insertRows is how many entries one statement inserts.
const insertRows = 200

func insertEntries(tx *gorm.DB, entries []Entry) error {
	for part := range slices.Chunk(entries, insertRows) {
		statement := []byte(`INSERT INTO ledger_entries (account, kind, qty, free, unit, price, amount, waived, balance, ref, idem_key, at_ms) VALUES `)
		args := make([]any, 0, 12*len(part))
		for i, e := range part {
			if i > 0 {
				statement = append(statement, ',')
			}
			statement = append(statement, "(?,?,?,?,?,?,?,?,?,?,?,?)"...)
			args = append(args, e.Account, string(e.Kind), orZero(e.Qty).String(), orZero(e.Free).String(), e.Unit, int64(e.Price),
				int64(e.Amount), int64(e.Waived), int64(e.Balance), e.Ref, e.Key, e.At.UnixMilli())
		}
		if err := tx.Exec(string(statement), args...).Error; err != nil {
			return err
		}
	}
	return nil
}

// entriesByKey returns those of the keys that are booked.
func entriesByKey(tx *gorm.DB, keys []string) (map[string]Entry, error) {
	known := make(map[string]Entry)
	for part := range slices.Chunk(keys, MaxPage) {
		err := query(tx, func(r row) error {
			e, err := scanEntry(r)
			known[e.Key] = e
			return err
		}, `SELECT `+entryColumns+` FROM ledger_entries WHERE idem_key IN ?`, part)
		if err != nil {
			return nil, err
		}
	}
	return known, nil
}

func (s *Service) insertTransfer(ctx context.Context, e Entry, with []func(ctx context.Context) error) (booked Entry, fresh bool, err error) {
	err = s.write(ctx, func(tx *gorm.DB) error {
		fresh = false
		books, err := lock(tx, []int64{e.Account})
		if err != nil {
			return err
		}
		known, err := entriesByKey(tx, []string{e.Key})
		if err != nil {
			return err
		}
		if first, ok := known[e.Key]; ok {
			booked = first
			if first.Account != e.Account || first.Kind != e.Kind || first.Amount != e.Amount {
				return ErrKeyReused
			}
			return books[e.Account].toppedUp(tx) // whoever repeats it may have a reason
		}
		b := books[e.Account]
		after := b.Balance.Balance + e.Amount
		if after < b.Floor && e.Amount < 0 {
			return ErrFunds
		}
		if after > maxBalance {
			return invalid("a balance is at most %s credits", maxBalance)
		}
		next := e
		next.At = b.tick(s.now())
		b.move(e.Amount, next.At)
		next.Balance = b.Balance.Balance
		if err := insertEntries(tx, []Entry{next}); err != nil {
			return err
		}
		if err := errors.Join(b.endGrace(tx), b.save(tx), b.toppedUp(tx)); err != nil {
			return err
		}
		for _, write := range with {
			if err := write(tx.Statement.Context); err != nil {
				return err
			}
		}
		fresh = true
		known, err = entriesByKey(tx, []string{e.Key})
		booked = known[e.Key]
		return err
	})
	return booked, fresh && err == nil, err
}

func (s *Service) insertCharges(ctx context.Context, charges []Charge, plans map[int64]terms, sparse bool) error {
	if len(charges) == 0 {
		return nil
	}
	return s.write(ctx, func(tx *gorm.DB) error {
		books, err := lock(tx, slices.Collect(maps.Keys(plans)))
		if err != nil {
			return err
		}
		return s.bookCharges(tx, books, charges, plans, sparse)
	})
}
