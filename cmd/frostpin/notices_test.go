package main

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/events"
	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

func TestAccountsAreToldOnceWhenTheirMoneyRunsOut(t *testing.T) {
	migrations := slices.Concat(auth.Migrations(), events.Migrations(), ledger.Migrations(), pins.Migrations())
	databasetest.Each(t, migrations, func(t *testing.T, db *database.DB) {
		log := slog.New(slog.DiscardHandler)
		accounts := auth.New(db, time.Now)
		prices := map[string]string{"hot_gib_month": "1024"} // a credit for a MiB and 30 days
		if err := accounts.SetPlan(t.Context(), auth.Operator(), "paid", auth.Limits{Prices: prices}); err != nil {
			t.Fatal(err)
		}
		a, err := accounts.CreateAccount(t.Context(), auth.Operator(), "ann", "paid")
		if err != nil {
			t.Fatal(err)
		}
		tier := pinstest.NewTier()
		d := pinstest.Tree("it", 1100) // a little more than a MiB
		tier.AddLocal(d.Blocks...)
		service := pins.New(pins.Config{FindSlice: time.Second, Slots: 1, FindRoots: 1}, db, tier, log, time.Now)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- service.Run(ctx) }()
		t.Cleanup(func() { stop(); <-ended })
		<-service.Ready()
		books := newLedger(db, accounts, time.Now, log)
		n := notices{db, accounts, books, events.New(db, nil, log, time.Now), service, time.Now, log}
		pay := func(amount ledger.Amount, key string) {
			t.Helper()
			if _, _, err := books.Adjust(t.Context(), a.ID, amount, key, ""); err != nil {
				t.Fatal(err)
			}
		}
		tell := func() {
			t.Helper()
			for range 2 {
				if err := n.tell(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		pay(10*ledger.Credit, "in")
		tell() // it has nothing yet that costs anything
		if _, err := service.Add(t.Context(), pins.Account(a.ID), spec.Request{CID: d.Root.String(), Root: d.Root}, pins.Decision{}); err != nil {
			t.Fatal(err)
		}
		service = pins.New(pins.Config{FindSlice: time.Second, Slots: 1, FindRoots: 1}, db, tier, log, time.Now) // which has not added up yet
		n.pins = service
		tell()
		pay(-9_900_000_000, "down")
		tell()
		pay(-100_000_000, "out")
		tell()
		pay(50*ledger.Credit, "again")
		tell()
		var kinds []string
		err = db.Read(t.Context(), func(tx *gorm.DB) error {
			return tx.Raw(`SELECT data FROM events WHERE account = ? AND kind = ? ORDER BY id`, a.ID, kindBalance).Scan(&kinds).Error
		})
		if err != nil {
			t.Fatal(err)
		}
		var states []string
		for _, text := range kinds {
			for _, mood := range []ledger.Mood{ledger.Fine, ledger.Low, ledger.Empty} {
				if strings.Contains(text, `"state":"`+string(mood)+`"`) {
					states = append(states, string(mood))
				}
			}
		}
		if !slices.Equal(states, []string{"low", "empty", "fine"}) {
			t.Errorf("it was told %q", kinds)
		}
	})
}
