package main

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

func TestPinsOfClosedAccountsGoAfterTheirTimeAndNoOthers(t *testing.T) {
	databasetest.Each(t, slices.Concat(auth.Migrations(), pins.Migrations()), func(t *testing.T, db *database.DB) {
		log := slog.New(slog.DiscardHandler)
		now := time.Now().Add(-100 * time.Hour)
		accounts := auth.New(db, func() time.Time { return now })
		service := pins.New(pins.Config{FindSlice: time.Second, Slots: 1, FindRoots: 1}, db, pinstest.NewTier(), log, time.Now)
		root := pinstest.Leaf("it").Root
		count := func(a pins.Account) (all int64) {
			t.Helper()
			usage, err := service.Usage(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range usage.Pins {
				all += n
			}
			return all
		}
		ids := map[string]pins.Account{}
		for _, name := range []string{"gone", "lately", "suspended", "active"} {
			a, err := accounts.CreateAccount(t.Context(), auth.Operator(), name, auth.Trusted)
			if err != nil {
				t.Fatal(err)
			}
			ids[name] = pins.Account(a.ID)
			for range 3 {
				if _, err := service.Add(t.Context(), ids[name], spec.Request{CID: root.String(), Root: root}, pins.Decision{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		set := func(name string, state auth.State) {
			t.Helper()
			if err := accounts.SetAccountState(t.Context(), auth.Operator(), name, state); err != nil {
				t.Fatal(err)
			}
		}
		set("gone", auth.Closed)
		set("suspended", auth.Suspended)
		now = now.Add(50 * time.Hour)
		set("lately", auth.Closed)
		for range 2 {
			if err := emptyOnce(t.Context(), accounts, service, now.Add(-time.Hour), log); err != nil {
				t.Fatal(err)
			}
		}
		for name, want := range map[string]int64{"gone": 0, "lately": 3, "suspended": 3, "active": 3} {
			if got := count(ids[name]); got != want {
				t.Errorf("%s has %d pins, want %d", name, got, want)
			}
		}
	})
}
