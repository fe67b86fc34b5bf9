package pins_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
)

// eachPair runs a test with two servers of one database.
func eachPair(t *testing.T, test func(t *testing.T, a, b *world)) {
	t.Parallel() // tests here wait more than they work
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		tier := pinstest.NewTier()
		var pair []*world
		for _, instance := range []string{"a", "b"} {
			cfg := config()
			cfg.Instance, cfg.Exclusive = instance, false
			w := newWorld(t, db, tier, cfg)
			w.start()
			pair = append(pair, w)
		}
		test(t, pair[0], pair[1])
		pair[0].stop() // before the database is closed
		pair[1].stop()
	})
}

const listSize = 300 // of several transactions

// rest is what of a list of pins is to be recorded yet.
func rest(b *pins.Batch) (asked []pins.Asked) {
	for i := range listSize {
		if _, made := b.Made[i]; !made {
			asked = append(asked, pins.Asked{
				Request: named(leaf(i), fmt.Sprint(i)), Decision: pins.Decision{Terms: pins.Undecided}, Batch: b, Place: i,
			})
		}
	}
	return asked
}

// record sends a list as a client does, and returns the ids of its pins by place.
func (w *world) record(key string) []pins.ID {
	w.t.Helper()
	b, err := w.BeginBatch(w.t.Context(), alice, key, []byte("list"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer w.EndBatch(w.t.Context(), b)
	ids := make([]pins.ID, listSize)
	for i, r := range b.Made {
		ids[i] = r.Pin.ID
	}
	asked := rest(b)
	for j, r := range w.AddAll(w.t.Context(), alice, asked) {
		if r.Err != nil {
			w.t.Fatalf("%d: %v", j, r.Err)
		}
		ids[asked[j].Place] = r.Pin.ID
	}
	return ids
}

func TestRepeatedListHasTheSamePinsAtTheSamePlaces(t *testing.T) {
	eachPair(t, func(t *testing.T, a, b *world) {
		first := a.record("k")
		if again := b.record("k"); fmt.Sprint(again) != fmt.Sprint(first) {
			t.Errorf("the second server answers other pins: %v, want %v", again, first)
		}
		if page := a.list(alice, all()); page.Count != listSize {
			t.Errorf("there are %d pins, want %d", page.Count, listSize)
		}
		if other := a.record("other"); other[0] == first[0] {
			t.Error("another key names the same pin")
		}
	})
}

func TestKeyOfAListIsRefusedForAnotherList(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.record("k")
		if _, err := w.BeginBatch(t.Context(), alice, "k", []byte("another")); !errors.Is(err, pins.ErrOtherBatch) {
			t.Errorf("got %v, want ErrOtherBatch", err)
		}
		b, err := w.BeginBatch(t.Context(), bob, "k", []byte("another"))
		if err != nil || len(b.Made) != 0 {
			t.Fatalf("another account: %v, %d pins", err, len(b.Made))
		}
		w.EndBatch(t.Context(), b)
	})
}

func TestPinsOfAListThatWereRemovedAreNotMadeAgain(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ids := w.record("k")
		w.delete(pins.Pin{ID: ids[7], Account: alice})
		b, err := w.BeginBatch(t.Context(), alice, "k", []byte("list"))
		if err != nil {
			t.Fatal(err)
		}
		defer w.EndBatch(t.Context(), b)
		if got := b.Made[7]; !errors.Is(got.Err, pins.ErrNotFound) || len(rest(b)) != 0 {
			t.Errorf("the removed one is %+v, and %d are to be made", got, len(rest(b)))
		}
	})
}

// A server dies in the middle of a list. Another one records what is missing, and what the first still brings makes no pin.
func TestListGoesOnWhereACrashedServerHasLeftIt(t *testing.T) {
	eachPair(t, func(t *testing.T, a, b *world) {
		dead, err := a.BeginBatch(t.Context(), alice, "k", []byte("list"))
		if err != nil {
			t.Fatal(err)
		}
		half := a.AddAll(t.Context(), alice, rest(dead)[:100])
		a.stop() // and never ends the list
		ids := b.record("k")
		for i, r := range half {
			if r.Err != nil || ids[i] != r.Pin.ID {
				t.Fatalf("place %d: %+v, and then %s", i, r, ids[i])
			}
		}
		for _, r := range a.AddAll(t.Context(), alice, rest(dead)[200:210]) {
			if !errors.Is(r.Err, pins.ErrOvertaken) {
				t.Errorf("the dead server records %+v", r)
			}
		}
		if page := b.list(alice, all()); page.Count != listSize {
			t.Errorf("there are %d pins, want %d", page.Count, listSize)
		}
	})
}

func TestListWaitsWhileItIsRecordedElsewhere(t *testing.T) {
	eachPair(t, func(t *testing.T, a, b *world) {
		first, err := a.BeginBatch(t.Context(), alice, "k", []byte("list"))
		if err != nil {
			t.Fatal(err)
		}
		for name, w := range map[string]*world{"the same server": a, "another server": b} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := w.BeginBatch(ctx, alice, "k", []byte("list")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s begins it, too: %v", name, err)
			}
			cancel()
		}
		second := make(chan []pins.ID, 1)
		go func() { second <- b.record("k") }()
		made := a.AddAll(t.Context(), alice, rest(first))
		a.EndBatch(t.Context(), first)
		for i, id := range <-second {
			if made[i].Pin.ID != id {
				t.Fatalf("place %d: %s and %s", i, made[i].Pin.ID, id)
			}
		}
	})
}

func TestKeysOfListsAreForgottenAfterADay(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.record("k")
		if err := pins.ForgetBatches(t.Context(), w.Service, time.Now().Add(23*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.BeginBatch(t.Context(), alice, "k", []byte("another")); !errors.Is(err, pins.ErrOtherBatch) {
			t.Errorf("within the day: %v", err)
		}
		if err := pins.ForgetBatches(t.Context(), w.Service, time.Now().Add(25*time.Hour)); err != nil {
			t.Fatal(err)
		}
		b, err := w.BeginBatch(t.Context(), alice, "k", []byte("another"))
		if err != nil || len(b.Made) != 0 {
			t.Fatalf("after the day: %v, %d pins", err, len(b.Made))
		}
		w.EndBatch(t.Context(), b)
	})
}

// What is recorded for a list that is older than a day is remembered with it: the sweep takes it whole or not at all.
func TestListIsNotForgottenWhileItIsRecorded(t *testing.T) {
	eachPair(t, func(t *testing.T, a, b *world) {
		later := time.Now().Add(25 * time.Hour)
		list, err := a.BeginBatch(t.Context(), alice, "k", []byte("list"))
		if err != nil {
			t.Fatal(err)
		}
		half := a.AddAll(t.Context(), alice, rest(list)[:100])
		if err := pins.ForgetBatches(t.Context(), b.Service, later); err != nil {
			t.Fatal(err)
		}
		for i, r := range a.AddAll(t.Context(), alice, rest(list)[100:]) {
			if r.Err != nil {
				t.Fatalf("place %d after the sweep: %v", 100+i, r.Err)
			}
		}
		a.EndBatch(t.Context(), list)
		if ids := b.record("k"); ids[0] != half[0].Pin.ID {
			t.Errorf("the repeated list has made %s at place 0 again, which is %s", ids[0], half[0].Pin.ID)
		}
		if page := b.list(alice, all()); page.Count != listSize {
			t.Errorf("there are %d pins, want %d", page.Count, listSize)
		}

		dead, err := a.BeginBatch(t.Context(), alice, "k", []byte("list"))
		if err != nil || len(dead.Made) != listSize {
			t.Fatalf("%v, %d pins", err, len(dead.Made))
		}
		a.stop() // and never ends the list
		if err := pins.ForgetBatches(t.Context(), b.Service, later); err != nil {
			t.Fatal(err)
		}
		fresh, err := b.BeginBatch(t.Context(), alice, "k", []byte("another"))
		if err != nil || len(fresh.Made) != 0 {
			t.Fatalf("after its server has died: %v, %d pins", err, len(fresh.Made))
		}
		b.EndBatch(t.Context(), fresh)
	})
}

// The pins of a list are committed while the sweep looks at it: none may be left behind without its list.
func TestSweepPassesOverAListThatIsLocked(t *testing.T) {
	for _, dialect := range databasetest.Dialects(t) {
		if dialect == database.SQLite {
			continue // it has one writer at a time
		}
		db := databasetest.Open(t, dialect)
		if err := db.Migrate(t.Context(), pins.Migrations()...); err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, db, pinstest.NewTier(), config())
		w.start()
		defer w.stop()
		for _, key := range []string{"k", "other"} {
			w.record(key)
		}
		err := db.Write(t.Context(), func(tx *gorm.DB) error {
			err := tx.Exec(`UPDATE pin_batches SET claim = claim WHERE batch_key = 'k'`).Error
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := pins.ForgetBatches(ctx, w.Service, time.Now().Add(25*time.Hour)); err != nil {
				return err
			}
			return tx.Exec(`INSERT INTO pin_batch_pins (account, batch_key, place, pin) VALUES (?, 'k', ?, 'late')`, alice, listSize).Error
		})
		if err != nil {
			t.Fatal(err)
		}
		count := func(of string) (n int64) {
			if err := db.Read(t.Context(), func(tx *gorm.DB) error { return tx.Raw(`SELECT count(*) FROM ` + of).Scan(&n).Error }); err != nil {
				t.Fatal(err)
			}
			return n
		}
		if lists, made := count("pin_batches"), count("pin_batch_pins"); lists != 1 || made != listSize+1 {
			t.Errorf("%d lists with %d pins are left, want that which was locked, with %d", lists, made, listSize+1)
		}
	}
}
