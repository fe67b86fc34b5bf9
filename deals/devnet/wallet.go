package devnet

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/filecoin-project/lotus/chain/wallet/key"
	"github.com/filecoin-project/lotus/lib/sigs"
)

// wallet holds the node's keys, all secp256k1.
type wallet struct {
	mu    sync.RWMutex
	keys  map[address.Address]*key.Key
	first address.Address // the default address
}

func newWallet() *wallet { return &wallet{keys: map[address.Address]*key.Key{}} }

// generate makes a key that the wallet does not hold yet; see add.
func generate() (*key.Key, error) {
	k, err := key.GenerateKey(types.KTSecp256k1)
	if err != nil {
		return nil, fmt.Errorf("generating a key: %w", err)
	}
	return k, nil
}

func (w *wallet) add(k *key.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.keys) == 0 {
		w.first = k.Address
	}
	w.keys[k.Address] = k
}

func (w *wallet) has(a address.Address) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.keys[a] != nil
}

func (w *wallet) list() []address.Address {
	w.mu.RLock()
	defer w.mu.RUnlock()
	all := make([]address.Address, 0, len(w.keys))
	for a := range w.keys {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b address.Address) int { return cmp.Compare(a.String(), b.String()) })
	return all
}

// sign signs with the key of a key address.
func (w *wallet) sign(a address.Address, data []byte) (*crypto.Signature, error) {
	w.mu.RLock()
	k := w.keys[a]
	w.mu.RUnlock()
	if k == nil {
		return nil, fmt.Errorf("signing using key '%s': %w", a, types.ErrKeyInfoNotFound)
	}
	return sigs.Sign(crypto.SigTypeSecp256k1, k.PrivateKey, data)
}

// each visits the keys, the default one first, so that a wallet rebuilt in this order has the same default.
func (w *wallet) each(visit func(types.KeyInfo)) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if k := w.keys[w.first]; k != nil {
		visit(k.KeyInfo)
	}
	for a, k := range w.keys {
		if a != w.first {
			visit(k.KeyInfo)
		}
	}
}
