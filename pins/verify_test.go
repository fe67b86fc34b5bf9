package pins_test

import (
	"errors"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
)

// TestUnreadableBlockHoldsUpNoOtherVerification lets two of four roots fail, those that have their turn first.
func TestUnreadableBlockHoldsUpNoOtherVerification(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		tier := pinstest.NewTier()
		cfg := config()
		w := newWorld(t, db, tier, cfg)
		w.start()
		var dags []pinstest.DAG
		for _, name := range []string{"first", "second", "third", "fourth"} {
			d := pinstest.Tree("verified "+name, 2)
			w.hold(alice, d)
			dags = append(dags, d)
		}
		w.stop()

		now := time.Now().Add(30 * 24 * time.Hour)
		cfg.VerifyRate = 1 << 30
		s := pins.New(cfg, db, tier, discard(), func() time.Time { return now })
		broken := errors.New("input/output error")
		bad := []cid.Cid{dags[0].Blocks[1].Cid(), dags[1].Root}
		for _, c := range bad {
			tier.FailBlock(c, broken)
		}
		round := func(want ...error) {
			t.Helper()
			for i, want := range want {
				if worked, err := pins.VerifyNext(t.Context(), s); !worked || !errors.Is(err, want) {
					t.Errorf("verification %d: %t, %v; want it to end with %v", i, worked, err, want)
				}
			}
			if worked, err := pins.VerifyNext(t.Context(), s); worked || err != nil {
				t.Errorf("after all of them: %t, %v; want nothing to do", worked, err)
			}
		}
		round(broken, broken, nil, nil)
		now = now.Add(7 * time.Hour)
		tier.FailBlock(bad[1], nil)
		round(broken, nil)
		now = now.Add(7 * time.Hour)
		tier.FailBlock(bad[0], nil)
		tier.SetDown(true)
		for range 2 { // the same root: it is the tier that does not answer
			if worked, err := pins.VerifyNext(t.Context(), s); !worked || !errors.Is(err, pins.ErrUnavailable) {
				t.Errorf("while the tier is down: %t, %v", worked, err)
			}
		}
		tier.SetDown(false)
		round(nil)
	})
}
