package ledger_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
)

// What the proof's processes tell each other.
const (
	childDSN   = "FROSTPIN_LEDGER_CHILD"
	childFrom  = "FROSTPIN_LEDGER_FROM"
	eventsName = "FROSTPIN_LEDGER_EVENTS"
)

// The proof's events: a deterministic list, so that any process can repeat any part of it.
const (
	proofAccounts = 37
	proofPoor     = 4 // the first of them: they run out of money
	proofWriters  = 64
	proofChunk    = 500 // events between two barriers of a child
	proofKills    = 8
	proofIn       = 5 * ledger.Credit // what an event of the kind credit pays in, except to the poor
)

var proofPrices = ledger.Prices{
	ledger.StorageHot:  {Price: 7, Free: big.NewInt(1_000_003)},
	ledger.StorageCold: {Price: 1_000_000_007},
	ledger.EgressHot:   {Price: 3_333_333, Free: big.NewInt(77_777)},
	ledger.EgressCold:  {Price: 1_234_567},
	ledger.DealCost:    {Price: 4_200_000_000},
}

// proofEvents is how many events there are. PostgreSQL flushes its log for each of them, SQLite for each group.
func proofEvents(dialect string) int {
	if n, err := strconv.Atoi(os.Getenv(eventsName)); err == nil && n > 0 {
		return n
	}
	if dialect == database.Postgres {
		return 5_000
	}
	return 20_000
}

// proofCharge is what event i uses; ok is false for events of other kinds.
func proofCharge(i int) (c ledger.Charge, ok bool) {
	if i%10 >= 8 {
		return ledger.Charge{}, false
	}
	kind := ledger.Metered()[(i/7)%5]
	qty := big.NewInt(int64(i)*7919%1_000_003 + 1)
	switch kind {
	case ledger.StorageHot, ledger.StorageCold:
		qty.Mul(qty, big.NewInt(86_413*1009))
	case ledger.DealCost:
		qty.Mul(qty, big.NewInt(999_999_937))
	default: // bytes
	}
	return ledger.Charge{
		Account: int64(i % proofAccounts), Kind: kind, Qty: qty, At: moment.AddDate(0, i%3, i%17), Key: fmt.Sprint("event/", i), Ref: fmt.Sprint("pin", i%100),
	}, true
}

// book does event i. All of it may be repeated by anyone at any time.
func book(ctx context.Context, s *ledger.Service, i int) error {
	if c, ok := proofCharge(i); ok {
		if next, also := proofCharge(i + 1); also && i%5 == 0 {
			return s.Charge(ctx, c, next, c) // the next one's is booked here or there
		}
		return s.Charge(ctx, c)
	}
	account := int64(i % proofAccounts)
	if i%10 == 8 {
		amount := proofIn
		if account < proofPoor {
			amount = 1
		}
		_, _, err := s.Credit(ctx, account, amount, fmt.Sprint("paid/", i), "")
		return err
	}
	ref := fmt.Sprint("hold", i)
	err := s.Hold(ctx, account, ref, 1)
	if err == nil {
		err = s.Hold(ctx, account, ref, 3)
	}
	if err != nil && !isFunds(err) {
		return err
	}
	return s.ReleaseHold(ctx, ref)
}

// child books events with many writers and says so, until it is killed or finished. Every third event is booked by two
// writers at once.
func child(dsn string) int {
	ctx := context.Background()
	db, err := database.Open(ctx, dsn, slog.New(slog.DiscardHandler))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s := ledger.New(db, everyone{Billed: true, Prices: proofPrices}, time.Now, slog.New(slog.DiscardHandler))
	from, _ := strconv.Atoi(os.Getenv(childFrom))
	events := proofEvents(db.Dialect())
	var failed atomic.Bool
	for ; from < events && !failed.Load(); from += proofChunk {
		work := make(chan int)
		var writers sync.WaitGroup
		for range proofWriters {
			writers.Go(func() {
				for i := range work {
					if err := book(ctx, s, i); err != nil {
						fmt.Fprintln(os.Stderr, i, err)
						failed.Store(true)
					}
				}
			})
		}
		for i := from; i < min(from+proofChunk, events); i++ {
			work <- i
			if i%3 == 0 {
				work <- i
			}
			if i%(proofChunk/4) == 0 {
				fmt.Println("at", i)
			}
		}
		close(work)
		writers.Wait()
		fmt.Println("done", from+proofChunk)
	}
	if failed.Load() || db.Close() != nil {
		return 1
	}
	return 0
}

// runChild runs a child from an event on, and kills it after so many lines, if that is not 0. It returns up to where
// everything is booked, as far as the child has said.
func runChild(t *testing.T, dsn string, from, killAfter int) (done int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childDSN+"="+dsn, childFrom+"="+strconv.Itoa(from))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done, killed := from, false
	lines := bufio.NewScanner(out)
	for n := 1; lines.Scan(); n++ {
		if text, ok := strings.CutPrefix(lines.Text(), "done "); ok {
			done, _ = strconv.Atoi(text)
		}
		if n == killAfter {
			killed = true
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); (err != nil) != killed || stderr.Len() > 0 {
		t.Fatalf("the process ended with %v: %s", err, stderr.String())
	}
	return done
}

// The proof: whatever is repeated, whoever is killed and however many write at once, every event is booked exactly once.
func TestEveryEventIsBookedOnceUnderKillsAndConcurrency(t *testing.T) {
	for _, dialect := range databasetest.Dialects(t) {
		t.Run(dialect, func(t *testing.T) {
			dsn := databasetest.DSN(t, dialect)
			db, err := database.Open(t.Context(), dsn, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			if err := db.Migrate(t.Context(), ledger.Migrations()...); err != nil {
				t.Fatal(err)
			}
			s := ledger.New(db, everyone{Billed: true, Prices: proofPrices}, time.Now, slog.New(slog.DiscardHandler))
			for account := range int64(proofAccounts) {
				amount := 1_000_000 * ledger.Credit
				if account < proofPoor {
					amount = 1000
				}
				credit(t, s, account, amount, fmt.Sprint("start/", account))
			}
			events, from := proofEvents(dialect), 0
			perKill := 5 * max(1, events/proofChunk/proofKills) // five lines for each chunk
			for range proofKills {
				from = runChild(t, dsn, max(0, from-proofChunk), 1+rand.IntN(perKill))
				verify(t, s)
			}
			if done := runChild(t, dsn, max(0, from-proofChunk), 0); done < events {
				t.Fatalf("only %d of %d events are booked", done, events)
			}
			verify(t, s)
			checkProof(t, s, events)
		})
	}
}

// checkProof compares every account with what its events come to, in one go.
func checkProof(t *testing.T, s *ledger.Service, events int) {
	t.Helper()
	type part struct {
		account int64
		month   string
		kind    ledger.Kind
	}
	qty := make(map[part]*big.Int)
	count := make(map[int64]int)
	paid := make(map[int64]ledger.Amount)
	for i := range events + 1 {
		if c, ok := proofCharge(i); ok && (i < events || (i-1)%5 == 0) {
			p := part{c.Account, c.At.Format("2006-01"), c.Kind}
			if qty[p] == nil {
				qty[p] = new(big.Int)
			}
			qty[p].Add(qty[p], c.Qty)
			count[c.Account]++
		} else if i%10 == 8 && i < events {
			paid[int64(i%proofAccounts)] += proofIn
			count[int64(i%proofAccounts)]++
		}
	}
	due := make(map[int64]ledger.Amount)
	for p, total := range qty {
		cost, _, _ := proofPrices[p.kind].Add(p.kind, ledger.Tally{}, total)
		due[p.account] += cost
	}
	for account := range int64(proofAccounts) {
		var sum, charged, waived ledger.Amount
		keys := make(map[string]bool)
		n := -1 // the first credit is no event
		for after := int64(0); ; {
			page, err := s.Entries(t.Context(), ledger.Filter{Account: account, After: after, Limit: ledger.MaxPage})
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			for _, e := range page {
				n++
				sum += e.Amount
				if e.Kind != ledger.Topup {
					charged -= e.Amount
				}
				waived += e.Waived
				if keys[e.Key] || e.Balance != sum || e.Balance < 0 {
					t.Fatalf("entry %+v after a sum of %d", e, sum)
				}
				keys[e.Key] = true
			}
			after = page[len(page)-1].ID
		}
		b := balance(t, s, account)
		if n != count[account] || charged+waived != due[account] || b.Balance != sum || b.Holds != 0 {
			t.Errorf("account %d: %d entries of %d, %d charged and %d waived of %d, %+v", account, n, count[account], charged, waived, due[account], b)
		}
		if account >= proofPoor && (waived != 0 || b.Balance != 1_000_000*ledger.Credit+paid[account]-due[account]) {
			t.Errorf("account %d has %s, of which %s was paid and %s is due", account, b.Balance, paid[account], due[account])
		}
		if account < proofPoor && waived == 0 {
			t.Errorf("account %d never ran out of money", account)
		}
	}
}
