package main

import (
	"fmt"
	"log/slog"
	"math/big"
	"testing"
	"time"

	fbig "github.com/filecoin-project/go-state-types/big"
	"github.com/google/uuid"
	"gorm.io/gorm"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

var costDay = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)

func hours(n int) time.Time { return costDay.Add(time.Duration(n) * time.Hour) }

func TestCostsAreDividedByTimeAndThenByAccounts(t *testing.T) {
	claim := func(pin pins.ID, account pins.Account, since, until int) pins.Claim {
		c := pins.Claim{Pin: pin, Account: account, Since: hours(since)}
		if until != 0 {
			c.Until = hours(until)
		}
		return c
	}
	for name, c := range map[string]struct {
		claims []pins.Claim
		want   string // of 2,400 attoFIL in a day
	}{
		"one account":                     {[]pins.Claim{claim("a", 1, -5, 0)}, "a:2400 "},
		"nobody":                          {nil, ""},
		"it leaves in the middle":         {[]pins.Claim{claim("a", 1, -5, 12), claim("b", 2, -5, 0)}, "a:600 b:1800 "},
		"it comes late":                   {[]pins.Claim{claim("a", 1, 18, 0)}, "a:600 "},
		"it was gone before":              {[]pins.Claim{claim("a", 1, -5, -1), claim("b", 2, -5, 0)}, "b:2400 "},
		"it comes after":                  {[]pins.Claim{claim("a", 1, 30, 0), claim("b", 2, -5, 0)}, "b:2400 "},
		"two pins of one account":         {[]pins.Claim{claim("a", 1, -5, 0), claim("b", 1, -9, 0), claim("c", 2, 0, 0)}, "b:1200 c:1200 "},
		"its older pin leaves":            {[]pins.Claim{claim("a", 1, -5, 0), claim("b", 1, -9, 6)}, "b:600 a:1800 "},
		"three share what is not a third": {[]pins.Claim{claim("a", 1, -5, 0), claim("b", 2, -5, 0), claim("c", 3, -5, 1)}, "a:1183 b:1183 c:34 "},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			for _, s := range divideCost(deals.Cost{Amount: fbig.NewInt(2400), From: hours(0), To: hours(24)}, c.claims) {
				got += fmt.Sprintf("%s:%s ", s.pin, s.attoFIL)
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// someCost is a cost of hours, and claims that begin and end at full hours.
func someCost(t *rapid.T, claims ...pins.Claim) (deals.Cost, []pins.Claim) {
	c := deals.Cost{Amount: fbig.NewInt(rapid.Int64Range(1, 1<<60).Draw(t, "amount")), From: hours(0), To: hours(rapid.IntRange(1, 48).Draw(t, "hours"))}
	for i := range rapid.IntRange(0, 20).Draw(t, "others") {
		since := rapid.IntRange(-50, 50).Draw(t, "since")
		o := pins.Claim{Pin: pins.ID(fmt.Sprint(i)), Account: pins.Account(rapid.Int64Range(1, 4).Draw(t, "account")), Since: hours(since)}
		if rapid.Bool().Draw(t, "left") {
			o.Until = hours(since + rapid.IntRange(0, 50).Draw(t, "for"))
		}
		claims = append(claims, o)
	}
	return c, claims
}

// TestNoAttoFILIsLostBetweenAccounts divides costs while somebody always wants the copy.
func TestNoAttoFILIsLostBetweenAccounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, claims := someCost(t, pins.Claim{Pin: "always", Account: 1, Since: hours(-1)})
		sum := new(big.Int)
		for _, s := range divideCost(c, claims) {
			sum.Add(sum, s.attoFIL)
		}
		if sum.Cmp(c.Amount.Int) != 0 {
			t.Errorf("%s of %s are somebody's", sum, c.Amount)
		}
	})
}

// TestAccountsPayEqualSharesOfTheTimeInWhichTheyClaimACopy compares what accounts pay with what is added up hour by hour.
func TestAccountsPayEqualSharesOfTheTimeInWhichTheyClaimACopy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, claims := someCost(t)
		owners := make(map[pins.ID]pins.Account)
		want := make(map[pins.Account]*big.Rat)
		length := int64(c.To.Sub(c.From) / time.Hour)
		for h := range int(length) {
			there := make(map[pins.Account]bool)
			for _, claim := range claims {
				owners[claim.Pin] = claim.Account
				if !claim.Since.After(hours(h)) && (claim.Until.IsZero() || claim.Until.After(hours(h))) {
					there[claim.Account] = true
				}
			}
			for account := range there {
				part := new(big.Rat).SetFrac(c.Amount.Int, big.NewInt(length*int64(len(there))))
				if want[account] == nil {
					want[account] = new(big.Rat)
				}
				want[account].Add(want[account], part)
			}
		}
		got := make(map[pins.Account]*big.Int)
		for _, s := range divideCost(c, claims) {
			if owners[s.pin] != s.account || s.attoFIL.Sign() <= 0 {
				t.Errorf("account %d pays %s for pin %s", s.account, s.attoFIL, s.pin)
			}
			if got[s.account] == nil {
				got[s.account] = new(big.Int)
			}
			got[s.account].Add(got[s.account], s.attoFIL)
		}
		for account := range pins.Account(5) {
			paid, due := new(big.Rat), want[account]
			if n := got[account]; n != nil {
				paid.SetInt(n)
			}
			if due == nil {
				due = new(big.Rat)
			}
			if off := new(big.Rat).Sub(paid, due); off.Abs(off).Cmp(big.NewRat(1, 1)) > 0 || due.Sign() == 0 && paid.Sign() != 0 {
				t.Errorf("account %d pays %s, not %s", account, paid.FloatString(3), due.FloatString(3))
			}
		}
	})
}

// pinnedAllDay are claims of one account that pins and removes the same CID so often in a day.
func pinnedAllDay(n int) []pins.Claim {
	claims := make([]pins.Claim, n)
	for i := range claims {
		claims[i] = pins.Claim{
			Pin: pins.ID(fmt.Sprint(i)), Account: 1,
			Since: costDay.Add(24 * time.Hour * time.Duration(i) / time.Duration(n)),
			Until: costDay.Add(24 * time.Hour * time.Duration(i+1) / time.Duration(n)),
		}
	}
	return claims
}

func TestAnAccountThatPinsAllDayHasFewShares(t *testing.T) {
	claims := append(pinnedAllDay(100_000), pins.Claim{Pin: "other", Account: 2, Since: hours(-5)})
	shares := divideCost(deals.Cost{Amount: fbig.NewInt(2_000_000_000_000_000_001), From: hours(0), To: hours(24)}, claims)
	if len(shares) != sharesEach+1 || shares[0].pin != "0" {
		t.Fatalf("%d shares, the first is that of pin %s", len(shares), shares[0].pin)
	}
	sum := new(big.Int)
	for _, s := range shares[:sharesEach] {
		sum.Add(sum, s.attoFIL)
	}
	if other := shares[sharesEach]; sum.String() != "1000000000000000000" || other.attoFIL.String() != "1000000000000000001" {
		t.Errorf("it pays %s, and pin %s pays %s", sum, other.pin, other.attoFIL)
	}
}

func BenchmarkDivideCost(b *testing.B) {
	for _, n := range []int{1000, 20_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			claims := pinnedAllDay(n)
			for b.Loop() {
				divideCost(deals.Cost{Amount: fbig.NewInt(2_000_000_000_000_000_001), From: hours(0), To: hours(24)}, claims)
			}
		})
	}
}

func TestWhatDealsCostIsChargedToWhoWantedThem(t *testing.T) {
	limits := auth.Limits{Prices: map[string]string{"fil": "10", "free_fil": "0.25"}}
	eachSponsor(t, limits, func(t *testing.T, s *sponsored, ann pins.Account) {
		free, err := s.accounts.CreateAccount(t.Context(), auth.Operator(), "free", "trusted")
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now().UTC().Truncate(time.Second)
		dag := pinstest.Leaf("it")
		pin := func(account pins.Account) pins.Pin {
			t.Helper()
			p, err := s.pins().Add(t.Context(), account, spec.Request{CID: dag.Root.String(), Root: dag.Root}, pins.Decision{})
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		mine, other := pin(ann), pin(pins.Account(free.ID))
		err = s.db.Write(t.Context(), func(tx *gorm.DB) error {
			return tx.Exec(`UPDATE pins SET terms = 7, created_ms = created_ms - 86400000 * 3`).Error
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.books.Credit(t.Context(), int64(ann), 2*ledger.Credit, "in", ""); err != nil {
			t.Fatal(err)
		}
		id := uuid.New()
		take := func(epoch deals.Epoch, from, to time.Time) {
			t.Helper()
			half := fbig.NewInt(500_000_000_000_000_000)
			cost := deals.Cost{Deal: id, Wish: deals.Wish{Root: dag.Root, Terms: 7}, Amount: fbig.Add(half, half), Epoch: epoch, From: from, To: to}
			if err := s.Take(t.Context(), []deals.Cost{cost}); err != nil {
				t.Fatal(err)
			}
		}
		take(1, now.Add(-48*time.Hour), now.Add(-24*time.Hour)) // half a FIL each: 2.5 credits after the allowance or 5 in another month
		if err := s.pins().Delete(t.Context(), pins.Account(free.ID), other.ID); err != nil {
			t.Fatal(err)
		}
		take(2, now.Add(-24*time.Hour), now) // still shared: the other has left only now
		used := new(big.Int)
		for _, account := range []int64{int64(ann), free.ID} {
			days, err := s.books.Usage(t.Context(), account, now.AddDate(0, 0, -3), now)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range days {
				if d.Kind == ledger.DealCost {
					used.Add(used, d.Qty)
				}
			}
		}
		if used.String() != "2000000000000000000" {
			t.Errorf("%s attoFIL are used, want 2 FIL", used)
		}
		b, err := s.books.Balance(t.Context(), int64(ann))
		if err != nil || b.Balance != 0 {
			t.Errorf("a balance of %s: %v", b.Balance, err)
		}
		entries, err := s.books.Entries(t.Context(), ledger.Filter{Account: int64(ann), Kind: ledger.DealCost, Limit: 10})
		if err != nil || len(entries) != 2 || entries[0].Ref != string(mine.ID) || entries[1].Waived == 0 {
			t.Errorf("entries %+v: %v", entries, err)
		}
		if cost, err := s.books.CostOf(t.Context(), int64(ann), string(mine.ID)); err != nil || cost != 2*ledger.Credit {
			t.Errorf("the pin's story says %s: %v", cost, err)
		}
		none, err := s.books.Entries(t.Context(), ledger.Filter{Account: free.ID, Limit: 10})
		if err != nil || len(none) != 0 {
			t.Errorf("who pays nothing has entries: %+v, %v", none, err)
		}
		if err := s.pins().ForgetClaims(t.Context(), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		claims, err := s.pins().Claims(t.Context(), deals.Wish{Root: dag.Root, Terms: 7}, now.Add(-time.Hour), now)
		if err != nil || len(claims) != 1 || claims[0].Pin != mine.ID {
			t.Errorf("after the departures are forgotten: %+v, %v", claims, err)
		}
		s.forgetClaims(t.Context(), nil, slog.New(slog.DiscardHandler))
	})
}
