package pins_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// asked is an archive that remembers the terms it was asked for.
type asked struct {
	archive
	terms deals.Terms
}

func (a *asked) Terms(ctx context.Context, t deals.Terms) (deals.TermsID, error) {
	a.terms = t
	return a.archive.Terms(ctx, t)
}

func (a *asked) Record(ctx context.Context, t deals.Terms) (deals.TermsID, error) {
	a.terms = t
	return a.archive.Record(ctx, t)
}

type meta = map[string]string

func TestTermsAreWhatTheStrongestSays(t *testing.T) {
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), pins.Migrations()...); err != nil {
		t.Fatal(err)
	}
	policies := pins.NewPolicies(db, time.Now)
	for name, p := range map[string]pins.ColdPolicy{
		"off":    {Off: true},
		"three":  {Terms: deals.Terms{Replicas: 3}},
		"europe": {Terms: deals.Terms{Regions: []string{"EU"}, Days: 200}},
		"plain":  {},
		"moon":   {Terms: deals.Terms{Regions: []string{"MOON"}}},
	} {
		if err := policies.Set(t.Context(), name, p); err != nil {
			t.Fatal(err)
		}
	}
	a := &asked{}
	base := pins.ColdPolicy{Terms: deals.Terms{Replicas: 2, Days: 540}}
	service := func(archive pins.Archive, base pins.ColdPolicy) *pins.Service {
		cfg := config()
		cfg.Archive, cfg.Cold = archive, base
		return pins.New(cfg, db, pinstest.NewTier(), discard(), time.Now)
	}
	for _, c := range []struct {
		name   string
		choice pins.Choice
		meta   meta
		off    bool
		want   deals.Terms
	}{
		{name: "nothing said", want: deals.Terms{Replicas: 2, Days: 540}},
		{name: "other meta", meta: meta{"app": "x", "frost": "y", "frostpinx": "z"}, want: deals.Terms{Replicas: 2, Days: 540}},
		{name: "account", choice: pins.Choice{Account: "three"}, want: deals.Terms{Replicas: 3, Days: 540}},
		{name: "token over account", choice: pins.Choice{Account: "three", Token: "europe"}, want: deals.Terms{Replicas: 3, Regions: []string{"EU"}, Days: 200}},
		{name: "account off", choice: pins.Choice{Account: "off"}, off: true},
		{name: "token on", choice: pins.Choice{Account: "off", Token: "plain"}, want: deals.Terms{Replicas: 2, Days: 540}},
		{name: "path off", choice: pins.Choice{Account: "three", Path: "off"}, off: true},
		{name: "path", choice: pins.Choice{Account: "off", Path: "three"}, want: deals.Terms{Replicas: 3, Days: 540}},
		{name: "meta off", choice: pins.Choice{Path: "three"}, meta: meta{"frostpin.cold": "off"}, off: true},
		{name: "meta on", choice: pins.Choice{Path: "off"}, meta: meta{"frostpin.cold": "on"}, want: deals.Terms{Replicas: 2, Days: 540}},
		{name: "meta asks", choice: pins.Choice{Path: "off"}, meta: meta{"frostpin.replicas": "1"}, want: deals.Terms{Replicas: 1, Days: 540}},
		{
			name: "all meta", choice: pins.Choice{Path: "europe"},
			meta: meta{"frostpin.replicas": "4", "frostpin.regions": "us, de", "frostpin.providers": "f01001,1000", "frostpin.duration_days": "180", "frostpin.cold": "on"},
			want: deals.Terms{Replicas: 4, Regions: []string{"US", "DE"}, Providers: []deals.ProviderID{1001, 1000}, Days: 180},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			a.terms = deals.Terms{}
			got, err := service(a, base).Decide(t.Context(), c.choice, c.meta)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, a.terms); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if want := deals.TermsID(c.want.Replicas); got.Terms != want {
				t.Errorf("terms %d, want %d", got.Terms, want)
			}
		})
	}

	for _, c := range []struct {
		name    string
		service *pins.Service
		choice  pins.Choice
		meta    meta
		want    string
	}{
		{"unknown key", service(a, base), pins.Choice{}, meta{"frostpin.replica": "2"}, `meta "frostpin.replica" is not known`},
		{"long key", service(a, base), pins.Choice{}, meta{"frostpin." + strings.Repeat("é", 100): ""}, `"... is not known`},
		{"zero", service(a, base), pins.Choice{}, meta{"frostpin.replicas": "0"}, "meta frostpin.replicas must be a number from 1"},
		{"signed", service(a, base), pins.Choice{}, meta{"frostpin.replicas": "+2"}, "meta frostpin.replicas must be"},
		{"words", service(a, base), pins.Choice{}, meta{"frostpin.replicas": "many"}, "meta frostpin.replicas must be"},
		{"days", service(a, base), pins.Choice{}, meta{"frostpin.duration_days": "179"}, "meta frostpin.duration_days must be a number from 180 to 1278"},
		{"no region", service(a, base), pins.Choice{}, meta{"frostpin.regions": ""}, "meta frostpin.regions must be"},
		{"empty region", service(a, base), pins.Choice{}, meta{"frostpin.regions": "DE,"}, "meta frostpin.regions must be"},
		{"many regions", service(a, base), pins.Choice{}, meta{"frostpin.regions": strings.Repeat("A,", 20) + "A"}, "meta frostpin.regions must be"},
		{"no provider", service(a, base), pins.Choice{}, meta{"frostpin.providers": "somebody"}, "meta frostpin.providers must be"},
		{"neither", service(a, base), pins.Choice{}, meta{"frostpin.cold": "yes"}, "meta frostpin.cold must be on or off"},
		{"contradiction", service(a, base), pins.Choice{}, meta{"frostpin.cold": "off", "frostpin.replicas": "2"}, "frostpin.cold is off, which contradicts frostpin.replicas"},
		{"too many", service(a, base), pins.Choice{}, meta{"frostpin.replicas": "6"}, "meta frostpin.replicas cannot be had here: at most 5"},
		{"nowhere", service(a, base), pins.Choice{Account: "moon"}, nil, "policy moon cannot be had here: no provider is in MOON"},
		{"policy and meta", service(a, base), pins.Choice{Path: "moon"}, meta{"frostpin.cold": "on"}, "policy moon cannot be had here"},
		{"no policy", service(a, base), pins.Choice{Token: "gone"}, nil, "policy gone does not exist"},
		{"how many", service(a, pins.ColdPolicy{}), pins.Choice{}, meta{"frostpin.cold": "on"}, "meta frostpin.replicas must say how many"},
		{"how many of a policy", service(a, pins.ColdPolicy{}), pins.Choice{Path: "plain"}, nil, "policy plain does not say how many"},
		{"no archive", service(nil, base), pins.Choice{}, meta{"frostpin.replicas": "1"}, "meta frostpin.replicas asks for cold copies, which this server does not make"},
		{"no archive at a path", service(nil, base), pins.Choice{Path: "three"}, nil, "policy three asks for cold copies"},
		{"no archive, unknown key", service(nil, base), pins.Choice{}, meta{"frostpin.x": ""}, "is not known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := c.service.Decide(t.Context(), c.choice, c.meta)
			if !errors.Is(err, spec.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}

	for _, c := range []struct {
		name    string
		service *pins.Service
		choice  pins.Choice
		meta    meta
		want    deals.TermsID
	}{
		{"no archive", service(nil, base), pins.Choice{}, nil, pins.Undecided},
		{"no archive, opted out", service(nil, base), pins.Choice{}, meta{"frostpin.cold": "off"}, pins.Uncopied},
		{"no archive, path off", service(nil, base), pins.Choice{Path: "off"}, nil, pins.Uncopied},
		{"no archive, account's policy", service(nil, base), pins.Choice{Account: "three"}, nil, pins.Undecided},
		{"nothing by default", service(a, pins.ColdPolicy{}), pins.Choice{}, nil, pins.Uncopied},
		{"off by default", service(a, pins.ColdPolicy{Off: true, Terms: deals.Terms{Replicas: 2}}), pins.Choice{}, nil, pins.Uncopied},
		{"off by default, asked for", service(a, pins.ColdPolicy{Off: true, Terms: deals.Terms{Replicas: 2}}), pins.Choice{}, meta{"frostpin.cold": "on"}, 2},
		{"a default that cannot be met now", service(a, pins.ColdPolicy{Terms: deals.Terms{Replicas: 9}}), pins.Choice{}, nil, 9},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := c.service.Decide(t.Context(), c.choice, c.meta); err != nil || got.Terms != c.want {
				t.Errorf("got %+v, %v, want %d", got, err, c.want)
			}
		})
	}
}

func TestPoliciesAreKeptAsTheyWereSet(t *testing.T) {
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		ctx := t.Context()
		p := pins.NewPolicies(db, func() time.Time { return noon })
		want := pins.ColdPolicy{Terms: deals.Terms{Replicas: 3, Regions: []string{"DE", "US"}, Providers: []deals.ProviderID{1000}, Days: 400}}
		for _, policy := range []pins.ColdPolicy{{Off: true}, want} {
			if err := p.Set(ctx, "a", policy); err != nil {
				t.Fatal(err)
			}
		}
		got, err := p.Get(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(pins.NamedPolicy{Name: "a", ColdPolicy: want, Changed: noon}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if err := p.Set(ctx, "B.2", pins.ColdPolicy{}); err != nil {
			t.Fatal(err)
		}
		list, err := p.List(ctx)
		if err != nil || len(list) != 2 {
			t.Errorf("%v, %v", list, err)
		}
		if err := p.Remove(ctx, "a"); err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{p.Remove(ctx, "a"), func() error { _, err := p.Get(ctx, "a"); return err }()} {
			if !errors.Is(err, pins.ErrNoPolicy) {
				t.Errorf("got %v, want %v", err, pins.ErrNoPolicy)
			}
		}
		for name, bad := range map[string]pins.ColdPolicy{
			"": {}, "-a": {}, "a/b": {}, "a b": {}, strings.Repeat("x", 65): {},
			"contradicts": {Off: true, Terms: deals.Terms{Replicas: 1}},
			"negative":    {Terms: deals.Terms{Replicas: -1}},
			"short":       {Terms: deals.Terms{Days: 10}},
			"region":      {Terms: deals.Terms{Regions: []string{"a,b"}}},
			"regions":     {Terms: deals.Terms{Regions: make([]string, 21)}},
		} {
			if err := p.Set(ctx, name, bad); !errors.Is(err, pins.ErrBadPolicy) {
				t.Errorf("%q: got %v, want %v", name, err, pins.ErrBadPolicy)
			}
		}
	})
}
