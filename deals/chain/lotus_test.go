package chain_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/filecoin-project/lotus/node/modules/dtypes"
	"github.com/google/go-cmp/cmp"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/chain"
)

func genesis(t *testing.T) *types.TipSet {
	t.Helper()
	return newTipSet(t, nil, 0, "genesis", time.Unix(0, 0))
}

// grown is a node with heads at epochs 100 (final) and 120.
func grown(t *testing.T, seed string) *fake {
	t.Helper()
	f := newFake(t, genesis(t))
	final := f.extend(t, f.head, 100, seed)
	f.move(f.extend(t, final, 120, seed), final)
	return f
}

// wantRefused makes sure that nothing is answered, for this reason.
func wantRefused(t *testing.T, l *chain.Lotus, reason string) {
	t.Helper()
	_, err := l.Heads(t.Context())
	if !errors.Is(err, deals.ErrChain) || !strings.Contains(err.Error(), reason) {
		t.Errorf("Heads: %v, want ErrChain with %q", err, reason)
	}
	if _, _, err := l.Deal(t.Context(), 1, true); !errors.Is(err, deals.ErrChain) {
		t.Errorf("Deal: %v, want ErrChain", err)
	}
	if _, err := l.Sign(t.Context(), []byte("x")); !errors.Is(err, deals.ErrChain) {
		t.Errorf("Sign: %v, want ErrChain", err)
	}
}

func TestStartsWithoutNodeAndFindsItLater(t *testing.T) {
	p := newPlug(t)
	l := open(t, p.url(), nil)
	wantRefused(t, l, "connecting")

	seen := make(chan struct{}, 100)
	go l.Follow(t.Context(), func() { seen <- struct{}{} })
	p.into(grown(t, "a").serve(t))
	select {
	case <-seen:
	case <-t.Context().Done():
	case <-time.After(10 * time.Second):
		t.Fatal("followers were not told of the connection")
	}
	got, err := l.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(deals.Heads{Head: 120, Final: 100}, got); diff != "" {
		t.Error(diff)
	}
}

func TestWrongNodeAnswersNothing(t *testing.T) {
	for name, c := range map[string]struct {
		spoil  func(*fake)
		reason string
	}{
		"another network": {func(f *fake) {
			f.Internal.StateNetworkName = func(context.Context) (dtypes.NetworkName, error) { return "other", nil }
		}, `"other"`},
		"no key": {func(f *fake) {
			f.Internal.WalletSign = func(context.Context, address.Address, []byte) (*crypto.Signature, error) {
				return nil, errors.New("key not found")
			}
		}, "key not found"},
		"another key": {func(f *fake) {
			f.Internal.WalletSign = func(context.Context, address.Address, []byte) (*crypto.Signature, error) {
				return &crypto.Signature{Type: crypto.SigTypeSecp256k1, Data: []byte("other")}, nil
			}
		}, "another key"},
		"a token without the right to sign": {func(f *fake) {
			f.Internal.WalletSign = func(context.Context, address.Address, []byte) (*crypto.Signature, error) {
				return nil, errors.New("missing permission to invoke 'WalletSign' (need 'sign')")
			}
		}, "need 'sign'"},
		"null for a wallet": {func(f *fake) {
			f.Internal.WalletSign = func(context.Context, address.Address, []byte) (*crypto.Signature, error) { return nil, nil }
		}, "null"},
		"no heads": {func(f *fake) { f.Internal.ChainNotify = nil }, "ChainNotify"},
	} {
		t.Run(name, func(t *testing.T) {
			f := grown(t, "a")
			c.spoil(f)
			wantRefused(t, open(t, f.serve(t), nil), c.reason)
		})
	}
}

func TestOldHeadAnswersNothingUntilANewOne(t *testing.T) {
	f := grown(t, "a")
	var ahead atomic.Int64
	l := open(t, f.serve(t), func(c *chain.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	if _, err := l.Heads(t.Context()); err != nil {
		t.Fatal(err)
	}
	ahead.Store(int64(11 * time.Minute))
	wantRefused(t, l, "old")
	f.mu.Lock()
	f.now = f.now.Add(11 * time.Minute)
	f.mu.Unlock()
	f.move(f.extend(t, f.head, 121, "a"), f.final)
	eventually(t, "the new head is believed", func() bool { h, err := l.Heads(t.Context()); return err == nil && h.Head == 121 })
}

func TestHeadBelowAFinalOneAnswersNothing(t *testing.T) {
	f := grown(t, "a")
	l := open(t, f.serve(t), nil)
	if _, err := l.Heads(t.Context()); err != nil {
		t.Fatal(err)
	}
	young := f.head
	f.move(f.tips[f.final.Parents()], f.final)
	eventually(t, "the old head is refused", func() bool { _, err := l.Heads(t.Context()); return err != nil })
	wantRefused(t, l, "behind epoch 100")
	f.move(young, f.final)
	eventually(t, "the young head is believed", func() bool { _, err := l.Heads(t.Context()); return err == nil })
}

func TestAnotherChainIsRefusedAndTheOldOneTakenBack(t *testing.T) {
	good := grown(t, "a").serve(t)
	other := newFake(t, newTipSet(t, nil, 0, "another genesis", time.Unix(0, 0)))
	other.move(other.extend(t, other.head, 500, "b"), other.head)
	for name, c := range map[string]struct{ url, reason string }{
		"other genesis": {other.serve(t), "genesis"},
		"forked":        {grown(t, "b").serve(t), "was final"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlug(t)
			p.into(good)
			l := open(t, p.url(), nil)
			if _, err := l.Heads(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.into(c.url)
			eventually(t, "the switch is noticed", func() bool {
				_, err := l.Heads(t.Context())
				return err != nil && strings.Contains(err.Error(), c.reason)
			})
			wantRefused(t, l, c.reason)
			p.into(good)
			eventually(t, "the old chain is believed", func() bool { _, err := l.Heads(t.Context()); return err == nil })
		})
	}
}

func TestForkBelowFinalityOfTheSameNodeIsRefused(t *testing.T) {
	f := grown(t, "a")
	l := open(t, f.serve(t), nil)
	if _, err := l.Heads(t.Context()); err != nil {
		t.Fatal(err)
	}
	forked := f.extend(t, f.tips[f.final.Parents()], 110, "b")
	f.move(f.extend(t, forked, 130, "b"), forked)
	eventually(t, "the fork is refused", func() bool {
		h, err := l.Heads(t.Context())
		if err == nil && h.Head == 130 {
			t.Fatalf("believed %+v", h)
		}
		return err != nil
	})
	eventually(t, "and stays refused", func() bool {
		_, err := l.Heads(t.Context())
		return err != nil && strings.Contains(err.Error(), "was final")
	})
}

func TestFinalNeverBecomesLess(t *testing.T) {
	f := grown(t, "a")
	l := open(t, f.serve(t), nil)
	if _, err := l.Heads(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.move(f.extend(t, f.head, 121, "a"), f.tips[f.final.Parents()])
	eventually(t, "head 121", func() bool { h, err := l.Heads(t.Context()); return err == nil && h.Head == 121 })
	if h, err := l.Heads(t.Context()); err != nil || h.Final != 100 {
		t.Errorf("final %d, %v; want 100", h.Final, err)
	}
}

func TestFinalIs900EpochsBackWhereTheNodeDoesNotSay(t *testing.T) {
	f := newFake(t, genesis(t))
	f.Internal.ChainGetFinalizedTipSet = nil
	low := f.extend(t, f.head, 95, "a")
	mid := f.extend(t, low, 101, "a")
	f.move(f.extend(t, mid, 1000, "a"), nil)
	l := open(t, f.serve(t), nil)
	got, err := l.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Final != 95 { // 100 was a null round
		t.Errorf("final %d, want 95", got.Final)
	}
}

func TestLostConnectionIsMadeAgain(t *testing.T) {
	f := grown(t, "a")
	url := f.serve(t)
	p := newPlug(t)
	p.into(url)
	l := open(t, p.url(), nil)
	for range 20 {
		p.into(url) // cuts
		eventually(t, "answers again", func() bool { _, err := l.Heads(t.Context()); return err == nil })
	}
	p.into("")
	eventually(t, "nothing without a node", func() bool { _, err := l.Heads(t.Context()); return errors.Is(err, deals.ErrChain) })
}

func TestHangingCallEndsAndDelaysNoOther(t *testing.T) {
	f := grown(t, "a")
	f.Internal.StateMarketStorageDeal = func(ctx context.Context, _ abi.DealID, _ types.TipSetKey) (*api.MarketDeal, error) {
		select {} // not even when the caller has gone
	}
	f.Internal.StateDealProviderCollateralBounds = func(_ context.Context, size abi.PaddedPieceSize, _ bool, _ types.TipSetKey) (api.DealCollateralBounds, error) {
		return api.DealCollateralBounds{Min: big.NewInt(int64(size)), Max: big.NewInt(1 << 40)}, nil
	}
	l := open(t, f.serve(t), func(c *chain.Config) { c.Timeout, c.Calls = time.Second, 4 })
	if _, err := l.Heads(t.Context()); err != nil {
		t.Fatal(err)
	}
	hung := make(chan error, 3)
	for i := range 3 {
		go func() { _, _, err := l.Deal(t.Context(), abi.DealID(i), false); hung <- err }()
	}
	if least, _, err := l.Collateral(t.Context(), 1<<20, false); err != nil || !least.Equals(big.NewInt(1<<20)) {
		t.Errorf("collateral %s, %v", least, err)
	}
	for range 3 {
		if err := <-hung; !errors.Is(err, deals.ErrChain) || !strings.Contains(err.Error(), "no answer") {
			t.Errorf("hanging call: %v", err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the caller's own reason")
	cancel(why)
	if _, _, err := l.Deal(ctx, 1, false); !errors.Is(err, why) || errors.Is(err, deals.ErrChain) {
		t.Errorf("cancelled call: %v", err)
	}
}

func TestSameQuestionUnderOneHeadIsAskedOnce(t *testing.T) {
	f := grown(t, "a")
	var asked atomic.Int64
	release := make(chan struct{})
	f.Internal.StateDealProviderCollateralBounds = func(_ context.Context, size abi.PaddedPieceSize, _ bool, _ types.TipSetKey) (api.DealCollateralBounds, error) {
		asked.Add(1)
		<-release
		return api.DealCollateralBounds{Min: big.NewInt(int64(size)), Max: big.NewInt(1 << 40)}, nil
	}
	l := open(t, f.serve(t), nil)
	results := make(chan error, 10)
	for range 10 {
		go func() { _, _, err := l.Collateral(t.Context(), 1<<20, false); results <- err }()
	}
	eventually(t, "one is asked", func() bool { return asked.Load() == 1 })
	close(release)
	for range 10 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if _, _, err := l.Collateral(t.Context(), 1<<20, false); err != nil || asked.Load() != 1 {
		t.Errorf("asked %d times, %v", asked.Load(), err)
	}
	if _, _, err := l.Collateral(t.Context(), 1<<20, true); err != nil || asked.Load() != 2 {
		t.Errorf("asked %d times for two questions, %v", asked.Load(), err)
	}
	f.move(f.extend(t, f.head, 121, "a"), f.final)
	eventually(t, "head 121", func() bool { h, err := l.Heads(t.Context()); return err == nil && h.Head == 121 })
	if _, _, err := l.Collateral(t.Context(), 1<<20, false); err != nil || asked.Load() != 3 {
		t.Errorf("asked %d times under two heads, %v", asked.Load(), err)
	}
}

func TestFailedAnswerIsNotRemembered(t *testing.T) {
	f := grown(t, "a")
	var asked atomic.Int64
	f.Internal.StateDealProviderCollateralBounds = func(context.Context, abi.PaddedPieceSize, bool, types.TipSetKey) (api.DealCollateralBounds, error) {
		if asked.Add(1) == 1 {
			return api.DealCollateralBounds{}, errors.New("busy")
		}
		return api.DealCollateralBounds{Min: big.NewInt(1), Max: big.NewInt(2)}, nil
	}
	l := open(t, f.serve(t), nil)
	if _, _, err := l.Collateral(t.Context(), 1<<20, false); err == nil {
		t.Error("the first answer was an error")
	}
	if _, _, err := l.Collateral(t.Context(), 1<<20, false); err != nil {
		t.Error(err)
	}
}

func TestNotFoundIsOneTextOnly(t *testing.T) {
	for text, want := range map[string]bool{
		"deal 7 not found - deal may not have completed sealing before deal proposal start epoch, or deal may have been slashed":  true,
		"deal 77 not found - deal may not have completed sealing before deal proposal start epoch, or deal may have been slashed": false,
		"failed to load market actor: actor not found":    false,
		"blockstore get: ipld: could not find bafy2bzace": false,
		"deal 7 not found": false,
		"loading tipset {}: not found - deal may not have completed sealing":           false,
		"missing permission to invoke 'StateMarketStorageDeal' (need 'read')":          false,
		"failed to get proposal : failed to load node: deal may not have been written": false,
	} {
		f := grown(t, "a")
		f.Internal.StateGetActor = nil // the state tree cannot say otherwise
		f.Internal.StateMarketStorageDeal = func(context.Context, abi.DealID, types.TipSetKey) (*api.MarketDeal, error) {
			return nil, errors.New(text)
		}
		l := open(t, f.serve(t), nil)
		_, found, err := l.Deal(t.Context(), 7, false)
		if none := err == nil && !found; none != want {
			t.Errorf("%q: found %v, %v; none is %v", text, found, err, want)
		}
	}
}

func TestSettingsAreChecked(t *testing.T) {
	good := chain.Config{URL: "https://node.example/rpc/v1", Network: "mainnet", Wallet: wallet}
	id, err := address.NewIDAddress(1000)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*chain.Config){
		"url":     func(c *chain.Config) { c.URL = "ftp://node" },
		"host":    func(c *chain.Config) { c.URL = "ws:///rpc/v1" },
		"network": func(c *chain.Config) { c.Network = "" },
		"wallet":  func(c *chain.Config) { c.Wallet = address.Undef },
		"id":      func(c *chain.Config) { c.Wallet = id },
	} {
		c := good
		spoil(&c)
		if l, err := chain.Open(t.Context(), c, slog.New(slog.DiscardHandler)); err == nil {
			l.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestTooManyHangingCallsGiveUpTheConnection(t *testing.T) {
	f := grown(t, "a")
	var connections atomic.Int64
	named := f.Internal.StateNetworkName
	f.Internal.StateNetworkName = func(ctx context.Context) (dtypes.NetworkName, error) {
		connections.Add(1)
		return named(ctx)
	}
	f.Internal.StateMarketStorageDeal = func(context.Context, abi.DealID, types.TipSetKey) (*api.MarketDeal, error) { select {} }
	l := open(t, f.serve(t), func(c *chain.Config) { c.Timeout, c.Calls = 100*time.Millisecond, 100 })
	done := make(chan error, 80)
	for i := range 80 {
		go func() { _, _, err := l.Deal(t.Context(), abi.DealID(i), false); done <- err }()
	}
	for range 80 {
		if err := <-done; !errors.Is(err, deals.ErrChain) {
			t.Errorf("hanging call: %v", err)
		}
	}
	eventually(t, "a new connection", func() bool { return connections.Load() > 1 })
}

func TestFrozenSubscriptionIsNoticed(t *testing.T) {
	f := grown(t, "a")
	f.Internal.ChainNotify = func(ctx context.Context) (<-chan []*api.HeadChange, error) {
		f.mu.Lock()
		head := f.head
		f.mu.Unlock()
		out := make(chan []*api.HeadChange, 1)
		out <- []*api.HeadChange{{Type: "current", Val: head}}
		context.AfterFunc(ctx, func() { close(out) })
		return out, nil // and never again
	}
	l := open(t, f.serve(t), func(c *chain.Config) { c.Quiet = 10 * time.Millisecond })
	if h, err := l.Heads(t.Context()); err != nil || h.Head != 120 {
		t.Fatal(h, err)
	}
	f.move(f.extend(t, f.head, 121, "a"), f.final)
	eventually(t, "head 121", func() bool { h, err := l.Heads(t.Context()); return err == nil && h.Head == 121 })
}

func TestHeadAfterRevertsAloneIsAskedFor(t *testing.T) {
	f := grown(t, "a")
	revert := make(chan struct{})
	f.Internal.ChainNotify = func(ctx context.Context) (<-chan []*api.HeadChange, error) {
		out := make(chan []*api.HeadChange, 1)
		f.mu.Lock()
		head := f.head
		f.mu.Unlock()
		out <- []*api.HeadChange{{Type: "current", Val: head}}
		go func() {
			defer close(out)
			<-revert
			out <- []*api.HeadChange{{Type: "revert", Val: head}}
			<-ctx.Done()
		}()
		return out, nil
	}
	l := open(t, f.serve(t), nil)
	if h, err := l.Heads(t.Context()); err != nil || h.Head != 120 {
		t.Fatal(h, err)
	}
	f.move(f.extend(t, f.final, 110, "b"), f.final)
	close(revert)
	eventually(t, "head 110", func() bool { h, err := l.Heads(t.Context()); return err == nil && h.Head == 110 })
}

func TestGenesisIsFinalAtFirst(t *testing.T) {
	f := newFake(t, genesis(t))
	first := f.final.Key()
	f.move(f.extend(t, f.final, 10, "a"), f.final)
	asked := make(chan types.TipSetKey, 1)
	f.Internal.StateMarketStorageDeal = func(_ context.Context, _ abi.DealID, at types.TipSetKey) (*api.MarketDeal, error) {
		asked <- at
		return nil, errors.New("busy")
	}
	l := open(t, f.serve(t), nil)
	if h, err := l.Heads(t.Context()); err != nil || h.Final != 0 {
		t.Errorf("final %d, %v", h.Final, err)
	}
	_, _, _ = l.Deal(t.Context(), 1, true)
	if at := <-asked; at != first {
		t.Errorf("what is final is asked of %s, not of genesis", at)
	}
}

func TestForkedNodeIsRefusedBeforeItIsUsed(t *testing.T) {
	p := newPlug(t)
	good := grown(t, "a").serve(t)
	p.into(good)
	l := open(t, p.url(), nil)
	if _, err := l.Heads(t.Context()); err != nil {
		t.Fatal(err)
	}
	forked := grown(t, "b")
	forked.Internal.ChainGetFinalizedTipSet = func(context.Context) (*types.TipSet, error) { return nil, errors.New("busy") }
	p.into(forked.serve(t))
	eventually(t, "the fork is noticed", func() bool {
		_, err := l.Sign(t.Context(), []byte("x"))
		return err != nil && strings.Contains(err.Error(), "was final")
	})
}
