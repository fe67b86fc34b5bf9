package pins_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/text/cases"
	"gorm.io/gorm"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// A naive service: every filter is a line of Go over all pins.
type naive []pins.Pin

func (n naive) list(q spec.Query) (count int64, ids []pins.ID) {
	fold := func(s string) string { return cases.Fold().String(s) }
	matches := func(p pins.Pin) bool {
		ms := p.Created.UnixMilli()
		if !slices.Contains(q.Statuses, p.Status()) ||
			q.BeforeMS != nil && ms >= *q.BeforeMS || q.AfterMS != nil && ms <= *q.AfterMS ||
			len(q.CIDs) > 0 && !slices.Contains(q.CIDs, p.Root) {
			return false
		}
		for k, v := range q.Meta {
			if have, ok := p.Meta[k]; !ok || have != v {
				return false
			}
		}
		if q.Name == nil {
			return true
		}
		if p.Name == nil {
			return false
		}
		switch q.Match {
		case spec.Exact:
			return *p.Name == *q.Name
		case spec.Iexact:
			return fold(*p.Name) == fold(*q.Name)
		case spec.Partial:
			return strings.Contains(*p.Name, *q.Name)
		case spec.Ipartial:
			return strings.Contains(fold(*p.Name), fold(*q.Name))
		}
		return false
	}
	all := slices.Clone(n)
	slices.SortFunc(all, func(a, b pins.Pin) int { return b.Created.Compare(a.Created) })
	for _, p := range all {
		if matches(p) {
			if count++; len(ids) < q.Limit {
				ids = append(ids, p.ID)
			}
		}
	}
	return count, ids
}

var (
	names = []string{
		"a", "A", "ab", "100%", "100x", "x_y", "xay", `b\c`, "Straße", "STRASSE", "ΣΊΣΥΦΟΣ", "σίσυφος", "日本語", "'; --", "policy/x/mfs", "a*[b]?c", "axbxc",
		"\uFFFD", "\uFFFE", "b\uFFFF",
	}
	parts = []string{"%", "_", `\`, "*", "?", "[b]", "a*c", "ss", "ß", "", "nope"}
	metas = []map[string]string{nil, {}, {"k": "v"}, {"k": ""}, {"k": "v", "l": "w"}, {"K": "v"}, {"kv": ""}, manyKeys(9), manyKeys(10)}
)

// manyKeys are more than are looked up in the index one by one.
func manyKeys(n int) map[string]string {
	meta := map[string]string{"k": "v"}
	for i := range n - 1 {
		meta[fmt.Sprint(i)] = ""
	}
	return meta
}

func genQuery(now time.Time) *rapid.Generator[spec.Query] {
	return rapid.Custom(func(t *rapid.T) spec.Query {
		q := spec.Query{
			Match:    spec.Exact,
			Statuses: rapid.SliceOfNDistinct(rapid.SampledFrom(all().Statuses), 1, 4, rapid.ID).Draw(t, "statuses"),
			Limit:    rapid.IntRange(1, 12).Draw(t, "limit"),
		}
		if rapid.Bool().Draw(t, "has name") {
			name := rapid.SampledFrom(slices.Concat(names, parts)).Draw(t, "name")
			q.Name = &name
			q.Match = rapid.SampledFrom([]spec.TextMatchingStrategy{spec.Exact, spec.Iexact, spec.Partial, spec.Ipartial}).Draw(t, "match")
		}
		if rapid.IntRange(0, 3).Draw(t, "has cids") == 0 {
			for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, 5), 1, 4, rapid.ID).Draw(t, "cids") {
				q.CIDs = append(q.CIDs, leaf(i))
			}
		}
		if rapid.IntRange(0, 3).Draw(t, "has meta") == 0 {
			q.Meta = rapid.SampledFrom(metas).Draw(t, "meta")
		}
		bound := func(what string) *int64 {
			if rapid.IntRange(0, 2).Draw(t, "has "+what) > 0 {
				return nil
			}
			ms := now.UnixMilli() + rapid.Int64Range(-3, 70_000).Draw(t, what)
			return &ms
		}
		q.BeforeMS, q.AfterMS = bound("before"), bound("after")
		return q
	})
}

func leaf(i int) cid.Cid { return pinstest.Leaf(fmt.Sprint("leaf", i)).Root }

func TestEveryFilterFindsWhatANaiveModelFinds(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		account := pins.Account(0)
		rapid.Check(t, func(t *rapid.T) {
			account++
			ctx := context.Background()
			start := time.UnixMilli(1_700_000_000_000 + int64(account))
			clock := start
			s := pins.New(config(), db, pinstest.NewTier(), discard(), func() time.Time { return clock })
			spans := db.Dialect() == database.SQLite && rapid.Bool().Draw(t, "spans")
			if spans {
				pins.SetSpans(s, rapid.IntRange(1, 4).Draw(t, "of pins"), rapid.IntRange(0, 20).Draw(t, "outside"))
			}
			var model naive
			for range rapid.IntRange(0, 40).Draw(t, "pins") {
				// Steps of the clock cross the spans of the counters, stand still and go back.
				clock = clock.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 300, 700, -500, 9000}).Draw(t, "step")) * time.Millisecond)
				r := request(leaf(rapid.IntRange(0, 5).Draw(t, "cid")))
				if rapid.Bool().Draw(t, "named") {
					name := rapid.SampledFrom(names).Draw(t, "its name")
					r.Name = &name
				}
				r.Meta = rapid.SampledFrom(metas).Draw(t, "its meta")
				p, err := s.Add(ctx, account, r, pins.Decision{Terms: pins.Undecided})
				if err != nil {
					t.Fatal(err)
				}
				model = append(model, p)
				if rapid.IntRange(0, 4).Draw(t, "deletes") == 0 {
					i := rapid.IntRange(0, len(model)-1).Draw(t, "victim")
					if err := s.Delete(ctx, account, model[i].ID); err != nil {
						t.Fatal(err)
					}
					model = slices.Delete(model, i, i+1)
				}
				if spans && rapid.IntRange(0, 4).Draw(t, "makes spans") == 0 {
					if err := pins.MakeSpans(ctx, s, account); err != nil {
						t.Fatal(err)
					}
				}
				if rapid.IntRange(0, 2).Draw(t, "moves") == 0 {
					p := rapid.SampledFrom(append(model[:0:0], p)).Draw(t, "moved")
					hot := rapid.SampledFrom([]pins.Hot{pins.HotQueued, pins.HotFetching, pins.HotHeld, pins.HotGaveUp}).Draw(t, "to")
					if err := pins.SetHot(ctx, s, p.Root, hot); err != nil && len(model) > 0 && slices.ContainsFunc(model, func(m pins.Pin) bool { return m.Root == p.Root }) {
						t.Fatal(err)
					}
				}
			}
			for i := range model {
				p, err := s.Get(ctx, account, model[i].ID)
				if err != nil {
					t.Fatal(err)
				}
				model[i] = p
			}
			for range 15 {
				q := genQuery(start).Draw(t, "query")
				count, ids := model.list(q)
				got, err := s.List(ctx, account, q)
				if err != nil {
					t.Fatalf("listing %+v: %v", q, err)
				}
				var gotIDs []pins.ID
				for _, p := range got.Pins {
					gotIDs = append(gotIDs, p.ID)
					if !slices.Contains(q.Statuses, p.Status()) {
						t.Fatalf("the indexed status of %s differs from the derived %s", p.ID, p.Status())
					}
				}
				if got.Count != count || !slices.Equal(gotIDs, ids) {
					t.Fatalf("query %s:\ngot  %d %v\nwant %d %v", describe(q), got.Count, gotIDs, count, ids)
				}
			}
		})
	})
}

// Each name beside each part, which a random history meets only now and then.
func TestEveryNameIsFoundByWhatIsInIt(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		s := pins.New(config(), db, pinstest.NewTier(), discard(), time.Now)
		var model naive
		for i, name := range names {
			p, err := s.Add(t.Context(), alice, named(leaf(i%6), name), pins.Decision{Terms: pins.Undecided})
			if err != nil {
				t.Fatal(err)
			}
			model = append(model, p)
		}
		look := func(t *testing.T) {
			for _, part := range slices.Concat(names, parts) {
				for _, match := range []spec.TextMatchingStrategy{spec.Exact, spec.Iexact, spec.Partial, spec.Ipartial} {
					q := all()
					q.Name, q.Match = &part, match
					count, ids := model.list(q)
					got, err := s.List(t.Context(), alice, q)
					if err != nil {
						t.Fatal(err)
					}
					if got.Count != count || len(got.Pins) != len(ids) {
						t.Errorf("%s %q: %d pins, want %d", match, part, got.Count, count)
					}
				}
			}
		}
		t.Run("by looking at each", look)
		if db.Dialect() == database.SQLite {
			spanned(t, s, 7)
			t.Run("in spans", look)
		}
	})
}

// spanned makes spans of so many pins of alice's, which her searches then use.
func spanned(t *testing.T, s *pins.Service, size int) {
	t.Helper()
	pins.SetSpans(s, size, size)
	if err := pins.MakeSpans(t.Context(), s, alice); err != nil {
		t.Fatal(err)
	}
}

// A search in a large account has its spans made, which then answer, and a removed pin takes no more than its own along.
func TestSpansFollowTheAccount(t *testing.T) {
	db := databasetest.Open(t, database.SQLite)
	if err := db.Migrate(t.Context(), pins.Migrations()...); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, db, pinstest.NewTier(), config())
	pins.SetSpans(w.Service, 5, 5)
	w.start()
	part, made := "name", []pins.Pin{}
	for i := range 23 {
		made = append(made, w.add(alice, named(leaf(i%7), fmt.Sprint("Name ", i))))
	}
	search := func(want int64) {
		t.Helper()
		got, err := w.List(t.Context(), alice, spec.Query{Statuses: all().Statuses, Name: &part, Match: spec.Ipartial, Limit: 3})
		if err != nil {
			t.Fatal(err)
		}
		if got.Count != want || len(got.Pins) != 3 || *got.Pins[0].Name != "Name 22" {
			t.Fatalf("%d pins are found, want %d; the newest: %+v", got.Count, want, got.Pins)
		}
	}
	search(23)
	spans := func() int {
		n, err := pins.SpansOf(t.Context(), w.Service, alice)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	w.until("four spans are made", func() bool { return spans() == 4 })
	search(23)
	w.stop()                             // or the span might be made again before it is missed
	for _, i := range []int{7, 22 - 1} { // in the second span, and in none
		if err := w.Delete(t.Context(), alice, made[i].ID); err != nil {
			t.Fatal(err)
		}
	}
	if got := spans(); got != 3 {
		t.Errorf("%d spans are left, want 3", got)
	}
	search(21)
	full := config()
	full.Room = func() pins.Room { return pins.RoomScarce }
	w = newWorld(t, db, w.tier, full)
	pins.SetSpans(w.Service, 5, 5)
	if err := pins.MakeSpans(t.Context(), w.Service, alice); err != nil || spans() != 3 {
		t.Errorf("with little room there are %d spans, want 3: %v", spans(), err)
	}
	w = newWorld(t, db, w.tier, config())
	pins.SetSpans(w.Service, 5, 5)
	w.start()
	w.until("the span is made again", func() bool { search(21); return spans() == 4 })
}

func describe(q spec.Query) string {
	name := "<nil>"
	if q.Name != nil {
		name = fmt.Sprintf("%q", *q.Name)
	}
	return fmt.Sprintf("%+v name=%s", q, name)
}

func TestWideSearchFindsTheNewestWhereverTheyAre(t *testing.T) {
	db := databasetest.Open(t, database.SQLite)
	if err := db.Migrate(context.Background(), pins.Migrations()...); err != nil {
		t.Fatal(err)
	}
	s := pins.New(config(), db, pinstest.NewTier(), discard(), time.Now)
	addMany := func(name string, n int) {
		t.Helper()
		var group errgroup.Group
		group.SetLimit(256)
		for i := range n {
			group.Go(func() error {
				r := named(leaf(10*len(name)+i%7), fmt.Sprint(name, " ", i))
				r.Meta = map[string]string{"app": "x"}
				_, err := s.Add(context.Background(), alice, r, pins.Decision{Terms: pins.Undecided})
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	search := func(part string, match spec.TextMatchingStrategy, count int64) {
		t.Helper()
		page, err := s.List(context.Background(), alice, spec.Query{Statuses: all().Statuses, Name: &part, Match: match, Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		if page.Count != count || len(page.Pins) != 10 {
			t.Fatalf("%d of %d pins match %q, want 10 of %d", len(page.Pins), page.Count, part, count)
		}
		for i, p := range page.Pins {
			if !strings.Contains(*p.Name, "Wide") || i > 0 && !p.Created.Before(page.Pins[i-1].Created) {
				t.Fatalf("row %d is %q of %s", i, *p.Name, p.Created)
			}
		}
	}
	addMany("Wide", 2500)
	search("ide ", spec.Partial, 2500) // among the newest
	search("WIDE", spec.Ipartial, 2500)
	addMany("other", 23_000)
	search("ide ", spec.Partial, 2500) // behind them
	search("WIDE", spec.Ipartial, 2500)

	for i := range 7 {
		if err := pins.SetHot(t.Context(), s, leaf(40+i), pins.HotGaveUp); err != nil {
			t.Fatal(err)
		}
	}
	for status, want := range map[spec.Status]int64{spec.Failed: 2500, spec.Queued: 23_000} {
		q := byTag("app", "x")
		q.Statuses, q.Limit = []spec.Status{status}, 10
		page, err := s.List(t.Context(), alice, q)
		if err != nil || page.Count != want || len(page.Pins) != 10 {
			t.Errorf("%d of %d pins are %s and have the tag of all, want 10 of %d: %v", len(page.Pins), page.Count, status, want, err)
		}
	}
}

func TestAThousandMetaKeysAreOneCheapQuestion(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		s := pins.New(config(), db, pinstest.NewTier(), discard(), time.Now)
		r := request(leaf(0))
		r.Meta = map[string]string{}
		for i := range 1000 {
			r.Meta[fmt.Sprint(i)] = ""
		}
		for _, meta := range []map[string]string{r.Meta, {"1": "", "2": "x"}} {
			if _, err := s.Add(context.Background(), alice, spec.Request{CID: r.CID, Root: r.Root, Meta: meta}, pins.Decision{Terms: pins.Undecided}); err != nil {
				t.Fatal(err)
			}
		}
		page, err := s.List(context.Background(), alice, spec.Query{Statuses: all().Statuses, Meta: r.Meta, Limit: 10})
		if err != nil || page.Count != 1 {
			t.Fatalf("%d pins and %v, want 1", page.Count, err)
		}
	})
}

// Tags that many pins have, with every share of statuses: the newest are found, and all are counted.
func TestListsByTagsThatManyPinsHave(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		s := pins.New(config(), db, pinstest.NewTier(), discard(), time.Now)
		var model naive
		for i := range 450 {
			r := request(leaf(i % 12))
			r.Meta = map[string]string{"app": "x", "half": fmt.Sprint(i % 2)}
			if i%3 == 0 {
				r.Meta = map[string]string{"rare": "x", "third": "0", "half": fmt.Sprint(i % 2)}
			}
			p, err := s.Add(t.Context(), alice, r, pins.Decision{Terms: pins.Undecided})
			if err != nil {
				t.Fatal(err)
			}
			model = append(model, p)
		}
		for _, failed := range []int{0, 1, 7, 12} { // of twelve roots
			for i := range failed {
				if err := pins.SetHot(t.Context(), s, leaf(i), pins.HotGaveUp); err != nil {
					t.Fatal(err)
				}
			}
			for i := range model {
				p, err := s.Get(t.Context(), alice, model[i].ID)
				if err != nil {
					t.Fatal(err)
				}
				model[i] = p
			}
			from, to := model[50].Created.UnixMilli(), model[350].Created.UnixMilli()
			for _, meta := range []map[string]string{{"app": "x"}, {"app": "x", "half": "1"}, {"half": "0", "third": "0"}, {"app": "x", "third": "0"}, {"none": ""}} {
				for _, statuses := range [][]spec.Status{all().Statuses, {spec.Queued}, {spec.Failed}, {spec.Failed, spec.Pinned}} {
					for _, q := range []spec.Query{{Limit: 10}, {Limit: 1000}, {Limit: 10, BeforeMS: &to, AfterMS: &from}} {
						q.Meta, q.Statuses = meta, statuses
						count, ids := model.list(q)
						page, err := s.List(t.Context(), alice, q)
						if err != nil {
							t.Fatal(err)
						}
						var got []pins.ID
						for _, p := range page.Pins {
							got = append(got, p.ID)
						}
						if page.Count != count || !slices.Equal(got, ids) {
							t.Fatalf("with %d of twelve roots failed, %s: %d %v, want %d %v", failed, describe(q), page.Count, got, count, ids)
						}
					}
				}
			}
		}
	})
}

func TestPagedWalkMeetsEveryPinOnceAndCountsDown(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		clock := time.UnixMilli(1_700_000_000_000)
		s := pins.New(config(), db, pinstest.NewTier(), discard(), func() time.Time { return clock })
		ctx := context.Background()
		const n = 137
		want := map[pins.ID]bool{}
		for i := range n {
			clock = clock.Add(time.Duration(i%7) * 150 * time.Millisecond)
			p, err := s.Add(ctx, alice, request(leaf(i%5)), pins.Decision{Terms: pins.Undecided})
			if err != nil {
				t.Fatal(err)
			}
			want[p.ID] = true
		}
		for _, statuses := range [][]spec.Status{{spec.Queued}, {spec.Queued, spec.Pinned}, all().Statuses} {
			q := spec.Query{Statuses: statuses, Limit: 10}
			seen := map[pins.ID]bool{}
			for {
				page, err := s.List(ctx, alice, q)
				if err != nil {
					t.Fatal(err)
				}
				if page.Count != int64(n-len(seen)) {
					t.Fatalf("count %d after %d rows, want %d", page.Count, len(seen), n-len(seen))
				}
				for _, p := range page.Pins {
					if seen[p.ID] {
						t.Fatalf("%s twice", p.ID)
					}
					seen[p.ID] = true
					ms := p.Created.UnixMilli()
					q.BeforeMS = &ms
				}
				if int64(len(page.Pins)) == page.Count {
					break
				}
			}
			if diff := cmp.Diff(want, seen); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

func TestCreatedIsUniqueAndIncreasingWhateverTheClockDoes(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		clock := time.UnixMilli(1_700_000_000_000)
		s := pins.New(config(), db, pinstest.NewTier(), discard(), func() time.Time { return clock })
		var last time.Time
		for _, step := range []time.Duration{0, 0, -time.Hour, 0, time.Microsecond, time.Hour, -time.Minute} {
			clock = clock.Add(step)
			p, err := s.Add(context.Background(), alice, request(leaf(0)), pins.Decision{Terms: pins.Undecided})
			if err != nil {
				t.Fatal(err)
			}
			if !p.Created.After(last) || p.Created.Nanosecond()%1e6 != 0 {
				t.Fatalf("created %s after %s", p.Created, last)
			}
			last = p.Created
			if err := s.Delete(context.Background(), alice, p.ID); err != nil {
				t.Fatal(err) // what was deleted is not handed out again either
			}
		}
	})
}

// The plans matter more than any timing: a query that reads the table of a large account is a defect.
func TestListsUseTheirIndexes(t *testing.T) {
	db := databasetest.Open(t, database.SQLite)
	if err := db.Migrate(context.Background(), pins.Migrations()...); err != nil {
		t.Fatal(err)
	}
	s := pins.New(config(), db, pinstest.NewTier(), discard(), time.Now)
	ctx := context.Background()
	for i := range 50 {
		r := named(leaf(i), fmt.Sprint("n", i))
		r.Meta = map[string]string{"k": fmt.Sprint(i)}
		if _, err := s.Add(ctx, alice, r, pins.Decision{Terms: pins.Undecided}); err != nil {
			t.Fatal(err)
		}
	}
	name, ms := "n7", time.Now().UnixMilli()
	for what, c := range map[string]struct {
		q    spec.Query
		plan string
	}{
		"status":      {spec.Query{Statuses: []spec.Status{spec.Queued}, Limit: 10}, "pins_status"},
		"before":      {spec.Query{Statuses: []spec.Status{spec.Queued, spec.Pinning}, BeforeMS: &ms, Limit: 10}, "pins_status"},
		"exact name":  {spec.Query{Statuses: all().Statuses, Name: &name, Match: spec.Exact, Limit: 10}, "pins_name"},
		"iexact name": {spec.Query{Statuses: []spec.Status{spec.Queued}, BeforeMS: &ms, Name: &name, Match: spec.Iexact, Limit: 10}, "pins_name"},
		"partial":     {spec.Query{Statuses: all().Statuses, Name: &name, Match: spec.Partial, Limit: 10}, "COVERING INDEX pins_status (account=?)"},
		"ipartial":    {spec.Query{Statuses: []spec.Status{spec.Queued}, BeforeMS: &ms, Name: &name, Match: spec.Ipartial, Limit: 10}, "COVERING INDEX pins_status (account=? AND status=? AND created_ms<?)"},
		"cid":         {spec.Query{Statuses: []spec.Status{spec.Queued}, CIDs: []cid.Cid{leaf(3), leaf(4)}, Limit: 10}, "pins_root"},
		"meta":        {spec.Query{Statuses: []spec.Status{spec.Queued}, Meta: map[string]string{"k": "7"}, Limit: 10}, "sqlite_autoindex_pin_meta|PRIMARY KEY (account=? AND kv=?"},
		"tag":         {byTag("k", "7"), "SEARCH d USING PRIMARY KEY (account=? AND kv=? AND created_ms>? AND created_ms<?)"},
		"tags":        {spec.Query{Statuses: all().Statuses, Meta: map[string]string{"k": "7", "l": "7"}, Limit: 10}, "PRIMARY KEY (account=? AND kv=?"},
		"named, meta": {spec.Query{Statuses: all().Statuses, Name: &name, Match: spec.Exact, Meta: map[string]string{"k": "7"}, Limit: 10}, "SEARCH p USING COVERING INDEX pins_name|SEARCH p USING INDEX pins_name"},
	} {
		t.Run(what, func(t *testing.T) {
			plan := explain(t, db, s, c.q)
			if !slices.ContainsFunc(strings.Split(c.plan, "|"), func(p string) bool { return strings.Contains(plan, p) }) {
				t.Errorf("no %s in\n%s", c.plan, plan)
			}
			if what != "partial" && (strings.Contains(plan, "SCAN p") || strings.Contains(plan, "(account=?)\n")) {
				t.Errorf("reads a whole account:\n%s", plan)
			}
		})
	}
}

// explain returns SQLite's plans of the statements that a list runs.
func explain(t *testing.T, db *database.DB, s *pins.Service, q spec.Query) string {
	t.Helper()
	var plan strings.Builder
	err := db.Read(context.Background(), func(tx *gorm.DB) error {
		for _, statement := range pins.Statements(tx, alice, q) {
			rows, err := tx.Raw(`EXPLAIN QUERY PLAN `+statement.SQL, statement.Args...).Rows()
			if err != nil {
				return fmt.Errorf("%s: %w", statement.SQL, err)
			}
			defer rows.Close()
			for rows.Next() {
				var id, parent, unused int
				var detail string
				if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
					return err
				}
				fmt.Fprintln(&plan, detail)
			}
			if err := errors.Join(rows.Err(), rows.Close()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return plan.String()
}

func TestPageEndsEarlyWhenItsTextIsLargeAndLosesNothing(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		w := newWorld(t, db, pinstest.NewTier(), config())
		const n, most = 120, 5 << 20
		for i := range n {
			p := named(leaf(i%6), fmt.Sprint("large ", i))
			p.Meta = map[string]string{"large": strings.Repeat("\x01", 10<<10), "k": "v"} // 60 KiB as JSON
			w.add(alice, p)
		}
		// Half of them have another status, so that a page is put together from two.
		if err := db.Write(t.Context(), func(tx *gorm.DB) error {
			return tx.Exec(`UPDATE pins SET status = 'failed' WHERE created_ms % 2 = 0`).Error
		}); err != nil {
			t.Fatal(err)
		}
		part, name, meta, some, scan := "large", all(), all(), all(), all()
		name.Name, name.Match = &part, spec.Ipartial
		meta.Meta = map[string]string{"k": "v"}
		some.Statuses = []spec.Status{spec.Queued, spec.Failed}
		scan.Name, scan.Match, scan.Statuses = &part, spec.Partial, some.Statuses
		for what, q := range map[string]spec.Query{"all": all(), "statuses": some, "name": name, "meta": meta, "name and statuses": scan} {
			var last int64
			seen := 0
			for {
				page := w.list(alice, q)
				if page.Count != int64(n-seen) {
					t.Fatalf("%s: the count is %d after %d of %d", what, page.Count, seen, n)
				}
				text := 0
				for _, p := range page.Pins {
					text += 60 << 10
					if ms := p.Created.UnixMilli(); seen > 0 && ms >= last {
						t.Fatalf("%s: a page does not go on where the last one ended", what)
					} else {
						last = ms
					}
					seen++
				}
				if text > most || len(page.Pins) == 0 {
					t.Fatalf("%s: a page of %d pins with %d bytes of meta", what, len(page.Pins), text)
				}
				if int64(len(page.Pins)) == page.Count {
					break
				}
				q.BeforeMS = &last
			}
			if seen != n {
				t.Errorf("%s: %d of %d pins were listed", what, seen, n)
			}
		}
	})
}
