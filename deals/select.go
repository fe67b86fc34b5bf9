package deals

import (
	"cmp"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
)

// A Question asks for a provider for one copy.
type Question struct {
	Size   abi.PaddedPieceSize // of the piece as it is, before a provider's least size
	Region string              // where the copy has to lie; empty: anywhere
	Terms  Terms

	Taken   map[ProviderID]bool      // hold a copy, or are about to
	MayYet  map[ProviderID]bool      // gave up or refused a deal that they may still publish
	Cooling map[ProviderID]time.Time // failed with this piece: not before then
	Busy    map[ProviderID]int       // attempts in flight
	Prefer  ProviderID               // whom to take before all others when it fits, or 0

	Caps        Caps
	Verified    bool                // with datacap: the lower price counts
	PerProvider int                 // attempts in flight with one provider about whom the operator says nothing; 0: 2
	MaxPiece    abi.PaddedPieceSize // largest piece the service makes; 0: no bound of its own

	Now  time.Time
	Rand *rand.Rand // decides between equals, and when to try the unknown; nil: never, and the lowest number wins
}

// A Choice is a provider that fits.
type Choice struct {
	Provider Provider
	Price    abi.TokenAmount     // attoFIL per GiB and epoch
	Size     abi.PaddedPieceSize // what the piece has to be padded to
}

// A NoneError says why no provider fits now, in words for the user, and when to ask again.
type NoneError struct {
	Reason string
	Retry  time.Time
}

func (e *NoneError) Error() string { return e.Reason }

const (
	// askEvery is how often providers are asked for their conditions.
	askEvery = 15 * time.Minute
	// askAge is how old an answer may be to be relied on: four askings were missed.
	askAge = time.Hour

	defaultPerProvider = 2
	// known is the number of outcomes from which on a score says something, and explore the number of choices of which
	// one goes to a provider without: nobody earns a score otherwise.
	known   = 3
	explore = 8
)

// Choose picks the provider for a copy: the preferred one if it fits, else the one that has served best, and among
// equals the cheapest. The error is a *NoneError.
func Choose(providers []Provider, q Question) (Choice, error) {
	var fitting []Choice
	var in obstacles
	trust := trusted(providers)
	for _, p := range providers {
		choice, o := fit(p, trust, q)
		if o.what != noHindrance {
			in = append(in, o)
			continue
		}
		if p.ID == q.Prefer {
			return choice, nil
		}
		fitting = append(fitting, choice)
	}
	if len(fitting) == 0 {
		return Choice{}, &NoneError{Reason: in.String(), Retry: in.retry(q.Now)}
	}
	return best(fitting, q), nil
}

// Fits tells whether one provider of the registry fits, for one that was chosen before and has been asked anew. The
// error is a *NoneError.
func Fits(p Provider, providers []Provider, q Question) (Choice, error) {
	choice, o := fit(p, trusted(providers), q)
	if o.what != noHindrance {
		in := obstacles{o}
		return Choice{}, &NoneError{Reason: in.String(), Retry: in.retry(q.Now)}
	}
	return choice, nil
}

// trusted tells whom the operator wants used. The allow list is absolute as soon as it names anyone.
func trusted(providers []Provider) func(Provider) bool {
	list := slices.ContainsFunc(providers, func(p Provider) bool { return p.Trust == Allowed })
	return func(p Provider) bool {
		switch p.Trust {
		case Allowed:
			return true
		case Neutral:
			return !list
		case Denied:
			return false
		}
		return false
	}
}

// fit judges one provider: what is for ever first, what passes by itself last.
func fit(p Provider, trust func(Provider) bool, q Question) (Choice, obstacle) {
	refuse := func(what hindrance, retry time.Time) (Choice, obstacle) {
		return Choice{}, obstacle{what: what, region: q.Region, retry: retry}
	}
	switch later := q.Now.Add(askEvery); {
	case p.Trust == Denied:
		return refuse(isDenied, later)
	case !trust(p):
		return refuse(isUnlisted, later)
	case len(q.Terms.Providers) > 0 && !slices.Contains(q.Terms.Providers, p.ID):
		return refuse(isUnnamed, later)
	case q.Region != "" && CanonicalRegion(p.Region) != CanonicalRegion(q.Region):
		return refuse(isElsewhere, later)
	case q.Taken[p.ID]:
		return refuse(holdsCopy, later)
	case q.MayYet[p.ID]:
		return refuse(hasRefused, later)
	case p.Ask == nil && p.ProbeError == "":
		return refuse(isUnasked, q.Now.Add(time.Minute))
	case p.ProbeError != "":
		return refuse(isSilent, later)
	case q.Now.Sub(p.ProbedAt) > askAge:
		return refuse(isStale, q.Now.Add(time.Minute))
	case q.Now.Before(p.OpenUntil):
		return refuse(isFailing, p.OpenUntil)
	case q.Now.Before(q.Cooling[p.ID]):
		return refuse(isCooling, q.Cooling[p.ID])
	}
	choice := Choice{Provider: p, Price: p.Ask.PriceOf(q.Verified), Size: padded(p, q.Size)}
	cost := DealCost(choice.Price, choice.Size, Epoch(q.Terms.Days)*EpochsPerDay)
	switch later := q.Now.Add(askEvery); {
	case choice.Size > largest(p, q.MaxPiece):
		return refuse(isUnfit, later)
	case choice.Price.GreaterThan(q.Caps.priceCap(p)):
		return refuse(isDear, later)
	case q.Caps.checkDeal(cost) != nil:
		return refuse(isDearDeal, later)
	case q.Busy[p.ID] >= cmp.Or(p.Concurrency, q.PerProvider, defaultPerProvider):
		return refuse(isBusy, q.Now.Add(time.Minute))
	}
	return choice, obstacle{}
}

// padded is the size that a piece must have for p: at least what p takes, a power of two.
func padded(p Provider, natural abi.PaddedPieceSize) abi.PaddedPieceSize {
	size := max(natural, p.MinPiece, 128)
	if p.Ask != nil {
		size = max(size, p.Ask.MinPiece)
	}
	if size > 1<<62 {
		return size // larger than any sector: refused for that
	}
	return 1 << bits.Len64(uint64(size)-1)
}

// largest is the largest piece for p: no bound counts where nobody has set one.
func largest(p Provider, own abi.PaddedPieceSize) abi.PaddedPieceSize {
	limit := abi.PaddedPieceSize(1 << 63)
	bounds := []abi.PaddedPieceSize{own, p.MaxPiece, abi.PaddedPieceSize(p.SectorSize)}
	if p.Ask != nil {
		bounds = append(bounds, p.Ask.MaxPiece)
	}
	for _, bound := range bounds {
		if bound > 0 {
			limit = min(limit, bound)
		}
	}
	return limit
}

// best picks among providers that fit.
func best(fitting []Choice, q Question) Choice {
	if q.Rand != nil {
		q.Rand.Shuffle(len(fitting), func(i, j int) { fitting[i], fitting[j] = fitting[j], fitting[i] })
		i := slices.IndexFunc(fitting, func(c Choice) bool { return c.Provider.Successes+c.Provider.Failures < known })
		if i >= 0 && q.Rand.IntN(explore) == 0 {
			return fitting[i]
		}
	} else {
		slices.SortFunc(fitting, func(a, b Choice) int { return cmp.Compare(a.Provider.ID, b.Provider.ID) })
	}
	return slices.MinFunc(fitting, func(a, b Choice) int {
		// Scores that differ by less than a tenth are the same for us: the price decides, then the load.
		return cmp.Or(
			cmp.Compare(tenths(b.Provider.Score), tenths(a.Provider.Score)),
			EpochPrice(a.Price, a.Size).Int.Cmp(EpochPrice(b.Price, b.Size).Int),
			cmp.Compare(q.Busy[a.Provider.ID], q.Busy[b.Provider.ID]),
		)
	})
}

func tenths(score float64) int { return int(score * 10) }

// A hindrance is why a provider does not fit. Their order is that of the explanation.
type hindrance int

const (
	noHindrance hindrance = iota
	isDenied
	isUnlisted
	isUnnamed
	isElsewhere
	holdsCopy
	hasRefused
	isUnfit
	isDear
	isDearDeal
	isUnasked
	isSilent
	isStale
	isFailing
	isCooling
	isBusy
	hindrances // their number
)

// words explains it of providers, whatever their number.
func (h hindrance) words(region string) string {
	switch h {
	case isDenied:
		return "denied by the operator"
	case isUnlisted:
		return "not on the operator's allow list"
	case isUnnamed:
		return "not among those asked for"
	case isElsewhere:
		return "outside the region " + region
	case holdsCopy:
		return "already with a copy"
	case hasRefused:
		return "not asked again until the deal that they refused or gave up can no longer begin"
	case isUnfit:
		return "not for pieces of this size"
	case isDear:
		return "above the price cap"
	case isDearDeal:
		return "above the cap for a deal"
	case isUnasked:
		return "not asked for their price yet"
	case isSilent:
		return "not answering"
	case isStale:
		return "without a recent answer"
	case isFailing:
		return "left alone after failures in a row"
	case isCooling:
		return "failed with this piece lately"
	case isBusy:
		return "busy"
	case noHindrance, hindrances:
	}
	return ""
}

// An obstacle is why one provider does not fit.
type obstacle struct {
	what   hindrance
	region string
	retry  time.Time
}

type obstacles []obstacle

// String counts by reason: "5 providers: 2 above the price cap, 3 already with a copy".
func (all obstacles) String() string {
	if len(all) == 0 {
		return "no storage provider is known"
	}
	noun := "providers"
	if len(all) == 1 {
		noun = "provider"
	}
	var counts [hindrances]int
	for _, o := range all {
		counts[o.what]++
	}
	var parts []string
	for what, n := range counts {
		switch {
		case n == 0:
		case n == len(all):
			return fmt.Sprintf("%d %s: %s", n, noun, join(n, hindrance(what).words(all[0].region)))
		default:
			parts = append(parts, fmt.Sprintf("%d %s", n, hindrance(what).words(all[0].region)))
		}
	}
	return fmt.Sprintf("%d %s: %s", len(all), noun, strings.Join(parts, ", "))
}

// join says that all n share one reason.
func join(n int, words string) string {
	if n == 1 {
		return words
	}
	return "all " + words
}

// retry is the earliest time at which one of them may fit.
func (all obstacles) retry(now time.Time) time.Time {
	earliest := now.Add(askEvery)
	for _, o := range all {
		if o.retry.Before(earliest) {
			earliest = o.retry
		}
	}
	return earliest
}
