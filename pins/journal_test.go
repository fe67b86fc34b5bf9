package pins_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
)

// A journal is a model of one that keeps the kinds of what it is told, with terms where it is about some pins only.
type journal struct {
	mu   sync.Mutex
	told []string
	fail error
}

func (j *journal) Record(_ context.Context, _ cid.Cid, terms deals.TermsID, kind string, _ map[string]any) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if terms != 0 {
		kind = fmt.Sprintf("%s/%d", kind, terms)
	}
	j.told = append(j.told, kind)
	return j.fail
}

func (j *journal) RecordFor(_ context.Context, account pins.Account, _ cid.Cid, kind string, _ map[string]any) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.told = append(j.told, fmt.Sprintf("%s@%d", kind, account))
	return j.fail
}

// take returns what was told since the last time.
func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	told := j.told
	j.told = nil
	return told
}

func TestEveryTransitionIsRecordedOnce(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		cfg, j := config(), new(journal)
		cfg.Journal = j
		w := newWorld(t, db, pinstest.NewTier(), cfg) // nobody moves its roots but the test
		w.add(alice, request(leaf(1)))
		j.take()
		for _, step := range []struct {
			to   pins.Hot
			want []string
		}{
			{pins.HotFetching, []string{"pin.pinning"}},
			{pins.HotFetching, nil},
			{pins.HotHeld, []string{"pin.pinned"}},
			{pins.HotQueued, []string{"pin.lost"}},
			{pins.HotGaveUp, []string{"pin.failed"}},
			{pins.HotQueued, []string{"pin.queued"}},
			{pins.HotHeld, []string{"pin.pinned"}},
			{pins.HotOffloaded, []string{"pin.offloaded"}},
			{pins.HotRestoring, []string{"pin.restoring"}},
			{pins.HotHeld, []string{"pin.restored"}},
			{pins.HotReleasing, nil},
		} {
			if err := pins.SetHot(t.Context(), w.Service, leaf(1), step.to); err != nil {
				t.Fatal(err)
			}
			if got := j.take(); !slices.Equal(got, step.want) {
				t.Errorf("to %s: %q, want %q", step.to, got, step.want)
			}
		}
	})
}

func TestATransitionThatCannotBeRecordedDoesNotHappen(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		cfg, j := config(), new(journal)
		cfg.Journal = j
		w := newWorld(t, db, pinstest.NewTier(), cfg)
		p := w.add(alice, request(leaf(1)))
		j.fail = errors.New("no room")
		if err := pins.SetHot(t.Context(), w.Service, leaf(1), pins.HotHeld); !errors.Is(err, j.fail) {
			t.Errorf("holding: %v, want %v", err, j.fail)
		}
		if hot := w.get(p).DAG.Hot; hot != pins.HotQueued {
			t.Errorf("the root is %s", hot)
		}
	})
}

func TestStandingsOfCopiesAreRecorded(t *testing.T) {
	for _, c := range []struct {
		standing deals.Standing
		want     string
	}{
		{deals.Standing{Cold: deals.ColdInProgress, Wanted: 2, Working: 1}, "deals.changed/2"},
		{deals.Standing{Cold: deals.ColdDegraded, Wanted: 2, Active: 1}, "deals.changed/2"},
		{deals.Standing{Cold: deals.ColdStored, Wanted: 2, Active: 2, Kept: true}, "deals.stored/2"},
		{deals.Standing{Cold: deals.ColdDegraded, Wanted: 2, Active: 1, Kept: true}, "deals.degraded/2"},
		{deals.Standing{Cold: deals.ColdPending, Wanted: 2, Kept: true}, "deals.degraded/2"},
	} {
		databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
			cfg, j := config(), new(journal)
			cfg.Journal = j
			w := newWorld(t, db, pinstest.NewTier(), cfg)
			if err := w.Archived(t.Context(), deals.Wish{Root: leaf(1), Terms: 2}, c.standing); err != nil {
				t.Fatal(err)
			}
			if got := j.take(); !slices.Equal(got, []string{c.want}) {
				t.Errorf("%+v is %q, want %s", c.standing, got, c.want)
			}
		})
	}
}

func TestNamingFindsPinsOfOneAccountOnly(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		first, second := w.add(alice, named(leaf(1), "one")), w.add(alice, request(leaf(1)))
		other := w.add(bob, request(leaf(1)))
		w.add(bob, request(leaf(2)))

		roots := []string{leaf(1).String(), leaf(2).String(), leaf(3).String()}
		found, err := w.Names(t.Context(), alice, roots)
		if err != nil || len(found) != 1 || !found[roots[0]] {
			t.Errorf("alice's roots: %v, %v", found, err)
		}
		for _, c := range []struct {
			name    string
			account pins.Account
			of      pins.Naming
			want    []pins.ID
		}{
			{"all", alice, pins.Naming{Root: roots[0], Limit: 9}, []pins.ID{first.ID, second.ID}},
			{"a part", alice, pins.Naming{Root: roots[0], Limit: 1}, []pins.ID{first.ID}},
			{"the rest", alice, pins.Naming{Root: roots[0], After: first.ID, Limit: 9}, []pins.ID{second.ID}},
			{"terms that none has", alice, pins.Naming{Root: roots[0], Terms: 7, Limit: 9}, nil},
			{"another account", bob, pins.Naming{Root: roots[0], Limit: 9}, []pins.ID{other.ID}},
			{"another root", alice, pins.Naming{Root: roots[1], Limit: 9}, nil},
			{"before they were made", alice, pins.Naming{Root: roots[0], By: first.Created.Add(-time.Millisecond), Limit: 9}, nil},
		} {
			if c.of.By.IsZero() {
				c.of.By = time.Now().Add(time.Hour)
			}
			list, err := w.Naming(t.Context(), c.account, c.of)
			var got []pins.ID
			for _, p := range list {
				got = append(got, p.ID)
			}
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("%s: %v, %v; want %v", c.name, got, err, c.want)
			}
		}
	})
}
