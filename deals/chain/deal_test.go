package chain_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/lotus/api"
	apitypes "github.com/filecoin-project/lotus/api/types"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/ipfs/go-cid"
	cbg "github.com/whyrusleeping/cbor-gen"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/chain"
)

// proposal is one of the wallet to f01000.
func proposal(t *testing.T) market.DealProposal {
	t.Helper()
	provider, err := address.NewIDAddress(1000)
	if err != nil {
		t.Fatal(err)
	}
	label, err := market.NewLabelFromString("bafyroot")
	if err != nil {
		t.Fatal(err)
	}
	return market.DealProposal{
		PieceCID:  cid.MustParse("baga6ea4seaqao7s73y24kcutaosvacpdjgfe5pw76ooefnyqw4ynr3d2y6x2mpq"),
		PieceSize: 1 << 20, Client: wallet, Provider: provider, Label: label,
		StartEpoch: 10_000, EndEpoch: 600_000,
		StoragePricePerEpoch: big.NewInt(7), ProviderCollateral: big.NewInt(100), ClientCollateral: big.Zero(),
	}
}

func TestMessageThatPublishedNothingOfOursIsNoDeal(t *testing.T) {
	p := proposal(t)
	message := p.PieceCID // any
	batch := encode(t, &market.PublishStorageDealsParams{Deals: []market.ClientDealProposal{{Proposal: p}}})
	provider := p.Provider
	for name, c := range map[string]struct {
		lookup *api.MsgLookup
		sent   types.Message
	}{
		"on no tipset":     {nil, types.Message{}},
		"failed":           {&api.MsgLookup{Message: message, Receipt: types.MessageReceipt{ExitCode: 16}}, types.Message{To: builtin.StorageMarketActorAddr, Method: builtin.MethodsMarket.PublishStorageDeals, Params: batch}},
		"another method":   {&api.MsgLookup{Message: message}, types.Message{To: builtin.StorageMarketActorAddr, Method: builtin.MethodsMarket.AddBalance, Params: batch}},
		"to another actor": {&api.MsgLookup{Message: message}, types.Message{To: provider, Method: builtin.MethodsMarket.PublishStorageDeals, Params: batch}},
	} {
		f := grown(t, "a")
		f.Internal.StateSearchMsg = func(context.Context, types.TipSetKey, cid.Cid, abi.ChainEpoch, bool) (*api.MsgLookup, error) {
			return c.lookup, nil
		}
		f.Internal.ChainGetMessage = func(context.Context, cid.Cid) (*types.Message, error) {
			m := c.sent
			m.From, m.Value, m.GasFeeCap, m.GasPremium = wallet, big.Zero(), big.Zero(), big.Zero()
			return &m, nil
		}
		f.Internal.StateNetworkVersion = func(context.Context, types.TipSetKey) (apitypes.NetworkVersion, error) { return 27, nil }
		l := open(t, f.serve(t), nil)
		if id, found, err := l.Published(t.Context(), message, p); err != nil || found {
			t.Errorf("%s: deal %d, found %v, %v", name, id, found, err)
		}
	}
}

func TestEventsNameTheMessageThatStands(t *testing.T) {
	f := grown(t, "a")
	f.Internal.StateLookupID = func(context.Context, address.Address, types.TipSetKey) (address.Address, error) {
		return address.NewIDAddress(1001)
	}
	first, second, third := f.put(t, []byte{1}), f.put(t, []byte{2}), f.put(t, []byte{3})
	f.Internal.GetActorEventsRaw = func(context.Context, *types.ActorEventFilter) ([]*types.ActorEvent, error) {
		of := func(id uint64, message cid.Cid, reverted bool) *types.ActorEvent {
			entry := types.EventEntry{Key: "id", Codec: 0x51, Value: cbg.CborEncodeMajorType(cbg.MajUnsignedInt, id)}
			return &types.ActorEvent{Entries: []types.EventEntry{entry}, MsgCid: message, Reverted: reverted, Emitter: wallet}
		}
		return []*types.ActorEvent{of(7, first, false), of(5, second, false), of(7, third, false), of(9, first, true)}, nil
	}
	found, _, err := open(t, f.serve(t), nil).Events(t.Context(), 119)
	if want := []deals.Publication{{Deal: 5, Message: second}, {Deal: 7, Message: third}}; err != nil || !slices.Equal(found, want) {
		t.Errorf("got %v, %v, want %v", found, err, want)
	}
}

// TestEventsSayHowFarTheyWereRead asks for those of five days, in as many requests.
func TestEventsSayHowFarTheyWereRead(t *testing.T) {
	const day = deals.EpochsPerDay
	for name, c := range map[string]struct {
		third  func(context.Context) error // what comes of the third request
		found  int
		read   deals.Epoch
		failed bool
	}{
		"all":            {func(context.Context) error { return nil }, 5, 5 * day, false},
		"refused":        {func(context.Context) error { return errors.New("filter matches too many events") }, 4, 2 * day, false},
		"switched off":   {func(context.Context) error { return api.ErrNotSupported }, 2, 5 * day, false},
		"without answer": {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, 2, 2 * day, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := grown(t, "a")
			final := f.head
			f.move(f.extend(t, final, 5*day-1, "b"), final)
			f.Internal.StateLookupID = func(context.Context, address.Address, types.TipSetKey) (address.Address, error) {
				return address.NewIDAddress(1001)
			}
			f.Internal.GetActorEventsRaw = func(ctx context.Context, filter *types.ActorEventFilter) ([]*types.ActorEvent, error) {
				if *filter.FromHeight == 2*day {
					if err := c.third(ctx); err != nil {
						return nil, err
					}
				}
				id := uint64(*filter.FromHeight) + 1 //nolint:gosec // a height
				entry := types.EventEntry{Key: "id", Codec: 0x51, Value: cbg.CborEncodeMajorType(cbg.MajUnsignedInt, id)}
				return []*types.ActorEvent{{Entries: []types.EventEntry{entry}, MsgCid: final.Cids()[0], Emitter: wallet}}, nil
			}
			l := open(t, f.serve(t), func(cfg *chain.Config) { cfg.Timeout = 500 * time.Millisecond })
			found, read, err := l.Events(t.Context(), 0)
			if len(found) != c.found || read != c.read || (err != nil) != c.failed {
				t.Errorf("got %d deals of before %d, %v, want %d of before %d", len(found), read, err, c.found, c.read)
			}
		})
	}
}
