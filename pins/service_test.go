package pins_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

func TestPinIsFetchedHeldAndThenPinned(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		dag := pinstest.Tree("a", 50)
		p := w.add(alice, named(dag.Root, "tree"))
		if p.Status() != spec.Queued {
			t.Fatalf("status %s before anybody had it, want queued", p.Status())
		}
		w.tier.AddNetwork(dag.Blocks...)
		p = w.untilStatus(p, spec.Pinned)
		if !w.held(dag.Root) {
			t.Fatal("pinned, but the hot tier does not hold it")
		}
		if p.DAG.Bytes != dag.Size() || p.DAG.Blocks != 51 {
			t.Fatalf("size %d in %d blocks, want %d in 51", p.DAG.Bytes, p.DAG.Blocks, dag.Size())
		}
		if *p.Name != "tree" || p.CID != dag.Root.String() {
			t.Fatalf("got %q %q back", *p.Name, p.CID)
		}
		w.until("it was announced", func() bool { return len(w.tier.Announced()) == 1 })
	})
}

func TestDAGThatIsAlreadyHereIsPinnedInTheAnswer(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		dag := pinstest.Tree("local", 20)
		w.tier.AddLocal(dag.Blocks...)
		for range 2 { // found among the blocks, then known as held
			if p := w.add(alice, request(dag.Root)); p.Status() != spec.Pinned {
				t.Fatalf("status %s, want pinned", p.Status())
			}
		}
		inline := pinstest.Identity(cid.Raw, []byte("hello"))
		if p := w.add(bob, request(inline)); p.Status() != spec.Pinned {
			t.Fatalf("identity cid is %s, want pinned", p.Status())
		}
	})
}

func TestWhatIsHereIsPinnedInTheAnswerHoweverMuchIsLookedFor(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for i := range config().FindRoots {
			w.add(alice, request(pinstest.Leaf(fmt.Sprint("nowhere ", i)).Root))
		}
		dag := pinstest.Leaf("here")
		w.tier.AddLocal(dag.Blocks...)
		if p := w.add(alice, request(dag.Root)); p.Status() != spec.Pinned {
			t.Fatalf("status %s, want pinned", p.Status())
		}
	})
}

func TestEveryoneWhoAsksTogetherIsAnsweredAlike(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for round := range 20 {
			dag := pinstest.Leaf(fmt.Sprint("together ", round))
			w.tier.AddLocal(dag.Blocks...)
			var group errgroup.Group
			for i := range 8 {
				group.Go(func() error {
					p, err := w.Add(context.Background(), pins.Account(i%2+1), request(dag.Root), pins.Decision{Terms: pins.Undecided})
					if err == nil && p.Status() != spec.Pinned {
						err = fmt.Errorf("round %d: status %s, want pinned", round, p.Status())
					}
					return err
				})
			}
			if err := group.Wait(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestIdentityRootIsPinnedOnlyWithWhatItLinksTo(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		leaf := pinstest.Raw("linked")
		root := pinstest.Identity(cid.DagProtobuf, pinstest.Node("", leaf.Cid()).RawData())
		p := w.add(alice, request(root))
		if p.Status() == spec.Pinned {
			t.Fatal("pinned without the block it links to")
		}
		w.tier.AddNetwork(leaf)
		w.untilStatus(p, spec.Pinned)
	})
}

func TestOneFetchServesEveryPinOfACID(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		dag := pinstest.Tree("shared", 10)
		v0 := pinstest.V0(dag.Root)
		first := w.add(alice, request(dag.Root))
		second := w.add(bob, request(v0))
		if second.CID != v0.String() {
			t.Fatalf("cid %s echoed as %s", v0, second.CID)
		}
		w.tier.AddNetwork(dag.Blocks...)
		w.untilStatus(first, spec.Pinned)
		w.untilStatus(second, spec.Pinned)
		w.delete(first)
		w.mustBeGone(first)
		if w.get(second).Status() != spec.Pinned || !w.held(dag.Root) {
			t.Fatal("removing one pin harmed the other")
		}
		w.delete(second)
		w.until("the last reference let it go", func() bool { return !w.held(dag.Root) })
	})
}

func TestForeignPinIsNotFound(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		p := w.add(alice, request(pinstest.Leaf("x").Root))
		ctx := context.Background()
		_, getErr := w.Get(ctx, bob, p.ID)
		_, replaceErr := w.Replace(ctx, bob, p.ID, request(pinstest.Leaf("y").Root), pins.Decision{Terms: pins.Undecided})
		for _, err := range []error{getErr, replaceErr, w.Delete(ctx, bob, p.ID)} {
			if !errors.Is(err, pins.ErrNotFound) {
				t.Fatalf("got %v, want ErrNotFound", err)
			}
		}
		if got := w.list(bob, all()); got.Count != 0 {
			t.Fatalf("bob sees %d pins", got.Count)
		}
		w.get(p)
	})
}

func TestDeletedPinNeverComesBack(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		dag := pinstest.Tree("gone", 30)
		w.tier.AddNetwork(dag.Blocks[:20]...) // the walk waits for the rest
		p := w.add(alice, request(dag.Root))
		w.untilStatus(p, spec.Pinning)
		w.delete(p)
		w.mustBeGone(p)
		w.tier.AddNetwork(dag.Blocks...)
		if err := w.Delete(context.Background(), alice, p.ID); !errors.Is(err, pins.ErrNotFound) {
			t.Fatalf("second delete: %v, want ErrNotFound", err)
		}
		// The same CID again is a new pin, and works.
		again := w.add(alice, request(dag.Root))
		w.untilStatus(again, spec.Pinned)
		w.mustBeGone(p)
		if n := w.list(alice, all()).Count; n != 1 {
			t.Fatalf("%d pins, want 1", n)
		}
	})
}

func TestReplaceKeepsOldDAGUntilNewIsHeld(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		old, next, last := pinstest.Tree("old", 5), pinstest.Tree("new", 5), pinstest.Tree("last", 5)
		w.tier.AddNetwork(old.Blocks...)
		first := w.untilStatus(w.add(alice, request(old.Root)), spec.Pinned)
		second, err := w.Replace(context.Background(), alice, first.ID, named(next.Root, "n"), pins.Decision{Terms: pins.Undecided})
		if err != nil {
			t.Fatal(err)
		}
		if second.ID == first.ID || !second.Created.After(first.Created) {
			t.Fatalf("replaced %s %s by %s %s", first.ID, first.Created, second.ID, second.Created)
		}
		w.mustBeGone(first)
		// Replaced once more before the second was held: the first DAG is still owed its blocks.
		third, err := w.Replace(context.Background(), alice, second.ID, request(last.Root), pins.Decision{Terms: pins.Undecided})
		if err != nil {
			t.Fatal(err)
		}
		// Releases are carried out in the order in which they fell due: once a later one has been, an earlier would be.
		witness := pinstest.Leaf("released later")
		w.tier.AddLocal(witness.Blocks...)
		w.delete(w.add(alice, request(witness.Root)))
		w.until("the witness was let go", func() bool { return !w.held(witness.Root) })
		if !w.held(old.Root) {
			t.Fatal("the old dag was let go before the new one was held")
		}
		w.tier.AddNetwork(last.Blocks...)
		w.untilStatus(third, spec.Pinned)
		w.until("the old dag was let go", func() bool { return !w.held(old.Root) })
		if n := w.list(alice, all()).Count; n != 1 {
			t.Fatalf("%d pins, want 1", n)
		}
	})
}

func TestReplaceWithTheSameCIDNeverUnpins(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		dag := pinstest.Leaf("same")
		w.tier.AddLocal(dag.Blocks...)
		p := w.add(alice, request(dag.Root))
		for range 3 {
			next, err := w.Replace(context.Background(), alice, p.ID, named(dag.Root, "again"), pins.Decision{Terms: pins.Undecided})
			if err != nil {
				t.Fatal(err)
			}
			if next.Status() != spec.Pinned {
				t.Fatalf("status %s, want pinned", next.Status())
			}
			p = next
		}
		if !w.held(dag.Root) || w.tier.Holds(dag.Root) != 1 {
			t.Fatalf("held %t after %d holds", w.held(dag.Root), w.tier.Holds(dag.Root))
		}
	})
}

func TestRefusedDAGFailsWithItsReasonAndMayBeTriedAgain(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		dag := pinstest.Tree("refused", 3)
		w.tier.AddNetwork(dag.Blocks...)
		w.tier.FailHold(dag.Root, &pins.Refused{Reason: "the dag is too large"})
		p := w.untilStatus(w.add(alice, request(dag.Root)), spec.Failed)
		if details := p.Info()["status_details"]; !strings.Contains(details, "the dag is too large") {
			t.Fatalf("status_details %q", details)
		}
		w.tier.FailHold(dag.Root, nil)
		again := w.add(alice, request(dag.Root))
		w.untilStatus(again, spec.Pinned)
		w.untilStatus(p, spec.Pinned) // one DAG, one truth
	})
}

func TestUnfindablePinFailsAtItsDeadline(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		cfg := config()
		cfg.Policy.Deadline = time.Second
		w := newWorld(t, db, pinstest.NewTier(), cfg)
		w.start()
		p := w.add(alice, request(pinstest.Leaf("nowhere").Root))
		if s := w.get(p).Status(); s == spec.Failed {
			t.Fatal("failed at once")
		}
		p = w.untilStatus(p, spec.Failed)
		if d := p.Info()["status_details"]; !strings.Contains(d, "nobody offers the root block within 1s") {
			t.Fatalf("status_details %q", d)
		}
	})
}

func TestRestartResumesEverything(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		tier := pinstest.NewTier()
		w := newWorld(t, db, tier, config())
		w.start()
		dag, halfway := pinstest.Tree("queued", 5), pinstest.Tree("halfway", 30)
		tier.AddNetwork(halfway.Blocks[:10]...)
		waiting, walking := w.add(alice, request(dag.Root)), w.add(alice, request(halfway.Root))
		w.untilStatus(walking, spec.Pinning)
		w.stop()

		next := newWorld(t, db, tier, config())
		tier.AddNetwork(dag.Blocks...)
		tier.AddNetwork(halfway.Blocks...)
		next.start()
		next.untilStatus(waiting, spec.Pinned)
		next.untilStatus(walking, spec.Pinned)
	})
}

func TestClaimsOfADeadProcessAreTakenOver(t *testing.T) {
	for name, ghost := range map[string]struct {
		instance string
		seen     int64
	}{
		"at once when it had our data directory": {"test", 1 << 50},
		"when it was silent for too long":        {"another", 0},
	} {
		t.Run(name, func(t *testing.T) {
			databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
				w := newWorld(t, db, pinstest.NewTier(), config())
				dag := pinstest.Leaf("claimed")
				w.tier.AddNetwork(dag.Blocks...)
				p := w.add(alice, request(dag.Root))
				err := db.Write(context.Background(), func(tx *gorm.DB) error {
					return errors.Join(
						tx.Exec(`UPDATE roots SET claimed_by = 'ghost'`).Error,
						tx.Exec(`INSERT INTO workers VALUES ('ghost', ?, ?)`, ghost.instance, ghost.seen).Error)
				})
				if err != nil {
					t.Fatal(err)
				}
				w.start()
				w.untilStatus(p, spec.Pinned)
			})
		})
	}
}

func TestClaimsOfALivingProcessAreLeftAlone(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		dag := pinstest.Leaf("theirs")
		p := w.add(alice, request(dag.Root))
		err := w.db.Write(context.Background(), func(tx *gorm.DB) error {
			return errors.Join(
				tx.Exec(`UPDATE roots SET claimed_by = 'other'`).Error,
				tx.Exec(`INSERT INTO workers VALUES ('other', 'another', ?)`, int64(1)<<50).Error)
		})
		if err != nil {
			t.Fatal(err)
		}
		w.tier.AddNetwork(dag.Blocks...)
		w.add(alice, request(pinstest.Identity(cid.Raw, []byte("passes go by"))))
		witness := pinstest.Leaf("witness")
		w.tier.AddNetwork(witness.Blocks...)
		w.untilStatus(w.add(alice, request(witness.Root)), spec.Pinned)
		if s := w.get(p).Status(); s == spec.Pinned {
			t.Fatal("a root that another process works on was moved")
		}
	})
}

func TestClaimOnWhichNothingWorksIsGivenBack(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		dag := pinstest.Leaf("stray")
		p := w.add(alice, request(dag.Root))
		stray := func() error {
			return w.db.Write(context.Background(), func(tx *gorm.DB) error {
				return tx.Exec(`UPDATE roots SET claimed_by = (SELECT id FROM workers) WHERE attempts > 0`).Error
			})
		}
		// Between two tries nothing has it in hand; as if giving it back had failed, it is still claimed.
		w.until("it was tried", func() bool { return w.get(p).DAG.Attempts > 2 })
		if err := stray(); err != nil {
			t.Fatal(err)
		}
		w.tier.AddNetwork(dag.Blocks...)
		w.until("it is pinned", func() bool {
			if err := pins.FreeStrays(context.Background(), w.Service); err != nil {
				t.Fatal(err)
			}
			return w.get(p).Status() == spec.Pinned
		})
	})
}

func TestOriginsAreConnectedWhileThePinIsFetched(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		id, err := peer.Decode("12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5")
		if err != nil {
			t.Fatal(err)
		}
		dag := pinstest.Tree("origin", 8)
		w.tier.AddPeer(id, dag.Blocks...)
		r := request(dag.Root)
		r.Origins = []string{"/ip4/203.0.113.7/tcp/4001/p2p/" + id.String()}
		w.untilStatus(w.add(alice, r), spec.Pinned)
		w.until("the connection was given up", func() bool { return len(w.tier.Connected()) == 0 })
	})
}

func TestHotTierThatIsAwayDelaysPinsAndLosesNone(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		dag := pinstest.Tree("away", 5)
		w.tier.AddNetwork(dag.Blocks...)
		w.tier.SetDown(true)
		p := w.add(alice, request(dag.Root))
		w.until("the reason is told", func() bool {
			return strings.Contains(w.get(p).Info()["status_details"], "the storage node does not answer")
		})
		w.tier.SetDown(false)
		w.untilStatus(p, spec.Pinned)
	})
}

func TestLostHotCopyIsFetchedAgain(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		tier := pinstest.NewTier()
		w := newWorld(t, db, tier, config())
		w.start()
		dag := pinstest.Tree("lost", 5)
		tier.AddNetwork(dag.Blocks...)
		p := w.untilStatus(w.add(alice, request(dag.Root)), spec.Pinned)
		w.stop()
		tier.LosePin(dag.Root)
		surplus := pinstest.Leaf("surplus").Root
		tier.AddPin(surplus)

		next := newWorld(t, db, tier, config())
		next.start() // compares at start
		next.until("it is held again", func() bool { return next.held(dag.Root) })
		next.untilStatus(p, spec.Pinned)
		next.until("what no pin names was let go", func() bool { return !next.held(surplus) })
	})
}
