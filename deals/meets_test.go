package deals_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/deals"
)

var bounds = deals.Bounds{MaxReplicas: 5, StartDelay: 3 * deals.EpochsPerDay}

func providerIn(id deals.ProviderID, region string, trust ...deals.Trust) deals.Provider {
	p := deals.Provider{ID: id, Region: region, Trust: deals.Neutral}
	if len(trust) > 0 {
		p.Trust = trust[0]
	}
	return p
}

func TestTermsAreRefusedWithTheFieldAndTheReason(t *testing.T) {
	three := []deals.Provider{providerIn(1, "EU"), providerIn(2, "EU"), providerIn(3, "US")}
	for _, c := range []struct {
		name      string
		terms     deals.Terms
		providers []deals.Provider
		field     string
		reason    string
	}{
		{"none asked", deals.Terms{Days: 180}, three, "replicas", "at least one"},
		{"more than are kept", deals.Terms{Replicas: 6, Days: 180}, three, "replicas", "6 copies were asked for, at most 5"},
		{"more than there are", deals.Terms{Replicas: 4, Days: 180}, three, "replicas", "4 copies need as many different providers, 3 can be used here"},
		{"too short", deals.Terms{Replicas: 1, Days: 179}, three, "days", "from 180 to 1275 days, not 179"},
		{"too long with the delay", deals.Terms{Replicas: 1, Days: 1276}, three, "days", "from 180 to 1275 days, not 1276"},
		{"unknown provider", deals.Terms{Replicas: 1, Days: 180, Providers: []deals.ProviderID{9}}, three, "providers", "f09 is not known"},
		{"denied provider", deals.Terms{Replicas: 1, Days: 180, Providers: []deals.ProviderID{1, 4}}, append(three, providerIn(4, "", deals.Denied)), "providers", "f04 is not used"},
		{"unlisted provider", deals.Terms{Replicas: 1, Days: 180, Providers: []deals.ProviderID{1}}, append(three, providerIn(4, "", deals.Allowed)), "providers", "f01 is not used"},
		{"allow list too short", deals.Terms{Replicas: 2, Days: 180}, append(three, providerIn(4, "", deals.Allowed)), "replicas", "1 can be used"},
		{"too few named", deals.Terms{Replicas: 2, Days: 180, Providers: []deals.ProviderID{1}}, three, "providers", "1 were named"},
		{"nobody in the region", deals.Terms{Replicas: 1, Days: 180, Regions: []string{"AS"}}, three, "regions", "no provider is in the region AS (there are some in EU, US)"},
		{"too few in the region", deals.Terms{Replicas: 3, Days: 180, Regions: []string{"US", "EU"}}, three, "regions", "copies in US: 2, providers there: 1"},
		{"no providers", deals.Terms{Replicas: 1, Days: 180}, nil, "replicas", "0 can be used"},
	} {
		err := deals.Meets(c.terms, c.providers, bounds)
		unmet := new(deals.UnmetError)
		if !errors.As(err, &unmet) || !errors.Is(err, deals.ErrTerms) || unmet.Field != c.field || !strings.Contains(unmet.Reason, c.reason) {
			t.Errorf("%s: got %#v, want %s: %q", c.name, err, c.field, c.reason)
		}
	}
}

func TestTermsThatCanBeMetAre(t *testing.T) {
	for _, c := range []struct {
		terms     deals.Terms
		providers []deals.Provider
	}{
		{deals.Terms{Replicas: 3, Days: 1275}, []deals.Provider{providerIn(1, ""), providerIn(2, "EU"), providerIn(3, "US")}},
		{deals.Terms{Replicas: 2, Days: 180, Regions: []string{"eu", "us"}}, []deals.Provider{providerIn(1, "US"), providerIn(2, "EU")}},
		{deals.Terms{Replicas: 2, Days: 180, Regions: []string{"", "EU"}}, []deals.Provider{providerIn(1, "EU"), providerIn(2, "US")}}, // the first copy must leave f01 to the second
		{deals.Terms{Replicas: 2, Days: 180, Regions: []string{"EU"}, Providers: []deals.ProviderID{1, 2}}, []deals.Provider{providerIn(1, "EU"), providerIn(2, "EU"), providerIn(3, "EU")}},
		{deals.Terms{Replicas: 1, Days: 180}, []deals.Provider{providerIn(1, "", deals.Denied), providerIn(2, "", deals.Allowed)}},
	} {
		if err := deals.Meets(c.terms, c.providers, bounds); err != nil {
			t.Errorf("%+v with %+v: %v", c.terms, c.providers, err)
		}
	}
}

// Terms are met exactly when some assignment of different providers to copies fits: all of them are tried here.
func TestMeetsAgreesWithTryingEveryAssignment(t *testing.T) {
	regions := rapid.SampledFrom([]string{"", "EU", "US", "AS"})
	trusts := rapid.SampledFrom([]deals.Trust{deals.Neutral, deals.Neutral, deals.Neutral, deals.Denied, deals.Allowed})
	rapid.Check(t, func(t *rapid.T) {
		var providers []deals.Provider
		allowed := false
		for i := range rapid.IntRange(0, 6).Draw(t, "providers") {
			p := providerIn(deals.ProviderID(i+1), regions.Draw(t, "region"), trusts.Draw(t, "trust"))
			allowed = allowed || p.Trust == deals.Allowed
			providers = append(providers, p)
		}
		terms := deals.Terms{
			Replicas: rapid.IntRange(1, 5).Draw(t, "replicas"), Days: 180,
			Regions: rapid.SliceOfN(regions, 0, 3).Draw(t, "regions"),
		}
		var possible func(index int, used map[deals.ProviderID]bool) bool
		possible = func(index int, used map[deals.ProviderID]bool) bool {
			if index == terms.Replicas {
				return true
			}
			for _, p := range providers {
				region := terms.Region(index)
				if used[p.ID] || p.Trust == deals.Denied || allowed && p.Trust != deals.Allowed || region != "" && p.Region != region {
					continue
				}
				used[p.ID] = true
				if possible(index+1, used) {
					return true
				}
				delete(used, p.ID)
			}
			return false
		}
		err := deals.Meets(terms, providers, bounds)
		if want := possible(0, map[deals.ProviderID]bool{}); (err == nil) != want {
			t.Fatalf("got %v, possible is %v", err, want)
		}
	})
}
