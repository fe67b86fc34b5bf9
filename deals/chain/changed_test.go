package chain_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/filecoin-project/go-amt-ipld/v4"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin/v18/market"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/google/go-cmp/cmp"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	cbor "github.com/ipfs/go-ipld-cbor"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/chain"
)

// A states is a tree of deal states kept by the library that the chain's own actors are built with.
type states struct {
	f    *fake
	tree *amt.Root
}

// blockstore lets the library keep its nodes in the fake node.
type blockstore struct{ f *fake }

func (b blockstore) Get(_ context.Context, c cid.Cid) (blocks.Block, error) {
	b.f.mu.Lock()
	defer b.f.mu.Unlock()
	raw, ok := b.f.objects[c]
	if !ok {
		return nil, fmt.Errorf("no object %s", c)
	}
	return blocks.NewBlockWithCid(raw, c)
}

func (b blockstore) Put(_ context.Context, block blocks.Block) error {
	b.f.mu.Lock()
	defer b.f.mu.Unlock()
	b.f.objects[block.Cid()] = block.RawData()
	return nil
}

type fataler interface{ Fatal(args ...any) }

func newStates(t fataler, f *fake) *states {
	tree, err := amt.NewAMT(cbor.NewCborStore(blockstore{f}), amt.UseTreeBitWidth(market.StatesAmtBitwidth))
	if err != nil {
		t.Fatal(err)
	}
	return &states{f, tree}
}

func (s *states) set(t fataler, id abi.DealID, start, slash abi.ChainEpoch) {
	d := market.DealState{SectorNumber: abi.SectorNumber(id), SectorStartEpoch: start, LastUpdatedEpoch: -1, SlashEpoch: slash}
	if err := s.tree.Set(context.Background(), uint64(id), &d); err != nil {
		t.Fatal(err)
	}
}

func (s *states) remove(t fataler, id abi.DealID) {
	if _, err := s.tree.Delete(context.Background(), uint64(id)); err != nil {
		t.Fatal(err)
	}
}

func (s *states) flush(t fataler) cid.Cid {
	c, err := s.tree.Flush(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// publish puts the present states into a new final tipset, and waits until it is seen.
func (s *states) publish(t *testing.T, l *chain.Lotus) {
	t.Helper()
	root := s.flush(t)
	f := s.f
	final := f.extend(t, f.head, f.head.Height()+1, "a")
	f.setMarket(t, final, root, root, root)
	head := f.extend(t, final, final.Height()+1, "a")
	f.move(head, final)
	eventually(t, "the new final tipset", func() bool {
		h, err := l.Heads(t.Context())
		return err == nil && h.Head == head.Height() && h.Final == final.Height()
	})
}

func changed(t *testing.T, l *chain.Lotus, since deals.Snapshot, ids []abi.DealID) ([]abi.DealID, deals.Snapshot) {
	t.Helper()
	var named []abi.DealID
	now, err := l.Changed(t.Context(), since, slices.Values(ids), func(id abi.DealID) error { named = append(named, id); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return named, now
}

func TestChangedNamesWhatIsNotActive(t *testing.T) {
	f := grown(t, "a")
	l := open(t, f.serve(t), nil)
	s := newStates(t, f)
	s.set(t, 5, 10, -1)
	s.set(t, 64, 0, -1)      // activated at epoch 0
	s.set(t, 65, -1, -1)     // not activated
	s.set(t, 70000, 10, 20)  // slashed
	s.set(t, 300000, 10, -1) // on its own
	s.publish(t, l)

	ids := []abi.DealID{0, 5, 6, 64, 65, 70000, 70001, 300000, 1 << 40}
	named, first := changed(t, l, deals.Snapshot{}, ids)
	if diff := cmp.Diff([]abi.DealID{0, 6, 65, 70000, 70001, 1 << 40}, named); diff != "" {
		t.Error(diff)
	}
	active := []abi.DealID{5, 64, 300000}
	named, again := changed(t, l, first, active)
	if len(named) > 0 || again != first {
		t.Errorf("nothing has changed, and %v are named, %+v then %+v", named, first, again)
	}
	s.set(t, 65, 12, -1)
	s.remove(t, 300000)
	s.publish(t, l)
	named, second := changed(t, l, first, active)
	if diff := cmp.Diff([]abi.DealID{300000}, named); diff != "" {
		t.Error(diff)
	}
	if named, _ = changed(t, l, deals.Snapshot{}, []abi.DealID{65, 70000}); !slices.Equal(named, []abi.DealID{70000}) {
		t.Errorf("of two that were not active one is now, and %v are named", named)
	}
	if second.Height <= first.Height || second.State == first.State {
		t.Errorf("%+v after %+v", second, first)
	}
}

func TestChangedFollowsAnyHistory(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		f := grown(t, "a")
		l := open(t, f.serve(t), nil)
		defer l.Close()
		s := newStates(r, f)
		active := map[abi.DealID]bool{}
		id := rapid.Custom(func(r *rapid.T) abi.DealID {
			near := rapid.Uint64Range(0, 200).Draw(r, "near")
			return abi.DealID(near + rapid.SampledFrom([]uint64{0, 4000, 262_100, 17_000_000}).Draw(r, "base"))
		})
		asked := slices.Sorted(slices.Values(rapid.SliceOfNDistinct(id, 1, 60, rapid.ID[abi.DealID]).Draw(r, "asked")))
		var since deals.Snapshot
		before := map[abi.DealID]bool{}
		for range rapid.IntRange(1, 5).Draw(r, "rounds") {
			for range rapid.IntRange(0, 30).Draw(r, "events") {
				d := rapid.OneOf(id, rapid.SampledFrom(asked)).Draw(r, "id")
				switch rapid.SampledFrom([]string{"activate", "activate", "activate", "remove", "slash"}).Draw(r, "event") {
				case "activate":
					s.set(r, d, 10, -1)
					active[d] = true
				case "slash":
					s.set(r, d, 10, 20)
					delete(active, d)
				case "remove":
					s.remove(r, d)
					delete(active, d)
				}
			}
			s.publish(t, l)
			forget := rapid.Bool().Draw(r, "new connection")
			if forget { // also with nothing kept from before
				l.Close()
				l = open(t, f.serve(t), nil)
			}
			var of, gone []abi.DealID
			for _, d := range asked {
				if since.State.Defined() && !before[d] {
					continue
				}
				if of = append(of, d); !active[d] {
					gone = append(gone, d)
				}
			}
			named, now := changed(t, l, since, of)
			if !slices.Equal(named, gone) {
				r.Fatalf("of %v are named %v, and not active are %v", of, named, gone)
			}
			since, before = now, maps.Clone(active)
		}
	})
}

func TestChangedSkipsWhatIsTheSame(t *testing.T) {
	const n = 300_000
	f := grown(t, "a")
	l := open(t, f.serve(t), nil)
	s := newStates(t, f)
	ids := make([]abi.DealID, n)
	for i := range ids {
		ids[i] = abi.DealID(10_000_000 + i)
		s.set(t, ids[i], 10, -1)
	}
	s.publish(t, l)
	if _, err := l.Heads(t.Context()); err != nil {
		t.Fatal(err)
	}

	calls := l.Calls()
	named, since := changed(t, l, deals.Snapshot{}, ids)
	if leaves := int64(n/64 + 2); len(named) > 0 || l.Calls()-calls > leaves+leaves/32 {
		t.Errorf("first round: %d named, %d calls for %d leaves", len(named), l.Calls()-calls, leaves)
	}
	calls = l.Calls()
	if named, _ = changed(t, l, since, ids); len(named) > 0 || l.Calls()-calls > 0 {
		t.Errorf("nothing new: %d named, %d calls", len(named), l.Calls()-calls)
	}
	s.set(t, 5, 10, -1) // of somebody else
	s.remove(t, ids[77_777])
	s.publish(t, l)
	calls = l.Calls()
	named, _ = changed(t, l, since, ids)
	if diff := cmp.Diff([]abi.DealID{ids[77_777]}, named); diff != "" || l.Calls()-calls > 12 {
		t.Errorf("one gone: %d calls, %s", l.Calls()-calls, diff)
	}
}

// TestChangedGoesOnFromASnapshotOfAnotherProcess begins each time with a connection that has read nothing yet.
func TestChangedGoesOnFromASnapshotOfAnotherProcess(t *testing.T) {
	const n = 30_000
	f := grown(t, "a")
	l := open(t, f.serve(t), nil)
	s := newStates(t, f)
	ids := make([]abi.DealID, n)
	for i := range ids {
		ids[i] = abi.DealID(10_000_000 + i)
		s.set(t, ids[i], 10, -1)
	}
	s.publish(t, l)
	_, since := changed(t, l, deals.Snapshot{}, ids)
	gone := []abi.DealID{ids[3], ids[7_777]}

	round := func(what string, since deals.Snapshot, want []abi.DealID, atLeast, atMost int64) {
		t.Helper()
		l := open(t, f.serve(t), nil)
		if _, err := l.Heads(t.Context()); err != nil {
			t.Fatal(err)
		}
		calls := l.Calls()
		named, _ := changed(t, l, since, ids)
		if diff := cmp.Diff(want, named); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
		if calls = l.Calls() - calls; calls < atLeast || calls > atMost {
			t.Errorf("%s: %d calls, want %d to %d", what, calls, atLeast, atMost)
		}
	}
	const leaves = n / 64
	round("nothing has changed", since, nil, 1, 3)
	for _, id := range gone {
		s.remove(t, id)
	}
	s.publish(t, l)
	round("two have gone", since, gone, 5, 20)
	elsewhere := newStates(t, f) // half of it is as it is here
	for i, id := range ids {
		elsewhere.set(t, id, abi.ChainEpoch(10+2*i/n), -1)
	}
	other := deals.Snapshot{Height: 1 << 40, State: elsewhere.flush(t)}
	round("the state is of another chain, and the node has it", other, gone, leaves/2, leaves/2+40)
	f.mu.Lock()
	delete(f.objects, other.State)
	f.mu.Unlock()
	round("the state is of another chain", other, gone, leaves, leaves+20)
	f.mu.Lock()
	delete(f.objects, since.State)
	f.mu.Unlock()
	round("the node no longer has the state", since, gone, leaves, leaves+20)
}

// TestChangedReadsOnWhereTheNodeHasLostAPart takes single nodes of the earlier tree away.
func TestChangedReadsOnWhereTheNodeHasLostAPart(t *testing.T) {
	f := grown(t, "a")
	l := open(t, f.serve(t), nil)
	s := newStates(t, f)
	ids := make([]abi.DealID, 10_000)
	for i := range ids {
		ids[i] = abi.DealID(i)
		s.set(t, ids[i], 10, -1)
	}
	s.publish(t, l)
	_, since := changed(t, l, deals.Snapshot{}, ids)
	s.remove(t, 70)
	s.remove(t, 9_000)
	gone := []abi.DealID{70, 9_000}
	f.mu.Lock()
	earlier := maps.Clone(f.objects)
	f.mu.Unlock()
	s.publish(t, l)

	var mu sync.Mutex
	serve := f.Internal.ChainReadObj
	f.Internal.ChainReadObj = func(ctx context.Context, c cid.Cid) ([]byte, error) {
		mu.Lock()
		delete(earlier, c)
		mu.Unlock()
		return serve(ctx, c)
	}
	changed(t, open(t, f.serve(t), nil), deals.Snapshot{}, ids) // reads all that there is now
	f.Internal.ChainReadObj = serve
	if len(earlier) < 5 {
		t.Fatalf("of the earlier tree %d nodes are no longer in use, too few", len(earlier))
	}
	for c, raw := range earlier {
		f.mu.Lock()
		delete(f.objects, c)
		f.mu.Unlock()
		named, _ := changed(t, open(t, f.serve(t), nil), since, ids)
		if diff := cmp.Diff(gone, named); diff != "" {
			t.Errorf("without %s: %s", c, diff)
		}
		f.mu.Lock()
		f.objects[c] = raw
		f.mu.Unlock()
	}
}

func TestChangedAsksDealByDealWhereTheTreeCannotBeRead(t *testing.T) {
	f := grown(t, "a")
	f.Internal.ChainReadObj = nil
	f.Internal.StateMarketStorageDeal = func(_ context.Context, id abi.DealID, _ types.TipSetKey) (*api.MarketDeal, error) {
		p := proposal(t)
		switch id {
		case 1:
			return &api.MarketDeal{Proposal: p, State: api.MarketDealState{SectorStartEpoch: 1, SlashEpoch: -1}}, nil
		case 2:
			return &api.MarketDeal{Proposal: p, State: api.MarketDealState{SectorStartEpoch: -1, SlashEpoch: -1}}, nil
		case 3:
			return &api.MarketDeal{Proposal: p, State: api.MarketDealState{SectorStartEpoch: 1, SlashEpoch: 5}}, nil
		case 4:
			return nil, errors.New("busy")
		}
		return nil, fmt.Errorf("deal %d not found - deal may not have completed sealing before deal proposal start epoch, or deal may have been slashed", id)
	}
	l := open(t, f.serve(t), nil)
	newStates(t, f).publish(t, l)
	named, now := changed(t, l, deals.Snapshot{}, []abi.DealID{1, 2, 3, 5})
	if diff := cmp.Diff([]abi.DealID{2, 3, 5}, named); diff != "" {
		t.Error(diff)
	}
	if now.State.Defined() || now.Height == 0 {
		t.Errorf("snapshot %+v of a state that was not seen whole", now)
	}
	if _, err := l.Changed(t.Context(), now, slices.Values([]abi.DealID{1, 4}), func(abi.DealID) error { return nil }); err == nil {
		t.Error("a deal that could not be asked for is no news, but no error came")
	}
}

func TestChangedBelievesNoObjectThatIsAnother(t *testing.T) {
	f := grown(t, "a")
	l := open(t, f.serve(t), nil)
	s := newStates(t, f)
	s.set(t, 5, 10, -1)
	s.publish(t, l)
	f.mu.Lock()
	for c, raw := range f.objects {
		f.objects[c] = append(bytes.Clone(raw), 0)
	}
	f.mu.Unlock()
	_, err := l.Changed(t.Context(), deals.Snapshot{}, slices.Values([]abi.DealID{5}), func(abi.DealID) error { return nil })
	if !errors.Is(err, deals.ErrChain) {
		t.Errorf("%v, want ErrChain", err)
	}
}

func TestChangedRefusesDisorderAndPassesOnErrors(t *testing.T) {
	f := grown(t, "a")
	l := open(t, f.serve(t), nil)
	newStates(t, f).publish(t, l)
	if _, err := l.Changed(t.Context(), deals.Snapshot{}, slices.Values([]abi.DealID{2, 1}), func(abi.DealID) error { return nil }); err == nil {
		t.Error("ids that descend are taken")
	}
	why := errors.New("the caller's own")
	if _, err := l.Changed(t.Context(), deals.Snapshot{}, slices.Values([]abi.DealID{1}), func(abi.DealID) error { return why }); !errors.Is(err, why) {
		t.Errorf("%v, want the caller's error", err)
	}
}

func TestDealThatIsInTheStateIsNotMissing(t *testing.T) {
	f := grown(t, "a")
	f.Internal.StateMarketStorageDeal = func(_ context.Context, id abi.DealID, _ types.TipSetKey) (*api.MarketDeal, error) {
		return nil, fmt.Errorf("deal %d not found - deal may not have completed sealing before deal proposal start epoch, or deal may have been slashed", id)
	}
	l := open(t, f.serve(t), nil)
	s := newStates(t, f) // stands for the proposals too: only the keys are read of those
	s.set(t, 5, 10, -1)
	s.set(t, 5000, 10, -1)
	s.publish(t, l)
	for id, there := range map[abi.DealID]bool{5: true, 5000: true, 6: false, 5001: false, 900: false, 1 << 50: false} {
		_, found, err := l.Deal(t.Context(), id, true)
		if found || there != errors.Is(err, deals.ErrChain) || !there && err != nil {
			t.Errorf("deal %d, in the state %v: found %v, %v", id, there, found, err)
		}
	}
}
