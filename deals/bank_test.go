package deals_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/deals"
)

func fil(n int64) abi.TokenAmount {
	return big.Mul(big.NewInt(n), big.NewInt(1_000_000_000_000_000_000))
}

// A bank is as much of a chain as a keeper sees: a wallet, the market's escrow, and messages, one for each key.
type bank struct {
	deals.Chain

	mu       sync.Mutex
	funds    deals.Funds
	head     deals.Epoch
	final    deals.Epoch
	messages map[uuid.UUID]*transfer
	down     bool // the node does not answer
	deaf     bool // it does what it is told and its answers are lost
	hold     bool // no message gets on chain
	strange  bool // messages that are not on chain are answered by an error, as after a restore from a snapshot
	fail     bool // those that do move nothing
}

type transfer struct {
	cid    cid.Cid
	amount abi.TokenAmount
	height deals.Epoch // 0: not on chain
	exit   int64
}

func newBank(wallet abi.TokenAmount) *bank {
	return &bank{
		funds: deals.Funds{Wallet: wallet, Escrow: big.Zero(), Locked: big.Zero(), Datacap: big.Zero()},
		head:  1000, final: 100, messages: map[uuid.UUID]*transfer{},
	}
}

func (b *bank) answer() error {
	if b.down {
		return fmt.Errorf("calling the node: %w", deals.ErrChain)
	}
	return nil
}

func (b *bank) Heads(context.Context) (deals.Heads, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return deals.Heads{Head: b.head, Final: b.final}, b.answer()
}

func (b *bank) Funds(context.Context) (deals.Funds, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.funds, b.answer()
}

func (b *bank) AddEscrow(_ context.Context, key uuid.UUID, amount abi.TokenAmount) (cid.Cid, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.answer(); err != nil {
		return cid.Undef, err
	}
	m, ok := b.messages[key]
	if !ok {
		c, err := cid.V1Builder{Codec: cid.DagCBOR, MhType: multihash.SHA2_256}.Sum([]byte(key.String()))
		if err != nil {
			return cid.Undef, err
		}
		if b.funds.Wallet.LessThan(amount) {
			return cid.Undef, errors.New("not enough funds")
		}
		m = &transfer{cid: c, amount: amount}
		b.messages[key] = m
	}
	if b.deaf {
		return cid.Undef, errors.New("connection lost")
	}
	return m.cid, nil
}

func (b *bank) Message(_ context.Context, c cid.Cid) (deals.Message, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.messages {
		if m.cid == c && m.height != 0 {
			return deals.Message{Height: m.height, ExitCode: m.exit}, true, b.answer()
		}
	}
	if err := b.answer(); err != nil || !b.strange {
		return deals.Message{}, false, err
	}
	return deals.Message{}, false, errors.New("failed to load message: ipld: could not find it")
}

// advance lets epochs pass: what was sent gets on chain in the first of them.
func (b *bank) advance(epochs deals.Epoch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.head += epochs
	if b.hold {
		return
	}
	for _, m := range b.messages {
		if m.height != 0 {
			continue
		}
		if m.height = b.head - epochs + 1; b.fail {
			m.exit = 6
			continue
		}
		b.funds.Wallet = big.Sub(b.funds.Wallet, m.amount)
		b.funds.Escrow = big.Add(b.funds.Escrow, m.amount)
	}
}

func (b *bank) moved() abi.TokenAmount {
	b.mu.Lock()
	defer b.mu.Unlock()
	sum := big.Zero()
	for _, m := range b.messages {
		if m.exit == 0 {
			sum = big.Add(sum, m.amount)
		}
	}
	return sum
}
