package sp_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/frostpin/frostpin/deals/devnet/sp"
	"github.com/frostpin/frostpin/deals/mk12/wire"
)

var styles = []sp.Style{sp.Boost, sp.Curio}

func TestADealGoesFromProposalToRetrieval(t *testing.T) {
	for _, style := range styles {
		t.Run(string(style), func(t *testing.T) {
			w := newWorld(t, style)
			d := newDAG(20, 100_000)
			p := w.params(d, newSource(t, d).URL)
			w.mustAccept(p)
			w.stage(p, sp.Transferred, sp.Published)
			deal := w.stage(p, sp.Complete)
			if deal.DealID != 1 || w.node.active[1] != deal.Sector {
				t.Errorf("deal %d lies in sector %d, on chain in %v", deal.DealID, deal.Sector, w.node.active)
			}
			resp := must(http.Get(w.sp.HTTPURL() + "/piece/" + d.piece.String()))
			defer resp.Body.Close()
			if body := must(io.ReadAll(resp.Body)); !bytes.Equal(body, d.car) {
				t.Errorf("status %d, %d bytes of %d", resp.StatusCode, len(body), len(d.car))
			}
			w.eventually("the chain knows the provider", w.sp.Settled)
			if w.node.peerID != w.sp.AddrInfo().ID {
				t.Errorf("the chain names peer %s", w.node.peerID)
			}
		})
	}
}

// A provider is killed after each change of a deal; what it has answered for is never lost and nothing is sent twice.
func TestAKilledProviderGoesOn(t *testing.T) {
	for _, style := range styles {
		t.Run(string(style), func(t *testing.T) {
			w := newWorld(t, style)
			d := newDAG(10, 200_000)
			src := newSource(t, d)
			p := w.params(d, src.URL)
			w.mustAccept(p)
			peerID, url := w.sp.AddrInfo(), w.sp.HTTPURL()
			for _, stages := range [][]sp.Stage{
				{sp.Transferred, sp.Published, sp.PublishConfirmed},
				{sp.Published, sp.PublishConfirmed},
				{sp.PublishConfirmed},
				{sp.AddedPiece},
				{sp.Complete},
			} {
				w.stage(p, stages...)
				w.restart()
				if got := w.sp.AddrInfo(); got.ID != peerID.ID || got.Addrs[0].String() != peerID.Addrs[0].String() || w.sp.HTTPURL() != url {
					t.Fatalf("it came back as %v, was %v", got, peerID)
				}
			}
			w.stage(p, sp.Complete)
			if n := len(w.node.published); n != 1 {
				t.Errorf("published %d deals", n)
			}
			resp := must(http.Get(w.sp.HTTPURL() + "/ipfs/" + d.root.String() + "?format=car"))
			defer resp.Body.Close()
			if body := must(io.ReadAll(resp.Body)); !bytes.Equal(body, d.car) {
				t.Errorf("after all restarts: status %d, %d bytes of %d", resp.StatusCode, len(body), len(d.car))
			}
		})
	}
}

// The moment between signing and storing that is the worst to die in.
func TestAMessageThatWasSentButNotNotedIsNotSentTwice(t *testing.T) {
	w := newWorld(t, sp.Boost)
	d := newDAG(2, 1000)
	p := w.params(d, newSource(t, d).URL)
	w.mustAccept(p)
	w.stage(p, sp.Published, sp.PublishConfirmed)
	w.sp.Close()
	// Take the journal back to where the message had its identity but was not known to be signed.
	lines := strings.SplitAfter(w.journal(), "\n")
	for i, line := range lines {
		if strings.Contains(line, `"stage":"published"`) {
			lines = lines[:i]
			break
		}
	}
	if !strings.Contains(lines[len(lines)-1], `"stage":"transferred"`) || strings.Contains(lines[len(lines)-1], `"publish":{"id":"00000000-`) {
		t.Fatalf("the last line is %s", lines[len(lines)-1])
	}
	if err := os.WriteFile(w.cfg.Dir+"/deals.jsonl", []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.stage(p, sp.Complete)
	if n := len(w.node.published); n != 1 {
		t.Errorf("published %d deals", n)
	}
}

func TestATornJournalLosesOnlyWhatWasNotAcknowledged(t *testing.T) {
	w := newWorld(t, sp.Boost)
	d := newDAG(2, 1000)
	p := w.params(d, newSource(t, d).URL)
	w.mustAccept(p)
	w.stage(p, sp.Transferred, sp.Published)
	w.sp.Close()
	f := must(os.OpenFile(w.cfg.Dir+"/deals.jsonl", os.O_APPEND|os.O_WRONLY, 0))
	fmt.Fprint(f, `{"uuid":"7c0a2d0e-6f2b-4b62-8f0a-1d6f2f6c5a01","mess`)
	f.Close()
	w.start()
	if n := len(w.sp.Deals()); n != 1 {
		t.Fatalf("there are %d deals", n)
	}
	w.stage(p, sp.Complete)
}

func TestAJournalWithGarbageInsideIsRefused(t *testing.T) {
	w := newWorld(t, sp.Boost)
	w.sp.Close()
	if err := os.WriteFile(w.cfg.Dir+"/deals.jsonl", []byte("garbage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := sp.Start(t.Context(), w.cfg); err == nil {
		p.Close()
		t.Error("it started")
	}
}

func TestDealsArePublishedInBatches(t *testing.T) {
	w := newWorld(t, sp.Curio, func(c *sp.Config) { c.PublishDelay = 50 })
	var all []*wire.DealParams
	for range 3 {
		d := newDAG(2, 1000)
		p := w.params(d, newSource(t, d).URL)
		w.mustAccept(p)
		waitStage(t, w.sp, p.DealUUID, func() {}, sp.Transferred)
		all = append(all, p)
	}
	var messages []string
	for _, p := range all {
		messages = append(messages, w.stage(p, sp.Published, sp.PublishConfirmed, sp.AddedPiece).Publish.CID.String())
	}
	if messages[0] != messages[1] || messages[1] != messages[2] {
		t.Errorf("published in %v", messages)
	}
	for i, p := range all {
		if d := w.stage(p, sp.Complete); int(d.DealID) != i+1 {
			t.Errorf("deal %d has id %d", i, d.DealID)
		}
	}
}

func TestADealTooLateToSealIsNotPublished(t *testing.T) {
	w := newWorld(t, sp.Curio)
	d := newDAG(2, 1000)
	p := w.params(d, newSource(t, d).URL)
	p.ClientDealProposal.Proposal.StartEpoch = 1000 // head 100 + 960 is beyond
	w.sign(p)
	w.mustAccept(p)
	deal := w.stage(p, sp.Failed)
	contains(t, deal.Error, "deal proposal must be proven on chain by deal proposal start epoch 1000, but it has expired")
	if got := w.status(p).Error; got != "failed to get sealed deal status" {
		t.Errorf("status says %q", got)
	}
	if len(w.node.published) != 0 {
		t.Error("it was published")
	}
	w.eventually("its bytes are removed", func() bool { return len(must(os.ReadDir(w.cfg.Dir+"/pieces"))) == 0 })
}

func TestADealEndsAtItsEndEpoch(t *testing.T) {
	w := newWorld(t, sp.Boost)
	d := newDAG(2, 1000)
	p := w.params(d, newSource(t, d).URL)
	w.mustAccept(p)
	w.stage(p, sp.Complete)
	w.node.mu.Lock()
	w.node.height = 5000 + 520_000
	w.node.mu.Unlock()
	w.stage(p, sp.Ended)
	w.eventually("its piece is not served any more", func() bool {
		resp := must(http.Get(w.sp.HTTPURL() + "/piece/" + d.piece.String()))
		resp.Body.Close()
		return resp.StatusCode == http.StatusNotFound
	})
	if s := w.status(p).DealStatus; s.SealingStatus != "Removed" {
		t.Errorf("status is %+v", s)
	}
}

func TestANodeThatFailsDelaysButLosesNothing(t *testing.T) {
	w := newWorld(t, sp.Boost)
	d := newDAG(2, 1000)
	p := w.params(d, newSource(t, d).URL)
	w.mustAccept(p)
	w.node.setDown(fmt.Errorf("connection refused"))
	w.holds("nothing is published", func() bool {
		return w.sp.Deals()[0].Stage == sp.Accepted || w.sp.Deals()[0].Stage == sp.Transferred || w.sp.Deals()[0].Stage == sp.Published
	})
	other := newDAG(2, 1000)
	if resp := w.propose(w.params(other, newSource(t, other).URL)); resp.Accepted || resp.Message != "failed validation: server error: getting chain head" {
		t.Errorf("without a node: %+v", resp)
	}
	w.node.setDown(nil)
	w.stage(p, sp.Complete)
}

func TestAStoredPieceIsNotPulledAgainByCurio(t *testing.T) {
	for style, want := range map[sp.Style]bool{sp.Boost: true, sp.Curio: false} {
		w := newWorld(t, style)
		d := newDAG(2, 1000)
		first := newSource(t, d)
		p := w.params(d, first.URL)
		w.mustAccept(p)
		w.stage(p, sp.Complete)
		second := newSource(t, d)
		p2 := w.params(d, second.URL)
		p2.ClientDealProposal.Proposal.EndEpoch++
		w.sign(p2)
		w.mustAccept(p2)
		w.stage(p2, sp.Complete)
		if got := len(second.asked()) > 0; got != want {
			t.Errorf("%s pulled again: %t", style, got)
		}
	}
}

func TestConfigIsRefusedWithItsReason(t *testing.T) {
	w := newWorld(t, sp.Boost)
	for name, change := range map[string]func(*sp.Config){
		"a node":       func(c *sp.Config) { c.Node = nil },
		"no style":     func(c *sp.Config) { c.Style = "lotus" },
		"no kind":      func(c *sp.Config) { c.Faults = sp.Faults{{Kind: "nonsense"}} },
		"a directory,": func(c *sp.Config) { c.Dir = "" },
	} {
		cfg := w.cfg
		change(&cfg)
		_, err := sp.Start(t.Context(), cfg)
		if err == nil {
			t.Errorf("%s: it started", name)
			continue
		}
		contains(t, err.Error(), name)
	}
}

func TestAFleetStartsMembersUnlikeEachOther(t *testing.T) {
	n := newNode(t)
	fleet, err := sp.StartFleet(t.Context(), sp.FleetConfig{
		Config:  sp.Config{Node: n, Dir: t.TempDir()},
		Members: []sp.Member{{n.miner, n.worker.Address}, {n.client.Address, n.worker.Address}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer fleet.Close()
	got := []string{fleet[0].Region(), fleet[1].Region(), string(fleet[0].State().Style), string(fleet[1].State().Style)}
	if diff := cmp.Diff([]string{"EU", "US", "boost", "curio"}, got); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
	if fleet.Of(n.miner) != fleet[0] || fleet.Of(n.worker.Address) != nil {
		t.Error("a member is not found by its miner")
	}
}
