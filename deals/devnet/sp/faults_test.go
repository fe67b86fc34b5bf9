package sp_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/lotus/lib/sigs"
	"github.com/google/go-cmp/cmp"
	"github.com/ipld/go-car/v2"

	"github.com/frostpin/frostpin/deals/devnet/sp"
	"github.com/frostpin/frostpin/deals/mk12/wire"
)

// How long one waits for an answer: for one that never comes or not whole, and for any other.
const (
	short = 2 * time.Second
	long  = 20 * time.Second
)

// waits is how long to wait where the faults of these kinds are.
func waits(kind sp.Kind) time.Duration {
	if slices.Contains([]sp.Kind{sp.ProposeHang, sp.AcceptLate, sp.AskHang, sp.RetrieveStall, sp.RetrieveDrip}, kind) {
		return short
	}
	return long
}

func (w *world) tryPropose(p *wire.DealParams, limit time.Duration) (*wire.DealResponse, error) {
	ctx, cancel := contextWithTimeout(w.t, limit)
	defer cancel()
	return wire.Propose(ctx, w.client, w.sp.AddrInfo(), p)
}

func (w *world) tryAsk(limit time.Duration) (*wire.SignedStorageAsk, error) {
	ctx, cancel := contextWithTimeout(w.t, limit)
	defer cancel()
	return wire.Ask(ctx, w.client, w.sp.AddrInfo(), w.node.miner)
}

func TestProposalFaultsAsAClientSeesThem(t *testing.T) {
	t.Parallel()
	type outcome struct {
		accepted       bool
		message        string
		unsent, failed bool
		kept           int
	}
	for kind, c := range map[sp.Kind]struct {
		fault sp.Fault
		want  outcome
	}{
		sp.Reject:       {sp.Fault{Text: "miner is not considering online storage deals"}, outcome{message: "miner is not considering online storage deals"}},
		sp.ProposeHang:  {sp.Fault{}, outcome{failed: true}},
		sp.ProposeClose: {sp.Fault{}, outcome{failed: true}},
		sp.AcceptClose:  {sp.Fault{}, outcome{failed: true, kept: 1}},
		sp.AcceptReset:  {sp.Fault{}, outcome{failed: true, kept: 1}},
		sp.AcceptLate:   {sp.Fault{}, outcome{failed: true, kept: 1}},
		sp.AcceptForget: {sp.Fault{}, outcome{accepted: true}},
		sp.Offline:      {sp.Fault{}, outcome{failed: true, unsent: true}},
		sp.Vanish:       {sp.Fault{}, outcome{failed: true, unsent: true}},
	} {
		for _, style := range styles {
			t.Run(string(kind)+"/"+string(style), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, style)
				d := newDAG(2, 1000)
				p := w.params(d, newSource(t, d).URL)
				fault := c.fault // the other style runs at the same time
				fault.Kind = kind
				if err := w.client.Connect(t.Context(), w.sp.AddrInfo()); err != nil {
					t.Fatal(err)
				}
				w.faults(fault)
				if c.want.unsent {
					// On a connection that is dead unnoticed nobody can say what was sent.
					if err := w.client.Network().ClosePeer(w.sp.AddrInfo().ID); err != nil {
						t.Fatal(err)
					}
				}
				resp, err := w.tryPropose(p, waits(kind))
				var unsent *wire.NotSentError
				got := outcome{failed: err != nil, unsent: errors.As(err, &unsent), kept: len(w.sp.Deals())}
				if resp != nil {
					got.accepted, got.message = resp.Accepted, resp.Message
				}
				if got != c.want {
					t.Errorf("%+v, want %+v (%v)", got, c.want, err)
				}
				w.faults()
				switch status := w.status(p); {
				case c.want.kept == 1 && status.DealStatus == nil:
					t.Errorf("the stored deal is not known: %+v", status)
				case c.want.kept == 0 && status.Error == "":
					t.Errorf("a deal that was not stored is known: %+v", status)
				}
				// The same bytes again make one deal, whatever happened before.
				if resp := w.propose(p); resp.Accepted == (c.want.kept == 1) {
					t.Errorf("again: %+v", resp)
				}
				w.stage(p, sp.Complete)
			})
		}
	}
}

func TestALateAnswerComes(t *testing.T) {
	w := newWorld(t, sp.Boost)
	d := newDAG(2, 1000)
	w.faults(sp.Fault{Kind: sp.AcceptLate, Delay: sp.Duration(100 * time.Millisecond)})
	start := time.Now()
	w.mustAccept(w.params(d, newSource(t, d).URL))
	if took := time.Since(start); took < 100*time.Millisecond {
		t.Errorf("it took %s", took)
	}
}

func TestAskFaultsAsAClientSeesThem(t *testing.T) {
	w := newWorld(t, sp.Curio)
	honest := must(w.tryAsk(long))
	valid := func(a *wire.SignedStorageAsk) bool {
		return a != nil && a.Signature != nil && sigs.Verify(a.Signature, w.node.worker.Address, must(wire.AskBytes(a.Ask))) == nil
	}
	for kind, check := range map[sp.Kind]func(a *wire.SignedStorageAsk, err error) bool{
		sp.AskPrice: func(a *wire.SignedStorageAsk, _ error) bool {
			return valid(a) && a.Ask.Price.Equals(big.NewInt(1e18)) && a.Ask.VerifiedPrice.Equals(a.Ask.Price)
		},
		sp.AskMinimum:  func(a *wire.SignedStorageAsk, _ error) bool { return valid(a) && a.Ask.MinPieceSize == 16<<30 },
		sp.AskUnsigned: func(a *wire.SignedStorageAsk, _ error) bool { return a != nil && a.Signature == nil },
		sp.AskForged:   func(a *wire.SignedStorageAsk, _ error) bool { return a != nil && a.Signature != nil && !valid(a) },
		sp.AskOther:    func(a *wire.SignedStorageAsk, _ error) bool { return valid(a) && a.Ask.Miner != w.node.miner },
		sp.AskNone:     func(a *wire.SignedStorageAsk, err error) bool { return a == nil && err == nil },
		sp.AskHang:     func(a *wire.SignedStorageAsk, err error) bool { return a == nil && err != nil },
	} {
		w.faults(sp.Fault{Kind: kind})
		ask, err := w.tryAsk(waits(kind))
		if !check(ask, err) {
			t.Errorf("%s: %+v, %v", kind, ask, err)
		}
	}
	w.faults()
	if diff := cmp.Diff(honest.Ask.MinPieceSize, must(w.tryAsk(long)).Ask.MinPieceSize); diff != "" || !valid(honest) {
		t.Errorf("the honest ask: %+v", honest)
	}
}

// What an ask says, the provider also judges by.
func TestAHighAskRefusesAPoorProposal(t *testing.T) {
	w := newWorld(t, sp.Boost)
	w.faults(sp.Fault{Kind: sp.AskPrice, Text: "1000000000"})
	d := newDAG(2, 1000)
	if resp := w.propose(w.params(d, "http://127.0.0.1:1/")); !strings.HasPrefix(resp.Message, "storage price per epoch less than asking price: 1 < 3814") {
		t.Errorf("answered %+v", resp)
	}
}

func TestPullFaultsAsAClientSeesThem(t *testing.T) {
	t.Parallel()
	for kind, c := range map[sp.Kind]struct {
		fault sp.Fault
		want  sp.Stage // after which the pull stands still or the deal ends
		text  string
		check func(asked []string, size int) bool
	}{
		sp.PullNever: {sp.Fault{}, sp.Accepted, "", func(asked []string, _ int) bool { return len(asked) == 0 }},
		sp.PullSlow:  {sp.Fault{Bytes: 100_000}, sp.Complete, "", func(asked []string, _ int) bool { return len(asked) == 1 }},
		sp.PullCut: {sp.Fault{First: 2, Bytes: 5000}, sp.Complete, "", func(asked []string, _ int) bool {
			return len(asked) == 3 && strings.HasPrefix(asked[2], "bytes=10000-")
		}},
		sp.PullStop:   {sp.Fault{Bytes: 5000}, sp.Accepted, "", func(asked []string, _ int) bool { return len(asked) == 1 }},
		sp.PullToken:  {sp.Fault{}, sp.Failed, "http request failed with status 401", func(asked []string, _ int) bool { return len(asked) > 1 }},
		sp.PullRange:  {sp.Fault{First: 1}, sp.Complete, "", func(asked []string, size int) bool { return len(asked) == 2 && asked[0] > "bytes="+itoa(size) }},
		sp.PullBeyond: {sp.Fault{}, sp.Complete, "", func(asked []string, size int) bool { return len(asked) == 1 && asked[0] == "bytes=0-"+itoa(size) }},
		sp.PullBytes:  {sp.Fault{}, sp.Failed, "commp mismatch: expected baga", func(asked []string, _ int) bool { return len(asked) == 1 }},
		sp.PullDrop:   {sp.Fault{}, sp.Failed, "data transfer failed: the data was lost", func(asked []string, _ int) bool { return len(asked) == 1 }},
	} {
		for _, style := range styles {
			t.Run(string(kind)+"/"+string(style), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, style, func(cfg *sp.Config) { cfg.Pull.Attempts = 4 })
				fault := c.fault // the other style runs at the same time
				fault.Kind = kind
				w.faults(fault)
				d := newDAG(2, 20_000)
				src := newSource(t, d)
				p := w.params(d, src.URL)
				w.mustAccept(p)
				deal := w.stage(p, c.want)
				if c.want == sp.Accepted {
					w.holds("it stands still", func() bool { return w.sp.Deals()[0].Stage == sp.Accepted })
				}
				contains(t, deal.Error, c.text)
				if asked := src.asked(); !c.check(asked, len(d.car)) {
					t.Errorf("of %d bytes it asked for %v", len(d.car), asked)
				}
				if c.want == sp.Accepted {
					w.faults()
					w.stage(p, sp.Complete)
				}
			})
		}
	}
}

func TestPublishingThatNeverComesStandsStill(t *testing.T) {
	w := newWorld(t, sp.Boost)
	w.faults(sp.Fault{Kind: sp.PublishNever})
	d := newDAG(2, 1000)
	p := w.params(d, newSource(t, d).URL)
	w.mustAccept(p)
	w.stage(p, sp.Transferred)
	w.holds("it is not published", func() bool { return w.sp.Deals()[0].Stage == sp.Transferred && len(w.node.published) == 0 })
	w.faults()
	w.stage(p, sp.Complete)
}

func TestStatusFaultsAsAClientSeesThem(t *testing.T) {
	for _, style := range styles {
		w := newWorld(t, style)
		var deals []*wire.DealParams
		for range 2 {
			d := newDAG(2, 1000)
			p := w.params(d, newSource(t, d).URL)
			w.mustAccept(p)
			w.stage(p, sp.Complete)
			deals = append(deals, p)
		}
		p, other := deals[0], deals[1]
		forgotten := map[sp.Style]string{
			sp.Boost: "no storage deal found with deal UUID " + p.DealUUID.String(), sp.Curio: "failed to get sealed deal status",
		}[style]
		for kind, check := range map[sp.Kind]func(r *wire.DealStatusResponse) bool{
			sp.StatusUnknown: func(r *wire.DealStatusResponse) bool { return r.DealStatus.Status == "Frobnicating" },
			sp.StatusProcessing: func(r *wire.DealStatusResponse) bool {
				return r.DealStatus.Status == "Processing" && r.DealStatus.PublishCid == nil && r.DealStatus.ChainDealID == 0
			},
			sp.StatusSealed:  func(r *wire.DealStatusResponse) bool { return r.DealStatus.Status == "Sealed" },
			sp.StatusWrongID: func(r *wire.DealStatusResponse) bool { return r.DealStatus.ChainDealID == 2 },
			sp.StatusOther: func(r *wire.DealStatusResponse) bool {
				return r.DealStatus.Proposal.PieceCID.Equals(other.ClientDealProposal.Proposal.PieceCID) && r.DealStatus.ChainDealID == 2
			},
			sp.StatusError:     func(r *wire.DealStatusResponse) bool { return r.Error == "internal error" && r.DealStatus == nil },
			sp.StatusFailed:    func(r *wire.DealStatusResponse) bool { return r.DealStatus.Error == "transfer failed" },
			sp.StatusForgotten: func(r *wire.DealStatusResponse) bool { return r.Error == forgotten && r.DealStatus == nil },
		} {
			w.faults(sp.Fault{Kind: kind})
			if r := w.status(p); !check(r) {
				t.Errorf("%s, %s: %+v %+v", style, kind, r, r.DealStatus)
			}
		}
		w.faults(sp.Fault{Kind: sp.StatusHang})
		ctx, cancel := contextWithTimeout(t, short)
		if _, err := wire.Status(ctx, w.client, w.sp.AddrInfo(), &wire.DealStatusRequest{DealUUID: p.DealUUID, Signature: p.ClientDealProposal.ClientSignature}); err == nil {
			t.Errorf("%s: a hanging status was answered", style)
		}
		cancel()
		w.faults()
		if r := w.status(p); r.Error != "" || r.DealStatus.ChainDealID != 1 {
			t.Errorf("%s, honest: %+v", style, r)
		}
	}
}

func TestALieAboutSealingIsToldBeforeThereIsADeal(t *testing.T) {
	w := newWorld(t, sp.Curio)
	w.faults(sp.Fault{Kind: sp.StatusSealed}, sp.Fault{Kind: sp.PullNever})
	d := newDAG(2, 1000)
	p := w.params(d, newSource(t, d).URL)
	w.mustAccept(p)
	if s := w.status(p).DealStatus; s.Status != "Sealed" || s.ChainDealID != 0 || s.PublishCid != nil {
		t.Errorf("status is %+v", s)
	}
}

func TestRetrievalFaultsAsAClientSeesThem(t *testing.T) {
	t.Parallel()
	d := newDAG(8, 5000)
	w := stored(t, sp.Curio, d)
	piece, block, car := "/piece/"+d.piece.String(), "/ipfs/"+d.blocks[1].Cid().String()+"?format=raw", "/ipfs/"+d.root.String()+"?format=car"
	want := map[string][]byte{piece: d.car, block: d.blocks[1].RawData(), car: d.car}
	for kind, c := range map[sp.Kind]struct {
		fault sp.Fault
		check func(path string, r reply) bool
	}{
		sp.RetrieveMissing: {sp.Fault{}, func(_ string, r reply) bool { return r.StatusCode == 404 }},
		sp.RetrieveBusy:    {sp.Fault{}, func(_ string, r reply) bool { return r.StatusCode == 429 && r.Header.Get("Retry-After") != "" }},
		sp.RetrieveError:   {sp.Fault{Number: 503}, func(_ string, r reply) bool { return r.StatusCode == 503 }},
		sp.RetrieveStall:   {sp.Fault{Bytes: 100}, func(path string, r reply) bool { return r.err != nil && bytes.Equal(r.body, want[path][:100]) }},
		sp.RetrieveBytes: {sp.Fault{}, func(path string, r reply) bool {
			return r.err == nil && len(r.body) == len(want[path]) && !bytes.Equal(r.body, want[path])
		}},
		sp.RetrieveTruncate: {sp.Fault{Bytes: 3000}, func(path string, r reply) bool { return r.err != nil && bytes.Equal(r.body, want[path][:3000]) }},
		sp.RetrieveEndless: {sp.Fault{}, func(path string, r reply) bool {
			if path != car {
				return bytes.Equal(r.body, want[path])
			}
			return len(r.body) > len(d.car) && bytes.Equal(r.body[:len(d.car)], d.car) && wellFormed(r.body[:min(1<<20, len(r.body))])
		}},
		sp.RetrieveRedirect: {sp.Fault{}, func(_ string, r reply) bool {
			return r.StatusCode == 302 && r.Header.Get("Location") == "http://10.0.0.1/"
		}},
		sp.RetrieveHTML: {sp.Fault{}, func(_ string, r reply) bool {
			return r.StatusCode == 200 && strings.HasPrefix(r.Header.Get("Content-Type"), "text/html") && bytes.HasPrefix(r.body, []byte("<!doctype html>"))
		}},
		sp.RetrieveDrip: {sp.Fault{Bytes: 10, Delay: sp.Duration(300 * time.Millisecond)}, func(path string, r reply) bool {
			return r.err != nil && len(r.body) > 0 && len(r.body) <= 80 && bytes.HasPrefix(want[path], r.body)
		}},
		sp.RetrieveOther: {sp.Fault{}, func(path string, r reply) bool {
			if path == piece {
				return bytes.Equal(r.body, want[path])
			}
			return r.err == nil && len(r.body) == len(want[path]) && !bytes.Equal(r.body, want[path]) && !wellFormed(r.body)
		}},
		sp.RetrieveExtra: {sp.Fault{}, func(path string, r reply) bool {
			if path != car {
				return bytes.Equal(r.body, want[path])
			}
			return r.err == nil && len(r.body) > len(d.car)+8<<10 && wellFormed(r.body)
		}},
		sp.RetrieveShort: {sp.Fault{Number: 3}, func(path string, r reply) bool {
			if path != car {
				return bytes.Equal(r.body, want[path])
			}
			return r.err == nil && blocksIn(r.body) == 3 && bytes.HasPrefix(d.car, r.body)
		}},
		sp.RetrieveMid: {sp.Fault{}, func(path string, r reply) bool {
			if path == piece {
				return bytes.Equal(r.body, want[path])
			}
			return r.err != nil && len(r.body) < len(want[path]) && bytes.HasPrefix(want[path], r.body)
		}},
		sp.RetrievePiece: {sp.Fault{}, func(path string, r reply) bool {
			return r.err == nil && len(r.body) == len(want[path]) && bytes.Equal(r.body, want[path]) == (path != piece)
		}},
		sp.RetrieveStale: {sp.Fault{}, func(path string, r reply) bool {
			return r.StatusCode == 404 && fetch(t, long, http.MethodHead, w.sp.HTTPURL()+path).StatusCode == 200
		}},
		sp.RetrieveNoIPFS: {sp.Fault{}, func(path string, r reply) bool {
			return path == piece && bytes.Equal(r.body, d.car) || path != piece && r.StatusCode == 404
		}},
	} {
		c.fault.Kind = kind
		w.faults(c.fault)
		for path := range want {
			if r := fetch(t, waits(kind), http.MethodGet, w.sp.HTTPURL()+path); !c.check(path, r) {
				t.Errorf("%s, %s: %d bytes, %v", kind, path, len(r.body), r.err)
			}
		}
	}
	w.faults(sp.Fault{Kind: sp.RetrieveStall})
	if r := fetch(t, short, http.MethodGet, w.sp.HTTPURL()+piece); r.err == nil || r.Response != nil {
		t.Errorf("stalled before the header: %+v", r)
	}
	w.faults()
	for path := range want {
		if r := get(t, w.sp.HTTPURL()+path); !bytes.Equal(r.body, want[path]) {
			t.Errorf("honest, %s: status %d", path, r.StatusCode)
		}
	}
}

// TestALatencyOfEachRequestGoesWithOtherFaults: figures are made with it.
func TestALatencyOfEachRequestGoesWithOtherFaults(t *testing.T) {
	d := newDAG(2, 1000)
	w := stored(t, sp.Curio, d)
	const delay = 150 * time.Millisecond
	w.faults(sp.Fault{Kind: sp.RetrieveDelay, Delay: sp.Duration(delay)}, sp.Fault{Kind: sp.RetrieveNoIPFS})
	for path, want := range map[string]int{"/piece/" + d.piece.String(): 200, "/ipfs/" + d.root.String() + "?format=raw": 404} {
		began := time.Now()
		r := get(t, w.sp.HTTPURL()+path)
		if took := time.Since(began); took < delay || r.StatusCode != want {
			t.Errorf("%s: status %d after %s", path, r.StatusCode, took)
		}
	}
}

// blocksIn counts the blocks of a CAR.
func blocksIn(data []byte) (n int) {
	r, err := car.NewBlockReader(bytes.NewReader(data))
	if err != nil {
		return 0
	}
	for {
		if _, err := r.Next(); err != nil {
			return n
		}
		n++
	}
}

// wellFormed tells whether every block of a CAR, up to where it was cut, is what its CID says.
func wellFormed(data []byte) bool {
	r, err := car.NewBlockReader(bytes.NewReader(data))
	if err != nil {
		return false
	}
	n := 0
	for {
		if _, err := r.Next(); err != nil {
			return n > 10 && !strings.Contains(err.Error(), "mismatch")
		}
		n++
	}
}

func TestAVanishedProviderDoesNothing(t *testing.T) {
	w := newWorld(t, sp.Boost)
	d := newDAG(2, 1000)
	src := newSource(t, d)
	w.faults(sp.Fault{Kind: sp.PullNever})
	p := w.params(d, src.URL)
	w.mustAccept(p)
	// From its start, because switching one fault for another while it works is seen by some steps and not by others.
	w.cfg.Faults = sp.Faults{{Kind: sp.Vanish, ToEpoch: 200}}
	w.restart()
	w.holds("nothing happens", func() bool { return len(src.asked()) == 0 })
	w.stage(p, sp.Complete) // after epoch 200 it is back
}

func TestAnOfflineProviderGoesOnWorking(t *testing.T) {
	w := newWorld(t, sp.Curio)
	d := newDAG(2, 1000)
	p := w.params(d, newSource(t, d).URL)
	w.mustAccept(p)
	before, url := w.sp.AddrInfo(), w.sp.HTTPURL()
	w.faults(sp.Fault{Kind: sp.Offline})
	if _, err := w.tryAsk(long); err == nil {
		t.Error("it answers")
	}
	if r := get(t, url+"/piece/"+d.piece.String()); r.err == nil {
		t.Errorf("it serves: status %d", r.StatusCode)
	}
	w.stage(p, sp.Complete)
	w.faults()
	if after := w.sp.AddrInfo(); after.ID != before.ID || after.Addrs[0].String() != before.Addrs[0].String() || w.sp.HTTPURL() != url {
		t.Errorf("it was %v and is %v", before, after)
	}
	if _, err := w.tryAsk(long); err != nil {
		t.Errorf("back online: %v", err)
	}
}

func TestFaultsCountTheirCalls(t *testing.T) {
	w := newWorld(t, sp.Boost)
	refused := func() bool { r := get(t, w.sp.HTTPURL()+"/ipfs/bafkqaaa?format=raw"); return r.StatusCode == 404 }
	pattern := func(n int) (s string) {
		for range n {
			if refused() {
				s += "x"
			} else {
				s += "."
			}
		}
		return s
	}
	for _, c := range []struct {
		faults sp.Faults
		want   string
	}{
		{nil, "....."},
		{sp.Faults{{Kind: sp.RetrieveMissing}}, "xxxxx"},
		{sp.Faults{{Kind: sp.RetrieveMissing, Nth: 3}}, "..x.."},
		{sp.Faults{{Kind: sp.RetrieveMissing, First: 2}}, "xx..."},
		{sp.Faults{{Kind: sp.RetrieveMissing, Nth: 1}, {Kind: sp.RetrieveMissing, Nth: 3}}, "x..x."},
		{sp.Faults{{Kind: sp.RetrieveMissing, FromEpoch: 101}}, "....."},
		{sp.Faults{{Kind: sp.RetrieveMissing, FromEpoch: 100, ToEpoch: 101}}, "xxxxx"},
		{sp.Faults{{Kind: sp.RetrieveMissing, ToEpoch: 100}}, "....."},
	} {
		w.faults(c.faults...)
		if got := pattern(5); got != c.want {
			t.Errorf("%+v: %s, want %s", c.faults, got, c.want)
		}
	}
	w.faults(sp.Fault{Kind: sp.RetrieveMissing, Probability: 0.3})
	if n := strings.Count(pattern(200), "x"); n < 30 || n > 90 {
		t.Errorf("30 %% of 200 is %d", n)
	}
}

func TestFaultsOfADealAreDecidedOnce(t *testing.T) {
	w := newWorld(t, sp.Curio)
	w.faults(sp.Fault{Kind: sp.PublishNever, Nth: 2})
	var deals []*wire.DealParams
	for range 3 {
		d := newDAG(1, 1000)
		p := w.params(d, newSource(t, d).URL)
		w.mustAccept(p)
		w.stage(p, sp.Transferred, sp.Published, sp.PublishConfirmed, sp.AddedPiece, sp.Complete)
		deals = append(deals, p)
	}
	w.stage(deals[0], sp.Complete)
	w.stage(deals[2], sp.Complete)
	w.stage(deals[1], sp.Transferred)
}

func TestUnknownOrImpossibleFaultsAreRefused(t *testing.T) {
	w := newWorld(t, sp.Boost)
	w.faults(sp.Fault{Kind: sp.Reject, Text: "stays"})
	for text, want := range map[string]string{
		`[{"kind":"nonsense"}]`:                              `no kind "nonsense"`,
		`[{"kind":"reject","probability":2}]`:                "probability 2 is not within 0 and 1",
		`[{"kind":"reject","nth":-1}]`:                       "a count is negative",
		`[{"kind":"reject","from_epoch":5,"to_epoch":5}]`:    "it ends before it begins",
		`[{"kind":"accept_late","delay":"soon"}]`:            "parsing a duration",
		`[{"kind":"accept_late","delay":70}]`:                `a duration is a text such as "70s"`,
		`[{"kind":"reject","unknown_parameter":"whatever"}]`: "unknown field",
		`{`: "reading the body",
	} {
		got := w.control(http.MethodPut, "/faults", text)
		if got.StatusCode != 400 || !strings.Contains(string(got.body), want) {
			t.Errorf("%s: status %d, %s", text, got.StatusCode, got.body)
		}
	}
	if f := w.sp.Faults(); len(f) != 1 || f[0].Text != "stays" {
		t.Errorf("faults are %+v", f)
	}
}

func TestFaultsSurviveJSON(t *testing.T) {
	for _, kind := range sp.Kinds() {
		want := sp.Faults{{
			Kind: kind, Nth: 1, First: 2, Probability: 0.5, FromEpoch: 3, ToEpoch: 4, Text: "text", Bytes: 5, Number: 6,
			Epochs: abi.ChainEpoch(7), Delay: sp.Duration(70 * time.Second),
		}}
		var got sp.Faults
		if err := json.Unmarshal(must(json.Marshal(want)), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if err := got.Validate(); err != nil {
			t.Error(err)
		}
	}
}
