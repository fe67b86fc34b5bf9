package deals

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	fbig "github.com/filecoin-project/go-state-types/big"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"gorm.io/gorm"
)

// dayOf is the day whose budget counts at a time.
func dayOf(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// monthOf is the month of a day, as a prefix.
func monthOf(day string) string { return day[:min(len(day), len("2006-01-"))] }

// A LedgerDay is what was spent in a day, or in the month that Day begins with, in attoFIL.
type LedgerDay struct {
	Day    string
	Deals  abi.TokenAmount // what the attempts charged to it may cost
	Escrow abi.TokenAmount // what was moved to the market
}

// lockDay reads a day, which exists afterwards, and keeps others from changing it until the transaction ends.
func lockDay(tx *gorm.DB, day string) (LedgerDay, error) {
	if _, err := time.Parse(time.DateOnly, day); err != nil {
		return LedgerDay{}, fmt.Errorf("charging the day %q: %w", day, err)
	}
	err := tx.Exec(`INSERT INTO spend (day, deals, escrow) VALUES (?, '0', '0') ON CONFLICT (day) DO NOTHING`, day).Error
	if err != nil {
		return LedgerDay{}, err
	}
	return scanDay(tx.Raw(`SELECT day, deals, escrow FROM spend s WHERE day = ?`+forUpdate(tx, "s"), day).Row())
}

func scanDay(from row) (d LedgerDay, err error) {
	err = from.Scan(&d.Day, intoAmount{&d.Deals}, intoAmount{&d.Escrow})
	return d, err
}

// spentIn sums the days that begin with prefix: a month.
func spentIn(tx *gorm.DB, prefix string) (total LedgerDay, err error) {
	total = LedgerDay{Day: prefix, Deals: fbig.Zero(), Escrow: fbig.Zero()}
	err = query(tx, func(r row) error {
		d, err := scanDay(r)
		if err == nil {
			total.Deals, total.Escrow = fbig.Add(total.Deals, d.Deals), fbig.Add(total.Escrow, d.Escrow)
		}
		return err
	}, `SELECT day, deals, escrow FROM spend WHERE day >= ? AND day < ?`, prefix, prefix+"~")
	return total, err
}

// charge notes the cost of a deal, in attoFIL, in the budget of a day, or refuses it with a *CapError. Two transactions
// that charge the same day wait for each other, and the maker's lease keeps there from being two at the turn of a day.
func (s *store) charge(tx *gorm.DB, day string, cost abi.TokenAmount, c Caps) error {
	if cost = amount(cost); cost.LessThan(fbig.Zero()) {
		return fmt.Errorf("charging %s for a deal", cost)
	}
	if err := c.checkDeal(cost); err != nil {
		return err
	}
	today, err := lockDay(tx, day)
	if err != nil {
		return err
	}
	month, err := spentIn(tx, monthOf(day))
	if err != nil {
		return err
	}
	if cost.Sign() == 0 {
		return nil
	}
	for _, budget := range []struct {
		name, words  string
		spent, limit abi.TokenAmount
	}{
		{"day", "today", today.Deals, amount(c.PerDay)},
		{"month", "this month", month.Deals, amount(c.PerMonth)},
	} {
		if fbig.Add(budget.spent, cost).GreaterThan(budget.limit) {
			return &CapError{Cap: budget.name, Reason: fmt.Sprintf("the deal would cost %s; of the %s for %s %s is spent",
				FIL(cost), FIL(budget.limit), budget.words, FIL(budget.spent))}
		}
	}
	return tx.Exec(`UPDATE spend SET deals = ? WHERE day = ?`, fbig.Add(today.Deals, cost).String(), day).Error
}

// owe charges a deal to a day that is paid already, whatever the budget.
func (s *store) owe(tx *gorm.DB, day string, cost abi.TokenAmount) error {
	d, err := lockDay(tx, day)
	if err != nil {
		return err
	}
	return tx.Exec(`UPDATE spend SET deals = ? WHERE day = ?`, fbig.Add(d.Deals, cost).String(), day).Error
}

// refund takes back what was charged for a deal that will never be.
func (s *store) refund(tx *gorm.DB, day string, cost abi.TokenAmount) error {
	cost = amount(cost)
	if day == "" || cost.Sign() == 0 {
		return nil
	}
	d, err := lockDay(tx, day)
	if err != nil {
		return err
	}
	if d.Deals.LessThan(cost) {
		return fmt.Errorf("refunding %s to %s, to which only %s was charged", cost, day, d.Deals)
	}
	return tx.Exec(`UPDATE spend SET deals = ? WHERE day = ?`, fbig.Sub(d.Deals, cost).String(), day).Error
}

// reserved is the escrow, in attoFIL, that attempts may still lock: those signed and not yet published.
func (s *store) reserved(tx *gorm.DB) (abi.TokenAmount, error) {
	sum := fbig.Zero()
	err := query(tx, func(r row) error {
		var v abi.TokenAmount
		err := r.Scan(intoAmount{&v})
		if err == nil {
			sum = fbig.Add(sum, v)
		}
		return err
	}, `SELECT reserved FROM attempts WHERE reserved <> '0'`)
	return sum, err
}

// A FundState is where a movement of money stands. The zero value is invalid.
type FundState string

const (
	FundPlanned FundState = "planned" // recorded and charged; perhaps sent; the keeper sends it, as often as needed
	FundSent    FundState = "sent"    // the node has told its message; the chain moves it on
	FundDone    FundState = "done"    // final: it is on chain and has done what it says
	FundFailed  FundState = "failed"  // final: it is on chain and moved nothing, or was given up by the operator
)

// A FundOp is a movement of attoFIL from the wallet to the market.
type FundOp struct {
	ID      int64
	UUID    uuid.UUID // the node never sends a second message for it
	Amount  abi.TokenAmount
	Day     string // whose budget it is charged to
	State   FundState
	Message cid.Cid // undefined while planned
	Reason  string
	Created time.Time
	Changed time.Time
}

const fundColumns = `id, uuid, amount, day, state, message, reason, created_ms, changed_ms`

func scanFundOp(from row) (op FundOp, err error) {
	var id string
	err = from.Scan(&op.ID, &id, intoAmount{&op.Amount}, &op.Day, &op.State, intoCID{&op.Message}, &op.Reason,
		intoTime{&op.Created}, intoTime{&op.Changed})
	if err != nil {
		return FundOp{}, err
	}
	if op.UUID, err = uuid.Parse(id); err != nil {
		return FundOp{}, fmt.Errorf("reading fund operation %d: %w", op.ID, err)
	}
	return op, nil
}

// openFundOp returns the movement under way, if there is one.
func openFundOp(tx *gorm.DB) (op FundOp, found bool, err error) {
	op, err = scanFundOp(tx.Raw(`SELECT ` + fundColumns + ` FROM fund_ops WHERE kind = 'add_escrow' AND state IN ('planned','sent')`).Row())
	if errors.Is(err, sql.ErrNoRows) {
		return FundOp{}, false, nil
	}
	return op, err == nil, err
}

// planFundOp records a movement and charges it to its day; false when there is one under way already, or the day has
// too little left.
func (s *store) planFundOp(ctx context.Context, op FundOp, perDay abi.TokenAmount) (planned bool, err error) {
	err = s.work(ctx, func(tx *gorm.DB) error {
		planned = false
		_, open, err := openFundOp(tx)
		if err != nil || open {
			return err
		}
		d, err := lockDay(tx, op.Day)
		if err != nil {
			return err
		}
		after := fbig.Add(d.Escrow, op.Amount)
		if after.GreaterThan(amount(perDay)) {
			return nil
		}
		if err := tx.Exec(`UPDATE spend SET escrow = ? WHERE day = ?`, after.String(), op.Day).Error; err != nil {
			return err
		}
		planned = true
		return tx.Exec(`INSERT INTO fund_ops (kind, uuid, amount, day, state, message, reason, created_ms, changed_ms)
			VALUES ('add_escrow', ?, ?, ?, 'planned', '', '', ?, ?)`,
			op.UUID.String(), op.Amount.String(), op.Day, op.Created.UnixMilli(), op.Created.UnixMilli()).Error
	})
	return planned, err
}

// moveFundOp writes what has become of a movement, unless it is no longer in the state from. One that has failed gives
// its amount back to its day.
func (s *store) moveFundOp(ctx context.Context, from FundState, op FundOp) error {
	return s.work(ctx, func(tx *gorm.DB) error { return moveFundOp(tx, from, op) })
}

func moveFundOp(tx *gorm.DB, from FundState, op FundOp) error {
	done := tx.Exec(`UPDATE fund_ops SET state = ?, message = ?, reason = ?, changed_ms = ? WHERE uuid = ? AND state = ?`,
		op.State, text(op.Message), op.Reason, op.Changed.UnixMilli(), op.UUID.String(), from)
	if done.Error != nil {
		return done.Error
	}
	if done.RowsAffected == 0 {
		return errStale
	}
	if op.State != FundFailed {
		return nil
	}
	d, err := lockDay(tx, op.Day)
	if err != nil {
		return err
	}
	return tx.Exec(`UPDATE spend SET escrow = ? WHERE day = ?`,
		fbig.Max(fbig.Zero(), fbig.Sub(d.Escrow, op.Amount)).String(), op.Day).Error
}

// A position is what the keeper decides on, besides what the chain says.
type position struct {
	reserved abi.TokenAmount
	moved    abi.TokenAmount // to the market, today
	open     *FundOp
}

func (s *store) position(ctx context.Context, day string) (p position, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		p = position{}
		var err error
		if p.reserved, err = s.reserved(tx); err != nil {
			return err
		}
		today, err := spentIn(tx, day)
		if err != nil {
			return err
		}
		p.moved = today.Escrow
		op, open, err := openFundOp(tx)
		if open {
			p.open = &op
		}
		return err
	})
	return p, err
}

// A Treasury is what the database knows of money, for the operator, beside a running service or without one.
type Treasury struct {
	store *store
	now   func() time.Time
}

// NewTreasury returns the treasury in a database.
func NewTreasury(db DB, now func() time.Time) *Treasury {
	return &Treasury{store: &store{db: db, now: now}, now: now}
}

// Books are amounts in attoFIL.
type Books struct {
	Today, Month LedgerDay
	Reserved     abi.TokenAmount // by proposals that are not published yet
	Ops          []FundOp        // the latest movements to the market, newest first
}

// Books returns what was spent today and this month, and at most so many movements.
func (t *Treasury) Books(ctx context.Context, ops int) (b Books, err error) {
	day := dayOf(t.now())
	err = t.store.db.Read(ctx, func(tx *gorm.DB) error {
		b = Books{}
		var err error
		if b.Today, err = spentIn(tx, day); err != nil {
			return err
		}
		if b.Month, err = spentIn(tx, monthOf(day)); err != nil {
			return err
		}
		if b.Reserved, err = t.store.reserved(tx); err != nil {
			return err
		}
		return query(tx, func(r row) error {
			op, err := scanFundOp(r)
			b.Ops = append(b.Ops, op)
			return err
		}, `SELECT `+fundColumns+` FROM fund_ops ORDER BY id DESC LIMIT ?`, ops)
	})
	return b, err
}

// GiveUp ends a movement by the operator's word that its message will never be on chain. The keeper may then move the
// same amount again under another message, so a wrong word moves it twice.
func (t *Treasury) GiveUp(ctx context.Context, id uuid.UUID) error {
	return t.store.db.Write(ctx, func(tx *gorm.DB) error {
		op, open, err := openFundOp(tx)
		if err != nil {
			return err
		}
		if !open || op.UUID != id {
			return fmt.Errorf("%w: no movement %s is under way", ErrNotFound, id)
		}
		from := op.State
		op.State, op.Reason, op.Changed = FundFailed, "given up by the operator", t.now()
		return moveFundOp(tx, from, op)
	})
}
