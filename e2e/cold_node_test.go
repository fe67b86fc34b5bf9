package e2e_test

import (
	"fmt"
	"maps"
	"testing"
	"time"
)

// Whatever the Lotus node says or does not say: nothing is concluded that is not true. Active deals stay active, none
// is replaced, none is made twice; and when the node is itself again, new pins are stored.
func TestTroubleOfTheNodeLeadsToNoWrongConclusion(t *testing.T) {
	t.Parallel() // it waits for epochs most of the time
	d := startDevnet(t, "--providers", "3")
	author := startIPFS(t)
	s := startCold(t, d, "FROSTPIN_REPLICAS=2", "FROSTPIN_DEAL_START_DELAY=72h")
	own := s.api()
	ids := map[string]string{}
	add := func() string {
		root := author.unique(20_000)
		ids[root] = own.add(pin{CID: root, Origins: author.addresses()}).ID
		return ids[root]
	}
	for range 3 {
		own.stored(add(), patience)
	}
	troubles := map[string]fault{
		"down":           {"down": true},
		"lagging":        {"lag": 100},
		"lies not found": {"notFoundEvery": 1},
	}
	if long() {
		maps.Copy(troubles, map[string]fault{
			"errors": {"errorEvery": 2},
			"null":   {"nullEvery": 2},
			"hangs":  {"hangEvery": 3},
			"cuts":   {"dropEvery": 10},
		})
	}
	for name, trouble := range troubles {
		d.node(trouble)
		id := add() // made while the node is in trouble: pinned at once all the same
		own.ends(id, "pinned")
		<-time.After(4 * time.Second)
		for root, other := range ids {
			got := own.get(other)
			if got.Status != "pinned" {
				t.Errorf("%s: the pin of %s is %s", name, root, got.Status)
			}
			for _, a := range s.deals(other) {
				if a.State == "terminated" || a.State == "missed" || a.State == "expired" {
					t.Errorf("%s: the deal with %s is called %s (%s)", name, a.Provider, a.State, a.Reason)
				}
			}
		}
		d.node(fault{})
		within(t, 2*patience, name+" is over, and the pin stored", func() (bool, any) {
			got := own.get(id)
			return got.Info["cold_status"] == "stored", fmt.Sprint(got.Info, s.deals(id))
		})
	}
	everyCopyOnce(t, s, d, ids, 2)
}

// A node of another chain under the same address is not believed.
func TestNodeThatWasSwitchedIsNotBelieved(t *testing.T) {
	t.Parallel() // it waits for epochs most of the time
	d := startDevnet(t, "--providers", "2")
	author := startIPFS(t)
	s := startCold(t, d, "FROSTPIN_REPLICAS=2")
	own := s.api()
	p := own.add(pin{CID: author.unique(5_000), Origins: author.addresses()})
	own.stored(p.ID, patience)
	d.proc.kill()
	other := &devnet{t: t, dir: t.TempDir(), args: d.args}
	other.start(rpcAddress(d), "127.0.0.1:0") // same address, same name, another chain: none of our deals is there
	<-time.After(8 * time.Second)
	for _, a := range s.deals(p.ID) {
		if a.State != "active" {
			t.Errorf("after the switch the deal with %s is %s (%s)", a.Provider, a.State, a.Reason)
		}
	}
	if code, body := s.fetch("/readyz"); code == 0 {
		t.Errorf("the server is gone: %s", body)
	}
	if n := len(other.deals()); n != 0 {
		t.Errorf("%d deals were made on the other chain", n)
	}
}

// A copy that the chain drops is replaced with another provider, and the pin stays pinned meanwhile.
func TestTerminatedDealIsReplacedElsewhere(t *testing.T) {
	t.Parallel() // it waits for epochs most of the time
	d := startDevnet(t, "--providers", "3")
	author := startIPFS(t)
	s := startCold(t, d, "FROSTPIN_REPLICAS=2")
	own := s.api()
	p := own.add(pin{CID: author.unique(5_000), Origins: author.addresses()})
	own.stored(p.ID, patience)
	victim := s.deals(p.ID)[0].Provider
	d.misbehave(victim, fault{"kind": "terminate"})
	within(t, 2*patience, "the copy is replaced", func() (bool, any) {
		got := own.get(p.ID)
		if got.Status != "pinned" {
			t.Fatalf("losing a copy made the pin %s", got.Status)
		}
		active := 0
		lost := false
		for _, a := range s.deals(p.ID) {
			if a.State == "active" && a.Provider != victim {
				active++
			}
			lost = lost || a.State == "terminated" && a.Provider == victim
		}
		return active == 2 && lost, fmt.Sprint(got.Info, s.deals(p.ID))
	})
}

// The deals of a pin that nobody wants any more are not renewed, and what was not sent is not sent.
func TestDeletedPinMakesNoMoreDeals(t *testing.T) {
	t.Parallel() // it waits for what must not come
	d := startDevnet(t, "--providers", "2")
	author := startIPFS(t)
	s := startCold(t, d, "FROSTPIN_REPLICAS=1")
	own := s.api()
	for _, p := range d.Providers {
		d.misbehave(p.ID, fault{"kind": "reject", "text": "deal rejected due to backpressure. Please retry in some time."})
	}
	root := author.unique(5_000)
	p := own.add(pin{CID: root, Origins: author.addresses()})
	within(t, patience, "somebody has refused", func() (bool, any) { // so that nothing is on its way
		all := s.deals(p.ID)
		return len(all) == 1 && all[0].State == "rejected", all
	})
	own.want(202, "DELETE", "/pins/"+p.ID, nil, nil, nil)
	for _, provider := range d.Providers {
		d.misbehave(provider.ID)
	}
	s.cli("deals", "retry", root) // they would be asked again at once
	<-time.After(6 * time.Second)
	if all := d.deals(); len(all) != 0 {
		t.Errorf("deals were made for a deleted pin: %s", describe(all))
	}
}

func rpcAddress(d *devnet) string {
	return d.LotusURL[len("ws://") : len(d.LotusURL)-len("/rpc/v1")]
}
