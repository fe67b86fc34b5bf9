package pins

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/spec"
)

// A ColdPolicy is what one place says about cold copies, and about the hot one beside them. What is zero says nothing:
// whoever is weaker decides.
type ColdPolicy struct {
	Off   bool        `json:"off,omitempty"` // no cold copies; the terms then say what holds where somebody asks for some
	Terms deals.Terms `json:"terms"`
	Hot   string      `json:"hot,omitempty"` // a Residence in words
}

// A Choice names the policies that a request comes with, empty for none. Each says less than the next: what the account
// is given, what the token is given, what the path of the endpoint names.
type Choice struct{ Account, Token, Path string }

// defaultDays is how long deals last about which nobody says anything.
const defaultDays = 540

// Bounds on what one policy can name.
const (
	maxRegions   = 20
	maxProviders = 100
	maxReplicas  = 100 // the service's own bound is lower; this one keeps numbers small
)

// regionName is what a place is called: DE, EU, US-CA.
var regionName = regexp.MustCompile(`^[A-Z0-9][A-Z0-9_-]{0,31}$`)

// under is p with what a stronger place says laid over it.
func (p ColdPolicy) under(stronger ColdPolicy) ColdPolicy {
	p.Off = stronger.Off
	if n := stronger.Terms.Replicas; n > 0 {
		p.Terms.Replicas = n
	}
	if r := stronger.Terms.Regions; len(r) > 0 {
		p.Terms.Regions = r
	}
	if l := stronger.Terms.Providers; len(l) > 0 {
		p.Terms.Providers = l
	}
	if d := stronger.Terms.Days; d > 0 {
		p.Terms.Days = d
	}
	if stronger.Hot != "" {
		p.Hot = stronger.Hot
	}
	return p
}

// check refuses what no service could do.
func (p ColdPolicy) check() error {
	t := p.Terms
	residence, known := ParseResidence(p.Hot)
	switch {
	case !known:
		return fmt.Errorf("%w: hot is auto, keep or cold-only", ErrBadPolicy)
	case p.Off && residence == ResidenceCold:
		return fmt.Errorf("%w: it is off and wants copies that are cold only", ErrBadPolicy)
	case p.Off && (t.Replicas != 0 || t.Days != 0 || len(t.Regions)+len(t.Providers) > 0):
		return fmt.Errorf("%w: it is off and says how to copy", ErrBadPolicy)
	case t.Replicas < 0 || t.Replicas > maxReplicas:
		return fmt.Errorf("%w: the number of replicas is not from 1 to %d", ErrBadPolicy, maxReplicas)
	case t.Days != 0 && (t.Days < deals.MinDays || t.Days > deals.MaxDays):
		return fmt.Errorf("%w: deals last from %d to %d days", ErrBadPolicy, deals.MinDays, deals.MaxDays)
	case len(t.Regions) > maxRegions || len(t.Providers) > maxProviders:
		return fmt.Errorf("%w: it names more than %d regions or %d providers", ErrBadPolicy, maxRegions, maxProviders)
	}
	for _, r := range t.Regions {
		if !regionName.MatchString(deals.CanonicalRegion(r)) {
			return fmt.Errorf("%w: %q is no name of a region, such as DE or US-CA", ErrBadPolicy, r)
		}
	}
	return nil
}

// Keys of a pin's meta that say which copies it wants, and until when. No other key may begin with metaPrefix, so that a misspelt
// one is not silently without effect.
const (
	metaPrefix    = "frostpin."
	metaReplicas  = "frostpin.replicas"
	metaRegions   = "frostpin.regions"
	metaProviders = "frostpin.providers"
	metaDays      = "frostpin.duration_days"
	metaCold      = "frostpin.cold"
	metaHot       = "frostpin.hot"
	metaExpires   = "frostpin.expires" // about the pin itself; see readExpiry
)

func badMeta(key, problem string) error {
	return &spec.InvalidError{Field: "meta", Problem: key + " " + problem}
}

// readMeta reads what a pin's meta says about its copies. keys are those that ask for something cold, in order.
func readMeta(meta map[string]string) (p ColdPolicy, keys []string, err error) {
	for key := range meta {
		if strings.HasPrefix(key, metaPrefix) && key != metaExpires {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		if err := p.read(key, meta[key]); err != nil {
			return ColdPolicy{}, nil, err
		}
	}
	if p.Hot != "" && p.Hot != string(ResidenceCold) {
		keys = slices.DeleteFunc(keys, func(k string) bool { return k == metaHot })
	}
	if p.Off && len(keys) > 1 {
		return ColdPolicy{}, nil, badMeta(metaCold, "is off, which contradicts "+
			strings.Join(slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return k == metaCold }), ", "))
	}
	return p, keys, nil
}

// read takes one key of meta.
func (p *ColdPolicy) read(key, value string) error {
	switch key {
	case metaReplicas:
		n, ok := number(value, 1, maxReplicas)
		if !ok {
			return badMeta(key, fmt.Sprintf("must be a number from 1 to %d; for none send %s=off", maxReplicas, metaCold))
		}
		p.Terms.Replicas = n
	case metaDays:
		n, ok := number(value, deals.MinDays, deals.MaxDays)
		if !ok {
			return badMeta(key, fmt.Sprintf("must be a number from %d to %d", deals.MinDays, deals.MaxDays))
		}
		p.Terms.Days = n
	case metaRegions:
		for item := range strings.SplitSeq(value, ",") {
			region := deals.CanonicalRegion(item)
			if !regionName.MatchString(region) || len(p.Terms.Regions) == maxRegions {
				return badMeta(key, fmt.Sprintf("must be 1 to %d regions such as DE,US, separated by commas", maxRegions))
			}
			p.Terms.Regions = append(p.Terms.Regions, region)
		}
	case metaProviders:
		for item := range strings.SplitSeq(value, ",") {
			id, err := deals.ParseProvider(item)
			if err != nil || len(p.Terms.Providers) == maxProviders {
				return badMeta(key, fmt.Sprintf("must be 1 to %d providers such as f01000,f01001, separated by commas", maxProviders))
			}
			p.Terms.Providers = append(p.Terms.Providers, id)
		}
	case metaCold:
		if value != "on" && value != "off" {
			return badMeta(key, "must be on or off")
		}
		p.Off = value == "off"
	case metaHot:
		if _, ok := ParseResidence(value); !ok || value == "" {
			return badMeta(key, "must be auto, keep or cold-only")
		}
		p.Hot = value
	default:
		return badMeta(clip(key), "is not known here; keys that begin with "+metaPrefix+" are the service's")
	}
	return nil
}

// clip keeps a key that the caller made up from filling an error.
func clip(key string) string {
	const most = 60
	if len(key) <= most {
		return strconv.Quote(key)
	}
	return strconv.Quote(strings.ToValidUTF8(key[:most], "")) + "..."
}

func number(text string, least, most int) (int, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return int(n), err == nil && int(n) >= least && int(n) <= most //nolint:gosec // 16 bits
}

// coldTerms finds the terms of requests.
type coldTerms struct {
	archive  Archive
	base     ColdPolicy
	policies *Policies

	mu       sync.Mutex
	recorded bool
	terms    deals.TermsID // the service's own, once recorded
}

func newColdTerms(cfg Config, policies *Policies) *coldTerms {
	c := &coldTerms{archive: cfg.Archive, base: cfg.Cold, policies: policies}
	if c.base.Terms.Days == 0 {
		c.base.Terms.Days = defaultDays
	}
	c.base.Off = c.base.Off || c.base.Terms.Replicas == 0
	return c
}

func (c *coldTerms) decide(ctx context.Context, choice Choice, meta map[string]string) (Decision, error) {
	said, keys, err := readMeta(meta)
	if err != nil {
		return Decision{}, err
	}
	if len(keys) == 0 && choice == (Choice{}) {
		residence, _ := ParseResidence(said.Hot)
		terms, err := c.standard(ctx)
		d := Decision{Terms: terms, Residence: residence}
		if terms > 0 {
			d.Copies = c.base.Terms.Replicas
		}
		return d, err
	}
	p := ColdPolicy{}
	if c.archive != nil {
		p = c.base
	}
	named := ""
	for _, name := range []string{choice.Account, choice.Token, choice.Path} {
		if name == "" {
			continue
		}
		policy, err := c.policies.Get(ctx, name)
		switch {
		case errors.Is(err, ErrNoPolicy):
			return Decision{}, &spec.InvalidError{Field: "policy " + name, Problem: "does not exist"}
		case err != nil:
			return Decision{}, err
		}
		p, named = p.under(policy.ColdPolicy), name
	}
	if len(keys) > 0 {
		p = p.under(said)
	} else if said.Hot != "" {
		p.Hot = said.Hot
	}
	residence, _ := ParseResidence(p.Hot)
	switch {
	case p.Off && residence == ResidenceCold:
		return Decision{Terms: Uncopied}, nil // the policy wants it of pins that have cold copies
	case p.Off:
		return Decision{Terms: Uncopied, Residence: residence}, nil
	case c.archive == nil && len(keys) > 0:
		return Decision{}, badMeta(strings.Join(keys, ", "), "asks for cold copies, which this server does not make")
	case c.archive == nil && choice.Path != "":
		return Decision{}, &spec.InvalidError{Field: "policy " + choice.Path, Problem: "asks for cold copies, which this server does not make"}
	case c.archive == nil:
		return Decision{Terms: Undecided, Residence: residence}, nil // the operator gave the account a policy, and may turn the archive on again
	case p.Terms.Replicas == 0 && len(keys) > 0:
		return Decision{}, badMeta(metaReplicas, "must say how many copies there shall be: this server makes none by itself")
	case p.Terms.Replicas == 0:
		return Decision{}, &spec.InvalidError{Field: "policy " + named, Problem: "does not say how many copies there shall be, and this server makes none by itself"}
	}
	terms, err := c.archive.Terms(ctx, p.Terms)
	if unmet := (*deals.UnmetError)(nil); errors.As(err, &unmet) {
		return Decision{}, c.refuse(unmet, said, keys, named)
	}
	return Decision{Terms: terms, Residence: residence, Copies: p.Terms.Replicas}, err
}

// fieldKey is the meta key for the field that an UnmetError names, empty for the whole.
func fieldKey(field string) string {
	switch field {
	case "replicas":
		return metaReplicas
	case "regions":
		return metaRegions
	case "providers":
		return metaProviders
	case "days":
		return metaDays
	}
	return ""
}

// refuse says who asked for what cannot be had: the meta key for the field that is wrong, all meta keys when it is the
// whole, or the policy.
func (c *coldTerms) refuse(unmet *deals.UnmetError, said ColdPolicy, keys []string, named string) error {
	problem := "cannot be had here: " + unmet.Reason
	key := fieldKey(unmet.Field)
	switch {
	case slices.Contains(keys, key):
		return badMeta(key, problem)
	case named != "" && said.Terms.Replicas == 0 && len(said.Terms.Regions)+len(said.Terms.Providers)+said.Terms.Days == 0:
		return &spec.InvalidError{Field: "policy " + named, Problem: problem}
	}
	return badMeta(strings.Join(keys, ", "), problem)
}

// standard returns the terms of requests that say nothing. They are recorded whether they can be met or not: what the
// service asks for by itself is the operator's to mend, and no reason to refuse a pin to somebody who asked for nothing.
func (c *coldTerms) standard(ctx context.Context) (deals.TermsID, error) {
	switch {
	case c.archive == nil:
		return Undecided, nil
	case c.base.Off:
		return Uncopied, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.recorded {
		return c.terms, nil
	}
	terms, err := c.archive.Record(ctx, c.base.Terms)
	if err != nil {
		return Undecided, err
	}
	c.terms, c.recorded = terms, true
	return terms, nil
}
