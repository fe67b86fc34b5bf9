package ledger

import (
	"database/sql"
	"errors"
	"fmt"
	"math/big"
	"time"

	"gorm.io/gorm"
)

// bookCharges is the one way in which usage comes into the ledger: the days' counters, the months' tallies, the entries
// and the balances, of accounts that the transaction has locked. sparse leaves out entries that could never cost anything,
// for sources that know by other means than the key what they have reported; what they report of accounts whose plan
// cannot be read is counted, and waits for its price.
func (s *Service) bookCharges(tx *gorm.DB, books map[int64]*book, charges []Charge, plans map[int64]terms, sparse bool) error {
	charges, err := unbooked(tx, charges)
	if err != nil || len(charges) == 0 {
		return err
	}
	c := newCounters()
	priced := make([]Charge, 0, len(charges))
	for _, charge := range charges {
		if err := c.count(tx, charge); err != nil {
			return err
		}
		if !plans[charge.Account].Unknown {
			priced = append(priced, charge)
			continue
		}
		if err := deferCharge(tx, charge); err != nil {
			return err
		}
	}
	return s.billCharges(tx, c, books, priced, plans, sparse)
}

// billCharges books what charges cost that are counted, and saves the counters.
func (s *Service) billCharges(tx *gorm.DB, c counters, books map[int64]*book, charges []Charge, plans map[int64]terms, sparse bool) (err error) {
	entries := make([]Entry, 0, len(charges))
	for _, charge := range charges {
		plan := plans[charge.Account].at(charge.At)
		rate := plan.Prices[charge.Kind]
		if !plan.Billed {
			rate = Rate{}
		}
		if sparse && rate.Price == 0 {
			continue
		}
		due, free := Amount(0), new(big.Int)
		if rate.Price != 0 {
			if due, free, err = c.bill(tx, charge, rate); err != nil {
				return err
			}
		}
		entries = append(entries, books[charge.Account].charge(charge, rate.Price, due, free, s.now()))
	}
	if err := c.save(tx); err != nil {
		return err
	}
	if err := insertEntries(tx, entries); err != nil {
		return err
	}
	changed := make(map[int64]bool)
	for _, e := range entries {
		if changed[e.Account] {
			continue
		}
		changed[e.Account] = true
		if err := books[e.Account].save(tx); err != nil {
			return err
		}
	}
	return nil
}

// charge takes what is due from the balance, as far as it reaches, and returns the entry.
func (b *book) charge(c Charge, price, due Amount, free *big.Int, now time.Time) Entry {
	paid := min(due, max(0, b.Balance.Balance-b.Floor))
	at := b.tick(now)
	b.move(-paid, at)
	return Entry{
		Account: c.Account, Kind: c.Kind, Qty: c.Qty, Free: free, Unit: c.Kind.Unit(), Price: price, Amount: -paid, Waived: due - paid,
		Balance: b.Balance.Balance, Ref: c.Ref, Key: c.Key, At: at,
	}
}

// unbooked leaves out what is booked already, or comes twice.
func unbooked(tx *gorm.DB, charges []Charge) (fresh []Charge, err error) {
	keys := make([]string, len(charges))
	for i, c := range charges {
		keys[i] = c.Key
	}
	known, err := entriesByKey(tx, keys)
	if err != nil {
		return nil, err
	}
	for _, c := range charges {
		first, booked := known[c.Key]
		if !booked {
			known[c.Key] = Entry{Account: c.Account, Kind: c.Kind, Qty: c.Qty}
			fresh = append(fresh, c)
			continue
		}
		if first.Account != c.Account || first.Kind != c.Kind || first.Qty.Cmp(c.Qty) != 0 {
			return nil, fmt.Errorf("%w: %s", ErrKeyReused, c.Key)
		}
	}
	return fresh, nil
}

// A counterKey names a day's counter or a month's tally.
type counterKey struct {
	account int64
	period  string // day or month
	kind    Kind
}

// counters are the rows that a transaction counts in. The lock on their account covers them.
type counters struct {
	days   map[counterKey]*big.Int
	months map[counterKey]tally
}

func newCounters() counters {
	return counters{days: make(map[counterKey]*big.Int), months: make(map[counterKey]tally)}
}

func (c counters) count(tx *gorm.DB, charge Charge) error {
	key := counterKey{charge.Account, dayOf(charge.At), charge.Kind}
	qty, read := c.days[key]
	if !read {
		qty = new(big.Int)
		err := tx.Raw(`SELECT qty FROM usage_days WHERE account = ? AND day = ? AND kind = ?`, key.account, key.period, string(key.kind)).
			Row().Scan(intoQty{&qty})
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	c.days[key] = new(big.Int).Add(qty, charge.Qty)
	return nil
}

func (c counters) bill(tx *gorm.DB, charge Charge, rate Rate) (due Amount, free *big.Int, err error) {
	key := counterKey{charge.Account, monthOf(charge.At), charge.Kind}
	t, read := c.months[key]
	if !read {
		err := tx.Raw(`SELECT free, carry FROM tallies WHERE account = ? AND month = ? AND kind = ?`, key.account, key.period, string(key.kind)).
			Row().Scan(intoQty{&t.free}, intoQty{&t.carry})
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return 0, nil, err
		}
	}
	due, free, c.months[key] = rate.add(charge.Kind, t, charge.Qty)
	return due, free, nil
}

func (c counters) save(tx *gorm.DB) error {
	for key, qty := range c.days {
		err := tx.Exec(`INSERT INTO usage_days (account, day, kind, qty) VALUES (?, ?, ?, ?)
			ON CONFLICT (account, day, kind) DO UPDATE SET qty = excluded.qty`, key.account, key.period, string(key.kind), qty.String()).Error
		if err != nil {
			return err
		}
	}
	for key, t := range c.months {
		err := tx.Exec(`INSERT INTO tallies (account, month, kind, free, carry) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (account, month, kind) DO UPDATE SET free = excluded.free, carry = excluded.carry`,
			key.account, key.period, string(key.kind), orZero(t.free).String(), orZero(t.carry).String()).Error
		if err != nil {
			return err
		}
	}
	return nil
}
