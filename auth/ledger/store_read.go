package ledger

import (
	"context"
	"database/sql"
	"errors"
	"math/big"
	"time"

	"gorm.io/gorm"
)

func (s *Service) selectEntries(ctx context.Context, f Filter) (entries []Entry, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		entries = nil
		where, args, err := f.where(tx)
		if err != nil {
			return err
		}
		return query(tx, func(r row) error {
			e, err := scanEntry(r)
			entries = append(entries, e)
			return err
		}, `SELECT `+entryColumns+` FROM ledger_entries WHERE `+where+` ORDER BY id LIMIT ?`, append(args, f.Limit)...)
	})
	return entries, err
}

// where turns times into ids, which one index can follow from page to page: within an account both grow together.
func (f Filter) where(tx *gorm.DB) (where string, args []any, err error) {
	where, args = `account = ? AND id > ?`, []any{f.Account, f.After}
	if f.Kind != "" {
		where, args = where+` AND kind = ?`, append(args, string(f.Kind))
	}
	if f.Ref != "" {
		where, args = where+` AND ref = ?`, append(args, f.Ref)
	}
	if !f.From.IsZero() {
		before, _, err := lastBefore(tx, f.Account, f.From)
		if err != nil {
			return "", nil, err
		}
		where, args = where+` AND id > ?`, append(args, before)
	}
	if !f.To.IsZero() {
		last, _, err := lastBefore(tx, f.Account, f.To)
		if err != nil {
			return "", nil, err
		}
		where, args = where+` AND id <= ?`, append(args, last)
	}
	return where, args, nil
}

// lastBefore returns the id of an account's last entry before a time and the balance after it, or zeros.
func lastBefore(tx *gorm.DB, account int64, t time.Time) (id int64, balance Amount, err error) {
	err = tx.Raw(`SELECT id, balance FROM ledger_entries WHERE account = ? AND at_ms < ? ORDER BY at_ms DESC, id DESC LIMIT 1`,
		account, t.UnixMilli()).Row().Scan(&id, &balance)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, 0, nil
	}
	return id, balance, err
}

func (s *Service) selectStatement(ctx context.Context, st *Statement) error {
	return s.db.Read(ctx, func(tx *gorm.DB) error {
		first, opening, err := lastBefore(tx, st.Account, st.From)
		if err != nil {
			return err
		}
		last, closing, err := lastBefore(tx, st.Account, st.To)
		if err != nil {
			return err
		}
		st.Opening, st.Closing, st.Lines = opening, closing, nil
		for _, kind := range append(Metered(), Topup, Adjustment) {
			line, err := statementLine(tx, st.Account, kind, first, last)
			if err != nil {
				return err
			}
			if line.Entries > 0 {
				st.Lines = append(st.Lines, line)
			}
		}
		return nil
	})
}

// statementLine sums up one kind. Quantities are summed here: SQLite would make floats of them.
func statementLine(tx *gorm.DB, account int64, kind Kind, first, last int64) (StatementLine, error) {
	line := StatementLine{Kind: kind, Qty: new(big.Int), Free: new(big.Int)}
	err := query(tx, func(r row) error {
		var qty, free *big.Int
		var amount, waived Amount
		if err := r.Scan(intoQty{&qty}, intoQty{&free}, &amount, &waived); err != nil {
			return err
		}
		line.Entries++
		line.Qty.Add(line.Qty, qty)
		line.Free.Add(line.Free, free)
		line.Amount += amount
		line.Waived += waived
		return nil
	}, `SELECT qty, free, amount, waived FROM ledger_entries WHERE account = ? AND kind = ? AND id > ? AND id <= ?`,
		account, string(kind), first, last)
	return line, err
}

func (s *Service) selectUsage(ctx context.Context, account int64, from, to string) (days []UsageDay, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		days = nil
		return query(tx, func(r row) error {
			var d UsageDay
			err := r.Scan(&d.Day, &d.Kind, intoQty{&d.Qty})
			days = append(days, d)
			return err
		}, `SELECT day, kind, qty FROM usage_days WHERE account = ? AND day >= ? AND day <= ? ORDER BY day, kind`, account, from, to)
	})
	return days, err
}

func (s *Service) selectCost(ctx context.Context, account int64, ref string) (sum Amount, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		return tx.Raw(`SELECT CAST(coalesce(-sum(amount), 0) AS BIGINT) FROM ledger_entries WHERE account = ? AND ref = ?`, account, ref).
			Row().Scan(&sum)
	})
	return sum, err
}

// The sums fit: amounts are bounded, and they add up to a balance that is.
const mismatches = `SELECT b.account, b.balance, CAST(coalesce(e.total, 0) AS BIGINT), b.holds, CAST(coalesce(h.total, 0) AS BIGINT), b.floor,
		coalesce((SELECT l.balance FROM ledger_entries l WHERE l.account = b.account ORDER BY l.id DESC LIMIT 1), 0)
	FROM balances b
	LEFT JOIN (SELECT account, sum(amount) AS total FROM ledger_entries GROUP BY account) e ON e.account = b.account
	LEFT JOIN (SELECT account, sum(amount) AS total FROM holds GROUP BY account) h ON h.account = b.account
	ORDER BY b.account`

func (s *Service) selectMismatches(ctx context.Context) (wrong []Mismatch, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		wrong = nil
		return query(tx, func(r row) error {
			var m Mismatch
			if err := r.Scan(&m.Account, &m.Balance, &m.Entries, &m.Holds, &m.HoldRows, &m.Floor, &m.Last); err != nil {
				return err
			}
			if m.Balance != m.Entries || m.Holds != m.HoldRows || m.Balance < m.Floor || m.Last != m.Balance {
				wrong = append(wrong, m)
			}
			return nil
		}, mismatches)
	})
	return wrong, err
}
