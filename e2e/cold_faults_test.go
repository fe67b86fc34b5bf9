package e2e_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// A deal is an attempt as its owner sees it.
type deal struct {
	Provider string `json:"provider"`
	State    string `json:"state"`
	Reason   string `json:"reason"`
	Proposal string `json:"proposal"`
}

func (s *server) deals(id string) []deal {
	s.t.Helper()
	code, body := s.fetchAs("/api/v1/pins/" + id + "/deals?limit=1000")
	var answer struct {
		Deals []deal `json:"deals"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || code != 200 {
		s.t.Fatalf("deals of %s: %d %s (%v)", id, code, body, err)
	}
	return answer.Deals
}

var finalStates = []string{"rejected", "failed", "missed", "expired", "terminated", "cancelled"}

// truthful reports attempts that ended without saying why.
func (s *server) truthful(id string) {
	s.t.Helper()
	for _, a := range s.deals(id) {
		if slices.Contains(finalStates, a.State) && strings.TrimSpace(a.Reason) == "" {
			s.t.Errorf("pin %s: the deal with %s is %s and does not say why", id, a.Provider, a.State)
		}
	}
}

// A misbehaviour is a switch, and whether a deal with such a provider can come to an end that the chain calls active.
type misbehaviour struct {
	fault   fault
	harmful bool // no deal with it ever becomes active
	silent  bool // it is not even proposed to
}

// Every way to misbehave, alone. What is harmful leads to a copy elsewhere; what is not leads to no second deal.
func TestEachFaultAloneEndsWithEveryCopyInPlace(t *testing.T) {
	faults := map[string]misbehaviour{
		"offline":                {fault{"kind": "offline"}, true, true},
		"vanish":                 {fault{"kind": "vanish"}, true, true},
		"wrong_peer_id":          {fault{"kind": "wrong_peer_id"}, true, true},
		"ask_price":              {fault{"kind": "ask_price"}, true, true},
		"ask_minimum":            {fault{"kind": "ask_minimum", "bytes": 1 << 20}, false, false}, // padding meets it
		"ask_unsigned":           {fault{"kind": "ask_unsigned"}, true, true},
		"ask_forged":             {fault{"kind": "ask_forged"}, true, true},
		"ask_other_miner":        {fault{"kind": "ask_other_miner"}, true, true},
		"ask_none":               {fault{"kind": "ask_none"}, true, true},
		"reject":                 {fault{"kind": "reject", "text": "client not allowed by provider"}, true, false},
		"reject_later":           {fault{"kind": "reject", "text": "deal rejected due to backpressure. Please retry in some time.", "first": 1}, false, false},
		"accept_close":           {fault{"kind": "accept_close"}, false, false},
		"accept_reset":           {fault{"kind": "accept_reset"}, false, false},
		"propose_close":          {fault{"kind": "propose_close", "first": 1}, false, false},
		"accept_forget":          {fault{"kind": "accept_forget"}, true, false},
		"pull_cut":               {fault{"kind": "pull_cut", "first": 2}, false, false},
		"pull_stop":              {fault{"kind": "pull_stop"}, true, false},
		"pull_never":             {fault{"kind": "pull_never"}, true, false},
		"pull_slow":              {fault{"kind": "pull_slow", "bytes": 40000}, false, false},
		"pull_wrong_token":       {fault{"kind": "pull_wrong_token", "first": 1}, false, false},
		"pull_wrong_range":       {fault{"kind": "pull_wrong_range", "first": 1}, false, false},
		"pull_beyond_end":        {fault{"kind": "pull_beyond_end"}, false, false},
		"pull_wrong_bytes":       {fault{"kind": "pull_wrong_bytes"}, true, false},
		"pull_drop":              {fault{"kind": "pull_drop"}, true, false},
		"publish_never":          {fault{"kind": "publish_never"}, true, false},
		"publish_altered_piece":  {fault{"kind": "publish_altered_piece"}, true, false},
		"publish_altered_price":  {fault{"kind": "publish_altered_price"}, true, false},
		"publish_altered_client": {fault{"kind": "publish_altered_client"}, true, false},
		"publish_twice":          {fault{"kind": "publish_twice"}, false, false},
		"publish_with_invalid":   {fault{"kind": "publish_with_invalid"}, false, false},
		"seal_never":             {fault{"kind": "seal_never"}, true, false},
		"seal_late":              {fault{"kind": "seal_late", "epochs": 40}, false, false},
		"seal_after_start":       {fault{"kind": "seal_after_start"}, true, false},
		"terminate":              {fault{"kind": "terminate", "epochs": 20}, true, false},
		"status_unknown":         {fault{"kind": "status_unknown"}, false, false},
		"status_processing":      {fault{"kind": "status_processing"}, false, false},
		"status_sealed":          {fault{"kind": "status_sealed"}, false, false},
		"status_wrong_id":        {fault{"kind": "status_wrong_id"}, false, false},
		"status_other_client":    {fault{"kind": "status_other_client"}, false, false},
		"status_hang":            {fault{"kind": "status_hang"}, false, false},
	}
	names := make([]string, 0, len(faults))
	for name := range faults {
		names = append(names, name)
	}
	slices.Sort(names)
	// Providers are Boost and Curio by turns. What shows only in what they tell of a deal is tried with both.
	for _, name := range slices.Clone(names) {
		if strings.HasPrefix(name, "seal_") || strings.HasPrefix(name, "status_") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if !long() {
		names = []string{"accept_close", "offline", "publish_twice", "pull_cut", "status_wrong_id"} // the rest with FROSTPIN_E2E_LONG=1
	}
	const honest = 2
	d := startDevnet(t, "--providers", fmt.Sprint(honest+len(names)))
	for i, name := range names {
		d.misbehave(d.Providers[honest+i].ID, faults[name].fault)
	}
	s := startCold(t, d, "FROSTPIN_REPLICAS=3", "FROSTPIN_DEALS_AT_ONCE=200", "FROSTPIN_DEALS_PER_PROVIDER=200")
	own := s.api()
	author := startIPFS(t)
	var pins []string
	for i := range names {
		// Three copies with three providers: the third has to be with the one that misbehaves.
		p := own.add(pin{
			CID: author.unique(120_000), Origins: author.addresses(),
			Meta: map[string]string{"frostpin.providers": strings.Join([]string{d.Providers[0].ID, d.Providers[1].ID, d.Providers[honest+i].ID}, ",")},
		})
		pins = append(pins, p.ID)
	}
	each := func(i int, name string) func(t *testing.T) {
		return func(t *testing.T) {
			t.Parallel() // they wait for each other's epochs, not for each other
			bad, id, fault := d.Providers[honest+i].ID, pins[i], faults[name]
			if fault.harmful {
				// The others keep their copies, and what is wrong is said; nothing is called active that is not.
				within(t, 2*patience, "what is wrong with pin "+id+" is said", func() (bool, any) {
					got := own.get(id)
					said := fault.silent && strings.Contains(got.Info["status_details"], "provider")
					for _, a := range s.deals(id) {
						if a.Provider == bad && a.State == "active" && name != "terminate" {
							t.Fatalf("a deal with it is active")
						}
						said = said || a.Provider == bad && slices.Contains(finalStates, a.State) && a.Reason != ""
					}
					return said && got.Info["replicas_active"] == "2" && got.Status == "pinned", fmt.Sprint(got.Info, s.deals(id))
				})
				d.misbehave(bad)
			}
			within(t, 2*patience, "pin "+id+" is stored", func() (bool, any) {
				got := own.get(id)
				return got.Info["cold_status"] == "stored" && got.Status == "pinned", fmt.Sprint(got.Info, s.deals(id))
			})
			s.truthful(id)
		}
	}
	t.Run("switch", func(t *testing.T) {
		for i, name := range names {
			t.Run(fmt.Sprint(name, " ", i), each(i, name))
		}
	})
	d.perPiece()
}

// Everything goes wrong at random, and in the end every pin has its copies: none with one provider twice, no deal
// doubled, nothing spent beyond the caps.
func TestFaultsMixedAtRandomEndWithEveryCopyInPlace(t *testing.T) {
	t.Parallel() // it waits for epochs most of the time
	count := 30
	if long() {
		count = 200
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	kinds := []fault{
		{"kind": "reject", "text": "deal rejected due to backpressure. Please retry in some time."},
		{"kind": "accept_close"},
		{"kind": "accept_reset"},
		{"kind": "propose_close"},
		{"kind": "accept_forget"},
		{"kind": "pull_cut"},
		{"kind": "pull_wrong_bytes"},
		{"kind": "pull_drop"},
		{"kind": "pull_stop"},
		{"kind": "pull_beyond_end"},
		{"kind": "publish_never"},
		{"kind": "publish_twice"},
		{"kind": "publish_with_invalid"},
		{"kind": "publish_altered_price"},
		{"kind": "seal_never"},
		{"kind": "seal_late", "epochs": 30},
		{"kind": "seal_after_start"},
		{"kind": "terminate", "epochs": 10},
		{"kind": "status_unknown"},
		{"kind": "status_wrong_id"},
		{"kind": "status_other_client"},
		{"kind": "status_processing"},
		{"kind": "status_error"},
		{"kind": "status_sealed"},
	}
	d := startDevnet(t, "--providers", "8")
	for _, p := range d.Providers {
		var some []fault
		for range 4 {
			f := fault{"probability": 0.1 + 0.3*rng.Float64()}
			maps.Copy(f, kinds[rng.IntN(len(kinds))])
			some = append(some, f)
		}
		d.misbehave(p.ID, some...)
	}
	s := startCold(t, d, "FROSTPIN_REPLICAS=2", "FROSTPIN_DEALS_AT_ONCE=64", "FROSTPIN_DEALS_PER_PROVIDER=16")
	own := s.api()
	author := startIPFS(t)
	var ids []string
	for range count {
		ids = append(ids, own.add(pin{CID: author.unique(20_000), Origins: author.addresses()}).ID)
	}
	<-time.After(20 * time.Second)
	for _, p := range d.Providers {
		d.misbehave(p.ID) // from now on everybody is honest; what was done stays done
	}
	for _, id := range ids {
		within(t, 4*patience, "pin "+id+" is stored", func() (bool, any) {
			got := own.get(id)
			return got.Info["cold_status"] == "stored" && got.Status == "pinned", fmt.Sprint(got.Info, s.deals(id))
		})
		s.truthful(id)
	}
	onChain := d.perPiece()
	for _, id := range ids {
		info := own.get(id).Info
		if n := len(onChain[info["piece_cid"]]); n < 2 {
			t.Errorf("pin %s: the chain has %d active deals of %s", id, n, info["piece_cid"])
		}
	}
	d.withinCaps(100)
}

// withinCaps checks that what the chain holds of our money is not more than a day's cap, in FIL.
func (d *devnet) withinCaps(fil int64) {
	d.t.Helper()
	total := new(bigInt)
	for _, deal := range d.deals() {
		total.add(deal.Proposal.StoragePricePerEpoch, deal.Proposal.EndEpoch-deal.Proposal.StartEpoch)
	}
	if total.moreThanFIL(fil) {
		d.t.Errorf("the deals cost %s attoFIL, more than the cap of %d FIL", total, fil)
	}
	d.t.Logf("the deals cost %s attoFIL", total)
}
