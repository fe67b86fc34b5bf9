package pins_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// begun is when the clocks of these tests begin, with microseconds that a row does not hold.
var begun = time.Date(2027, 1, 31, 12, 0, 0, 5_000_000, time.UTC)

// A timed is a service whose clock stands still until it is set. Nothing of it works by itself.
type timed struct {
	*pins.Service
	t   *testing.T
	now time.Time
}

func newTimed(t *testing.T, db *database.DB) *timed {
	t.Helper()
	s := &timed{t: t, now: begun}
	s.Service = pins.New(config(), db, pinstest.NewTier(), discard(), func() time.Time { return s.now })
	return s
}

func (s *timed) expiring(account pins.Account, i int, when string) pins.Pin {
	s.t.Helper()
	r := request(leaf(i))
	if when != "" {
		r.Meta = meta{"frostpin.expires": when}
	}
	decided, err := s.Decide(s.t.Context(), pins.Choice{}, r.Meta)
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := s.Add(s.t.Context(), account, r, decided)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

func (s *timed) expire() {
	s.t.Helper()
	if err := pins.Expire(s.t.Context(), s.Service); err != nil {
		s.t.Fatal(err)
	}
}

func (s *timed) there(p pins.Pin) bool {
	s.t.Helper()
	_, err := s.Get(s.t.Context(), p.Account, p.ID)
	if err != nil && !errors.Is(err, pins.ErrNotFound) {
		s.t.Fatal(err)
	}
	return err == nil
}

func TestPinsShowUntilWhenTheyAreThere(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		s := newTimed(t, db)
		for i, c := range []struct{ when, until string }{
			{"", ""},
			{"2027-02-01T00:00:00Z", "2027-02-01T00:00:00Z"},
			{"2027-02-01T02:00:00+02:00", "2027-02-01T00:00:00Z"},
			{"2027-02-01T00:00:00.0001Z", "2027-02-01T00:00:00.001Z"},
			{"30d", "2027-03-02T12:00:00.005Z"},
			{"1h30m", "2027-01-31T13:30:00.005Z"},
			{"1s", "2027-01-31T12:00:01.005Z"},
			{"36500d", "2127-01-07T12:00:00.005Z"},
		} {
			s.now = begun // later pins of the account are created some milliseconds later
			p := s.expiring(pins.Account(100+i), i, c.when)
			read, err := s.Get(t.Context(), p.Account, p.ID)
			if err != nil {
				t.Fatal(err)
			}
			page, err := s.List(t.Context(), p.Account, all())
			if err != nil || len(page.Pins) != 1 {
				t.Fatalf("listing: %v, %v", page, err)
			}
			for from, p := range map[string]pins.Pin{"adding": p, "getting": read, "listing": page.Pins[0]} {
				if got := p.Info()["pinned_until"]; got != c.until {
					t.Errorf("%s a pin that expires %q shows %q, want %q", from, c.when, got, c.until)
				}
			}
		}
	})
}

func TestEndsThatMakeNoSenseAreRefused(t *testing.T) {
	s := newTimed(t, databasetest.Open(t))
	for when, problem := range map[string]string{
		"":                          "must be a time",
		"tomorrow":                  "must be a time",
		"d":                         "must be a time",
		"1.5d":                      "must be a time",
		"-1d":                       "must be a time",
		"2027-02-01":                "must be a time",
		"2027-02-30T00:00:00Z":      "must be a time",
		"0":                         "a second ahead",
		"0d":                        "a second ahead",
		"-1h":                       "a second ahead",
		"999ms":                     "a second ahead",
		"2027-01-31T12:00:00Z":      "in the past",
		"2027-01-31T14:00:00+02:00": "in the past",
		"1970-01-01T00:00:00Z":      "in the past",
		"36501d":                    "100 years",
		"9999-12-31T23:59:59Z":      "100 years",
	} {
		_, err := s.Decide(t.Context(), pins.Choice{}, meta{"frostpin.expires": when})
		invalid := (*spec.InvalidError)(nil)
		if !errors.As(err, &invalid) || invalid.Field != "meta" || !strings.Contains(invalid.Problem, "frostpin.expires") || !strings.Contains(invalid.Problem, problem) {
			t.Errorf("%q gives %v, want that it %s", when, err, problem)
		}
	}
}

// It goes in the instant of its end, alone, and also when a server comes up again after it, or its clock steps back.
func TestAPinGoesAtItsEndAndNotBefore(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		s := newTimed(t, db)
		short, long, never := s.expiring(alice, 1, "1h"), s.expiring(bob, 1, "2h"), s.expiring(alice, 2, "")
		for _, now := range []time.Time{begun, short.Expires.Add(-time.Millisecond), begun.Add(-24 * time.Hour)} {
			s.now = now
			if s.expire(); !s.there(short) || !s.there(long) || !s.there(never) {
				t.Fatalf("at %v a pin is gone that ends at %v", now, short.Expires)
			}
		}
		s.now = short.Expires
		if s.expire(); s.there(short) || !s.there(long) || !s.there(never) {
			t.Fatal("at the end of one pin, that pin is there or another is not")
		}
		restarted := newTimed(t, db)
		restarted.now = long.Expires.Add(1000 * time.Hour)
		if restarted.expire(); restarted.there(long) || !restarted.there(never) {
			t.Fatal("after all ends, a pin with one is there or one without is not")
		}
		counts, err := s.Counts(t.Context())
		if err != nil || counts[spec.Queued] != 1 {
			t.Fatalf("counts are %v, %v, want the one that stays", counts, err)
		}
	})
}

func TestServersRemoveTogetherWhatEndsAtOnce(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		s := newTimed(t, db)
		kept := s.expiring(bob, 0, "")
		for i := range 250 { // more than are read at once
			s.expiring(alice, i%7, "1h")
		}
		var servers sync.WaitGroup
		for range 3 {
			other := newTimed(t, db)
			other.now = begun.Add(2 * time.Hour)
			servers.Go(func() {
				if err := pins.Expire(context.Background(), other.Service); err != nil {
					t.Error(err)
				}
			})
		}
		servers.Wait()
		counts, err := s.Counts(t.Context())
		if got := fmt.Sprint(counts); err != nil || counts[spec.Queued] != 1 || !s.there(kept) {
			t.Fatalf("counts are %s, %v, want the one without an end", got, err)
		}
	})
}

// Pins without an end, however many, are not read.
func TestExpiryReadsItsIndexOnly(t *testing.T) {
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), pins.Migrations()...); err != nil {
		t.Fatal(err)
	}
	err := db.Read(t.Context(), func(tx *gorm.DB) error {
		var id, parent, unused int
		var plan string
		err := tx.Raw(`EXPLAIN QUERY PLAN SELECT account, id FROM pins WHERE expires_ms <= ? ORDER BY expires_ms LIMIT ?`, 1, 100).
			Row().Scan(&id, &parent, &unused, &plan)
		if err == nil && !strings.Contains(plan, "USING INDEX pins_expires") {
			err = fmt.Errorf("the plan is %s", plan)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The service at work lets the DAG go with the last pin that named it.
func TestTheLastPinToEndTakesItsDAGAlong(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		dag := pinstest.Leaf("ending")
		w.tier.AddNetwork(dag.Blocks...)
		p, err := w.Add(t.Context(), alice, request(dag.Root), pins.Decision{Expiry: pins.Expiry{After: time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		w.untilStatus(p, spec.Pinned)
		err = w.db.Write(t.Context(), func(tx *gorm.DB) error {
			return tx.Exec(`UPDATE pins SET expires_ms = created_ms WHERE id = ?`, p.ID).Error
		})
		if err != nil {
			t.Fatal(err)
		}
		w.until("the pin is gone", func() bool {
			_, err := w.Get(t.Context(), alice, p.ID)
			return errors.Is(err, pins.ErrNotFound)
		})
		w.until("its dag is let go", func() bool { return !w.held(dag.Root) })
	})
}
