package pins_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

func (w *world) block(c cid.Cid) {
	w.t.Helper()
	if _, added, err := pins.NewBlocks(w.db, time.Now).Add(w.t.Context(), c, "reported", "operator"); err != nil || !added {
		w.t.Fatalf("blocking %s: %t, %v", c, added, err)
	}
}

func (w *world) unblock(c cid.Cid) {
	w.t.Helper()
	if err := pins.NewBlocks(w.db, time.Now).Remove(w.t.Context(), c); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) untilBlocked(c cid.Cid, want bool) {
	w.t.Helper()
	w.until("the server knows of the block", func() bool { return w.Blocked(c) == want })
}

func TestBlocksAreTheSameForEveryCIDOfTheBytes(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		at := time.Date(2027, 1, 31, 12, 0, 0, 1e6, time.UTC)
		b := pins.NewBlocks(db, func() time.Time { return at })
		c := pinstest.Tree("a", 2).Root
		want := pins.Block{CID: pinstest.V0(c), Reason: "report 1", By: "ann", At: at}
		got, added, err := b.Add(t.Context(), want.CID, want.Reason, want.By)
		want.ID = got.ID
		if got != want || !added || err != nil {
			t.Fatalf("got %+v, want %+v (added: %t, %v)", got, want, added, err)
		}
		raw := cid.NewCidV1(cid.Raw, c.Hash())
		if again, added, err := b.Add(t.Context(), raw, "report 2", "bob"); added || err != nil || again != got {
			t.Errorf("again: %+v, %t, %v", again, added, err)
		}
		other, _, err := b.Add(t.Context(), leaf(1), "report 3", "bob")
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range []struct {
			after int64
			limit int
			want  []pins.Block
		}{{0, 1, []pins.Block{got}}, {got.ID, 10, []pins.Block{other}}, {other.ID, 10, nil}} {
			if list, err := b.List(t.Context(), page.after, page.limit); err != nil || !slices.Equal(list, page.want) {
				t.Errorf("after %d: %v, %v", page.after, list, err)
			}
		}
		if err := b.Remove(t.Context(), raw); err != nil {
			t.Error(err)
		}
		if err := b.Remove(t.Context(), c); !errors.Is(err, pins.ErrNotBlocked) {
			t.Errorf("removing it twice: %v", err)
		}
	})
}

func TestPinsOfBlockedContentFailAndTheirCopyIsLetGo(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		cfg, j := config(), new(journal)
		cfg.Journal = j
		w := newWorld(t, db, pinstest.NewTier(), cfg)
		w.start()
		bad, good := pinstest.Tree("bad", 3), pinstest.Tree("good", 3)
		w.tier.AddNetwork(slices.Concat(bad.Blocks, good.Blocks)...)
		held := []pins.Pin{w.add(alice, request(bad.Root)), w.add(bob, request(pinstest.V0(bad.Root)))}
		other := w.untilStatus(w.add(alice, request(good.Root)), spec.Pinned)
		lone := pinstest.Leaf("lone") // nobody offers it
		waiting := w.add(alice, request(lone.Root))
		for _, p := range held {
			w.untilStatus(p, spec.Pinned)
		}
		j.take()

		w.block(cid.NewCidV1(cid.DagCBOR, bad.Root.Hash()))
		w.block(lone.Root)
		for _, p := range append(held, waiting) {
			p = w.untilStatus(p, spec.Failed)
			if got := p.Info()["status_details"]; got != "gave up; CONTENT_BLOCKED: the operator of this service has blocked this content" {
				t.Errorf("it says %q", got)
			}
		}
		w.until("the hot copy is let go", func() bool { return !w.held(bad.Root) })
		if told := j.take(); len(slices.DeleteFunc(told, func(kind string) bool { return kind != pins.KindFailed })) != 2 {
			t.Errorf("told: %v", told)
		}
		if err := w.Refuse(pinstest.V0(bad.Root)); !errors.Is(err, pins.ErrBlocked) {
			t.Errorf("refused with %v", err)
		}
		if err := pins.Collect(t.Context(), w.Service); err != nil {
			t.Fatal(err)
		}
		if _, err := w.tier.Block(t.Context(), bad.Root); !errors.Is(err, pins.ErrAbsent) {
			t.Errorf("its block is still here: %v", err)
		}
		if !w.held(good.Root) || w.get(other).Status() != spec.Pinned || w.Refuse(good.Root) != nil {
			t.Error("what is not blocked was let go too")
		}
		for _, p := range append(held, waiting) {
			w.delete(p)
			w.mustBeGone(p)
		}
	})
}

func TestBlockedContentComesBackOnlyWhenItIsAskedForAfterTheBlock(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		d := pinstest.Tree("disputed", 3)
		w.tier.AddNetwork(d.Blocks...)
		pin := w.untilStatus(w.add(alice, request(d.Root)), spec.Pinned)
		w.block(d.Root)
		w.untilStatus(pin, spec.Failed)
		w.until("the hot copy is let go", func() bool { return !w.held(d.Root) })

		// Not by a request at a server that does not know of the block, and by nothing else.
		if late := w.add(bob, request(d.Root)); late.Status() != spec.Failed {
			t.Errorf("a pin of blocked content is %s", late.Status())
		}
		if err := w.Retry(t.Context(), alice, pins.ReasonBlocked); err != nil || w.get(pin).Status() != spec.Failed {
			t.Errorf("tried again it is %s, %v", w.get(pin).Status(), err)
		}

		w.unblock(d.Root)
		w.untilBlocked(d.Root, false)
		if w.get(pin).Status() != spec.Failed {
			t.Error("it came back by itself")
		}
		if err := w.Retry(t.Context(), alice, pins.ReasonBlocked); err != nil {
			t.Fatal(err)
		}
		w.untilStatus(pin, spec.Pinned)

		w.block(d.Root)
		w.untilStatus(pin, spec.Failed)
		w.unblock(d.Root)
		w.untilBlocked(d.Root, false)
		w.untilStatus(w.add(bob, request(d.Root)), spec.Pinned)
		w.untilStatus(pin, spec.Pinned)
		w.until("it is held again", func() bool { return w.held(d.Root) })
	})
}

func TestBlockEndsTheWorkOnARoot(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		d := pinstest.Tree("slow", 3)
		w.tier.AddNetwork(d.Blocks[0]) // the root block; the walk waits for the rest
		if d.Blocks[0].Cid() != d.Root {
			w.tier.AddNetwork(d.Blocks[len(d.Blocks)-1])
		}
		pin := w.untilStatus(w.add(alice, request(d.Root)), spec.Pinning)
		w.block(d.Root)
		w.untilStatus(pin, spec.Failed)
		w.tier.AddNetwork(d.Blocks...)
		w.until("nobody works on it", func() bool { return !strings.Contains(pins.Dump(w.Service), "1 walking") })
		// The rest may have come in the moment of the block: what was held all the same is let go.
		w.until("nothing of it is held", func() bool { return !w.held(d.Root) })
		if got := w.get(pin).Status(); got != spec.Failed {
			t.Errorf("it is %s", got)
		}
	})
}

// What is blocked while no server runs is obeyed by the next one.
func TestBlockIsObeyedAfterAStart(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		w := newWorld(t, db, pinstest.NewTier(), config())
		w.start()
		d := pinstest.Tree("late", 3)
		w.tier.AddNetwork(d.Blocks...)
		pin := w.untilStatus(w.add(alice, request(d.Root)), spec.Pinned)
		w.stop()
		w.block(d.Root)
		w = newWorld(t, db, w.tier, config())
		w.start()
		if !w.Blocked(d.Root) {
			t.Error("it was ready without knowing")
		}
		w.untilStatus(pin, spec.Failed)
		w.until("the hot copy is let go", func() bool { return !w.held(d.Root) })
	})
}

// Otherwise a deal that becomes proven later would bring it back.
func TestColdCopiesDoNotBringBlockedContentBack(t *testing.T) {
	src := &source{dags: map[string]pinstest.DAG{}}
	eachCold(t, func(c *pins.Config) { c.ColdSource = src }, func(t *testing.T, w *world, a *archive) {
		src.tier = w.tier
		w.start()
		d := pinstest.Tree("stored", 3)
		w.tier.AddNetwork(d.Blocks...)
		src.dags[d.Root.KeyString()] = d
		p := w.addCold(alice, d.Root, 1)
		w.untilStatus(p, spec.Pinned)
		wish := deals.Wish{Root: d.Root, Terms: 1}
		w.block(d.Root)
		w.untilStatus(p, spec.Failed)
		if wanted, err := a.wanted(t.Context()); err != nil || wanted[wish] {
			t.Errorf("deals still take it for held, and would be begun for it: %v, %v", wanted, err)
		}
		stored := deals.Standing{Cold: deals.ColdStored, Wanted: 1, Active: 1, Ever: 1, Kept: true}
		if err := a.set(t.Context(), wish, stored); err != nil {
			t.Fatal(err)
		}
		if got := w.get(p); got.Status() != spec.Failed || got.DAG.Hot != pins.HotGaveUp {
			t.Errorf("it is %s, %s", got.Status(), got.DAG.Hot)
		}
		w.unblock(d.Root)
		w.untilBlocked(d.Root, false)
		if err := w.Retry(t.Context(), alice, pins.ReasonBlocked); err != nil {
			t.Fatal(err)
		}
		w.untilStatus(p, spec.Pinned)
	})
}

// A heeded tier tells whenever it is asked whether something is held.
type heeded struct {
	*pinstest.Tier
	held func(ctx context.Context, c cid.Cid) error
}

func (a heeded) Held(ctx context.Context, c cid.Cid) (bool, error) {
	if err := a.held(ctx, c); err != nil {
		return false, err
	}
	return a.Tier.Held(ctx, c)
}

func TestServerLearnsOfBlocksWhileTheNodeDoesNotAnswerAboutOthers(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		w := newWorld(t, db, pinstest.NewTier(), config())
		d := pinstest.Tree("first", 3)
		waiting := make(chan struct{}, 100)
		w.Service = pins.New(config(), db, heeded{w.tier, func(ctx context.Context, c cid.Cid) error {
			if !c.Equals(d.Root) {
				return nil
			}
			waiting <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}}, discard(), time.Now)
		w.start()
		w.tier.AddNetwork(d.Blocks...)
		w.untilStatus(w.add(alice, request(d.Root)), spec.Pinned)
		w.block(d.Root)
		<-waiting
		w.block(leaf(1))
		w.untilBlocked(leaf(1), true)
	})
}

func TestBlockedContentIsGivenUpWhileTheNodeIsAway(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var made []pins.Pin
		dags := []pinstest.DAG{pinstest.Tree("a", 3), pinstest.Tree("b", 3), pinstest.Tree("c", 3)}
		for _, d := range dags {
			w.tier.AddNetwork(d.Blocks...)
			made = append(made, w.untilStatus(w.add(alice, request(d.Root)), spec.Pinned))
		}
		w.tier.SetDown(true)
		for _, d := range dags {
			w.block(d.Root)
		}
		for _, p := range made {
			w.untilStatus(p, spec.Failed)
		}
		w.tier.SetDown(false)
		for _, d := range dags {
			w.until("the hot copy is let go", func() bool { return !w.held(d.Root) })
		}
	})
}

func TestCopiesAreLetGoAlthoughTheNodeFailsWithOneOfThem(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		bad := pinstest.Tree("bad", 3)
		dags := []pinstest.DAG{bad, pinstest.Tree("a", 3), pinstest.Tree("b", 3), pinstest.Tree("c", 3)}
		for _, d := range dags {
			w.tier.AddNetwork(d.Blocks...)
			w.untilStatus(w.add(alice, request(d.Root)), spec.Pinned)
		}
		w.stop()
		for _, d := range dags {
			w.block(d.Root)
		}
		service := pins.New(config(), w.db, heeded{w.tier, func(_ context.Context, c cid.Cid) error {
			if c.Equals(bad.Root) {
				return errors.New("it cannot be told")
			}
			return nil
		}}, discard(), time.Now)
		if err := pins.Enter(t.Context(), service); err != nil {
			t.Fatal(err)
		}
		if done, err := pins.ObeyBlocks(t.Context(), service, 1); done || err == nil {
			t.Errorf("done: %t, %v", done, err)
		}
		for _, d := range dags[1:] {
			if w.held(d.Root) {
				t.Errorf("%s is still held", d.Root)
			}
		}
	})
}

// A block may be taken back between the giving up of the root and the end of its copy.
func TestCopyIsLetGoThatABlockLeftWhichWasTakenBack(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		d := pinstest.Tree("brief", 3)
		w.tier.AddNetwork(d.Blocks...)
		pin := w.untilStatus(w.add(alice, request(d.Root)), spec.Pinned)
		w.tier.SetDown(true)
		w.block(d.Root)
		w.untilStatus(pin, spec.Failed)
		w.stop()
		w.unblock(d.Root)
		w.tier.SetDown(false)
		w = newWorld(t, w.db, w.tier, config())
		w.start()
		if err := pins.Compare(t.Context(), w.Service); err != nil {
			t.Fatal(err)
		}
		w.until("the hot copy is let go", func() bool { return !w.held(d.Root) })
		if err := w.Retry(t.Context(), alice, pins.ReasonBlocked); err != nil {
			t.Fatal(err)
		}
		w.untilStatus(pin, spec.Pinned)
		w.until("it is held again", func() bool { return w.held(d.Root) })
	})
}

func TestNodeIsAskedOnceAboutBlockedContentThatIsGone(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		gone, late := pinstest.Tree("gone", 3), pinstest.Tree("late", 3)
		for _, d := range []pinstest.DAG{gone, late} {
			w.tier.AddNetwork(d.Blocks...)
			w.untilStatus(w.add(alice, request(d.Root)), spec.Pinned)
		}
		w.stop()
		asked := map[cid.Cid]int{}
		service := pins.New(config(), w.db, heeded{w.tier, func(_ context.Context, c cid.Cid) error {
			if asked[c]++; c.Equals(late.Root) && asked[c] < 3 {
				return errors.New("it cannot be told yet")
			}
			return nil
		}}, discard(), time.Now)
		if err := pins.Enter(t.Context(), service); err != nil {
			t.Fatal(err)
		}
		w.block(gone.Root)
		w.block(late.Root)
		if done, err := pins.ObeyBlocks(t.Context(), service, 5); !done || err != nil {
			t.Errorf("done: %t, %v", done, err)
		}
		if w.held(gone.Root) || w.held(late.Root) || asked[gone.Root] != 1 || asked[late.Root] != 3 {
			t.Errorf("held: %t, %t; asked: %v", w.held(gone.Root), w.held(late.Root), asked)
		}
	})
}
