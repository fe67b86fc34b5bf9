package pins_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// A cellar is a world with a quota whose clock is moved by hand, and whose scheduler does nothing by itself.
type cellar struct {
	*world
	archive *archive
	source  *source
	now     time.Time
}

const stay = 24 * time.Hour

func eachCellar(t *testing.T, quota int64, test func(t *testing.T, c *cellar)) {
	t.Helper()
	src := &source{dags: map[string]pinstest.DAG{}}
	eachCold(t, func(c *pins.Config) { c.ColdSource, c.HotQuota, c.HotStay = src, quota, stay }, func(t *testing.T, w *world, a *archive) {
		src.tier, src.proofs = w.tier, map[string]time.Time{}
		clear(src.dags)
		c := &cellar{world: w, archive: a, source: src, now: time.Now()}
		cfg := config()
		cfg.Archive, cfg.ColdSource, cfg.HotQuota, cfg.HotStay = a, src, quota, stay
		w.Service = pins.New(cfg, w.db, w.tier, discard(), func() time.Time { return c.now })
		a.follower = w.Service
		src.now = func() time.Time { return c.now }
		if err := errors.Join(pins.Enter(t.Context(), w.Service), pins.Begin(t.Context(), w.Service)); err != nil {
			t.Fatal(err)
		}
		test(t, c)
	})
}

// hold pins a DAG of one block, which is held, and which has two proven cold copies.
func (c *cellar) hold(name string, size int) (pins.Pin, pinstest.DAG) {
	c.t.Helper()
	return c.holdAs(name, size, pins.Decision{Terms: 2})
}

func (c *cellar) holdAs(name string, size int, decided pins.Decision) (pins.Pin, pinstest.DAG) {
	c.t.Helper()
	d := pinstest.Leaf(name + strings.Repeat(".", size-len(name)))
	p, err := c.Add(c.t.Context(), alice, request(d.Root), decided)
	if err != nil {
		c.t.Fatal(err)
	}
	c.refill(d)
	if decided.Terms > 0 {
		c.prove(d, 2)
	}
	return p, d
}

// refill holds a DAG again, as the scheduler would.
func (c *cellar) refill(d pinstest.DAG) {
	c.t.Helper()
	c.tier.AddLocal(d.Blocks...)
	err := c.tier.Hold(c.t.Context(), d.Root, pins.Limits{Offline: true}, nil)
	if err == nil {
		err = pins.SetHeld(c.t.Context(), c.Service, d.Root, int64(len(d.Blocks)), d.Size())
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// prove makes so many of two cold copies proven.
func (c *cellar) prove(d pinstest.DAG, active int) {
	c.t.Helper()
	c.stand(d, deals.Standing{Cold: deals.ColdStored, Wanted: 2, Active: active, Ever: active, Kept: active == 2})
	c.source.dags[d.Root.KeyString()] = d
}

func (c *cellar) stand(d pinstest.DAG, st deals.Standing) {
	c.t.Helper()
	if err := c.archive.set(c.t.Context(), deals.Wish{Root: d.Root, Terms: 2}, st); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cellar) pass() (enough bool) {
	c.t.Helper()
	enough, err := pins.LetGoPass(c.t.Context(), c.Service)
	if err != nil {
		c.t.Fatal(err)
	}
	return enough
}

// read reads a DAG so often.
func (c *cellar) read(d pinstest.DAG, n int) {
	c.t.Helper()
	for range n {
		c.Touched(d.Root, !c.held(d.Root))
	}
	if err := pins.RecordTouches(c.t.Context(), c.Service); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cellar) is(p pins.Pin, hot pins.Hot) {
	c.t.Helper()
	got := c.get(p)
	if got.DAG.Hot != hot || got.Status() != spec.Pinned {
		c.t.Errorf("it is %s and %s, want %s and pinned", got.DAG.Hot, got.Status(), hot)
	}
	if held := c.held(got.Root); held != (hot == pins.HotHeld) {
		c.t.Errorf("it is %s and held on the tier: %v", hot, held)
	}
}

// TestNothingGoesWithoutProvenCopies has far more here than fits, and one reason for each DAG to stay.
func TestNothingGoesWithoutProvenCopies(t *testing.T) {
	eachCellar(t, 1000, func(t *testing.T, c *cellar) {
		type kept struct {
			pin    pins.Pin
			ground pins.Ground
		}
		var all []kept
		keep := func(ground pins.Ground, p pins.Pin) { all = append(all, kept{p, ground}) }

		uncopied, _ := c.holdAs("uncopied", 1000, pins.Decision{Terms: pins.Uncopied})
		keep(pins.GroundUncopied, uncopied)
		undecided, _ := c.holdAs("undecided", 1000, pins.Decision{Terms: pins.Undecided})
		keep(pins.GroundUncopied, undecided)
		shared, d := c.hold("shared", 1000)
		if _, err := c.Add(t.Context(), bob, request(d.Root), pins.Decision{Terms: pins.Uncopied}); err != nil {
			t.Fatal(err)
		}
		keep(pins.GroundUncopied, shared)
		wanted, d := c.hold("wanted", 1000)
		if _, err := c.Add(t.Context(), bob, request(d.Root), pins.Decision{Terms: 2, Residence: pins.ResidenceKeep}); err != nil {
			t.Fatal(err)
		}
		keep(pins.GroundKeep, wanted)
		half, d := c.hold("half", 1000)
		c.prove(d, 1)
		keep(pins.GroundUnproven, half)
		needed, d := c.hold("needed", 1000)
		c.stand(d, deals.Standing{Cold: deals.ColdStored, Wanted: 2, Active: 2, Kept: true, UsesBytes: true})
		keep(pins.GroundNeeded, needed)
		unread, d := c.hold("unread", 1000)
		delete(c.source.dags, d.Root.KeyString())
		keep(pins.GroundNone, unread) // only asking a provider tells
		c.now = c.now.Add(stay + time.Hour)
		young, _ := c.hold("young", 1000)
		keep(pins.GroundYoung, young)
		gone, _ := c.hold("gone", 1000)
		c.now = c.now.Add(stay - time.Minute)
		c.source.proofs[gone.Root.KeyString()] = c.now.Add(-8 * 24 * time.Hour) // too old: it is read back again
		for _, k := range all {
			if r, err := c.Resident(t.Context(), k.pin.Root); err != nil || r.Ground != k.ground {
				t.Errorf("%s stays because %q, want %q: %v", k.pin.CID, r.Ground, k.ground, err)
			}
		}
		c.now = c.now.Add(time.Minute)
		c.read(pinstest.DAG{Root: young.Root}, 1)
		if c.pass() {
			t.Error("a pass that freed too little says it was enough")
		}
		for _, k := range all {
			c.is(k.pin, pins.HotHeld)
		}
		c.is(gone, pins.HotOffloaded)
	})
}

// TestWhatIsWorthLeastGoesFirst fills the quota and has a few DAGs read.
func TestWhatIsWorthLeastGoesFirst(t *testing.T) {
	eachCellar(t, 10_000, func(t *testing.T, c *cellar) {
		large, _ := c.hold("large", 4000)
		popular, popularDAG := c.hold("popular", 4000)
		small, _ := c.hold("small", 100)
		c.now = c.now.Add(time.Hour)
		c.read(popularDAG, 100)
		c.now = c.now.Add(stay)
		if !c.pass() {
			t.Error("there was room and it was not enough")
		}
		c.is(large, pins.HotHeld)
		last, _ := c.hold("last", 500) // over 85 of 100 now
		o, err := c.Occupancy(t.Context(), 10)
		if err != nil || len(o.Next) != 3 || !o.Next[0].Root.Equals(large.Root) || o.Held[pins.GroundNone].Bytes != 8100 || o.Held[pins.GroundYoung].DAGs != 1 {
			t.Errorf("%+v, %v", o, err)
		}
		if !c.pass() {
			t.Error("it was not enough")
		}
		c.is(large, pins.HotOffloaded)
		for _, p := range []pins.Pin{popular, small, last} {
			c.is(p, pins.HotHeld)
		}
		if err := pins.Compare(t.Context(), c.Service); err != nil {
			t.Fatal(err)
		}
		c.is(large, pins.HotOffloaded)
	})
}

// TestWhatIsReadOftenComesBack reads what was let go: once in vain after a long time, again with success.
func TestWhatIsReadOftenComesBack(t *testing.T) {
	eachCellar(t, 10_000, func(t *testing.T, c *cellar) {
		p, d := c.hold("it", 9000)
		c.now = c.now.Add(stay)
		c.pass()
		c.is(p, pins.HotOffloaded)
		c.now = c.now.Add(5 * 24 * time.Hour)
		c.read(d, 1)
		c.is(p, pins.HotOffloaded)
		c.now = c.now.Add(time.Hour)
		c.read(d, 1)
		if got := c.get(p); got.DAG.Hot != pins.HotRestoring || got.Status() != spec.Pinned {
			t.Errorf("it is %s and %s", got.DAG.Hot, got.Status())
		}
		c.start()
		c.until("it is held again", func() bool { return c.get(p).DAG.Hot == pins.HotHeld && c.held(d.Root) })
	})
}

func TestReadsCountHoweverTheCIDIsWritten(t *testing.T) {
	eachCellar(t, 10_000, func(t *testing.T, c *cellar) {
		d := pinstest.Tree("written in two ways", 3)
		c.add(alice, request(d.Root))
		c.Touched(cid.NewCidV0(d.Root.Hash()), false)
		if err := pins.RecordTouches(t.Context(), c.Service); err != nil {
			t.Fatal(err)
		}
		var roots int
		err := c.db.Read(t.Context(), func(tx *gorm.DB) error {
			return tx.Raw(`SELECT count(*) FROM root_heat h JOIN roots r ON r.id = h.root_id WHERE r.cid = ?`, d.Root.String()).Scan(&roots).Error
		})
		if err != nil || roots != 1 {
			t.Errorf("%d roots were read: %v", roots, err)
		}
	})
}

// TestReadsOfWhatIsBeingRemovedAreForgotten records a read of a DAG, and of another, while a transaction removes the first.
func TestReadsOfWhatIsBeingRemovedAreForgotten(t *testing.T) {
	eachCellar(t, 10_000, func(t *testing.T, c *cellar) {
		_, d := c.hold("it", 1000)
		p, other := c.hold("other", 1000)
		recorded := make(chan error, 1)
		err := c.db.Write(t.Context(), func(tx *gorm.DB) error {
			err := errors.Join(tx.Exec(`DELETE FROM pins WHERE id <> ?`, p.ID).Error,
				tx.Exec(`DELETE FROM roots WHERE cid = ?`, d.Root.String()).Error)
			if err != nil {
				return err
			}
			go func() {
				c.Touched(d.Root, false)
				c.Touched(other.Root, false)
				recorded <- pins.RecordTouches(t.Context(), c.Service)
			}()
			return databasetest.AwaitWaiter(tx)
		})
		if err := errors.Join(err, <-recorded); err != nil {
			t.Fatal(err)
		}
		var read []string
		err = c.db.Read(t.Context(), func(tx *gorm.DB) error {
			return tx.Raw(`SELECT r.cid FROM root_heat h JOIN roots r ON r.id = h.root_id`).Scan(&read).Error
		})
		if err != nil || len(read) != 1 || read[0] != other.Root.String() {
			t.Errorf("reads of %v are remembered: %v", read, err)
		}
	})
}

func TestNothingComesBackWithoutRoom(t *testing.T) {
	eachCellar(t, 10_000, func(t *testing.T, c *cellar) {
		p, d := c.hold("it", 9000)
		c.now = c.now.Add(stay)
		c.pass()
		c.is(p, pins.HotOffloaded)
		c.hold("other", 2000)
		c.read(d, 10)
		c.is(p, pins.HotOffloaded)
	})
}

// TestColdOnlyGoesAsSoonAsItsCopiesAreProven needs no quota, and reads do not bring it back.
func TestColdOnlyGoesAsSoonAsItsCopiesAreProven(t *testing.T) {
	eachCellar(t, 0, func(t *testing.T, c *cellar) {
		cold, d := c.holdAs("cold", 1000, pins.Decision{Terms: 2, Residence: pins.ResidenceCold})
		both, bothDAG := c.holdAs("both", 1000, pins.Decision{Terms: 2, Residence: pins.ResidenceCold})
		if _, err := c.Add(t.Context(), bob, request(bothDAG.Root), pins.Decision{Terms: 2}); err != nil {
			t.Fatal(err)
		}
		auto, _ := c.hold("auto", 1000)
		c.prove(d, 1)
		c.pass()
		c.is(cold, pins.HotHeld)
		c.prove(d, 2)
		c.pass()
		c.is(cold, pins.HotOffloaded)
		c.is(both, pins.HotHeld)
		c.is(auto, pins.HotHeld)
		c.now = c.now.Add(time.Hour)
		c.read(d, 10)
		c.is(cold, pins.HotOffloaded)
	})
}

// A provider that wishes to be left alone does not use up the proofs of a pass.
func TestWhatCannotBeProvenNowKeepsNothingElseHere(t *testing.T) {
	eachCellar(t, 0, func(t *testing.T, c *cellar) {
		c.source.shy = map[string]bool{}
		for i := range pins.MaxProofs + 1 {
			_, d := c.holdAs(fmt.Sprint("shy", i), 100, pins.Decision{Terms: 2, Residence: pins.ResidenceCold})
			c.prove(d, 2)
			c.source.shy[d.Root.KeyString()] = true
		}
		readable, d := c.holdAs("readable", 100, pins.Decision{Terms: 2, Residence: pins.ResidenceCold})
		c.prove(d, 2)
		c.pass()
		c.is(readable, pins.HotOffloaded)
	})
}

// What comes back is carried without a question, so that whoever asks for it must be told before what it weighs.
func TestSizeOfWhatWasLetGoStaysKnown(t *testing.T) {
	eachCellar(t, 0, func(t *testing.T, c *cellar) {
		p, d := c.holdAs("cold", 1000, pins.Decision{Terms: 2, Residence: pins.ResidenceCold})
		knows := func(hot pins.Hot) {
			t.Helper()
			size, err := c.Size(t.Context(), d.Root)
			if got := c.get(p).DAG.Hot; err != nil || got != hot || size != d.Size() {
				t.Errorf("%s it has %d bytes, %v; want %s and %d", got, size, err, hot, d.Size())
			}
		}
		knows(pins.HotHeld)
		c.pass()
		knows(pins.HotOffloaded)
		if _, err := c.Add(t.Context(), bob, request(d.Root), pins.Decision{Terms: 2}); err != nil {
			t.Fatal(err)
		}
		knows(pins.HotRestoring)
	})
}

// TestLettingGoThatIsCutShortIsFinished kills the process after the row was written: the blocks go later, and reads of the
// pin are kept meanwhile.
func TestLettingGoThatIsCutShortIsFinished(t *testing.T) {
	eachCellar(t, 10_000, func(t *testing.T, c *cellar) {
		p, d := c.hold("it", 9000)
		c.now = c.now.Add(stay)
		c.tier.FailRelease(errBroken)
		c.pass()
		if got := c.get(p); got.DAG.Hot != pins.HotOffloaded || !c.held(d.Root) {
			t.Fatalf("it is %s, held %v", got.DAG.Hot, c.held(d.Root))
		}
		c.tier.FailRelease(nil)
		if err := pins.Compare(t.Context(), c.Service); err != nil {
			t.Fatal(err)
		}
		c.is(p, pins.HotOffloaded)
	})
}

// TestZipfLoadLetsNothingGoWithoutProof plays reads whose frequency falls with the rank against a quota of a tenth. DAGs
// lose and regain their copies all the time.
func TestZipfLoadLetsNothingGoWithoutProof(t *testing.T) {
	const dags, size = 60, 1000
	eachCellar(t, dags*size/10, func(t *testing.T, c *cellar) {
		r := rand.New(rand.NewPCG(1, 2))
		zipf := rand.NewZipf(r, 1.2, 1, dags-1)
		type one struct {
			pin    pins.Pin
			dag    pinstest.DAG
			proven bool
		}
		var all []*one
		for i := range dags {
			p, d := c.hold(fmt.Sprint("dag ", i), size)
			all = append(all, &one{p, d, true})
		}
		gone := 0
		for round := range 40 {
			c.now = c.now.Add(7 * time.Hour)
			for range 5 { // before the pass: what it may not take
				o := all[r.IntN(dags)]
				if c.get(o.pin).DAG.Hot == pins.HotHeld {
					o.proven = !o.proven
					c.prove(o.dag, map[bool]int{true: 2, false: 1}[o.proven])
				}
			}
			before := map[*one]bool{}
			for _, o := range all {
				before[o] = c.get(o.pin).DAG.Hot == pins.HotHeld
			}
			c.pass()
			for _, o := range all {
				if got := c.get(o.pin); before[o] && got.DAG.Hot == pins.HotOffloaded {
					gone++
					if !o.proven {
						t.Fatalf("round %d: %s was let go without proof", round, o.pin.CID)
					}
				}
				if c.get(o.pin).Status() != spec.Pinned {
					t.Fatalf("round %d: a pin is %s", round, c.get(o.pin).Status())
				}
			}
			for range 20 {
				c.read(all[zipf.Uint64()].dag, 1)
			}
			for _, o := range all { // as the scheduler would
				if c.get(o.pin).DAG.Hot == pins.HotRestoring {
					c.refill(o.dag)
				}
			}
		}
		if gone < dags/2 {
			t.Errorf("only %d DAGs were let go", gone)
		}
	})
}

// What shares blocks with the DAG that comes in its place stays until that is here, whoever else wants it cold only.
func TestReplacedDAGStaysHotUntilItsSuccessorIsHere(t *testing.T) {
	eachCellar(t, 1000, func(t *testing.T, c *cellar) {
		old, d := c.hold("it", 2000)
		if _, err := c.Add(t.Context(), bob, request(d.Root), pins.Decision{Terms: 2, Residence: pins.ResidenceCold}); err != nil {
			t.Fatal(err)
		}
		next := pinstest.Leaf("comes later")
		c.replace(old, request(next.Root))
		stays := func(want bool) {
			t.Helper()
			c.now = c.now.Add(2 * stay)
			c.pass()
			if c.held(d.Root) != want {
				t.Errorf("it is here: %t, want %t", !want, want)
			}
		}
		stays(true)
		if err := pins.Arrive(t.Context(), c.Service, next.Root, 70); err != nil {
			t.Fatal(err)
		}
		stays(false)
	})
}
