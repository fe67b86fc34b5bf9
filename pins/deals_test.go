package pins_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"gorm.io/gorm"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
)

// The service of deals is the archive that pins are made for.
var (
	_ pins.Archive   = (*deals.Service)(nil)
	_ deals.Follower = (*pins.Service)(nil)
)

// breaking does what the service of deals does and then, when told to, fails.
type breaking struct {
	*deals.Service
	on string // the call that fails
}

var errBroken = errors.New("broken off")

func (b *breaking) after(call string, err error) error {
	if err == nil && b.on == call {
		return errBroken
	}
	return err
}

func (b *breaking) Want(ctx context.Context, held bool, wishes ...deals.Wish) error {
	return b.after("want", b.Service.Want(ctx, held, wishes...))
}

func (b *breaking) Unwant(ctx context.Context, wishes ...deals.Wish) error {
	return b.after("unwant", b.Service.Unwant(ctx, wishes...))
}

func (b *breaking) Held(ctx context.Context, root cid.Cid, held bool) error {
	return b.after("held", b.Service.Held(ctx, root, held))
}

// archived returns what the service of deals has on record as wanted, and whether it is held.
func archived(ctx context.Context, db *database.DB) (map[deals.Wish]bool, error) {
	found := map[deals.Wish]bool{}
	err := db.Read(ctx, func(tx *gorm.DB) error {
		clear(found)
		var rows []struct {
			Root    string
			TermsID deals.TermsID
			Held    bool
		}
		if err := tx.Raw(`SELECT root, terms_id, held FROM archives WHERE wanted = 1`).Scan(&rows).Error; err != nil {
			return err
		}
		for _, r := range rows {
			root, err := cid.Decode(r.Root)
			if err != nil {
				return err
			}
			found[deals.Wish{Root: root, Terms: r.TermsID}] = r.Held
		}
		return nil
	})
	return found, err
}

// TestDealsAndPinsAreCommittedTogether runs random histories on the real service of deals, which is broken off at random
// calls: after each step its rows are those that the pins ask for, whatever the step came to.
func TestDealsAndPinsAreCommittedTogether(t *testing.T) {
	databasetest.Each(t, slices.Concat(pins.Migrations(), deals.Migrations()), func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		service, err := deals.New(deals.Config{Policy: deals.Defaults(), Secret: bytes.Repeat([]byte{1}, 32), MaxReplicas: 5}, db, deals.Parts{}, discard(), time.Now)
		if err != nil {
			t.Fatal(err)
		}
		terms := []deals.TermsID{pins.Uncopied}
		for n := range 2 {
			id, err := service.Record(ctx, deals.Terms{Replicas: n + 1, Days: 540})
			if err != nil {
				t.Fatal(err)
			}
			terms = append(terms, id)
		}
		account := pins.Account(0)
		rapid.Check(t, func(rt *rapid.T) {
			account++
			archive := &breaking{Service: service}
			cfg := config()
			cfg.Archive = archive
			cfg.PinnedWhen = rule(rt, rapid.SampledFrom([]string{"hot", "active(1)"}).Draw(rt, "rule"))
			s := pins.New(cfg, db, pinstest.NewTier(), discard(), time.Now)
			service.Follow(s)
			var live []pins.Pin
			step := func(t *rapid.T, do func() error) bool {
				archive.on = rapid.SampledFrom([]string{"", "", "want", "unwant", "held"}).Draw(t, "breaks")
				err := do()
				archive.on = ""
				if err != nil && !errors.Is(err, errBroken) {
					t.Fatal(err)
				}
				return err == nil
			}
			rt.Repeat(map[string]func(*rapid.T){
				"add": func(t *rapid.T) {
					r, want := request(leaf(rapid.IntRange(0, 2).Draw(t, "root"))), rapid.SampledFrom(terms).Draw(t, "terms")
					var p pins.Pin
					if step(t, func() (err error) { p, err = s.Add(ctx, account, r, pins.Decision{Terms: want}); return err }) {
						live = append(live, p)
					}
				},
				"replace": func(t *rapid.T) {
					if len(live) == 0 {
						return
					}
					i := rapid.IntRange(0, len(live)-1).Draw(t, "pin")
					r, want := request(leaf(rapid.IntRange(0, 2).Draw(t, "root"))), rapid.SampledFrom(terms).Draw(t, "terms")
					var p pins.Pin
					if step(t, func() (err error) {
						p, err = s.Replace(ctx, account, live[i].ID, r, pins.Decision{Terms: want})
						return err
					}) {
						live[i] = p
					}
				},
				"delete": func(t *rapid.T) {
					if len(live) == 0 {
						return
					}
					i := rapid.IntRange(0, len(live)-1).Draw(t, "pin")
					if step(t, func() error { return s.Delete(ctx, account, live[i].ID) }) {
						live = slices.Delete(live, i, i+1)
					}
				},
				"move": func(t *rapid.T) {
					if len(live) == 0 {
						return
					}
					p := rapid.SampledFrom(live).Draw(t, "pin")
					hot := rapid.SampledFrom([]pins.Hot{pins.HotQueued, pins.HotHeld, pins.HotGaveUp}).Draw(t, "to")
					step(t, func() error { return pins.SetHot(ctx, s, p.Root, hot) })
				},
				"": func(t *rapid.T) {
					want, err := wishesOf(ctx, s, account)
					if err != nil {
						t.Fatal(err)
					}
					got, err := archived(ctx, db)
					if err != nil {
						t.Fatal(err)
					}
					if !maps.Equal(got, want) {
						t.Fatalf("on record for deals:\n%v\npins ask for:\n%v", got, want)
					}
					page, err := s.List(ctx, account, all())
					if err != nil {
						t.Fatal(err)
					}
					if len(page.Pins) != len(live) {
						t.Fatalf("%d pins, %d were acknowledged", len(page.Pins), len(live))
					}
					for _, p := range page.Pins {
						if _, cold := p.Wish(); cold && (p.Cold.Cold != deals.ColdPending || p.Cold.Wanted == 0) {
							t.Fatalf("%s stands as %+v", p.CID, p.Cold)
						}
					}
				},
			})
			for _, p := range live {
				if err := s.Delete(ctx, account, p.ID); err != nil {
					rt.Fatal(err)
				}
			}
		})
	})
}
