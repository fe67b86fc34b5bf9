package main

import (
	"context"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/auth/events"
	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/pins"
)

// kindBalance is the event by which an account learns that its money runs out, and that it no longer does.
const kindBalance = "account.balance"

// notices tells accounts how long their money lasts, when that has changed.
type notices struct {
	db    *database.DB
	books *ledger.Service
	told  *events.Service
	pins  *pins.Service
}

func (n notices) tell(ctx context.Context) error {
	for after := int64(0); ; {
		accounts, err := n.books.Accounts(ctx, after, pageSize)
		if err != nil {
			return err
		}
		for _, account := range accounts {
			after = account
			if err := n.tellOne(ctx, account); err != nil {
				return err
			}
		}
		if len(accounts) < pageSize {
			return nil
		}
	}
}

func (n notices) tellOne(ctx context.Context, account int64) error {
	stock, err := n.pins.Stock(ctx, pins.Account(account))
	if err != nil {
		return err
	}
	o, err := n.books.Outlook(ctx, account, stock.Hot, stock.Cold)
	if err != nil {
		return err
	}
	return n.db.Write(ctx, func(tx *gorm.DB) error {
		changed, err := n.books.Noticed(tx.Statement.Context, account, o.Mood())
		if err != nil || !changed {
			return err
		}
		data := map[string]any{"state": o.Mood(), "balance": o.Balance.Balance.String(), "available": o.Balance.Available().String()}
		if o.RunwayDays >= 0 {
			data["runway_days"] = o.RunwayDays
		}
		return n.told.Record(tx.Statement.Context, events.Change{Account: account, Kind: kindBalance, Data: data})
	})
}
