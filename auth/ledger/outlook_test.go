package ledger_test

import (
	"math/big"
	"testing"
	"time"

	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database"
)

func TestOutlookIsTheMonthAndTheRunway(t *testing.T) {
	plan := plans{1: {Billed: true, Prices: ledger.Prices{
		ledger.StorageHot: {Price: 30 * ledger.Credit, Free: big.NewInt(10 * 86400 << 30)}, // a credit per GiB and day, ten days free
		ledger.EgressHot:  {Price: ledger.Credit},
	}}}
	each(t, plan, func(t *testing.T, s *ledger.Service, c *clock, _ *database.DB) {
		c.set(time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC))
		credit(t, s, 1, 100*ledger.Credit, "in")
		for _, charge := range []ledger.Charge{
			{Account: 1, Kind: ledger.StorageHot, Qty: big.NewInt(20 * 86400 << 30), At: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Key: "stored"},
			{Account: 1, Kind: ledger.EgressHot, Qty: big.NewInt(3 << 30), At: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC), Key: "sent"},
			{Account: 1, Kind: ledger.EgressHot, Qty: big.NewInt(6 << 30), At: time.Date(2026, 10, 30, 0, 0, 0, 0, time.UTC), Key: "sent in October"},
		} {
			if err := s.Charge(t.Context(), charge); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.Outlook(t.Context(), 1, 1<<30, 0)
		if err != nil {
			t.Fatal(err)
		}
		if b := got.Balance.Balance; b != 81*ledger.Credit { // ten days of storage, nine GiB
			t.Errorf("balance %s", b)
		}
		for name, pair := range map[string][2]ledger.Amount{
			"used":      {got.Used, 13 * ledger.Credit},
			"estimate":  {got.Estimate, 26 * ledger.Credit}, // 20 days of storage, 3 GiB and a third of 9
			"per month": {got.PerMonth, 29 * ledger.Credit},
		} {
			if pair[0] != pair[1] {
				t.Errorf("%s: %s, want %s", name, pair[0], pair[1])
			}
		}
		if want := int64(81 * 30 / 29); got.RunwayDays != want {
			t.Errorf("runway of %d days, want %d", got.RunwayDays, want)
		}
		if free, err := s.Outlook(t.Context(), 2, 1<<40, 0); err != nil || free.RunwayDays != -1 || free.Estimate != 0 {
			t.Errorf("not billed: %+v, %v", free, err)
		}
	})
}
