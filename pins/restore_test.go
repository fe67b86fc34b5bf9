package pins_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-gormigrate/gormigrate/v2"
	"github.com/ipfs/go-cid"
	"golang.org/x/text/cases"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// A source is a model of cold copies: it stores what it has through an import of the tier.
type source struct {
	tier *pinstest.Tier
	dags map[string]pinstest.DAG
	// proofs are when copies were last read back.
	proofs map[string]time.Time
	now    func() time.Time
	shy    map[string]bool // whose providers may not be asked
}

func (s *source) Restore(ctx context.Context, root cid.Cid, _ pins.Limits, p *pins.Progress) error {
	d, ok := s.dags[root.KeyString()]
	if !ok {
		return pins.ErrAbsent
	}
	in, err := s.tier.Import(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	p.Add(int64(len(d.Blocks)), d.Size())
	return in.Put(ctx, d.Blocks)
}

func (s *source) Prove(_ context.Context, root cid.Cid) error {
	if _, ok := s.dags[root.KeyString()]; !ok {
		return pins.ErrAbsent
	}
	if s.shy[root.KeyString()] {
		return pins.ErrUnavailable
	}
	if s.proofs != nil {
		s.proofs[root.KeyString()] = s.now()
	}
	return nil
}

func (s *source) FirstByte(string) time.Duration { return 0 }

func (s *source) Proven(_ context.Context, root cid.Cid) (time.Time, error) {
	return s.proofs[root.KeyString()], nil
}

// TestDamagedCopyIsRestoredFromColdAndStaysPinned also covers the fall back to the network where no copy can be read.
func TestDamagedCopyIsRestoredFromColdAndStaysPinned(t *testing.T) {
	src := &source{dags: map[string]pinstest.DAG{}}
	eachCold(t, func(c *pins.Config) { c.ColdSource = src }, func(t *testing.T, w *world, a *archive) {
		src.tier = w.tier
		w.start()
		for _, readable := range []bool{true, false} {
			d := pinstest.Tree("damaged"+map[bool]string{true: "r"}[readable], 3)
			w.tier.AddNetwork(d.Blocks...)
			p := w.addCold(alice, d.Root, 1)
			w.untilStatus(p, spec.Pinned)
			err := a.set(t.Context(), deals.Wish{Root: d.Root, Terms: 1}, deals.Standing{Cold: deals.ColdStored, Wanted: 1, Active: 1, Ever: 1, Kept: true})
			if err != nil {
				t.Fatal(err)
			}
			if readable {
				src.dags[d.Root.KeyString()] = d
				for _, b := range d.Blocks {
					w.tier.RemoveNetwork(b.Cid())
				}
			}
			bad := d.Blocks[2].Cid()
			w.tier.Corrupt(bad)
			w.Doubt(d.Root)
			w.until("the block is right again", func() bool {
				_, err := w.tier.Block(t.Context(), bad)
				return err == nil
			})
			w.untilStatus(p, spec.Pinned)
			w.until("it is held", func() bool { return w.get(p).DAG.Hot == pins.HotHeld && w.held(d.Root) })
		}
	})
}

// What is known of wrong blocks outlives the reason that a root waits for, which a restart during a walk takes away.
func TestKnownDamageIsNotForgotten(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		wide := pinstest.Tree("wrong", 200) // more wrong blocks than are looked for at once
		w.tier.AddNetwork(wide.Blocks...)
		p := w.add(alice, request(wide.Root))
		w.untilStatus(p, spec.Pinned)
		var leaves []cid.Cid
		for _, b := range wide.Blocks {
			if b.Cid().Type() == cid.Raw {
				leaves = append(leaves, b.Cid())
			}
		}
		w.tier.RemoveNetwork(leaves...)
		for _, c := range leaves {
			w.tier.Corrupt(c)
		}
		w.Doubt(wide.Root)
		w.until("it is known to be wrong", func() bool { return w.get(p).DAG.Hot != pins.HotHeld })
		w.stop()
		if err := w.db.Write(t.Context(), func(tx *gorm.DB) error { return tx.Exec(`UPDATE roots SET reason = ''`).Error }); err != nil {
			t.Fatal(err)
		}
		again := newWorld(t, w.db, w.tier, config())
		again.start()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for range 20 {
			if got := again.add(bob, request(wide.Root)); got.Status() == spec.Pinned || again.get(p).Status() == spec.Pinned {
				t.Fatal("it is pinned, and its blocks are wrong")
			}
			<-tick.C
		}
		w.tier.AddNetwork(wide.Blocks...)
		again.untilStatus(p, spec.Pinned)
		for _, c := range leaves {
			if _, err := w.tier.Block(t.Context(), c); err != nil {
				t.Fatalf("it is pinned, and %s: %v", c, err)
			}
		}
	})
}

func TestOffloadedIsBroughtBackWhenAskedForOrNeeded(t *testing.T) {
	src := &source{dags: map[string]pinstest.DAG{}}
	eachCold(t, func(c *pins.Config) { c.ColdSource = src }, func(t *testing.T, w *world, a *archive) {
		d := pinstest.Tree("offloaded", 3)
		p := w.addCold(alice, d.Root, 1)
		stored := deals.Standing{Cold: deals.ColdStored, Wanted: 1, Active: 1, Ever: 1, Kept: true}
		set := func(st deals.Standing) {
			t.Helper()
			if err := a.set(t.Context(), deals.Wish{Root: d.Root, Terms: 1}, st); err != nil {
				t.Fatal(err)
			}
		}
		is := func(hot pins.Hot, status spec.Status) {
			t.Helper()
			q := all()
			q.Statuses = []spec.Status{status}
			if got := w.get(p); got.DAG.Hot != hot || got.Status() != status || w.list(alice, q).Count == 0 {
				t.Fatalf("%s is %s, %s; want %s, %s, also in a list", d.Root, got.DAG.Hot, got.Status(), hot, status)
			}
		}
		set(stored)
		w.setHot(d.Root, pins.HotOffloaded)
		is(pins.HotOffloaded, spec.Pinned)
		needs := stored
		needs.NeedsBytes = true
		set(needs)
		is(pins.HotRestoring, spec.Pinned)
		w.setHot(d.Root, pins.HotOffloaded)
		w.add(bob, request(d.Root))
		is(pins.HotRestoring, spec.Pinned)
		set(deals.Standing{Cold: deals.ColdPending, Wanted: 1, Ever: 1})
		is(pins.HotRestoring, spec.Pinning)
	})
}

func TestOldRootsSurviveTheMigration(t *testing.T) {
	for _, dialect := range databasetest.Dialects(t) {
		t.Run(dialect, func(t *testing.T) {
			db := databasetest.Open(t, dialect)
			migrations := pins.Migrations()
			residence := slices.IndexFunc(migrations, func(m *gormigrate.Migration) bool { return strings.HasSuffix(m.ID, "_residence") })
			if err := db.Migrate(t.Context(), migrations[:residence]...); err != nil {
				t.Fatal(err)
			}
			oldNames := []string{"Straße", "ROAD", "Ärmel", "_", "x"}
			states := []pins.Hot{pins.HotQueued, pins.HotFetching, pins.HotHeld, pins.HotGaveUp, pins.HotReleasing}
			err := db.Write(t.Context(), func(tx *gorm.DB) error {
				for i, hot := range states {
					root := leaf(i)
					err := tx.Exec(`INSERT INTO roots (id, cid, hot, account, attempts, wanted_ms, next_ms, claimed_by, blocks, bytes, reason)
						VALUES (?, ?, ?, 1, 2, 3, 4, '', 5, 6, 'why')`, 10+i, root.String(), hot).Error
					if err == nil {
						err = tx.Exec(`INSERT INTO pins (account, created_ms, id, root_id, status, cid, name, name_folded, dropped)
							VALUES (1, ?, ?, ?, 'queued', ?, ?, ?, 0)`,
							i+1, leaf(i).String(), 10+i, root.String(), oldNames[i], cases.Fold().String(oldNames[i])).Error
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Migrate(t.Context(), pins.Migrations()...); err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, db, pinstest.NewTier(), config())
			list := w.list(1, all())
			if len(list.Pins) != len(states) {
				t.Fatalf("%d pins are left of %d", len(list.Pins), len(states))
			}
			for i, p := range list.Pins {
				if want := states[len(states)-1-i]; p.DAG.Hot != want || p.DAG.Blocks != 5 || p.DAG.Bytes != 6 || p.DAG.Reason != "why" {
					t.Errorf("%+v, want %s with all it was", p.DAG, want)
				}
			}
			for part, name := range map[string]string{"RASS": "Straße", "oa": "ROAD", "äRM": "Ärmel", "_": "_"} {
				q := all()
				q.Name, q.Match = &part, spec.Ipartial
				if found := w.list(1, q).Pins; len(found) != 1 || *found[0].Name != name {
					t.Errorf("%q finds %+v, want %s", part, found, name)
				}
			}
			err = db.Write(t.Context(), func(tx *gorm.DB) error { return tx.Exec(`DELETE FROM roots WHERE id = 12`).Error })
			if err == nil {
				t.Error("a root that a pin names can be deleted")
			}
		})
	}
}
