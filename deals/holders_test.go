package deals_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/deals"
)

func (w *world) holders(root cid.Cid) []deals.Holder {
	w.t.Helper()
	all, err := w.Holders(context.Background(), root)
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

func providersOf(all []deals.Holder) (ids []deals.ProviderID) {
	for _, h := range all {
		ids = append(ids, h.Provider)
	}
	return ids
}

// TestWhoHoldsARootIsWhoHasAnActiveDeal: nobody before, whatever the terms, and not who has lost it.
func TestWhoHoldsARootIsWhoHasAnActiveDeal(t *testing.T) {
	inWorld(t, 3, func(_ *testing.T, w *world) {
		served := honest()
		served.URLs = []string{"https://sp.example", "http://192.0.2.1:80"}
		w.net.Add(1001, served)
		w.start()
		wish := w.wish("held", 2)
		if got := w.holders(wish.Root); len(got) != 0 {
			w.t.Fatalf("before there is a deal %v hold it", providersOf(got))
		}
		w.untilActive(wish, 2)
		other := w.want(deals.Wish{Root: wish.Root, Terms: w.terms(1)})
		w.untilActive(other, 1)
		pass(10 * time.Minute)
		got := w.holders(wish.Root)
		if diff := cmp.Diff([]deals.ProviderID{1000, 1001, 1002}, providersOf(got)); diff != "" {
			w.t.Fatal(diff)
		}
		made := w.standing(wish).Piece
		for _, h := range got {
			if !h.Piece.CIDv1.Equals(made.CIDv1) || h.Piece.CARSize != made.CARSize || h.Offset != 0 {
				w.t.Errorf("%s has piece %+v, want %+v", h.Provider, h.Piece, made)
			}
			if h.Contact.PeerID != "peer of "+h.Provider.String() || h.Trust != deals.Neutral {
				w.t.Errorf("%s: %+v", h.Provider, h)
			}
			if !slices.Equal(h.URLs(), w.net.URLs(h.Provider)) || h.FoundAt.IsZero() {
				w.t.Errorf("%s is thought to serve from %q", h.Provider, h.URLs())
			}
		}
		w.net.Slash(1002)
		w.until("the loss is known", 2*time.Hour, func() bool { return len(w.holders(wish.Root)) == 2 })
		w.mustBeSound()
	})
}

// TestTheOperatorsAddressComesBeforeTheProviders: also while the provider cannot be asked.
func TestTheOperatorsAddressComesBeforeTheProviders(t *testing.T) {
	h := deals.Holder{HTTP: "https://mine.example", Found: []string{"https://sp.example", "https://mine.example"}}
	if diff := cmp.Diff([]string{"https://mine.example", "https://sp.example"}, h.URLs()); diff != "" {
		t.Error(diff)
	}
	inWorld(t, 1, func(_ *testing.T, w *world) {
		registry := deals.NewRegistry(w.db, time.Now)
		decide := func(d deals.Decision) deals.Decision { d.HTTP = "https://mine.example"; return d }
		if err := registry.Set(context.Background(), 1000, decide); err != nil {
			w.t.Fatal(err)
		}
		gone := honest()
		gone.Offline = true
		w.net.Add(1000, gone)
		got, err := w.Locate(context.Background(), 1000)
		if diff := cmp.Diff([]string{"https://mine.example"}, got); diff != "" || err != nil {
			w.t.Error(diff, err)
		}
	})
}

// TestWhereAProviderServesIsAskedOnceForAll: those who want to know share the answer, and a new one replaces it.
func TestWhereAProviderServesIsAskedOnceForAll(t *testing.T) {
	inWorld(t, 1, func(_ *testing.T, w *world) {
		serve := func(urls ...string) {
			p := honest()
			p.URLs, p.Offline = urls, urls == nil
			w.net.Add(1000, p)
		}
		locate := func() ([]string, error) { return w.Locate(context.Background(), 1000) }
		serve("https://old.example")
		for range 3 {
			if got, err := locate(); err != nil || !slices.Equal(got, []string{"https://old.example"}) {
				w.t.Errorf("got %q, %v", got, err)
			}
		}
		if n := w.net.Located(1000); n != 1 {
			w.t.Errorf("it was asked %d times", n)
		}
		serve("https://new.example")
		pass(time.Minute)
		if got, err := locate(); err != nil || !slices.Equal(got, []string{"https://new.example"}) {
			w.t.Errorf("after it has moved: %q, %v", got, err)
		}
		serve()
		pass(time.Minute)
		if got, err := locate(); err == nil {
			w.t.Errorf("out of reach, it serves from %q", got)
		}
		known, err := deals.NewRegistry(w.db, time.Now).Provider(context.Background(), 1000)
		if err != nil || !slices.Equal(known.Found, []string{"https://new.example"}) {
			w.t.Errorf("what it said last is forgotten: %q, %v", known.Found, err)
		}
		if _, err := w.Locate(context.Background(), 77); err == nil {
			w.t.Error("one that is not in the registry is asked")
		}
	})
}

// manyCopies writes n roots with two active copies each, and as many that are over.
func manyCopies(t *testing.T, w *world, n int) {
	t.Helper()
	ctx := context.Background()
	one := w.wish("the first", 2)
	w.untilActive(one, 2)
	w.stop()
	copied := w.attempts(one)
	err := w.db.Write(ctx, func(tx *gorm.DB) error {
		var columns []string
		rows, err := tx.Raw(`SELECT * FROM attempts LIMIT 1`).Rows()
		if err != nil {
			return err
		}
		if columns, err = rows.Columns(); err != nil {
			return err
		}
		if err := rows.Close(); err != nil {
			return err
		}
		from, into := "", ""
		for _, c := range columns {
			if c == "id" {
				continue
			}
			into += ", " + c
			switch c {
			case "uuid", "root":
				from += ", ?"
			case "slot_id":
				from += ", slot_id"
			case "generation":
				from += ", ?"
			case "state":
				from += ", ?"
			default:
				from += ", " + c
			}
		}
		generation := 10
		for i := range n {
			root := w.blocks.add([]byte(fmt.Sprint("copy ", i))).String()
			for _, state := range []deals.State{deals.Active, deals.Expired} {
				for _, a := range copied {
					generation++
					byName := map[string]any{"uuid": uuid.NewString(), "root": root, "generation": generation, "state": state}
					var args []any
					for _, c := range columns {
						if v, ok := byName[c]; ok {
							args = append(args, v)
						}
					}
					err := tx.Exec(`INSERT INTO attempts (`+into[2:]+`) SELECT `+from[2:]+` FROM attempts WHERE id = ?`, append(args, int64(a.ID))...).Error
					if err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestEveryCopyIsListedOnceInPages: all of them, in one order, and by an index: so are the holders of a root found.
func TestEveryCopyIsListedOnceInPages(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		w.start()
		const roots = 100
		manyCopies(t, w, roots)
		var all []deals.CopyRef
		for after := (deals.CopyRef{}); ; {
			page, err := w.Copies(context.Background(), after, 7)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			all = append(all, page...)
			after = page[len(page)-1]
		}
		seen := map[deals.CopyRef]bool{}
		for _, c := range all {
			if seen[c] {
				t.Errorf("%v is listed twice", c)
			}
			seen[c] = true
		}
		if len(all) != 2*(roots+1) {
			t.Errorf("%d copies are listed, want %d", len(all), 2*(roots+1))
		}
		if got := len(w.holders(all[0].Root)); got != 2 {
			t.Errorf("%d hold %s", got, all[0].Root)
		}
		for _, plan := range deals.PlansOfHolders(t, w.db, all[0]) {
			t.Log(plan)
		}
	})
}
