package deals_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/deals"
)

// amounts lets go-cmp look at attoFIL.
var amounts = cmp.Comparer(func(a, b abi.TokenAmount) bool {
	return a.Nil() == b.Nil() && (a.Nil() || a.Equals(b))
})

const somePeer = "12D3KooWCNkewzfJaGCB99PSHekqp1VeqqopTypG9v3zGPM4FmmE"

func decision(id deals.ProviderID) deals.Decision {
	return deals.Decision{
		ID: id, Trust: deals.Allowed, Region: "EU", RegionSource: "operator", PriceCap: atto(7), MinPiece: 1 << 20, MaxPiece: 1 << 35,
		Concurrency: 3, HTTP: "https://sp.example", PeerID: somePeer, Addrs: []string{"/ip4/192.0.2.1/tcp/1"},
	}
}

func eachRegistry(t *testing.T, fn func(t *testing.T, r *deals.Registry, m *deals.Money, db *database.DB)) {
	t.Helper()
	eachMoney(t, at(noon), func(t *testing.T, m *deals.Money, db *database.DB) {
		fn(t, deals.NewRegistry(db, at(noon)), m, db)
	})
}

func TestARegistryKeepsWhatWasDecided(t *testing.T) {
	eachRegistry(t, func(t *testing.T, r *deals.Registry, _ *deals.Money, _ *database.DB) {
		ctx := t.Context()
		if err := errors.Join(r.Add(ctx, decision(1001)), r.Add(ctx, deals.Decision{ID: 1000, Region: " eu "})); err != nil {
			t.Fatal(err)
		}
		if err := r.Add(ctx, decision(1001)); err == nil || !strings.Contains(err.Error(), "already") {
			t.Errorf("added twice: %v", err)
		}
		got, err := r.Provider(ctx, 1001)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(decision(1001), got.Decision(), amounts); diff != "" {
			t.Error(diff)
		}
		if got.Contact.PeerID != somePeer || got.Contact.HTTP != "https://sp.example" || got.Contact.Provider != 1001 || got.Score != 0.5 || got.Ask != nil {
			t.Errorf("got %+v", got)
		}
		plain, err := r.Provider(ctx, 1000)
		if err != nil || plain.Trust != deals.Neutral || plain.Region != "EU" || !plain.PriceCap.Nil() {
			t.Errorf("got %+v, %v", plain, err)
		}
		err = r.Set(ctx, 1000, func(d deals.Decision) deals.Decision {
			d.Trust, d.PriceCap = deals.Denied, atto(0)
			return d
		})
		if err != nil {
			t.Fatal(err)
		}
		list, err := r.Providers(ctx)
		if err != nil || len(list) != 2 || list[0].ID != 1000 || list[0].Trust != deals.Denied || list[0].PriceCap.Nil() || list[0].Region != "EU" {
			t.Errorf("got %+v, %v", list, err)
		}
		if err := r.Remove(ctx, 1001); err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{
			r.Remove(ctx, 1001),
			r.Set(ctx, 1001, func(d deals.Decision) deals.Decision { return d }),
			func() error { _, err := r.Provider(ctx, 1001); return err }(),
		} {
			if !errors.Is(err, deals.ErrNoProvider) || !strings.Contains(err.Error(), "f01001") {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestARegistryRefusesWhatMakesNoSense(t *testing.T) {
	for want, change := range map[string]func(*deals.Decision){
		"has a number":       func(d *deals.Decision) { d.ID = 0 },
		"trust":              func(d *deals.Decision) { d.Trust = "friend" },
		"too long":           func(d *deals.Decision) { d.Region = strings.Repeat("x", 65) },
		"price cap":          func(d *deals.Decision) { d.PriceCap = atto(-1) },
		"least piece":        func(d *deals.Decision) { d.MinPiece = 1000 },
		"largest piece of":   func(d *deals.Decision) { d.MaxPiece = 127 },
		"smaller than":       func(d *deals.Decision) { d.MaxPiece = d.MinPiece / 2 },
		"in flight":          func(d *deals.Decision) { d.Concurrency = -1 },
		"not an http":        func(d *deals.Decision) { d.HTTP = "ftp://x" },
		"not a peer ID":      func(d *deals.Decision) { d.PeerID = "x" },
		"not a multiaddress": func(d *deals.Decision) { d.Addrs = append(d.Addrs, "192.0.2.1") },
	} {
		d := decision(1000)
		change(&d)
		if err := d.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := decision(1000).Check(); err != nil {
		t.Error(err)
	}
}

// busyWith writes one attempt in a state with a provider, which reserves 25 attoFIL, and what it belongs to.
func busyWith(t *testing.T, db *database.DB, provider int64, state string) {
	t.Helper()
	err := db.Write(t.Context(), func(tx *gorm.DB) error {
		return errors.Join(
			insert(tx, "deal_terms", map[string]any{"id": 1, "terms": "{}"}),
			insert(tx, "pieces", map[string]any{"id": 1, "cid_v1": "p", "size": 128}),
			insert(tx, "archives", map[string]any{"id": 1, "root": "r", "terms_id": 1, "piece_id": 1, "cold": "pending", "standing": "{}"}),
			insert(tx, "slots", map[string]any{"id": 1, "archive_id": 1, "state": "open", "next_ms": 9_000_000_000_000}),
			insert(tx, "attempts", map[string]any{
				"id": provider, "uuid": "u" + state, "slot_id": 1, "archive_id": 1, "root": "r", "piece_id": 1,
				"generation": provider, "provider": provider, "reserved": "25", "state": state,
			}),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// insert writes a row, unless there is one, in which every other column is 0 or empty.
func insert(tx *gorm.DB, table string, values map[string]any) error {
	rows, err := tx.Raw(`SELECT * FROM ` + table + ` LIMIT 0`).Rows()
	if err != nil {
		return err
	}
	columns, err := rows.ColumnTypes()
	if err := errors.Join(err, rows.Close()); err != nil {
		return err
	}
	for _, c := range columns {
		switch _, given := values[c.Name()]; {
		case given, strings.HasPrefix(c.DatabaseTypeName(), "BYTEA"), c.DatabaseTypeName() == "BLOB", c.Name() == "id":
		case strings.HasPrefix(c.DatabaseTypeName(), "TEXT"):
			values[c.Name()] = ""
		default:
			values[c.Name()] = 0
		}
	}
	return tx.Table(table).Clauses(clause.OnConflict{DoNothing: true}).Create(values).Error
}

func TestAProviderWithLiveDealsStays(t *testing.T) {
	eachRegistry(t, func(t *testing.T, r *deals.Registry, _ *deals.Money, db *database.DB) {
		ctx := t.Context()
		busyWith(t, db, 1000, "active")
		busyWith(t, db, 1001, "missed")
		changes, err := r.Apply(ctx, []deals.Decision{{ID: 1000}, {ID: 1001}, {ID: 1002, Region: "US"}}, false)
		if err != nil || len(changes.Added) != 3 {
			t.Fatalf("got %+v, %v", changes, err)
		}
		if err := r.Remove(ctx, 1000); err == nil || !strings.Contains(err.Error(), "1 deals that are alive") {
			t.Errorf("got %v", err)
		}
		changes, err = r.Apply(ctx, []deals.Decision{{ID: 1002, Region: "EU"}, {ID: 1003}}, true)
		want := deals.Changes{
			Added: []deals.ProviderID{1003}, Changed: []deals.ProviderID{1002}, Removed: []deals.ProviderID{1001}, Denied: []deals.ProviderID{1000},
		}
		if diff := cmp.Diff(want, changes); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
		changes, err = r.Apply(ctx, []deals.Decision{{ID: 1002, Region: "EU"}, {ID: 1003}}, true)
		if diff := cmp.Diff(deals.Changes{}, changes); diff != "" || err != nil {
			t.Errorf("the same list again: %v\n%s", err, diff)
		}
	})
}

func TestEveryFieldOfADecisionCountsAsAChange(t *testing.T) {
	eachRegistry(t, func(t *testing.T, r *deals.Registry, _ *deals.Money, _ *database.DB) {
		for i, change := range []func(*deals.Decision){
			func(d *deals.Decision) { d.Trust = deals.Denied },
			func(d *deals.Decision) { d.Region = "US" },
			func(d *deals.Decision) { d.RegionSource = "them" },
			func(d *deals.Decision) { d.PriceCap = atto(8) },
			func(d *deals.Decision) { d.PriceCap = abi.TokenAmount{} },
			func(d *deals.Decision) { d.PriceCap = atto(0) },
			func(d *deals.Decision) { d.MinPiece = 256 },
			func(d *deals.Decision) { d.MaxPiece = 1 << 34 },
			func(d *deals.Decision) { d.Concurrency = 9 },
			func(d *deals.Decision) { d.HTTP = "" },
			func(d *deals.Decision) { d.PeerID = "" },
			func(d *deals.Decision) { d.Addrs = nil },
		} {
			d := decision(1000)
			if _, err := r.Apply(t.Context(), []deals.Decision{d}, false); err != nil {
				t.Fatal(err)
			}
			change(&d)
			changes, err := r.Apply(t.Context(), []deals.Decision{d}, false)
			if err != nil || len(changes.Changed) != 1 {
				t.Errorf("change %d is none: %+v, %v", i, changes, err)
			}
			if got, err := r.Provider(t.Context(), 1000); err != nil || !cmp.Equal(d, got.Decision(), amounts) {
				t.Errorf("change %d was not kept: %+v, %v", i, got, err)
			}
		}
	})
}

func TestAListIsAppliedWholeOrNotAtAll(t *testing.T) {
	eachRegistry(t, func(t *testing.T, r *deals.Registry, _ *deals.Money, _ *database.DB) {
		for _, list := range [][]deals.Decision{
			{{ID: 1000}, {ID: 1001, Concurrency: -1}},
			{{ID: 1000}, {ID: 1000, Region: "EU"}},
		} {
			if _, err := r.Apply(t.Context(), list, true); err == nil {
				t.Errorf("%+v was applied", list)
			}
		}
		if list, err := r.Providers(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("got %+v, %v", list, err)
		}
	})
}

func TestAChangeOfTheRegistryWakesSlotsThatWait(t *testing.T) {
	eachRegistry(t, func(t *testing.T, r *deals.Registry, _ *deals.Money, db *database.DB) {
		busyWith(t, db, 1000, "failed")
		if err := r.Add(t.Context(), deals.Decision{ID: 1001}); err != nil {
			t.Fatal(err)
		}
		if next := slotNext(t, db); !next.Equal(noon) {
			t.Errorf("the slot is looked at again at %s", next)
		}
	})
}

// slotNext is when the slot of busyWith is looked at again.
func slotNext(t *testing.T, db *database.DB) time.Time {
	t.Helper()
	var next int64
	err := db.Read(t.Context(), func(tx *gorm.DB) error { return tx.Raw(`SELECT next_ms FROM slots WHERE id = 1`).Row().Scan(&next) })
	if err != nil {
		t.Fatal(err)
	}
	return time.UnixMilli(next)
}

// postpone lets it wait for long.
func postpone(t *testing.T, db *database.DB) {
	t.Helper()
	err := db.Write(t.Context(), func(tx *gorm.DB) error { return tx.Exec(`UPDATE slots SET next_ms = 9000000000000`).Error })
	if err != nil {
		t.Fatal(err)
	}
}

func TestOutcomesAreKeptAndDoNotTouchDecisions(t *testing.T) {
	eachRegistry(t, func(t *testing.T, r *deals.Registry, m *deals.Money, _ *database.DB) {
		ctx := t.Context()
		if err := r.Add(ctx, decision(1000)); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := m.Outcome(ctx, 1000, deals.Outcome{Event: deals.Unreached, Why: "no route"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Outcome(ctx, 4711, deals.Outcome{Event: deals.Lost}); err != nil {
			t.Errorf("an outcome of a provider that was removed: %v", err)
		}
		got, err := r.Provider(ctx, 1000)
		if err != nil || got.Streak != 3 || got.LastError != "no route" || !got.OpenUntil.Equal(noon.Add(time.Minute)) || got.Score >= 0.5 {
			t.Errorf("got %+v, %v", got, err)
		}
		if err := r.Set(ctx, 1000, func(d deals.Decision) deals.Decision { d.Concurrency = 9; return d }); err != nil {
			t.Fatal(err)
		}
		after, err := r.Provider(ctx, 1000)
		got.Concurrency = 9
		if diff := cmp.Diff(got, after, amounts); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
	})
}
