package sp_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-project/lotus/lib/sigs"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals/devnet/sp"
	"github.com/frostpin/frostpin/deals/mk12/wire"
)

// refusals are rules F1 to F6, in the order in which they are looked at. Each case breaks its rule and, where it can,
// every later one, so that the order is tested as well.
func TestProposalsAreRefusedInTheWordsOfTheField(t *testing.T) {
	type proposal = market.DealProposal
	d := newDAG(2, 1000)
	cases := []struct {
		name   string
		change func(w *world, p *wire.DealParams, dp *proposal)
		sign   bool
		want   string
	}{
		{"no piece", func(_ *world, p *wire.DealParams, _ *proposal) {
			p.ClientDealProposal.Proposal.PieceCID = must(cid.Decode("bafkqaaa"))
		}, true, "failed validation: proposal PieceCID had wrong prefix"},
		{"signature", func(_ *world, _ *wire.DealParams, dp *proposal) { dp.EndEpoch = 1 }, false, "failed validation: invalid signature"},
		{"provider", func(_ *world, _ *wire.DealParams, dp *proposal) {
			dp.Provider = must(address.NewIDAddress(1001))
			dp.PieceSize = 100
		}, true, "failed validation: incorrect provider for deal; proposal.Provider: f01001; provider.Address: f01000"},
		{"size", func(_ *world, _ *wire.DealParams, dp *proposal) { dp.PieceSize, dp.EndEpoch = 100, 1 }, true, "failed validation: proposal piece size is invalid: "},
		{"order", func(_ *world, _ *wire.DealParams, dp *proposal) { dp.StartEpoch, dp.EndEpoch = 10, 10 }, true, "failed validation: proposal end 10 before proposal start 10"},
		{"elapsed", func(_ *world, _ *wire.DealParams, dp *proposal) { dp.StartEpoch, dp.EndEpoch = 99, 100 }, true, "failed validation: deal start epoch 99 has already elapsed (current epoch: 100)"},
		{"short", func(_ *world, _ *wire.DealParams, dp *proposal) {
			dp.EndEpoch = dp.StartEpoch + 518_399
			dp.ProviderCollateral = abi.NewTokenAmount(0)
		}, true, "failed validation: deal duration out of bounds (min, max, provided): 518400, 3680640, 518399"},
		{"long", func(_ *world, _ *wire.DealParams, dp *proposal) { dp.EndEpoch = dp.StartEpoch + 3_680_641 }, true, "failed validation: deal duration out of bounds"},
		{"far", func(_ *world, _ *wire.DealParams, dp *proposal) { dp.EndEpoch = 100 + 3_680_641 }, true, "failed validation: invalid deal end epoch 3680741: cannot be more than 3680640 past current epoch 100"},
		{"little collateral", func(_ *world, _ *wire.DealParams, dp *proposal) { dp.ProviderCollateral = abi.NewTokenAmount(999) }, true, "failed validation: proposed provider collateral 999 below minimum 1000"},
		{"much collateral", func(_ *world, _ *wire.DealParams, dp *proposal) { dp.ProviderCollateral = abi.NewTokenAmount(2001) }, true, "failed validation: proposed provider collateral 2001 above maximum 2000"},
		{"escrow", func(_ *world, _ *wire.DealParams, dp *proposal) {
			dp.StoragePricePerEpoch = abi.NewTokenAmount(1e13)
			dp.VerifiedDeal = true
		}, true, "failed validation: client available funds in escrow 1000000000000000000 not enough to meet storage cost for deal 5200000000000000000"},
		{"unverified", func(_ *world, _ *wire.DealParams, dp *proposal) { dp.VerifiedDeal = true }, true, "failed validation: client is not a verified client"},
		{"datacap", func(w *world, _ *wire.DealParams, dp *proposal) {
			w.node.datacap = new(abi.StoragePower)
			*w.node.datacap = big.NewInt(100)
			dp.VerifiedDeal = true
		}, true, "failed validation: verified deal DataCap 100 too small for proposed piece size 4096"},
		{"backpressure", func(w *world, _ *wire.DealParams, dp *proposal) { dp.StoragePricePerEpoch = abi.NewTokenAmount(0) }, true, "deal rejected due to backpressure. Please retry in some time."},
		{"price", func(_ *world, _ *wire.DealParams, dp *proposal) { dp.StoragePricePerEpoch = abi.NewTokenAmount(0) }, true, "storage price per epoch less than asking price: 0 < 1"},
		{"offline", func(_ *world, p *wire.DealParams, _ *proposal) { p.IsOffline = true }, true, "offline deals are not allowed on this provider"},
		{"libp2p", func(_ *world, p *wire.DealParams, _ *proposal) { p.Transfer.Type = "libp2p" }, true, "libp2p URLs are not supported by this provider"},
		{"params", func(_ *world, p *wire.DealParams, _ *proposal) { p.Transfer.Params = []byte("{") }, true, "failed to de-serialize transport params bytes '{': "},
		{"transfer size", func(_ *world, p *wire.DealParams, _ *proposal) { p.Transfer.Size = 5000 }, true, "deal proposal piece size 4096 doesn't match padded piece size 8192"},
	}
	for _, style := range styles {
		for _, c := range cases {
			t.Run(string(style)+"/"+c.name, func(t *testing.T) {
				w := newWorld(t, style, func(cfg *sp.Config) {
					cfg.Ask = sp.Ask{Price: abi.NewTokenAmount(1 << 18)} // one attoFIL for 4 KiB
					if c.name == "backpressure" {
						cfg.MaxInFlight = 1
						cfg.Faults = sp.Faults{{Kind: sp.PullNever}}
					}
				})
				if c.name == "backpressure" {
					first := newDAG(2, 1000)
					w.mustAccept(w.params(first, "http://127.0.0.1:1/"))
				}
				p := w.params(d, "http://127.0.0.1:1/")
				c.change(w, p, &p.ClientDealProposal.Proposal)
				if c.sign {
					w.sign(p)
				}
				resp := w.propose(p)
				if resp.Accepted || !strings.HasPrefix(resp.Message, c.want) {
					t.Errorf("answered %+v, want %q", resp, c.want)
				}
			})
		}
	}
}

func TestALabelMayHave256BytesAndNoMore(t *testing.T) {
	w := newWorld(t, sp.Boost)
	for n, accepted := range map[int]bool{256: true} {
		d := newDAG(1, 1000)
		p := w.params(d, "http://127.0.0.1:1/")
		p.ClientDealProposal.Proposal.Label = must(market.NewLabelFromBytes(bytes.Repeat([]byte{1}, n)))
		w.sign(p)
		if resp := w.propose(p); resp.Accepted != accepted {
			t.Errorf("%d bytes: %+v", n, resp)
		}
	}
}

func TestOnlyListedClientsAreServed(t *testing.T) {
	other := must(address.NewIDAddress(77))
	w := newWorld(t, sp.Curio, func(c *sp.Config) { c.Clients = []address.Address{other} })
	d := newDAG(1, 1000)
	if resp := w.propose(w.params(d, "http://127.0.0.1:1/")); resp.Accepted || resp.Message != "client not allowed by provider" {
		t.Errorf("answered %+v", resp)
	}
}

func TestBoostPadsAPieceThatCurioRefuses(t *testing.T) {
	d := newDAG(1, 1000)
	p9 := func(w *world) *wire.DealParams {
		p := w.params(d, newSource(t, d).URL)
		p.ClientDealProposal.Proposal.PieceSize *= 2
		// The commitment of the larger piece is not known to the client's DAG: boost must find a mismatch in the
		// commitment, not in the size.
		w.sign(p)
		return p
	}
	curio := newWorld(t, sp.Curio)
	if resp := curio.propose(p9(curio)); resp.Accepted || !strings.Contains(resp.Message, "doesn't match padded piece size") {
		t.Errorf("curio answered %+v", resp)
	}
	boost := newWorld(t, sp.Boost)
	p := p9(boost)
	boost.mustAccept(p)
	contains(t, boost.stage(p, sp.Failed).Error, "commp mismatch: expected "+d.piece.String())
}

func TestDuplicatesAreNamed(t *testing.T) {
	d := newDAG(2, 1000)
	for style, want := range map[sp.Style]struct{ same, uuid, resent string }{
		sp.Boost: {
			"deal proposal is identical to deal %s (proposed at 2001-02-03 04:05:06 +0000 UTC)",
			"deal has the same uuid as deal %s (proposed at 2001-02-03 04:05:06 +0000 UTC)",
			"deal proposal is identical to deal ",
		},
		sp.Curio: {
			"store deal: market deal with the same proposalCID %s already exists: 1",
			"store deal: store deal success: updated 0 rows instead of 1",
			"store deal: market deal with the same proposalCID ",
		},
	} {
		w := newWorld(t, style, func(c *sp.Config) { c.Now = now })
		p := w.params(d, newSource(t, d).URL)
		w.mustAccept(p)
		for range 2 { // the second time by a provider that has been restarted
			resp := w.propose(p)
			if resp.Accepted || !strings.HasPrefix(resp.Message, want.resent) {
				t.Errorf("%s: the same bytes again: %+v", style, resp)
			}
			again := *p
			again.DealUUID = uuid.New()
			name := p.DealUUID.String()
			if style == sp.Curio {
				name = must(p.ClientDealProposal.Proposal.Cid()).String()
			}
			if resp := w.propose(&again); resp.Message != fmt.Sprintf(want.same, name) {
				t.Errorf("%s: the same proposal, another uuid: %+v", style, resp)
			}
			other := w.params(d, "http://127.0.0.1:1/")
			other.DealUUID = p.DealUUID
			other.ClientDealProposal.Proposal.EndEpoch++
			w.sign(other)
			text := want.uuid
			if strings.Contains(text, "%s") {
				text = fmt.Sprintf(text, p.DealUUID)
			}
			if resp := w.propose(other); resp.Message != text {
				t.Errorf("%s: another proposal, the same uuid: %+v", style, resp)
			}
			w.restart()
		}
		if n := len(w.sp.Deals()); n != 1 {
			t.Errorf("%s keeps %d deals", style, n)
		}
	}
}

// The same deal from many sides at once is still one deal.
func TestParallelProposalsMakeOneDeal(t *testing.T) {
	for _, style := range styles {
		w := newWorld(t, style)
		d := newDAG(2, 1000)
		p := w.params(d, newSource(t, d).URL)
		results := make(chan bool)
		for range 8 {
			go func() {
				resp, err := wire.Propose(t.Context(), w.client, w.sp.AddrInfo(), p)
				results <- err == nil && resp.Accepted
			}()
		}
		accepted := 0
		for range 8 {
			if <-results {
				accepted++
			}
		}
		if accepted != 1 {
			t.Errorf("%s accepted it %d times", style, accepted)
		}
	}
}

func TestTheAskIsSignedByTheWorker(t *testing.T) {
	w := newWorld(t, sp.Curio, func(c *sp.Config) {
		c.Ask = sp.Ask{Price: abi.NewTokenAmount(5), VerifiedPrice: abi.NewTokenAmount(3), MinPieceSize: 256, MaxPieceSize: 1 << 30}
	})
	signed := must(wire.Ask(t.Context(), w.client, w.sp.AddrInfo(), w.node.miner))
	if err := sigs.Verify(signed.Signature, w.node.worker.Address, must(wire.AskBytes(signed.Ask))); err != nil {
		t.Error(err)
	}
	ask := signed.Ask
	if !ask.Price.Equals(abi.NewTokenAmount(5)) || !ask.VerifiedPrice.Equals(abi.NewTokenAmount(3)) || ask.MinPieceSize != 256 || ask.MaxPieceSize != 1<<30 || ask.Miner != w.node.miner || ask.Expiry <= 100 {
		t.Errorf("ask is %+v", ask)
	}
	w.sp.SetAsk(sp.Ask{Price: abi.NewTokenAmount(9), VerifiedPrice: abi.NewTokenAmount(0), MinPieceSize: 128, MaxPieceSize: 1 << 30})
	if next := must(wire.Ask(t.Context(), w.client, w.sp.AddrInfo(), w.node.miner)); next.Ask.SeqNo <= ask.SeqNo || !next.Ask.Price.Equals(abi.NewTokenAmount(9)) {
		t.Errorf("after a change: %+v", next.Ask)
	}
	if other := must(wire.Ask(t.Context(), w.client, w.sp.AddrInfo(), must(address.NewIDAddress(5)))); other != nil {
		t.Errorf("for another miner: %+v", other)
	}
}

func TestTransportsNameTheHTTPServer(t *testing.T) {
	w := newWorld(t, sp.Curio)
	resp := must(wire.Transports(t.Context(), w.client, w.sp.AddrInfo()))
	addrs := resp.Addresses("http")
	if len(addrs) != 1 {
		t.Fatalf("addresses are %v", addrs)
	}
	var ip, port string
	fmt.Sscanf(strings.ReplaceAll(addrs[0].String(), "/", " "), " ip4 %s tcp %s http", &ip, &port)
	if got := "http://" + ip + ":" + port; got != w.sp.HTTPURL() {
		t.Errorf("%s is %s, not %s", addrs[0], got, w.sp.HTTPURL())
	}
}

func TestBoostTellsEachCheckpointAndCurioOnlyTheLast(t *testing.T) {
	type seen struct {
		status, sealing string
		publish, id     bool
		size, received  uint64
	}
	look := func(w *world, p *wire.DealParams) seen {
		r := w.status(p)
		if r.DealStatus == nil {
			t.Fatalf("status is %+v", r)
		}
		s := r.DealStatus
		return seen{s.Status, s.SealingStatus, s.PublishCid != nil, s.ChainDealID != 0, r.TransferSize, r.NBytesReceived}
	}
	for _, style := range styles {
		w := newWorld(t, style, func(c *sp.Config) { c.PublishDelay, c.SealDelay = 20, 20; c.Confidence = 1 })
		d := newDAG(2, 1000)
		size := uint64(len(d.car))
		w.faults(sp.Fault{Kind: sp.PullNever})
		p := w.params(d, newSource(t, d).URL)
		w.mustAccept(p)
		want := map[sp.Stage]seen{
			sp.Accepted:         {"Accepted", "", false, false, size, 0},
			sp.Transferred:      {"Transferred", "", false, false, size, size},
			sp.Published:        {"Published", "", true, false, size, size},
			sp.PublishConfirmed: {"PublishConfirmed", "", true, true, size, size},
			sp.Complete:         {"Complete", "Proving", true, true, size, size},
		}
		if style == sp.Curio {
			hidden := seen{"Processing", "Not assigned to sector", false, false, 1, 1}
			want = map[sp.Stage]seen{
				sp.Accepted: hidden, sp.Transferred: hidden, sp.Published: hidden, sp.PublishConfirmed: hidden,
				sp.Complete: {"Sealed", "Sealed and Indexed", true, true, 1, 1},
			}
		}
		for _, stage := range []sp.Stage{sp.Accepted, sp.Transferred, sp.Published, sp.PublishConfirmed, sp.Complete} {
			switch stage { // what keeps it from going further than the stage that is looked at
			case sp.Transferred:
				w.faults(sp.Fault{Kind: sp.SealNever})
				w.node.setBlind(true)
			case sp.PublishConfirmed:
				w.node.setBlind(false)
			case sp.Complete:
				w.faults()
			default:
			}
			waitStage(t, w.sp, p.DealUUID, func() {
				if stage != sp.Transferred {
					w.node.advance(1)
				}
			}, stage)
			if got := look(w, p); got != want[stage] {
				t.Errorf("%s, %s: %+v, want %+v", style, stage, got, want[stage])
			}
		}
	}
}

func TestOnlyBoostChecksWhoAsksForAStatus(t *testing.T) {
	for style, want := range map[sp.Style]string{sp.Boost: "signature verification failed", sp.Curio: ""} {
		w := newWorld(t, style)
		d := newDAG(2, 1000)
		p := w.params(d, newSource(t, d).URL)
		w.mustAccept(p)
		resp := must(wire.Status(t.Context(), w.client, w.sp.AddrInfo(), &wire.DealStatusRequest{
			DealUUID: p.DealUUID, Signature: crypto.Signature{Type: crypto.SigTypeSecp256k1, Data: make([]byte, 65)},
		}))
		if resp.Error != want {
			t.Errorf("%s answers %q", style, resp.Error)
		}
	}
}

func TestAnUnknownDealHasEachStylesText(t *testing.T) {
	id := uuid.New()
	for style, want := range map[sp.Style]string{
		sp.Boost: "no storage deal found with deal UUID " + id.String(), sp.Curio: "failed to get sealed deal status",
	} {
		w := newWorld(t, style)
		if got := w.status(&wire.DealParams{DealUUID: id}).Error; got != want {
			t.Errorf("%s answers %q", style, got)
		}
	}
}
