package devnet

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/filecoin-project/go-jsonrpc/auth"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/filecoin-project/lotus/node/modules/dtypes"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
)

func (v *view) commonMethods(node *api.FullNodeStruct) {
	m := &node.CommonStruct.Internal
	m.Version = func(context.Context) (api.APIVersion, error) {
		return api.APIVersion{
			Version: "frostpin-devnet", APIVersion: api.FullAPIVersion1, BlockDelay: max(1, uint64(v.n.cfg.Epoch.Seconds())), Agent: "frostpin-devnet",
		}, nil
	}
	m.AuthNew = func(_ context.Context, perms []auth.Permission) ([]byte, error) {
		return []byte(v.n.Token(perms...)), nil
	}
	m.AuthVerify = v.n.verifyToken
	// The session tells clients whether they still talk to the same node; it outlives a restart, as the chain does.
	m.Session = func(context.Context) (uuid.UUID, error) {
		sum := sha256.Sum256(append([]byte("session"), v.n.secret...))
		return uuid.FromBytes(sum[:16])
	}
	m.Closing = func(ctx context.Context) (<-chan struct{}, error) { return make(chan struct{}), nil }
	node.Internal.StateNetworkName = func(context.Context) (dtypes.NetworkName, error) {
		return dtypes.NetworkName(v.n.cfg.Network), nil
	}
	node.Internal.SyncState = func(context.Context) (*api.SyncState, error) {
		e, _ := v.head()
		return &api.SyncState{ActiveSyncs: []api.ActiveSync{{
			Base: e.ts, Target: e.ts, Stage: api.StageSyncComplete, Height: e.height(), Start: v.n.now(), End: v.n.now(),
		}}}, nil
	}
}

func (v *view) chainMethods(node *api.FullNodeStruct) {
	m := &node.Internal
	m.ChainHead = func(context.Context) (*types.TipSet, error) { e, _ := v.head(); return e.ts, nil }
	m.ChainGetGenesis = func(context.Context) (*types.TipSet, error) { return v.n.genesis, nil }
	m.ChainGetTipSet = func(_ context.Context, key types.TipSetKey) (*types.TipSet, error) {
		e, err := v.entry(key)
		if err != nil {
			return nil, err
		}
		return e.ts, nil
	}
	m.ChainGetTipSetByHeight = func(_ context.Context, h abi.ChainEpoch, key types.TipSetKey) (*types.TipSet, error) {
		return v.byHeight(h, key, false)
	}
	m.ChainGetTipSetAfterHeight = func(_ context.Context, h abi.ChainEpoch, key types.TipSetKey) (*types.TipSet, error) {
		return v.byHeight(h, key, true)
	}
	m.ChainGetFinalizedTipSet = func(context.Context) (*types.TipSet, error) {
		e, _ := v.head()
		return v.n.tipsetAt(max(0, e.height()-v.n.cfg.Finality), e, false)
	}
	m.ChainNotify = v.notify
	m.ChainGetPath = v.path
	m.ChainGetBlock = v.block
	m.ChainReadObj = func(_ context.Context, c cid.Cid) ([]byte, error) {
		raw, ok := v.n.objects.get(c)
		if !ok {
			return nil, fmt.Errorf("blockstore get: %w", ipld.ErrNotFound{Cid: c})
		}
		return slices.Clone(raw), nil
	}
	m.ChainHasObj = func(_ context.Context, c cid.Cid) (bool, error) { _, ok := v.n.objects.get(c); return ok, nil }
	m.ChainTipSetWeight = func(_ context.Context, key types.TipSetKey) (types.BigInt, error) {
		e, err := v.entry(key)
		if err != nil {
			return types.EmptyInt, err
		}
		return e.ts.ParentWeight(), nil
	}
}

func (v *view) byHeight(h abi.ChainEpoch, key types.TipSetKey, after bool) (*types.TipSet, error) {
	e, err := v.entry(key)
	if err != nil {
		return nil, err
	}
	v.n.mu.RLock()
	defer v.n.mu.RUnlock()
	return v.n.tipsetAt(h, e, after)
}

func (v *view) block(_ context.Context, c cid.Cid) (*types.BlockHeader, error) {
	raw, ok := v.n.objects.get(c)
	if !ok {
		return nil, fmt.Errorf("getting block %s: %w", c, ipld.ErrNotFound{Cid: c})
	}
	return types.DecodeBlock(raw)
}

// notify sends the head as "current", then every step from the head it sent last to the newest: reverts, then applies.
// It is driven by the state and not by a queue, so a slow subscriber gets larger steps and loses none.
func (v *view) notify(ctx context.Context) (<-chan []*api.HeadChange, error) {
	out := make(chan []*api.HeadChange)
	at, moved := v.head()
	go func() {
		defer close(out)
		changes := []*api.HeadChange{{Type: "current", Val: at.ts}}
		for {
			if len(changes) > 0 {
				select {
				case out <- changes:
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-moved:
			case <-ctx.Done():
				return
			}
			var next *entry
			next, moved = v.head()
			v.n.mu.RLock()
			changes = steps(at, next)
			v.n.mu.RUnlock()
			at = next
		}
	}()
	return out, nil
}

// steps leads from one tipset to another over their common ancestor. Where that is no longer kept, the path is only as
// long as the memory of the node.
func steps(from, to *entry) []*api.HeadChange {
	var reverts, applies []*api.HeadChange
	for from != to {
		if to != nil && (from == nil || to.height() >= from.height()) {
			applies = append(applies, &api.HeadChange{Type: "apply", Val: to.ts})
			to = to.parent
			continue
		}
		reverts = append(reverts, &api.HeadChange{Type: "revert", Val: from.ts})
		from = from.parent
	}
	slices.Reverse(applies)
	return append(reverts, applies...)
}

func (v *view) path(_ context.Context, from, to types.TipSetKey) ([]*api.HeadChange, error) {
	a, err := v.entry(from)
	if err != nil {
		return nil, err
	}
	b, err := v.entry(to)
	if err != nil {
		return nil, err
	}
	v.n.mu.RLock()
	defer v.n.mu.RUnlock()
	return steps(a, b), nil
}
