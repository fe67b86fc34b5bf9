package devnet

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v18/util/adt"
	"github.com/filecoin-project/lotus/chain/types"
	cbor "github.com/ipfs/go-ipld-cbor"
)

// create makes the keys, the genesis state and the first tipset.
func (n *Net) create(ctx context.Context) error {
	n.secret = make([]byte, 32)
	if _, err := rand.Read(n.secret); err != nil {
		return fmt.Errorf("drawing the token secret: %w", err)
	}
	client, err := generate()
	if err != nil {
		return err
	}
	n.wallet.add(client)
	n.client = client.Address
	accounts := []endowment{{key: client.Address, balance: n.cfg.ClientBalance, dataCap: n.cfg.ClientDataCap}}
	seeds := make([]minerSeed, n.cfg.Miners)
	for i := range seeds {
		owner, err := generate()
		if err != nil {
			return err
		}
		worker, err := generate()
		if err != nil {
			return err
		}
		n.wallet.add(owner)
		n.wallet.add(worker)
		id, err := address.NewIDAddress(uint64(firstMinerID + i))
		if err != nil {
			return err
		}
		n.miners = append(n.miners, Miner{ID: id, Owner: owner.Address, Worker: worker.Address})
		seeds[i] = minerSeed{owner: owner.Address, worker: worker.Address, sectorSize: n.cfg.SectorSize}
		accounts = append(accounts,
			endowment{key: owner.Address, balance: n.cfg.MinerBalance, dataCap: big.Zero()},
			endowment{key: worker.Address, balance: n.cfg.MinerBalance, dataCap: big.Zero()})
	}

	over := newOverlay(n.objects)
	root, err := genesis(ctx, over, &n.policy, n.cfg.Network, accounts, seeds)
	if err != nil {
		return err
	}
	store := adt.WrapStore(ctx, cbor.NewCborStore(over))
	list, err := writeMessages(ctx, store, nil)
	if err != nil {
		return err
	}
	receipts, err := writeArray(store, 0, nil)
	if err != nil {
		return err
	}
	ts, block, err := n.seal(ctx, store, header{miner: builtin.SystemActorAddr, weight: big.Zero(), state: root, receipts: receipts, messages: list})
	if err != nil {
		return err
	}
	first := &entry{ts: ts}
	if first.post, err = n.execute(ctx, over, ts, -1, nil); err != nil {
		return err
	}
	fresh := over.commit(root, first.post.root, first.post.receipts, list, receipts, block)
	if err := n.journal.begin(n, first, fresh); err != nil {
		return err
	}
	n.start(first)
	return nil
}

// start makes a tipset the head of an empty chain: genesis, or the oldest that is still kept.
func (n *Net) start(first *entry) {
	n.tipsets = map[types.TipSetKey]*entry{first.ts.Key(): first}
	n.canon = []*entry{first}
	n.head = first
	if n.genesis == nil {
		n.genesis = first.ts
	}
}
