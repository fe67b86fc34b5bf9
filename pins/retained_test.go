package pins_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"gorm.io/gorm"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// replace replaces a pin, and has it settled what the new one is.
func (w *world) replace(old pins.Pin, r spec.Request) pins.Pin {
	w.t.Helper()
	p, err := w.Replace(w.t.Context(), old.Account, old.ID, r, pins.Decision{})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// keeps asserts for how many bytes an account counts and pays.
func (w *world) keeps(want int64) {
	w.t.Helper()
	got, wrong, err := pins.KeptNow(w.t.Context(), w.Service, alice)
	if err != nil || wrong != 0 || got != (pins.Kept{Counted: want, Cost: want, Held: want, HeldByPin: want}) {
		w.t.Errorf("%+v and %d wrong, want %d: %v", got, wrong, want, err)
	}
}

func TestReplacedDAGCostsUntilItIsLetGo(t *testing.T) {
	eachCellar(t, 1<<30, func(t *testing.T, c *cellar) {
		start := time.Unix(c.now.Unix(), 0).UTC()
		at := func(hours int) time.Time { return start.Add(time.Duration(hours) * time.Hour) }
		old, d := c.hold("it", 9000)
		c.now = at(1)
		next := pinstest.Leaf("comes later")
		p := c.replace(old, request(next.Root))
		c.keeps(9000)
		c.now = at(5)
		if err := pins.Arrive(t.Context(), c.Service, next.Root, 70); err != nil {
			t.Fatal(err)
		}
		c.keeps(70)
		if !c.Forgotten(d.Root) {
			t.Error("it is still kept")
		}
		c.now = at(6)
		of := func(id pins.ID, bytes, copies int64, from, to int) pins.Holding {
			return pins.Holding{Pin: id, Account: alice, Bytes: bytes, Hot: true, Copies: copies, Since: at(from), Until: at(to)}
		}
		want := []pins.Holding{of(old.ID, 9000, 2, 0, 1), of(old.ID, 9000, 0, 1, 5), of(p.ID, 70, 0, 5, 0)}
		want[1].Removed, want[2].Until = true, time.Time{}
		if got := holdings(t, c, true); !slices.Equal(got, want) {
			t.Errorf("got\n%+v\nwant\n%+v", got, want)
		}
	})
}

func TestReplacedDAGIsCountedOnceHoweverItEnds(t *testing.T) {
	lone := pinstest.Leaf("nobody has it")
	for name, c := range map[string]struct {
		then func(c *cellar, d pinstest.DAG, p pins.Pin) error
		left int64
	}{
		"the successor is removed": {func(c *cellar, _ pinstest.DAG, p pins.Pin) error { return c.Delete(c.t.Context(), alice, p.ID) }, 0},
		"all pins are removed": {func(c *cellar, _ pinstest.DAG, _ pins.Pin) error {
			_, err := c.DeleteAll(c.t.Context(), alice)
			return err
		}, 0},
		"time is over": {func(c *cellar, _ pinstest.DAG, _ pins.Pin) error {
			c.now = c.now.Add(2 * time.Hour)
			return pins.ExpireRetained(c.t.Context(), c.Service)
		}, 0},
		"nobody pays": {func(c *cellar, _ pinstest.DAG, _ pins.Pin) error {
			_, err := c.Lapse(c.t.Context(), alice, everything)
			return err
		}, 0},
		"the client goes back":     {func(c *cellar, d pinstest.DAG, p pins.Pin) error { c.replace(p, request(d.Root)); return nil }, 9000},
		"the client adds it again": {func(c *cellar, d pinstest.DAG, _ pins.Pin) error { c.add(alice, request(d.Root)); return nil }, 9000},
		"it is replaced again": {func(c *cellar, _ pinstest.DAG, p pins.Pin) error {
			c.replace(p, request(pinstest.Leaf("nor this").Root))
			return nil
		}, 9000},
		"it is lost": {func(c *cellar, d pinstest.DAG, _ pins.Pin) error {
			return pins.SetHot(c.t.Context(), c.Service, d.Root, pins.HotQueued)
		}, 0},
		"it is lost and found": {func(c *cellar, d pinstest.DAG, _ pins.Pin) error {
			return errors.Join(pins.SetHot(c.t.Context(), c.Service, d.Root, pins.HotQueued), pins.Arrive(c.t.Context(), c.Service, d.Root, 9000))
		}, 9000},
	} {
		t.Run(name, func(t *testing.T) {
			eachCellar(t, 1<<30, func(t *testing.T, w *cellar) {
				old, d := w.hold("it", 9000)
				w.now = w.now.Add(time.Minute)
				p := w.replace(old, request(lone.Root))
				w.keeps(9000)
				w.now = w.now.Add(time.Minute)
				if err := c.then(w, d, p); err != nil {
					t.Fatal(err)
				}
				w.keeps(c.left)
				if w.Forgotten(d.Root) && c.left > 0 {
					t.Error("its root is gone")
				}
			})
		})
	}
}

// Two pins of an account name one root, of which one is replaced.
func TestReplacedDAGThatAnotherPinHasIsThatPinsAlone(t *testing.T) {
	eachCellar(t, 1<<30, func(t *testing.T, c *cellar) {
		first, d := c.hold("it", 9000)
		second := c.add(alice, request(d.Root))
		c.replace(first, request(pinstest.Leaf("nobody has it").Root))
		c.keeps(9000)
		c.replace(second, request(pinstest.Leaf("nor this").Root))
		c.keeps(9000)
	})
}

func TestReplacedDAGThatIsNotHereYetIsNotFetchedAnyMore(t *testing.T) {
	eachCellar(t, 1<<30, func(t *testing.T, c *cellar) {
		d := pinstest.Leaf("comes too late")
		c.replace(c.add(alice, request(d.Root)), request(pinstest.Leaf("nobody has it").Root))
		if !c.Forgotten(d.Root) {
			t.Error("it is still wanted")
		}
		c.keeps(0)
	})
}

func TestReplacedDAGsGiveWayToWhatIsAskedFor(t *testing.T) {
	eachCellar(t, 1<<30, func(t *testing.T, c *cellar) {
		var replaced []pinstest.DAG
		var last pins.Pin
		for _, name := range []string{"first", "second", "third"} {
			p, d := c.hold(name, 1000)
			c.now = c.now.Add(time.Minute)
			last = c.replace(p, request(pinstest.Leaf("instead of "+name).Root))
			replaced = append(replaced, d)
		}
		c.keeps(3000)
		ask := func(q int64, replacing pins.ID, dags ...pins.Sized) (refused []error) {
			t.Helper()
			refused, needed, err := c.Fits(t.Context(), alice, pins.Quota{Bytes: q}, dags, replacing)
			if err == nil && needed > 0 {
				_, err = c.GiveWay(t.Context(), alice, replacing, needed, pins.Roots(dags)...)
			}
			if err != nil {
				t.Fatal(err)
			}
			return refused
		}
		of := func(bytes int64) pins.Sized {
			return pins.Sized{Root: pinstest.Leaf("new").Root, Extent: pins.Extent{Blocks: 1, Bytes: bytes}}
		}
		if got := ask(3500, "", of(3501)); got[0] == nil {
			t.Error("more than the plan allows is let in")
		}
		c.keeps(3000) // what would not help stays
		if got := ask(3500, last.ID, of(1500)); got[0] != nil {
			t.Errorf("in exchange for the third: %v", got[0])
		}
		c.keeps(3000)
		if got := ask(3500, "", of(501), pins.Sized{Root: replaced[0].Root}); got[0] != nil || got[1] != nil {
			t.Errorf("there is room when the second goes: %v", got)
		}
		c.keeps(2000)
		if c.Forgotten(replaced[0].Root) || !c.Forgotten(replaced[1].Root) || c.Forgotten(replaced[2].Root) {
			t.Error("another than the oldest of which nothing is asked has gone")
		}
		mine, err := c.KeptFor(t.Context(), alice, last.ID)
		others, problem := c.CanYield(t.Context(), alice, last.ID)
		if mine != 1000 || others != 1000 || err != nil || problem != nil {
			t.Errorf("%d are in exchange and %d are not: %v, %v", mine, others, err, problem)
		}
		if freed, err := c.GiveWay(t.Context(), alice, last.ID, pins.AllKept); freed != 1000 || err != nil {
			t.Errorf("%d are freed: %v", freed, err)
		}
		c.keeps(1000)
	})
}

// More is kept than one transaction lets go, and by several pins for one DAG.
func TestAllThatIsKeptOfReplacedPinsGoes(t *testing.T) {
	const many = 203
	awaited := pinstest.Leaf("nobody has it").Root
	for name, c := range map[string]struct {
		let  func(c *cellar) error
		left int64
	}{
		"time is over": {func(c *cellar) error {
			c.now = c.now.Add(2 * time.Hour)
			return pins.ExpireRetained(c.t.Context(), c.Service)
		}, 0},
		"nobody pays": {func(c *cellar) error {
			_, err := c.Lapse(c.t.Context(), alice, everything)
			return err
		}, 0},
		"another needs its place": {func(c *cellar) error {
			freed, err := c.GiveWay(c.t.Context(), alice, "", 10*(many-1))
			if freed != 10*(many-1) {
				c.t.Errorf("%d are freed", freed)
			}
			return err
		}, 10},
		"what it waits for is here": {func(c *cellar) error {
			if err := pins.Arrive(c.t.Context(), c.Service, awaited, 0); err != nil {
				return err
			}
			c.keeps(10 * (many - 200)) // one transaction lets go no more, and the rest counts until it goes
			if freed, err := c.GiveWay(c.t.Context(), alice, "", 10); freed != 10 || err != nil {
				c.t.Errorf("%d of it give way: %v", freed, err)
			}
			return pins.ExpireIfTold(c.t.Context(), c.Service)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			eachCellar(t, 1<<30, func(t *testing.T, w *cellar) {
				var last pins.Pin
				for i := range many {
					old := w.add(alice, request(leaf(i)))
					if err := pins.Arrive(t.Context(), w.Service, leaf(i), 10); err != nil {
						t.Fatal(err)
					}
					last = w.replace(old, request(awaited))
				}
				if kept, err := w.KeptFor(t.Context(), alice, last.ID); kept != 10*many || err != nil {
					t.Errorf("%d are kept for it: %v", kept, err)
				}
				if freed, err := w.GiveWay(t.Context(), alice, last.ID, pins.AllKept); freed != 0 || err != nil {
					t.Errorf("%d have given way to what they wait for: %v", freed, err)
				}
				if err := c.let(w); err != nil {
					t.Fatal(err)
				}
				w.keeps(c.left)
			})
		})
	}
}

// Forgotten tells whether nothing wants a root any more.
func (w *world) Forgotten(root interface{ String() string }) bool {
	w.t.Helper()
	var kept bool
	err := w.db.Read(w.t.Context(), func(tx *gorm.DB) error {
		return tx.Raw(`SELECT EXISTS (SELECT 1 FROM roots WHERE cid = ? AND hot <> 'releasing')`, root.String()).Row().Scan(&kept)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return !kept
}

// TestWhatIsHeldIsWhatCountsAndCosts runs random histories of pins that are replaced while their DAGs come and go.
func TestWhatIsHeldIsWhatCountsAndCosts(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		rapid.Check(t, func(rt *rapid.T) {
			ctx := context.Background()
			err := db.Write(ctx, func(tx *gorm.DB) error {
				for _, table := range []string{"retained", "holdings", "pins", "pin_meta", "roots"} {
					if err := tx.Exec(`DELETE FROM ` + table).Error; err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				rt.Fatal(err)
			}
			now := time.Now()
			s := pins.New(config(), db, pinstest.NewTier(), discard(), func() time.Time { return now })
			live := map[pins.ID]pins.Pin{}
			accounts := rapid.SampledFrom([]pins.Account{alice, bob})
			roots := rapid.IntRange(0, 3)
			withPin := func(do func(t *rapid.T, p pins.Pin) error) func(*rapid.T) {
				return func(t *rapid.T) {
					if len(live) == 0 {
						return
					}
					p := live[rapid.SampledFrom(slices.Sorted(maps.Keys(live))).Draw(t, "pin")]
					if err := do(t, p); err != nil {
						t.Fatal(err)
					}
				}
			}
			size := func(n int) int64 { return 10 << (4 * n) }
			rt.Repeat(map[string]func(*rapid.T){
				"add": func(t *rapid.T) {
					p, err := s.Add(ctx, accounts.Draw(t, "account"), request(leaf(roots.Draw(t, "root"))), pins.Decision{})
					if err != nil {
						t.Fatal(err)
					}
					live[p.ID] = p
				},
				"replace": withPin(func(t *rapid.T, old pins.Pin) error {
					p, err := s.Replace(ctx, old.Account, old.ID, request(leaf(roots.Draw(t, "root"))), pins.Decision{})
					delete(live, old.ID)
					live[p.ID] = p
					return err
				}),
				"delete": withPin(func(_ *rapid.T, p pins.Pin) error {
					delete(live, p.ID)
					return s.Delete(ctx, p.Account, p.ID)
				}),
				"arrives": func(t *rapid.T) {
					n := roots.Draw(t, "root")
					if hot, err := pins.HotOf(ctx, s, leaf(n)); err != nil || hot != pins.HotQueued {
						return
					}
					if err := pins.Arrive(ctx, s, leaf(n), size(n)); err != nil {
						t.Fatal(err)
					}
				},
				"is lost": func(t *rapid.T) {
					n := roots.Draw(t, "root")
					if hot, err := pins.HotOf(ctx, s, leaf(n)); err != nil || hot != pins.HotHeld {
						return
					}
					if err := pins.SetHot(ctx, s, leaf(n), pins.HotQueued); err != nil {
						t.Fatal(err)
					}
				},
				"gives way": func(t *rapid.T) {
					if _, err := s.GiveWay(ctx, accounts.Draw(t, "account"), "", rapid.Int64Range(1, 1000).Draw(t, "bytes")); err != nil {
						t.Fatal(err)
					}
				},
				"let go": func(t *rapid.T) {
					if _, err := s.Lapse(ctx, accounts.Draw(t, "account"), everything); err != nil {
						t.Fatal(err)
					}
				},
				"pay": func(t *rapid.T) {
					if err := s.Retry(ctx, accounts.Draw(t, "account"), spec.ReasonInsufficientFunds); err != nil {
						t.Fatal(err)
					}
				},
				"time passes": func(t *rapid.T) {
					now = now.Add(time.Duration(rapid.IntRange(1, 90).Draw(t, "minutes")) * time.Minute)
					if err := pins.ExpireRetained(ctx, s); err != nil {
						t.Fatal(err)
					}
				},
				"": func(t *rapid.T) {
					for _, account := range []pins.Account{alice, bob} {
						k, wrong, err := pins.KeptNow(ctx, s, account)
						if err != nil || wrong != 0 || k.Counted != k.Held || k.Cost != k.HeldByPin {
							t.Fatalf("account %d: %+v, %d wrong: %v", account, k, wrong, err)
						}
					}
				},
			})
		})
	})
}
