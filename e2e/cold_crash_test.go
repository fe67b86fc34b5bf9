package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"
)

// The server is killed at random moments while it makes deals. In the end every copy that was promised is there, once:
// the chain has exactly as many deals as were asked for.
func TestServerKilledWhileDealsAreMadeMakesEachDealOnce(t *testing.T) { //nolint:tparallel // one database after the other
	t.Parallel() // it waits for restarts most of the time
	eachDatabase(t, func(t *testing.T, settings ...string) {
		cycles := count(t, "FROSTPIN_DEAL_KILL_CYCLES", 8)
		d := startDevnet(t, "--providers", "4")
		author := startIPFS(t)
		settings = append(settings, "FROSTPIN_REPLICAS=2", "FROSTPIN_DEALS_PER_PROVIDER=32",
			"FROSTPIN_DEAL_START_DELAY=72h") // so that nothing is missed, and every deal that is missing or too many is our fault
		s := startCold(t, d, settings...)
		own := s.api()
		seed := rand.Uint64()
		t.Logf("seed %d, %d cycles", seed, cycles)
		rng := rand.New(rand.NewPCG(seed, 1))
		ids := map[string]string{} // pins by CID
		for cycle := range cycles {
			var group sync.WaitGroup
			roots := []string{author.unique(5_000), author.unique(60_000)}
			stop := time.Duration(100+rng.IntN(1500)) * time.Millisecond
			ctx, cancel := context.WithTimeout(t.Context(), stop+patience)
			group.Go(func() {
				for _, root := range roots {
					var got pinStatus
					code, err := own.call(ctx, "POST", "/pins", nil, pin{CID: root, Origins: author.addresses()}, &got)
					if err == nil && code == 202 {
						ids[root] = got.ID
					}
				}
			})
			<-time.After(stop)
			s.proc.kill()
			group.Wait()
			cancel()
			s.start()
			// What was not acknowledged may be there or not; asked for again, it is there once.
			for _, root := range roots {
				if ids[root] == "" {
					listed := own.list(map[string][]string{"cid": {root}, "status": {allStatuses}})
					if len(listed.Results) == 0 {
						ids[root] = own.add(pin{CID: root, Origins: author.addresses()}).ID
					} else {
						ids[root] = listed.Results[0].ID
					}
				}
			}
			if t.Failed() {
				t.Fatalf("in cycle %d of %d", cycle+1, cycles)
			}
		}
		everyCopyOnce(t, s, d, ids, 2)
		t.Logf("%d pins, %d deals", len(ids), len(d.deals()))
	})
}

// everyCopyOnce waits until all pins are stored, and compares the chain with what was asked for.
func everyCopyOnce(t *testing.T, s *server, d *devnet, ids map[string]string, copies int) {
	t.Helper()
	own := s.api()
	pieces := map[string]bool{}
	for root, id := range ids {
		within(t, 4*patience, "pin "+id+" is stored", func() (bool, any) {
			got := own.get(id)
			return got.Info["cold_status"] == "stored" && got.Pin.CID == root, fmt.Sprint(got.Info, s.deals(id))
		})
		pieces[own.get(id).Info["piece_cid"]] = true
	}
	onChain := d.perPiece()
	for piece := range pieces {
		if n := len(onChain[piece]); n != copies {
			t.Errorf("piece %s has %d active deals; want %d", piece, n, copies)
		}
	}
	if all := d.deals(); len(all) != copies*len(pieces) {
		t.Errorf("the chain has %d deals of %d pieces; want %d of each: somebody was asked twice", len(all), len(pieces), copies)
	}
}

// The server dies between any two steps of making a deal, at each once, and no deal is lost or made twice.
func TestServerKilledAtEveryStepOfADealMakesItOnce(t *testing.T) { //nolint:tparallel // one after the other
	t.Parallel()                                                    // it waits for epochs most of the time
	steps := []string{"planned", "stored", "answered", "published"} // the others with FROSTPIN_E2E_LONG=1
	if long() {
		steps = []string{
			"piece-built", "piece-stored", "planned", "asked", "drafted", "signed", "stored", "sending", "answered", "accepted",
			"publish-found", "published", "active-seen", "active", "escrow-planned", "escrow-sent", "escrow-stored",
		}
	}
	bin := binary(t, buildFailpoints)
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			d := startDevnet(t, "--providers", "3", "--seal-delay", "80") // slowly, so that no state is passed over
			author := startIPFS(t)
			s := newServer(t, "private", d.settings("FROSTPIN_REPLICAS=2", "FROSTPIN_DEAL_START_DELAY=72h")...)
			funded := s.env
			s.env = append(slices.Clone(funded), "FROSTPIN_ESCROW_TOP_UP=0") // what is moved is moved by the doomed one
			s.start()
			d.enter(s)
			s.stop()
			s.env = funded
			own := s.api()
			doomed := s.command("serve", "--network", s.network, "--listen", s.listen)
			doomed.Path, doomed.Args[0] = bin, bin
			doomed.Env = append(slices.Clone(s.env), "FROSTPIN_TEST_FAILPOINT="+step)
			s.proc = startProcess(t, "frostpin serve, doomed", doomed)
			ids := map[string]string{}
			roots := []string{author.unique(50_000), author.unique(500)}
			for _, root := range roots {
				var got pinStatus
				within(t, patience, "the pin is accepted, or the server dead", func() (bool, any) {
					code, err := own.call(t.Context(), "POST", "/pins", nil, pin{CID: root, Origins: author.addresses()}, &got)
					return code == 202 || s.proc.over(), err
				})
				ids[root] = got.ID
			}
			within(t, patience, "the server dies at "+step, func() (bool, any) { return s.proc.over(), nil })
			s.start()
			for root, id := range ids {
				listed := own.list(map[string][]string{"cid": {root}, "status": {allStatuses}})
				switch {
				case len(listed.Results) > 0:
					ids[root] = listed.Results[0].ID
				case id != "":
					t.Fatalf("pin %s was acknowledged and is gone", id)
				default:
					ids[root] = own.add(pin{CID: root, Origins: author.addresses()}).ID
				}
			}
			everyCopyOnce(t, s, d, ids, 2)
			s.movedOnce("10000000000000000000")
		})
	}
}

// movedOnce checks that the market holds exactly one top-up, in attoFIL: what was sent again after a crash was the same
// message.
func (s *server) movedOnce(topUp string) {
	s.t.Helper()
	var funds struct {
		Chain struct {
			Escrow string `json:"escrow"`
		} `json:"chain"`
	}
	text := s.must("funds", "--json")
	if err := json.Unmarshal([]byte(text), &funds); err != nil || funds.Chain.Escrow != topUp {
		s.t.Errorf("the market holds %q attoFIL of ours (%v); want %s: %s", funds.Chain.Escrow, err, topUp, text)
	}
}

// over tells whether the process has ended.
func (p *process) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// The devnet itself is killed too, with everything under way: what it has acknowledged it goes on with, and so do we.
func TestDealsGoOnAfterTheWholeNetworkWasKilled(t *testing.T) {
	d := startDevnet(t, "--providers", "3")
	author := startIPFS(t)
	s := startCold(t, d, "FROSTPIN_REPLICAS=2", "FROSTPIN_DEAL_START_DELAY=72h")
	own := s.api()
	ids := map[string]string{}
	for range 4 {
		root := author.unique(100_000)
		ids[root] = own.add(pin{CID: root, Origins: author.addresses()}).ID
		<-time.After(300 * time.Millisecond)
		d.restart()
	}
	everyCopyOnce(t, s, d, ids, 2)
}

var buildFailpoints = sync.OnceValues(func() (string, error) {
	bin := bench + "/frostpin-failpoints"
	cmd := exec.Command("go", "build", "-tags", "failpoints", "-o", bin, "github.com/frostpin/frostpin/cmd/frostpin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building with failpoints: %w\n%s", err, out)
	}
	return bin, nil
})
