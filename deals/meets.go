package deals

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Bounds are the service's own limits on what may be asked of it.
type Bounds struct {
	MaxReplicas int
	StartDelay  Epoch // from the proposal to the start of a deal
}

// MaxDays is the longest that a deal may last: the market counts the delay before its start, too.
func (b Bounds) MaxDays() int {
	return MaxDays - int((b.StartDelay+EpochsPerDay-1)/EpochsPerDay)
}

// Meets tells whether terms can be met with these providers, each copy with another one in its region. What changes by
// itself, such as a price or an answer, is no matter here: a slot waits for it. The error is an *UnmetError.
func Meets(t Terms, providers []Provider, b Bounds) error {
	switch {
	case t.Replicas < 1:
		return &UnmetError{"replicas", "at least one copy has to be asked for"}
	case t.Replicas > b.MaxReplicas:
		return &UnmetError{"replicas", fmt.Sprintf("%d copies were asked for, at most %d are kept here", t.Replicas, b.MaxReplicas)}
	case t.Days < MinDays || t.Days > b.MaxDays():
		return &UnmetError{"days", fmt.Sprintf("a deal lasts from %d to %d days, not %d", MinDays, b.MaxDays(), t.Days)}
	}
	if err := checkNamed(t.Providers, providers); err != nil {
		return err
	}
	trust := trusted(providers)
	usable := slices.DeleteFunc(slices.Clone(providers), func(p Provider) bool { return !trust(p) })
	candidates := usable
	if len(t.Providers) > 0 {
		candidates = slices.DeleteFunc(slices.Clone(usable), func(p Provider) bool { return !slices.Contains(t.Providers, p.ID) })
	}
	lonely := unmatched(t, candidates)
	if lonely < 0 {
		return nil
	}
	switch {
	case len(candidates) >= t.Replicas:
		return &UnmetError{"regions", fmt.Sprintf("%s, and no provider is used twice", scarce(t, lonely, candidates))}
	case len(usable) >= t.Replicas:
		return &UnmetError{"providers", fmt.Sprintf("%d copies need as many different providers, %d were named", t.Replicas, len(candidates))}
	}
	return &UnmetError{"replicas", fmt.Sprintf("%d copies need as many different providers, %d can be used here", t.Replicas, len(usable))}
}

// checkNamed refuses providers that are named and can never be used.
func checkNamed(named []ProviderID, providers []Provider) error {
	trust := trusted(providers)
	for _, id := range named {
		i := slices.IndexFunc(providers, func(p Provider) bool { return p.ID == id })
		switch {
		case i < 0:
			return &UnmetError{"providers", fmt.Sprintf("the provider %s is not known here", id)}
		case !trust(providers[i]):
			return &UnmetError{"providers", fmt.Sprintf("the provider %s is not used here", id)}
		}
	}
	return nil
}

// unmatched gives each copy a provider of its own, moving earlier copies where that makes room, and returns the index
// of a copy for which there is none, or -1.
func unmatched(t Terms, candidates []Provider) int {
	holder := make([]int, len(candidates)) // copy of each candidate, or -1
	for i := range holder {
		holder[i] = -1
	}
	var place func(index int, seen []bool) bool
	place = func(index int, seen []bool) bool {
		for i, p := range candidates {
			if seen[i] || !lies(p, t.Region(index)) {
				continue
			}
			seen[i] = true
			if holder[i] < 0 || place(holder[i], seen) {
				holder[i] = index
				return true
			}
		}
		return false
	}
	for index := range t.Replicas {
		if !place(index, make([]bool, len(candidates))) {
			return index
		}
	}
	return -1
}

// lies tells whether a provider is in a region.
func lies(p Provider, region string) bool {
	return region == "" || CanonicalRegion(p.Region) == CanonicalRegion(region)
}

// scarce says what is missing for a copy that has found no provider.
func scarce(t Terms, lonely int, candidates []Provider) string {
	region := CanonicalRegion(t.Region(lonely))
	copies := 0
	for index := range t.Replicas {
		if CanonicalRegion(t.Region(index)) == region {
			copies++
		}
	}
	here := 0
	regions := map[string]bool{}
	for _, p := range candidates {
		if lies(p, region) {
			here++
		}
		if p.Region != "" {
			regions[CanonicalRegion(p.Region)] = true
		}
	}
	if here == 0 {
		return fmt.Sprintf("no provider is in the region %s (there are some in %s)", region,
			strings.Join(slices.Sorted(maps.Keys(regions)), ", "))
	}
	return fmt.Sprintf("copies in %s: %d, providers there: %d", region, copies, here)
}
