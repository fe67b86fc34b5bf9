package retrieval

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
)

// However many strangers there are, only the latest are remembered, and none is stored.
func TestStrangersAreRememberedForAWhileOnly(t *testing.T) {
	r := newRanks(time.Now, slog.New(slog.DiscardHandler))
	name := func(i int) string { return fmt.Sprintf("%shttps://%d.example", strangerMark, i) }
	r.served("f01000", time.Second)
	for i := range 20_000 {
		r.order([]Source{{Provider: name(i)}})
		r.failed(name(i), failure{class: Refused, err: errors.New("no")})
	}
	if n := r.strangers.Len() + len(r.known); n > 2000 {
		t.Errorf("%d are remembered", n)
	}
	if list := r.order([]Source{{Provider: name(19_999)}, {Provider: name(0)}}); list[0].Provider != name(0) {
		t.Error("who has just failed is asked first")
	}
	if names := slices.Collect(maps.Keys(r.changed())); !slices.Equal(names, []string{"f01000"}) {
		t.Errorf("%d are stored, among them %q", len(names), names[0])
	}
}

// A brokenDB refuses to write as long as it is broken.
type brokenDB struct {
	DB
	broken bool
}

func (b *brokenDB) Write(ctx context.Context, fn func(tx *gorm.DB) error) error {
	if b.broken {
		return errors.New("it is away")
	}
	return b.DB.Write(ctx, fn)
}

func keeping(db DB, now func() time.Time) *Service {
	return New(Config{}, Parts{Codec: rawCodec{}, DB: db}, slog.New(slog.DiscardHandler), now)
}

// What could not be stored is stored the next time.
func TestWhatCouldNotBeKeptIsKeptLater(t *testing.T) {
	databasetest.Each(t, Migrations(), func(t *testing.T, db *database.DB) {
		away := &brokenDB{db, true}
		s := keeping(away, time.Now)
		s.ranks.served("f01000", time.Second)
		s.keep(t.Context())
		away.broken = false
		s.keep(t.Context())
		if known, err := s.store.providers(t.Context()); err != nil || len(known) != 1 {
			t.Errorf("%d providers are known: %v", len(known), err)
		}
	})
}

// What is too old to be used is deleted, and what is newer stays.
func TestOldProvidersAreDeleted(t *testing.T) {
	databasetest.Each(t, Migrations(), func(t *testing.T, db *database.DB) {
		at := time.Now()
		s := keeping(db, func() time.Time { return at })
		for i, name := range []string{"f01000", "f01001", "f01002"} {
			s.ranks.served(name, time.Second)
			s.keep(t.Context())
			at = at.Add(forget / 2)
			if i == 2 {
				s.ranks.served("f01001", time.Second)
				s.keep(t.Context())
			}
		}
		var names []string
		if err := db.Read(t.Context(), func(tx *gorm.DB) error {
			names = nil
			return tx.Raw("SELECT provider FROM retrieval_providers ORDER BY provider").Scan(&names).Error
		}); err != nil {
			t.Fatal(err)
		}
		if want := []string{"f01001", "f01002"}; !slices.Equal(names, want) {
			t.Errorf("%v are there; want %v", names, want)
		}
	})
}

// Where there are more than are read, those that were used last are.
func TestProvidersUsedLastAreRecalled(t *testing.T) {
	databasetest.Each(t, Migrations(), func(t *testing.T, db *database.DB) {
		at := time.Now()
		s := keeping(db, func() time.Time { return at })
		old := map[string]record{}
		for i := range maxRecalled {
			old[fmt.Sprintf("f0%05d", i)] = record{}
		}
		if err := s.store.keep(t.Context(), old); err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Hour)
		if err := s.store.keep(t.Context(), map[string]record{"f0999999": {}}); err != nil {
			t.Fatal(err)
		}
		known, err := s.store.providers(t.Context())
		if err != nil || len(known) != maxRecalled {
			t.Fatalf("%d are known: %v", len(known), err)
		}
		if _, ok := known["f0999999"]; !ok {
			t.Error("the one that was used last is not among them")
		}
	})
}

// Strangers that earlier versions have stored are forgotten.
func TestStoredStrangersAreForgotten(t *testing.T) {
	for _, dialect := range databasetest.Dialects(t) {
		t.Run(dialect, func(t *testing.T) {
			db := databasetest.Open(t, dialect)
			if err := db.Migrate(t.Context(), Migrations()[:1]...); err != nil {
				t.Fatal(err)
			}
			s := keeping(db, time.Now)
			if err := s.store.keep(t.Context(), map[string]record{strangerMark + "https://a.example": {}, "f01000": {}}); err != nil {
				t.Fatal(err)
			}
			if err := db.Migrate(t.Context(), Migrations()...); err != nil {
				t.Fatal(err)
			}
			if known, err := s.store.providers(t.Context()); err != nil || len(known) != 1 {
				t.Errorf("%d are known: %v", len(known), err)
			}
		})
	}
}
