package devnet

import (
	"context"
	"errors"
	"fmt"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/filecoin-project/lotus/lib/sigs"
)

func (v *view) walletMethods(node *api.FullNodeStruct) {
	m := &node.Internal
	m.WalletSign = func(ctx context.Context, a address.Address, data []byte) (*crypto.Signature, error) {
		key, err := v.signer(ctx, a)
		if err != nil {
			return nil, err
		}
		return v.n.wallet.sign(key, data)
	}
	m.WalletSignMessage = func(ctx context.Context, a address.Address, msg *types.Message) (*types.SignedMessage, error) {
		key, err := v.signer(ctx, a)
		if err != nil {
			return nil, err
		}
		sig, err := v.n.wallet.sign(key, msg.Cid().Bytes())
		if err != nil {
			return nil, err
		}
		return &types.SignedMessage{Message: *msg, Signature: *sig}, nil
	}
	m.WalletVerify = func(ctx context.Context, a address.Address, data []byte, sig *crypto.Signature) (bool, error) {
		key, err := v.signer(ctx, a)
		if err != nil {
			return false, err
		}
		return sigs.Verify(sig, key, data) == nil, nil
	}
	m.WalletHas = func(_ context.Context, a address.Address) (bool, error) { return v.n.wallet.has(a), nil }
	m.WalletList = func(context.Context) ([]address.Address, error) { return v.n.wallet.list(), nil }
	m.WalletDefaultAddress = func(context.Context) (address.Address, error) { return v.n.client, nil }
	m.WalletBalance = func(ctx context.Context, a address.Address) (types.BigInt, error) {
		act, err := v.actor(ctx, a, types.EmptyTSK)
		if _, missing := errors.AsType[*api.ErrActorNotFound](err); missing {
			return big.Zero(), nil
		}
		if err != nil {
			return types.EmptyInt, err
		}
		return act.Balance, nil
	}
	m.WalletNew = func(_ context.Context, kind types.KeyType) (address.Address, error) {
		if kind != types.KTSecp256k1 {
			return address.Undef, fmt.Errorf("this network has secp256k1 keys only, not %s", kind)
		}
		k, err := generate()
		if err != nil {
			return address.Undef, err
		}
		v.n.mu.Lock()
		defer v.n.mu.Unlock()
		if err := v.n.journal.key(k.KeyInfo); err != nil {
			return address.Undef, err
		}
		v.n.wallet.add(k)
		return k.Address, nil
	}
}

// signer is the key address behind an address.
func (v *view) signer(ctx context.Context, a address.Address) (address.Address, error) {
	if a.Protocol() != address.ID {
		return a, nil
	}
	return v.accountKey(ctx, a, types.EmptyTSK)
}
